"""Runs `hf-mlpl train`.

accelerate launch recipes/train.py recipes/demo/supervised.yaml
"""

import sys

from hf_mlpl.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
