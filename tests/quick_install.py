"""Runs `uv pip install` for this Python with the given arguments, and with pip's own indexes and folders of wheels.

uv installs in a tenth of pip's time, but reads none of pip's settings. It keeps no files beside what it installs.
"""

import os
import subprocess
import sys


def pip_settings() -> tuple[list[str], dict[str, str]]:
    """Returns what `pip install` reads from its files and the environment: uv's options, and its environment.

    Addresses may contain passwords, and the options of a process are seen by everyone.
    """
    from pip._internal.commands import create_command

    pip, _ = create_command("install").parse_args([])
    # Of one version, pip takes the best wheel of all indexes, and uv the best one of the first index that has it.
    *first, last = [pip.index_url, *pip.extra_index_urls]
    variables = {
        "UV_INDEX": " ".join(first),
        "UV_DEFAULT_INDEX": last,
        "UV_FIND_LINKS": ",".join(pip.find_links),
        "UV_CONSTRAINT": " ".join(pip.constraints),
        "UV_INSECURE_HOST": " ".join(pip.trusted_hosts),
        "SSL_CERT_FILE": pip.cert,
        "ALL_PROXY": pip.proxy,
    }
    return ["--no-index"] * pip.no_index, {name: value for name, value in variables.items() if value}


if __name__ == "__main__":
    options, variables = pip_settings()
    command = "uv pip install --quiet --no-cache --index-strategy unsafe-best-match --python".split()
    command = [sys.executable, "-m", *command, sys.executable, *options, *sys.argv[1:]]
    sys.exit(subprocess.run(command, env=variables | os.environ).returncode)
