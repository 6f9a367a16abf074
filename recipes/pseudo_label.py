"""Runs `hf-mlpl pseudo-label`.

    accelerate launch recipes/pseudo_label.py --model runs/supervised/model --data data/unlabelled.parquet \\
        --output labels
"""

import sys

from hf_mlpl.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["pseudo-label", *sys.argv[1:]]))
