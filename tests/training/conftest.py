"""Shows the commands that the scripts of recipes start, and has the transcripts of the unlabelled tones."""

import json
import os
import subprocess

import pyarrow.parquet as pq
import pytest

from hf_mlpl.data.utterances import write_utterances

from ..commands import ROOT


@pytest.fixture
def references(tone_corpus, tone_data, tmp_path):
    """Writes the unlabelled utterances with their transcripts."""
    spoken = json.loads((tone_corpus / "spoken.json").read_text())
    table = pq.read_table(tone_data / "unlabelled.parquet").to_pylist()
    write_utterances([row | {"text": spoken[row["id"]]} for row in table], tmp_path / "references.parquet")
    return tmp_path / "references.parquet"


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
