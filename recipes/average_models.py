"""Runs `hf-mlpl average-models`.

python recipes/average_models.py runs/final-1/model runs/final-2/model --output runs/final-mean
"""

import sys

from hf_mlpl.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["average-models", *sys.argv[1:]]))
