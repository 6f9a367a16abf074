"""Describes the parts of a preparation, and decides which of them an earlier call has finished."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from ..listing import state_of
from ..sources import Source

PARTS, PART = ".parts", "part.json"  # the folder of finished parts, and the description of each, which is written last


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
        now = fingerprint | {name: state_of(Path(name)) for name in record["unusable"]}
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
