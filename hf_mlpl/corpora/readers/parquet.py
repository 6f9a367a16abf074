"""Reads Parquet files that contain recordings, on the Hub or on disk; the recordings stay where they are."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import ClassLabel, Features

from ...audio.containers import audio_column
from ..recordings import FileNames

ROWS_READ = 1000  # together, without their recordings; damage costs up to as many
RECORDINGS_READ = 100  # together


@contextmanager
def readable(path: str | Path, problem: str = "no Parquet file, or damaged") -> Iterator[None]:
    """Turns the errors of reading a Parquet file into a ValueError of one line."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: {problem}; download it again") from error


def parquet_schema(path: str | Path) -> pa.Schema:
    """Returns the columns of a file with their types of Arrow; raises ValueError for a file that is not Parquet."""
    with readable(path):
        return pq.read_schema(path)


def parquet_features(path: str | Path) -> Features:
    """Returns the columns of a file with their types of `datasets`; raises ValueError as `parquet_schema` does."""
    return Features.from_arrow_schema(parquet_schema(path))


def with_class_names(row: dict, features: Mapping) -> dict:
    """Replaces numbers of classes by names, and those of no class by None: data sets without labels have -1."""
    labels = {name: features[name] for name in row if isinstance(features.get(name), ClassLabel)}
    is_named = {name: row[name] is not None and 0 <= row[name] < label.num_classes for name, label in labels.items()}
    return row | {name: label.int2str(row[name]) if is_named[name] else None for name, label in labels.items()}


def has_paths(schema: pa.Schema, column: str) -> bool:
    """Returns whether a column of recordings has a path beside the bytes."""
    kind = schema.field(column).type
    return pa.types.is_struct(kind) and kind.get_field_index("path") >= 0


def _paths_without_bytes(file: pq.ParquetFile, column: str, folder: str) -> dict[int, str]:
    """Returns, by row, the files of rows that have a path and no bytes, as `Dataset.to_parquet` writes them.

    Skips row groups whose statistics show that no bytes are missing.
    """
    paths: dict[int, str] = {}
    first = 0
    if not has_paths(file.schema_arrow, column):
        return paths
    files = FileNames()
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        chunks = {group.column(index).path_in_schema: group.column(index) for index in range(group.num_columns)}
        statistics = chunks[f"{column}.bytes"].statistics
        if statistics is None or not statistics.has_null_count or statistics.null_count:
            row = first
            for batch in file.iter_batches(RECORDINGS_READ, row_groups=[number], columns=[column]):
                is_missing = pc.is_null(pc.struct_field(batch[column], "bytes"))
                for path in pc.if_else(is_missing, pc.struct_field(batch[column], "path"), None).to_pylist():
                    if path:
                        paths[row] = files.locate(path, (folder, os.curdir))
                    row += 1
        first += group.num_rows
    return paths


def parquet_values(path: Path, columns: Sequence[str]) -> Iterator[dict]:
    """Yields the values of a file's rows in some columns, with the names of classes instead of their numbers.

    Args:
        columns: names; `audio.path` is the field `path` of the column `audio`, whose other fields are not read.

    Raises:
        ValueError: for a file that is damaged, or lacks one of `columns`.
    """
    features, number = _features_with(path, columns), 0
    try:
        with pq.ParquetFile(path) as file:
            if not columns:
                yield from repeat({}, file.metadata.num_rows)
                return
            for batch in file.iter_batches(ROWS_READ, columns=list(columns)):
                for row in batch.to_pylist():
                    yield with_class_names(row, features)
                    number += 1
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: is damaged after row {number}; download it again") from error


def _features_with(path: Path, columns: Sequence[str]) -> Features:
    features = parquet_features(path)
    if missing := [column for column in columns if not {column, column.split(".")[0]} & features.keys()]:
        raise ValueError(f"{path}: no column {', '.join(missing)}; it has {', '.join(features)}")
    return features


def distinct_values(path: Path, column: str) -> set:
    """Returns the different values of a column, without empty ones; raises ValueError as `parquet_values` does."""
    features = _features_with(path, [column])
    with readable(path), pq.ParquetFile(path) as file:
        values = {value for batch in file.iter_batches(columns=[column]) for value in batch[0].unique().to_pylist()}
    return {*filter(None, (with_class_names({column: value}, features)[column] for value in values))}


def parquet_rows(files: Iterable[Path], columns: Sequence[str]) -> Iterator[tuple[str, dict, dict]]:
    """Yields `file:row`, the `columns` of the row, and its `audio` as in the schema.

    The recording of a row with a path and no bytes is the file of that path, relative to the folder of its Parquet
    file or to the working directory.

    Raises:
        ValueError: for a file that is damaged, or lacks one of `columns`, or recordings.
    """
    for path in files:
        column = audio_column(parquet_schema(path), path)  # raises if there is none
        with readable(path, "damaged"), pq.ParquetFile(path) as file:
            paths = _paths_without_bytes(file, column, os.path.dirname(os.path.abspath(path)))
        for number, row in enumerate(parquet_values(path, columns)):
            place = {"path": str(path.absolute()), "offset": number, "size": None}
            yield f"{path}:{number}", row, {"path": paths[number]} if number in paths else place
