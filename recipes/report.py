"""Runs `hf-mlpl report`.

python recipes/report.py runs/demo/supervised runs/demo/final --output comparison.html
"""

import sys

from hf_mlpl.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
