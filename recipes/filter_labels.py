"""Runs `hf-mlpl filter-labels`.

python recipes/filter_labels.py labels/*/labels.parquet --filters filters.yaml --output kept.parquet
"""

import sys

from hf_mlpl.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["filter-labels", *sys.argv[1:]]))
