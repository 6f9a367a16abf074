"""Runs `hf-mlpl align`.

python recipes/align.py --model runs/demo/final/model lecture.ogg lecture.txt
"""

import sys

from hf_mlpl.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["align", *sys.argv[1:]]))
