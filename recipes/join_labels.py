"""Runs `hf-mlpl join-labels`.

python recipes/join_labels.py --labels user/voxpopuli-pl --audio data/unlabelled.parquet --output labels.parquet
"""

import sys

from hf_mlpl.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["join-labels", *sys.argv[1:]]))
