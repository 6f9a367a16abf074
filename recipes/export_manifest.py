"""Runs `hf-mlpl export-manifest`.

python recipes/export_manifest.py data/train.parquet --to nemo --output train_manifest.json
"""

import sys

from hf_mlpl.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["export-manifest", *sys.argv[1:]]))
