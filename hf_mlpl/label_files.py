"""Parquet files of labels as they are read back: whatever is wrong with one is a line that names it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features
from datasets.table import table_cast

from .corpora.utterances import BLOCK


class LabelFileError(ValueError):
    """A file that is no file of labels, or a damaged one."""


def label_schema(path: str | Path, needed: Sequence[str], remedy: str = "") -> pa.Schema:
    """Returns the columns of a file.

    Raises:
        LabelFileError: for a file that is not there, not Parquet, or without one of the columns `needed`.
    """
    if not Path(path).is_file():
        raise LabelFileError(f"{path}: no such file of labels")
    try:
        schema = pq.read_schema(path)
    except Exception as error:  # a damaged file makes readers raise nearly anything, MemoryError included
        raise damaged(path, error) from error
    if missing := sorted(set(needed) - set(schema.names)):
        raise LabelFileError(f"{path}: has no column {', '.join(missing)}{remedy}")
    return schema


def label_blocks(path: str | Path, features: Features, never_null: Sequence[str]) -> Iterator[pa.Table]:
    """Yields the columns of `features` with their types, 10,000 rows at a time.

    Raises:
        LabelFileError: as `label_schema` does; where a column cannot be had as that type; for rows without a value in
            `never_null`, and for durations that are none.
    """
    label_schema(path, list(features))
    batches = _batches(path, list(features))
    while True:
        try:
            batch = next(batches, None)
            if batch is None:
                return
            labels = table_cast(pa.Table.from_batches([batch]).select(list(features)), features.arrow_schema)
            labels.validate(full=True)
        except Exception as error:
            raise damaged(path, error) from error
        if empty := [name for name in never_null if labels[name].null_count]:
            raise LabelFileError(f"{path}: has rows without {', '.join(empty)}")
        if "duration_seconds" in features:
            seconds = labels["duration_seconds"].to_numpy()
            if not ((0 < seconds) & (seconds < np.inf)).all():
                raise LabelFileError(f"{path}: has rows with a duration that is none")
        yield labels


def _batches(path: str | Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        yield from file.iter_batches(BLOCK, columns=columns)


def damaged(path: str | Path, error: Exception) -> LabelFileError:
    """Makes a line of what a reader has raised."""
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return LabelFileError(f"{path}: no Parquet file of labels, or damaged ({reason})")
