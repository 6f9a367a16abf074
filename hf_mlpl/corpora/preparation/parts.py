"""Describes the parts of a preparation, and decides which of them an earlier call has finished."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from ..listing import recording_state, state_of
from ..reading import ReadingReport, one_line
from ..sources import Source

PARTS, PART = ".parts", "part.json"  # the folder of finished parts, and the description of each, which is written last
DROPPED, QUARANTINE = "dropped.txt", "quarantine.tsv"  # of each part
AUDIO_REASONS = {"unreadable audio", "no samples", "in quarantine"}  # of drops whose detail is `audio: reason`


@dataclass(frozen=True)
class Part:
    """Describes a piece of a corpus that can be read on its own.

    Args:
        name: unique, and valid for a folder.
        read: a reader, which other processes unpickle and call with `report=`. It returns utterances, or a mapping of
            splits to utterances if `split` is None.
        split: the split of its utterances.
        source: the source of its utterances, for the report.
        inputs: files and folders that it reads; when they change, the part is read again. For a folder that means the
            names of all files below it, and the sizes and times of its tables, archives and texts.
    """

    name: str
    read: partial
    split: str | None = None
    source: Source | None = None
    inputs: tuple[Path, ...] = ()


def fingerprints(parts: Sequence[Part], output: Path, preprocessing: object) -> dict[str, dict[str, str]]:
    """Maps names of parts to short texts that change when an input or `repr(preprocessing)` does."""
    paths = dict.fromkeys(path for part in parts for path in part.inputs)
    states = {path: state_of(path, below=True, besides=output) for path in paths}
    result = {}
    for part in parts:
        reading = (part.read.func.__qualname__, part.read.args, part.read.keywords, part.split, part.source)
        digest = hashlib.sha256(os.fsencode(f"{reading} {preprocessing!r}")).hexdigest()[:12]
        result[part.name] = {"its preprocessing": digest} | {str(path): states[path] for path in part.inputs}
    return result


def is_finished(folder: Path, fingerprint: dict[str, str], progress: tqdm) -> bool:
    """Checks that a finished part can be used; otherwise removes it and prints the reason."""
    if not folder.exists():
        return False
    try:
        record = read_record(folder)
        before = record["made_of"] | record["unusable"]
        now = fingerprint | {name: recording_state(name) for name in record["unusable"]}
        for split, counts in record["splits"].items():
            if pq.read_metadata(folder / f"{split}.parquet").num_rows != sum(counts["utterances"].values()):
                raise ValueError(f"{split}.parquet is incomplete")
        reason = next((f"{name} has changed" for name in before | now if before.get(name) != now.get(name)), None)
        if reason is None:
            return True
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException):
        reason = "its files are damaged" if (folder / PART).exists() else None
    if reason:
        progress.write(f"{folder.name}: is read again, because {reason}")
    (folder / PART).unlink(missing_ok=True)  # first, so that an interruption leaves no part that looks finished
    shutil.rmtree(folder)
    return False


def read_record(folder: Path) -> dict:
    """Reads the counts and inputs of a finished part."""
    return json.loads((folder / PART).read_text(encoding="utf-8"))


def remove_parts(output: Path) -> None:
    """Removes all parts; an interruption leaves none that looks finished."""
    if (output / PARTS).exists():
        finished = output / f"{PARTS}-finished"
        shutil.rmtree(finished, ignore_errors=True)  # left by a call that was killed here
        (output / PARTS).rename(finished)
    for folder in output.glob(f"{PARTS}-*"):
        shutil.rmtree(folder)


class PartReport(ReadingReport):
    """Appends the lines of drops and the quarantine list to files in a folder, because there may be millions."""

    def __init__(self, folder: Path, files: ExitStack):
        super().__init__()
        self.lines, self.quarantine = (
            _LineFile(files.enter_context(open(folder / name, "a", encoding="utf-8")))
            for name in (DROPPED, QUARANTINE)
        )
        self.quarantined: dict[str, None] = {}

    def drop(self, reason: str, where: str, detail: str = "") -> None:
        super().drop(reason, where, detail)
        if reason in AUDIO_REASONS:
            name, _, cause = detail.partition(": ")
            if name not in self.quarantined:
                self.quarantined[name] = None
                self.quarantine.append(f"{name}\t{' '.join((cause or reason).split())}")

    def note(self, line: str) -> None:
        if (line := one_line(line)) not in self.notes:  # the report of all parts adds it to the lines
            self.notes.append(line)


class _LineFile(list):
    """Writes the lines that are appended to it into a file."""

    def __init__(self, file: TextIO):
        self.file = file

    def append(self, line: str) -> None:
        self.file.write(line + "\n")
