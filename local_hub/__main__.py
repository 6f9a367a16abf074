"""Runs a command with a local Hub: `python -m local_hub recipes/demo/share.sh`."""

import subprocess
import sys
import tempfile
from pathlib import Path

from . import LocalHub

with tempfile.TemporaryDirectory() as home, LocalHub(Path(home)) as hub:
    status = subprocess.run(sys.argv[1:], env=hub.env).returncode
sys.exit(status)
