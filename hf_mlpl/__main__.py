"""Runs the command `hf-mlpl` as `python -m hf_mlpl`."""

import sys

from .cli.main import main

sys.exit(main())
