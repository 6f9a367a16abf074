"""Runs `hf-mlpl build-tokenizer`.

python recipes/build_tokenizer.py data/train.parquet --output tokens-all.lst
"""

import sys

from hf_mlpl.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["build-tokenizer", *sys.argv[1:]]))
