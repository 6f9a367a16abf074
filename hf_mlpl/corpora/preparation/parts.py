"""Keeps the parts of a preparation, and finds those that an earlier call has finished and that can be used."""

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
    """Describes one piece of a corpus.

    Args:
        name: of a folder; no other part has it.
        read: A `functools.partial` of a reader, because it goes to other processes. Called with `report=` it gives
            utterances, or a mapping of splits to utterances where `split` is None.
        split: where its utterances belong.
        source: of its utterances, for the report.
        inputs: files and folders that it reads: where one of them changes, the part is read again. Of a folder the
            names of what is below count, and of tables, archives and texts in it also sizes and times.
    """

    name: str
    read: partial
    split: str | None = None
    source: Source | None = None
    inputs: tuple[Path, ...] = ()


def made_of_parts(parts: Sequence[Part], output: Path, preprocessing: object) -> dict[str, dict[str, str]]:
    """Maps each part's name to short texts that change when its inputs or `repr(preprocessing)` do."""
    paths = dict.fromkeys(path for part in parts for path in part.inputs)
    states = {path: state_of(path, below=True, besides=output) for path in paths}
    made_of = {}
    for part in parts:
        reading = (part.read.func.__qualname__, part.read.args, part.read.keywords, part.split, part.source)
        digest = hashlib.sha256(os.fsencode(f"{reading} {preprocessing!r}")).hexdigest()[:12]
        made_of[part.name] = {"its preprocessing": digest} | {str(path): states[path] for path in part.inputs}
    return made_of


def is_finished(folder: Path, made_of: dict[str, str], progress: tqdm) -> bool:
    """Tells whether a part can be used as it is; removes one that cannot, with a line where something has changed."""
    if not folder.exists():
        return False
    try:
        content = content_of(folder)
        before = content["made_of"] | content["unusable"]
        now = made_of | {name: state_of(Path(name)) for name in content["unusable"]}
        for split, counts in content["splits"].items():
            if pq.read_metadata(folder / f"{split}.parquet").num_rows != sum(counts["utterances"].values()):
                raise ValueError(f"{split}.parquet is not whole")
        why = next((f"{name} has changed" for name in before | now if before.get(name) != now.get(name)), None)
        if why is None:
            return True
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException):
        why = "its files are damaged" if (folder / PART).exists() else None
    if why:
        progress.write(f"{folder.name}: is read again, because {why}")
    (folder / PART).unlink(missing_ok=True)  # first, so that nothing takes the rest for a finished part
    shutil.rmtree(folder)
    return False


def content_of(folder: Path) -> dict:
    return json.loads((folder / PART).read_text(encoding="utf-8"))


def remove_parts(output: Path) -> None:
    """Removes the parts in a way that, interrupted, leaves none that looks finished."""
    if (output / PARTS).exists():
        finished = output / f"{PARTS}-finished"
        shutil.rmtree(finished, ignore_errors=True)  # of a call that was killed here
        (output / PARTS).rename(finished)
    for folder in output.glob(f"{PARTS}-*"):
        shutil.rmtree(folder)
