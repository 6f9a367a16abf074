"""Runs `hf-mlpl prepare-data`, whose --help has more examples.

python recipes/prepare_data.py --common-voice cv-corpus-6.1-2020-12-11 --voxpopuli voxpopuli --output data
"""

import sys

from hf_mlpl.cli import main

if __name__ == "__main__":
    sys.exit(main(["prepare-data", *sys.argv[1:]]))
