"""Runs `hf-mlpl prepare-data`, whose --help has examples."""

import sys

from hf_mlpl.cli import main

if __name__ == "__main__":
    sys.exit(main(["prepare-data", *sys.argv[1:]]))
