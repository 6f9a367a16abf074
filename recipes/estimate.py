"""Runs `hf-mlpl estimate`.

python recipes/estimate.py --stage recipes/demo/supervised.yaml --labels runs/demo/labels
"""

import sys

from hf_mlpl.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["estimate", *sys.argv[1:]]))
