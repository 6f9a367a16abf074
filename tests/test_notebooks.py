"""The notebooks, run from top to bottom on the original's small checkpoint."""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from .commands import ROOT, check_command, read_commands
from .model.test_golden import printed_letters

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_output_is_stored_and_every_command_exists(path):
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None
            for line in (line.strip() for line in cell.source.splitlines()):
                if line.startswith("!hf-mlpl"):
                    check_command(*read_commands(line[1:]))


@pytest.mark.slow
def test_from_flashlight(golden, quick_python, tmp_path, monkeypatch):
    """What it downloads are files here; all else is as it stands, and the texts are the original's."""
    notebook = nbformat.read(ROOT / "notebooks" / "from_flashlight.ipynb", as_version=4)
    samples = ["speech_de_wav", "speech_fr_flac", "t302_wav"]
    names = [".".join(sample.rsplit("_", 1)) for sample in samples]
    (urls,) = (cell for cell in notebook.cells if "checkpoint_url =" in cell.source)
    urls.source = (
        f"checkpoint_url = {(golden / 'models' / 'tiny40' / 'model.bin').as_uri()!r}\n"
        f"tokens_url = {(golden / 'models' / 'tokens.lst').as_uri()!r}\n"
        f"recording_urls = {[(golden / 'wavs' / name).as_uri() for name in names]!r}"
    )
    command = tmp_path / "bin" / "hf-mlpl"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {quick_python} -m hf_mlpl "$@"\n')
    command.chmod(0o755)
    folders = [str(command.parent), str(Path(sys.executable).parent), os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(folders))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()

    printed = [printed_text(cell) for cell in notebook.cells]
    (transcribed,) = (text for text in printed if text.count("language_") == len(samples))
    (tested,) = (text for text in printed if "|P|: " in text)
    expected = printed_letters("main")
    for sample, line in zip(samples, transcribed.splitlines(), strict=True):
        words = "".join(expected[sample].split()).replace("|", " ").split()
        assert line.partition("): ")[2].split() == words
        assert f"|P|: {expected[sample]}\n" in tested.replace("\r", "")  # written to a terminal
    assert any("'emissions': (" in text for text in printed)
    assert printed[-1] == "no Colab, so nothing was recorded\n"


def printed_text(cell) -> str:
    return "".join(output.text for output in cell.get("outputs", ()) if output.get("name") == "stdout")
