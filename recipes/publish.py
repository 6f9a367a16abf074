"""Runs `hf-mlpl publish`.

python recipes/publish.py --run runs/demo/final --results runs/demo/final.json --repo me/demo --private
"""

import sys

from hf_mlpl.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["publish", *sys.argv[1:]]))
