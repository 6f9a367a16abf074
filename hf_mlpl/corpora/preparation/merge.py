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

from ...atomic import atomic_write
from ...data.rows import BLOCK, id_hashes, repeated, with_offsets
from ...data.utterances import FEATURES
from .report import PreparationReport, SplitStatistics, audio_name

REPEATED = "id of another utterance"
Changes = Mapping[Path, Mapping[int, str | None]]  # for rows of files: a new id, or None for a row to remove


def resolve_duplicates(
    files: Sequence[Path], statistics: SplitStatistics, report: PreparationReport, lines: list[str]
) -> Changes:
    """Finds rows whose id an earlier row of the split has, because `read_utterances` accepts no duplicates.

    A row with other audio gets a new id; one with the same audio is removed, also from the counts. Each adds to
    `lines`. Sorting takes 16 bytes of memory an utterance.
    """
    duplicates = repeated([id_hashes(batch["id"]) for file in files for batch in read_batches(file, ["id"])])
    changes: dict[Path, dict[int, str | None]] = {file: {} for file in files}
    seen: dict[str, set[str]] = {}  # digests of audio by id
    for file in files if len(duplicates) else ():
        for first, batch in with_offsets(read_batches(file)):
            for row in np.flatnonzero(np.isin(id_hashes(batch["id"]), duplicates)).tolist():
                utterance = batch.slice(row, 1).to_pylist()[0]
                name, audio = utterance["id"], utterance["audio"]
                digest = hashlib.sha256(os.fsencode(repr(audio))).hexdigest()[:8]
                if digest in seen.get(name, ()):
                    changes[file][first + row] = None
                    statistics.remove(utterance)
                    report.dropped[REPEATED] += 1
                    lines.append(f"{name}: {REPEATED}: {audio_name(audio)}")
                elif name in seen:
                    changes[file][first + row] = f"{name}-{digest}"
                    lines.append(f"{name}: {REPEATED}: {audio_name(audio)} is kept as {name}-{digest}")
                seen.setdefault(name, set()).add(digest)
    return changes


def merge(files: Sequence[Path], changes: Changes, path: Path) -> None:
    """Writes the utterances of several files, with changes from `resolve_duplicates`, in row groups of one size."""
    write_batches(
        (_changed(batch, first, changes[file]) for file in files for first, batch in with_offsets(read_batches(file))),
        path,
    )


def write_batches(batches: Iterable[pa.RecordBatch], path: Path) -> None:
    """Writes batches of utterances into a file, in row groups of one size."""
    schema = FEATURES.arrow_schema
    with atomic_write(path) as partial, pq.ParquetWriter(partial, schema, write_page_checksum=True) as writer:
        for row_group in _row_groups(batches):
            writer.write_table(row_group)


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


def _row_groups(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Joins batches to tables of at least BLOCK rows; the last one may have fewer."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(map(len, waiting)) >= BLOCK:
            yield pa.Table.from_batches(waiting, FEATURES.arrow_schema)
            waiting.clear()
    if waiting:
        yield pa.Table.from_batches(waiting, FEATURES.arrow_schema)
