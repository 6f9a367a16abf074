"""Runs `hf-mlpl calibrate`.

python recipes/calibrate.py dev.json --output calibration.json
"""

import sys

from hf_mlpl.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["calibrate", *sys.argv[1:]]))
