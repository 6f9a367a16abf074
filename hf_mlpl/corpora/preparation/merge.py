"""Merges the files of a split's parts into one file with unique ids."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ...data.rows import BLOCK, id_hashes, repeated, row_groups, with_offsets
from ...data.utterances import FEATURES, write_tables
from .report import PreparationReport, audio_name

REPEATED, OTHER = "id is there already", "id of another utterance"
Changes = Mapping[Path, Mapping[int, str | None]]  # for rows of files: a new id, or None for a row to remove


def resolve_duplicates(files: Mapping[Path, str], report: PreparationReport, lines: list[str]) -> Changes:
    """Finds rows whose id an earlier row has, in any split, because `read_utterances` accepts no duplicates.

    A row with other audio gets a new id; one with the same audio is removed, also from the counts. Each adds to
    `lines`. Sorting takes 16 bytes of memory an utterance.

    Args:
        files: the split of each, in the order in which they keep what they have.
    """
    hashes = [id_hashes(batch["id"]) for file in files for batch in read_batches(file, ["id"])]
    duplicates = repeated(hashes)
    changes: dict[Path, dict[int, str | None]] = {file: {} for file in files}
    seen: dict[str, dict[str, str]] = {}  # places by the digests of their audio, by id
    for file, split in files.items() if len(duplicates) else ():
        for first, batch in with_offsets(read_batches(file)):
            for row in np.flatnonzero(np.isin(id_hashes(batch["id"]), duplicates)).tolist():
                utterance = batch.slice(row, 1).to_pylist()[0]
                name, audio = utterance["id"], utterance["audio"]
                digest = hashlib.sha256(os.fsencode(repr(audio))).hexdigest()[:8]
                known, place = seen.setdefault(name, {}), f"{audio_name(audio)} in {split}"
                if digest in known:
                    changes[file][first + row] = None
                    report.splits[split].remove(utterance)
                    report.dropped[REPEATED] += 1
                    lines.append(f"{name}: {REPEATED}: {place}; the first is {known[digest]}")
                elif known:
                    new = changes[file][first + row] = _free(f"{name}-{digest}", hashes)
                    found = next(iter(known.values()))
                    lines.append(f"{name}: {OTHER}: {place} is kept as {new}; the first is {found}")
                known.setdefault(digest, place)
    return changes


def _free(name: str, hashes: Sequence[np.ndarray]) -> str:
    """Returns a name that is no id, as that of an earlier preparation may be."""
    while any(np.isin(id_hashes(pa.array([name])), each).any() for each in hashes):
        name += "-2"
    return name


def merge(files: Sequence[Path], changes: Changes, path: Path) -> None:
    """Writes the utterances of several files, with changes from `resolve_duplicates`, in row groups of one size."""
    write_batches(
        (_changed(batch, first, changes[file]) for file in files for first, batch in with_offsets(read_batches(file))),
        path,
    )


def write_batches(batches: Iterable[pa.RecordBatch], path: Path) -> None:
    """Writes batches of utterances into a file, in row groups of one size."""
    schema = FEATURES.arrow_schema
    write_tables(row_groups(pa.Table.from_batches([batch], schema) for batch in batches), path, schema)


def read_batches(file: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Yields the rows of a file, 10,000 at a time."""
    with pq.ParquetFile(file) as opened:
        yield from opened.iter_batches(BLOCK, columns=columns)


def _changed(batch: pa.RecordBatch, first: int, ids: Mapping[int, str | None]) -> pa.RecordBatch:
    """Changes ids, or removes rows where they are None; `first` is the number of the batch's first row."""
    rows = range(first, first + len(batch))
    if ids.keys().isdisjoint(rows):
        return batch
    names = [ids.get(row, name) for row, name in zip(rows, batch["id"].to_pylist(), strict=True)]
    batch = batch.set_column(batch.schema.get_field_index("id"), "id", pa.array(names, pa.string()))
    return batch.filter(pc.is_valid(batch["id"]))
