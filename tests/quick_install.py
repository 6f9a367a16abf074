"""Runs `uv pip install` for this Python with the given arguments, and with pip's own indexes and folders of wheels.

uv installs in a tenth of pip's time, but reads none of pip's settings. It keeps no files beside what it installs.
"""

import os
import subprocess
import sys
from ast import literal_eval

SETTINGS = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "constraint": "UV_CONSTRAINT",
}


def uv_settings(listing: str) -> dict[str, str]:
    """Returns variables of uv's environment that say what `pip config list` says."""
    variables = {}
    lines = listing.splitlines()
    for line in sorted(lines, key=lambda line: line.startswith(":env:")):  # the environment decides, as for pip
        name, _, value = line.partition("=")
        if variable := SETTINGS.get(name.rpartition(".")[2]):
            separator = "," if variable == "UV_FIND_LINKS" else " "
            variables[variable] = separator.join(literal_eval(value).split())
    return variables


if __name__ == "__main__":
    listing = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    command = "uv pip install --quiet --no-cache --index-strategy unsafe-best-match --python".split()
    command = [sys.executable, "-m", *command, sys.executable, *sys.argv[1:]]
    sys.exit(subprocess.run(command, env=uv_settings(listing) | os.environ).returncode)
