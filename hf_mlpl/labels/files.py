"""Reads files of labels, ours and anyone's; whatever is wrong with one is an error of one line that names it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features
from datasets.table import table_cast

from ..corpora.metadata import columns_of, rows_of
from ..data.rows import BLOCK
from ..error_line import error_line


class LabelFileError(ValueError):
    """Says in a line that a file holds no labels, or is damaged."""


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
            `never_null`, and for durations that are none, unless they are null.
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
        _check_values(path, labels, never_null)
        yield labels


def _check_values(path: str | Path, labels: pa.Table, never_null: Sequence[str]) -> None:
    if empty := [name for name in never_null if labels[name].null_count]:
        raise LabelFileError(f"{path}: has rows without {', '.join(empty)}")
    if "duration_seconds" in labels.column_names:
        seconds = labels["duration_seconds"].drop_null().to_numpy()
        if not ((0 < seconds) & (seconds < np.inf)).all():
            raise LabelFileError(f"{path}: has rows with a duration that is none")


def labels_of_anyone(
    path: Path, features: Features, needed: Sequence[str], skipped: Callable[[str, str], None]
) -> Iterator[pa.Table]:
    """Yields the columns of `features` of a Parquet, csv, tsv or JSON file, 10,000 rows at a time.

    Columns that the file does not have are null.

    Args:
        needed: columns that it must have, with a value in each row.
        skipped: is called with `file:row` and a reason for each row of a text file that cannot be read.

    Raises:
        LabelFileError: for a file that is no table, lacks one of `needed`, or is damaged.
    """
    if not path.is_file():
        raise LabelFileError(f"{path}: no such file of labels")
    try:
        columns = columns_of(path, list(features))
    except ValueError as error:
        raise LabelFileError(str(error)) from error
    except Exception as error:
        raise damaged(path, error) from error
    if missing := [name for name in needed if name not in columns]:
        raise LabelFileError(
            f"{path}: no labels, it has no column {', '.join(missing)}; it has {', '.join(columns) or 'none'}"
        )
    present = Features({name: kind for name, kind in features.items() if name in columns})
    is_parquet = path.suffix == ".parquet"
    for labels in label_blocks(path, present, needed) if is_parquet else _text_blocks(path, present, needed, skipped):
        for name in features.keys() - present.keys():
            labels = labels.append_column(name, pa.nulls(len(labels), features.arrow_schema.field(name).type))
        yield labels.select(list(features))


def _text_blocks(
    path: Path, features: Features, needed: Sequence[str], skipped: Callable[[str, str], None]
) -> Iterator[pa.Table]:
    def good_rows() -> Iterator[dict]:
        for where, row, problem in rows_of(path, list(features)):
            try:
                if problem := problem or next((f"no {name}" for name in needed if row[name] is None), None):
                    raise ValueError(problem)
                yield {name: _value(name, row[name], kind.dtype) for name, kind in features.items()}
            except ValueError as error:
                skipped(where, str(error))

    rows = good_rows()
    while True:
        try:
            block = list(islice(rows, BLOCK))
        except Exception as error:
            raise damaged(path, error) from error
        if not block:
            return
        yield pa.Table.from_pylist(block, schema=features.arrow_schema)


def _value(name: str, value: str | bool | None, dtype: str) -> str | float | bool | None:
    """Returns the value of a column, which text files have as text; an empty one is null, but an empty string.

    Raises:
        ValueError: for a value that is of another kind.
    """
    if dtype == "string" and (value is None or isinstance(value, str)):
        return value
    if value in (None, ""):
        return None
    try:
        if dtype == "bool":
            return {"true": True, "false": False}[str(value).lower()]
        if dtype == "float64" and isinstance(value, str):
            number = float(value)
            if name != "duration_seconds" or 0 < number < np.inf:
                return number
    except (KeyError, ValueError):
        pass
    raise ValueError(f"{name} is {value!r}"[:200])


def _batches(path: str | Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        yield from file.iter_batches(BLOCK, columns=columns)


def damaged(path: str | Path, error: Exception) -> LabelFileError:
    """Returns an error of one line for what a reader has raised."""
    reason = error_line(error)[:300]
    return LabelFileError(f"{path}: no Parquet file of labels, or damaged ({reason})")
