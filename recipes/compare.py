"""Runs `hf-mlpl compare`.

python recipes/compare.py supervised=supervised.json final=final.json
"""

import sys

from hf_mlpl.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
