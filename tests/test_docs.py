"""Every example of README.md, the pages of docs/ and the docstrings is run, or compared with what there is.

Python is run as it stands, block after block of a page, in a folder that has what the pages name. Where a block has
comments of the form `# -> output`, they are all that it prints. A block that cannot be run here has a comment before
it, `<!--- skip: next, "reason" -->`.
"""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import SkipTest

import pytest
import torch
from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser

from hf_mlpl.training_config import load_config

from .commands import LAUNCHERS, ROOT, check_command, read_commands
from .tones import EVENT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MODULES = sorted((ROOT / "hf_mlpl").rglob("*.py"))
SKIPPED = ["needs a network"]  # the reasons of all blocks that are not run


def run_python(example: Example) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        PythonEvaluator()(example)
    expected = re.findall("# -> (.*)", example.parsed)
    assert not expected or printed.getvalue().splitlines() == expected


def run_bash(example: Example) -> None:
    """Runs `hf-mlpl`; the recipe's scripts take too long, and test_recipes.py runs them."""
    commands = read_commands(example.parsed)
    assert commands
    for words in commands:
        check_command(words)
        if words[0] == "hf-mlpl":
            environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
            done = subprocess.run(words, env=environment, capture_output=True, text=True)
            assert done.returncode == 0 and done.stdout, done.stderr


def load_yaml(example: Example) -> None:
    settings = Path("settings.yaml")
    settings.write_text(example.parsed)
    load_config(settings)


PARSERS = [CodeBlockParser("python", run_python), CodeBlockParser("bash", run_bash), CodeBlockParser("yaml", load_yaml)]
MARKDOWN = Sybil([*PARSERS, SkipParser()])
DOCSTRINGS = Sybil([*PARSERS, DocTestParser()])


@pytest.fixture(scope="module")
def folder(tone_data, tone_run, tone_corpus, tmp_path_factory) -> Path:
    """What the pages name: a trained model, a clip, a long recording, and utterance files."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(tone_run / "model", folder / "runs" / "demo" / "final" / "model")
    shutil.copy(tone_corpus / "common-voice" / "sv-SE" / "clips" / "common_voice_sv-SE_test0.mp3", folder / "recording.mp3")
    shutil.copy(tone_corpus / "voxpopuli" / "raw_audios" / "sv" / "2020" / f"{EVENT}.ogg", folder / "lecture.ogg")
    shutil.copytree(tone_data, folder / "data", ignore=shutil.ignore_patterns("run"))
    return folder


@pytest.fixture(autouse=True)
def inside(monkeypatch, request):
    ...


def run_examples(document) -> list[str]:
    """Runs a document's examples in order; returns the reasons of those that are skipped."""
    skipped = []
    for example in document.examples():
        try:
            example.evaluate()
        except SkipTest as reason:
            skipped.append(str(reason))
    return skipped
