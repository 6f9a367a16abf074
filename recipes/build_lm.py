"""Runs `hf-mlpl build-lm`.

python recipes/build_lm.py data/train.parquet --output lm
"""

import sys

from hf_mlpl.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["build-lm", *sys.argv[1:]]))
