"""`python -m hf_mlpl`, the same as the command `hf-mlpl`."""

import sys

from .cli.main import main

sys.exit(main())
