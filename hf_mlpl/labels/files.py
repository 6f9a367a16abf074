"""Reads files of labels, ours and anyone's, and reports damage in one line that names the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
from .schema import LABEL_FEATURES, NEVER_NULL, SCORES


class LabelFileError(ValueError):
    """Reports in one line that a file holds no labels, or is damaged."""


@contextmanager
def _damage_in_one_line(path: str | Path) -> Iterator[None]:
    """Raises a LabelFileError for whatever a reader raises on a damaged file: nearly anything, even MemoryError."""
    try:
        yield
    except LabelFileError:
        raise
    except Exception as error:
        reason = error_line(error)[:300]
        raise LabelFileError(f"{path}: no Parquet file of labels, or damaged ({reason})") from error


def label_schema(path: str | Path, needed: Sequence[str] = (), remedy: str = "") -> pa.Schema:
    """Returns the columns of a Parquet file.

    Raises:
        LabelFileError: for a file that does not exist, is not Parquet, or lacks one of the columns `needed`.
    """
    if not Path(path).is_file():
        raise LabelFileError(f"{path}: no such file of labels")
    with _damage_in_one_line(path):
        schema = pq.read_schema(path)
    if missing := sorted(set(needed) - set(schema.names)):
        raise LabelFileError(f"{path}: has no column {', '.join(missing)}{remedy}")
    return schema


def label_blocks(path: str | Path, features: Features, never_null: Sequence[str]) -> Iterator[pa.Table]:
    """Yields the columns of `features` with their types, 10,000 rows at a time.

    Raises:
        LabelFileError: as `label_schema` does; for a column that cannot be cast to its type; for nulls in a column of
            `never_null`; and for durations that are not positive and finite, unless they are null.
    """
    label_schema(path, list(features))
    with _damage_in_one_line(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        for batch in file.iter_batches(BLOCK, columns=list(features)):
            labels = table_cast(pa.Table.from_batches([batch]).select(list(features)), features.arrow_schema)
            labels.validate(full=True)
            if empty := [name for name in never_null if labels[name].null_count]:
                raise LabelFileError(f"{path}: has rows without {', '.join(empty)}")
            if "duration_seconds" in features:
                seconds = labels["duration_seconds"].drop_null().to_numpy()
                if not ((0 < seconds) & (seconds < np.inf)).all():
                    raise LabelFileError(f"{path}: has rows with a duration that is none")
            yield labels


def with_null_scores(labels: pa.Table, path: str | Path, remedy: str = "") -> pa.Table:
    """Returns the columns of `LABEL_FEATURES`, with null for scores that a file of another version does not have.

    Raises:
        LabelFileError: for labels that lack another column, or have no score at all.
    """
    missing = set(LABEL_FEATURES) - set(labels.column_names)
    if missing - SCORES.keys() or missing >= SCORES.keys():
        raise LabelFileError(f"{path}: has no column {', '.join(sorted(missing))}{remedy}")
    for name in missing:
        labels = labels.append_column(name, pa.nulls(len(labels), LABEL_FEATURES.arrow_schema.field(name).type))
    return labels.select(list(LABEL_FEATURES))


def scored_blocks(path: str | Path) -> Iterator[pa.Table]:
    """Yields the columns of `LABEL_FEATURES`, 10,000 rows at a time.

    Raises:
        LabelFileError: as `label_blocks` and `with_null_scores` do.
    """
    schema = label_schema(path)
    with_null_scores(schema.empty_table(), path, "; `hf-mlpl pseudo-label` writes labels with scores")
    present = Features({name: kind for name, kind in LABEL_FEATURES.items() if name in schema.names})
    for labels in label_blocks(path, present, NEVER_NULL):
        yield with_null_scores(labels, path)


def labels_of_anyone(
    path: Path,
    features: Features,
    needed: Sequence[str],
    skipped: Callable[[str, str], None] = lambda position, problem: None,
) -> Iterator[pa.Table]:
    """Yields the columns of `features` of a Parquet, csv, tsv or JSON file, 10,000 rows at a time.

    Columns that the file lacks are null.

    Args:
        needed: columns that the file must have, with a value in each row.
        skipped: is called with `file:row` and a reason for each row of a text file that cannot be read.

    Raises:
        LabelFileError: for a file that is no table, lacks one of `needed`, or is damaged.
    """
    if not path.is_file():
        raise LabelFileError(f"{path}: no such file of labels")
    with _damage_in_one_line(path):
        try:
            columns = columns_of(path, list(features))
        except ValueError as error:
            raise LabelFileError(str(error)) from error
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
    def readable_rows() -> Iterator[dict]:
        for position, row, problem in rows_of(path, list(features)):
            try:
                if problem := problem or next((f"no {name}" for name in needed if row[name] is None), None):
                    raise ValueError(problem)
                yield {name: _value(name, row[name], kind.dtype) for name, kind in features.items()}
            except ValueError as error:
                skipped(position, str(error))

    rows = readable_rows()
    with _damage_in_one_line(path):
        while block := list(islice(rows, BLOCK)):
            yield pa.Table.from_pylist(block, schema=features.arrow_schema)


def _value(name: str, value: str | bool | None, dtype: str) -> str | float | bool | None:
    """Parses a value of a text file; an empty one is null, except in a column of strings.

    Raises:
        ValueError: for a value of another type.
    """
    if dtype == "string" and (value is None or isinstance(value, str)):
        return value
    if value in (None, ""):
        return None
    try:
        if dtype == "bool":
            return {"true": True, "false": False}[str(value).lower()]
        if dtype == "float64" and isinstance(value, (str, float)):
            number = float(value)
            if name != "duration_seconds" or 0 < number < np.inf:
                return number
    except (KeyError, ValueError):
        pass
    raise ValueError(f"{name} is {value!r}"[:200])
