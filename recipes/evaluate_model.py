"""Runs `hf-mlpl evaluate`.

accelerate launch recipes/evaluate_model.py --model runs/final/model --data data/test.parquet --output results.json
"""

import sys

from hf_mlpl.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
