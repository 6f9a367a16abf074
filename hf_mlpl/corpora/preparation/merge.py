"""Merges the files of a split's parts into one, in which no two utterances have one id."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ...atomic import atomic_write
from ...data.rows import BLOCK, id_hashes, repeated
from ...data.utterances import FEATURES
from .report import PreparationReport, SplitStatistics, audio_name

REPEATED = "id of another utterance"


def repeated_rows(
    files: Sequence[Path], statistics: SplitStatistics, report: PreparationReport, lines: list[str]
) -> dict[Path, dict[int, str | None]]:
    """Finds the rows of the parts of a split whose id an earlier row has: `read_utterances` takes no such files.

    Of other audio they get an id of their own, else None, and are taken out of the counts; `lines` gets one for each.
    Memory holds 16 bytes an utterance while they are sorted.
    """
    hashes = [id_hashes(batch["id"]) for file in files for batch in _batches(file, ["id"])]
    changes: dict[Path, dict[int, str | None]] = {file: {} for file in files}
    if not len(twice := repeated(hashes)):
        return changes
    seen: dict[str, set[str]] = {}  # ids, and digests of their audio
    for file in files:
        first = 0
        for batch in _batches(file):
            for row in np.flatnonzero(np.isin(id_hashes(batch["id"]), twice)).tolist():
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
            first += len(batch)
    return changes


def _with_other_ids(batch: pa.RecordBatch, first: int, ids: Mapping[int, str | None]) -> pa.RecordBatch:
    """Gives rows of some numbers other ids, or leaves them out; `first` is the number of the batch's first row."""
    rows = range(first, first + len(batch))
    if not any(row in ids for row in rows):
        return batch
    named = [ids.get(row, name) for row, name in zip(rows, batch["id"].to_pylist(), strict=True)]
    batch = batch.set_column(batch.schema.get_field_index("id"), "id", pa.array(named, pa.string()))
    return batch.filter(pc.is_valid(batch["id"]))


def _batches(file: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(file) as opened:
        yield from opened.iter_batches(BLOCK, columns=columns)


def merge(files: Sequence[Path], changes: Mapping[Path, Mapping[int, str | None]], path: Path) -> None:
    """Writes the utterances of several files into one, in row groups of one size, as `repeated_rows` changes them."""
    waiting: list[pa.RecordBatch] = []
    with (
        atomic_write(path) as unfinished,
        pq.ParquetWriter(unfinished, FEATURES.arrow_schema, write_page_checksum=True) as writer,
    ):

        def write() -> None:
            if waiting:
                writer.write_table(pa.Table.from_batches(waiting, FEATURES.arrow_schema))
            waiting.clear()

        for file in files:
            first = 0
            for batch in _batches(file):
                waiting.append(_with_other_ids(batch, first, changes[file]) if changes[file] else batch)
                first += len(batch)
                if sum(map(len, waiting)) >= BLOCK:
                    write()
        write()
