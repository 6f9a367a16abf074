"""Runs `hf-mlpl name-languages`.

python recipes/name_languages.py --model m-ctc-t --data data/dev.parquet --output languages.txt
"""

import sys

from hf_mlpl.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["name-languages", *sys.argv[1:]]))
