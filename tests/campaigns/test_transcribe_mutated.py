"""`hf-mlpl transcribe` on folders of mutated recordings, as a process of its own for each folder.

Every file has a transcript or one line of an error, the good ones among them have theirs, and the exit status says
whether there was an error. Prints the figures. Three folders of 250 files take about two minutes; the environment
variable `MUTATED_FOLDERS=12` makes it the full campaign of 3,000 files.
"""

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from transformers import pipeline

from hf_mlpl.inference.transcription import OUTPUT_SUFFIXES

from ..random_model import LANGUAGES, save_folder
from .test_mutated_audio import mutated, originals

pytestmark = pytest.mark.slow

FOLDERS, FILES, SEED = int(os.environ.get("MUTATED_FOLDERS", "3")), 250, 116
HF_MLPL = Path(sys.executable).with_name("hf-mlpl")
SUFFIXES = {"vorbis": "ogg"}  # by which a file is tried, whatever has become of its content
FORMATS = [None, *OUTPUT_SUFFIXES]


def write_folder(folder: Path, sources: dict[str, bytes], rng: random.Random) -> list[Path]:
    """Writes 250 mutated files and a good one of each kind; returns these."""
    folder.mkdir()
    for number in range(FILES):
        kind = rng.choice(list(sources))
        (folder / f"{number}.{SUFFIXES.get(kind, kind)}").write_bytes(mutated(sources[kind], rng))
    for kind, content in sources.items():
        (folder / f"good-{kind}.{SUFFIXES.get(kind, kind)}").write_bytes(content)
    return sorted(folder.glob("good-*"))


def run(folder: Path, *arguments) -> tuple[int, list[str], list[str], float]:
    """Exit status, lines of standard output and of standard error, and the process's peak of memory in MB."""
    with open(folder.with_suffix(".out"), "w+b") as out, open(folder.with_suffix(".err"), "w+b") as err:
        process = subprocess.Popen([HF_MLPL, "transcribe", folder, *map(str, arguments)], stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        lines = []
        for file in (out, err):
            file.seek(0)
            lines.append(file.read().decode().splitlines())
    return process.returncode, *lines, usage.ru_maxrss / 1024


def test_every_file_has_a_transcript_or_a_line(tmp_path):
    model, sources, rng = save_folder(tmp_path / "model", LANGUAGES), originals(), random.Random(SEED)
    recognize, counts, peaks = pipeline("automatic-speech-recognition", model=model), Counter(), []
    for number in range(FOLDERS):
        folder = tmp_path / f"folder-{number}"
        good = write_folder(folder, sources, rng)
        names = {path.name for path in folder.iterdir()}
        output_format = FORMATS[number % len(FORMATS)]
        arguments = ["--model", model, "--batch-size", 1 + number % 8]
        out = tmp_path / f"out-{number}"
        if output_format is not None:
            arguments += ["--output", out, "--format", output_format]
        status, printed, messages, peak = run(folder, *arguments)
        assert not [line for line in messages if "Traceback" in line], messages
        errors = [line for line in messages if line.startswith("error: ")]
        refused = {name for name in names if any(line.startswith(f"error: {folder / name}: ") for line in errors)}
        if output_format is None:
            texts = {Path(path).name: text for path, _, text in (line.split("\t") for line in printed)}
            assert {name: texts[name] for name in (path.name for path in good)} == {
                path.name: recognize(path)["text"] for path in good
            }
            transcribed = set(texts)
            assert len(printed) == len(transcribed)
        else:
            # Files of one name but for the suffix do not occur, so that each has a transcript of its own.
            ends = {Path(name).stem + OUTPUT_SUFFIXES[output_format]: name for name in names}
            transcribed = {ends[path.name] for path in out.iterdir()}
            assert {path.name for path in good} <= transcribed
        assert len(errors) == len(refused) and not refused & transcribed and refused | transcribed == names
        assert status == (1 if refused else 0)
        counts.update(refused=len(refused), transcribed=len(transcribed))
        peaks.append(peak)
    print(f"{FOLDERS} folders: {dict(counts)}; peak memory of a process {min(peaks):.0f} to {max(peaks):.0f} MB")
    assert counts["refused"] and counts["transcribed"]
