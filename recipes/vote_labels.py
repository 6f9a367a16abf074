"""Runs `hf-mlpl vote-labels`.

python recipes/vote_labels.py labels-1 labels-2 labels-3 --output voted.parquet
"""

import sys

from hf_mlpl.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["vote-labels", *sys.argv[1:]]))
