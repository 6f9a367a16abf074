"""Runs `hf-mlpl prepare-data`.

python recipes/prepare_data.py --list my-speech/manifest.tsv --test-speakers anna ben --output data
"""

import sys

from hf_mlpl.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["prepare-data", *sys.argv[1:]]))
