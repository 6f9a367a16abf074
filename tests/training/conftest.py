"""Shows the commands that the scripts of recipes start."""

import os
import subprocess

import pytest

from ..commands import ROOT


@pytest.fixture
def commands_of_script(tmp_path):
    """Runs a script of `recipes/` in a folder of its own, with programs that only note how they are started.

    The function returns the finished process and the commands.
    """
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    (tmp_path / "bin").mkdir()
    (tmp_path / "corpora").mkdir()
    for name in ("python", "accelerate"):
        program = tmp_path / "bin" / name
        program.write_text(f"#!/bin/sh\nprintf '%s\\t' {name} \"$@\" >> '{tmp_path}/log'\necho >> '{tmp_path}/log'\n")
        program.chmod(0o755)

    def commands_of_script(script, *arguments) -> tuple[subprocess.CompletedProcess, list[list[str]]]:
        (tmp_path / "log").write_text("")
        environment = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
        done = subprocess.run(
            [tmp_path / script, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        return done, [line.rstrip("\t").split("\t") for line in (tmp_path / "log").read_text().splitlines()]

    return commands_of_script
