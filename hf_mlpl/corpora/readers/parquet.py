"""Reads Parquet files with recordings inside, on the Hub or on disk; the recordings stay where they are."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import ClassLabel, Features, load_dataset_builder
from datasets.packaged_modules.audiofolder.audiofolder import AudioFolder
from datasets.packaged_modules.csv.csv import Csv
from datasets.packaged_modules.json.json import Json
from datasets.packaged_modules.parquet.parquet import Parquet
from huggingface_hub import HfFileSystem, hf_hub_download

from ...audio.containers import audio_column
from ..recordings import FileNames, located

ROWS_READ = 1000  # at a time, without their recordings; damage costs up to so many
RECORDINGS_READ = 100  # at a time


def data_files(name: str | Path, split: str, config: str | None = None) -> tuple[type, list[Path]]:
    """Returns the builder of a data set, in a folder or on the Hub, and its files, which are in the Hub's cache then.

    There are no files of a data set that is neither of Parquet, csv or JSON files nor a folder of recordings.

    Raises:
        ValueError: for a split that the data set lacks.
    """
    builder = load_dataset_builder(str(name), config)
    if not isinstance(builder, (Parquet, Csv, Json, AudioFolder)):
        return type(builder), []
    splits = builder.config.data_files
    if split not in splits:
        raise ValueError(f"{name}: no split {split}; there are {', '.join(map(str, splits))}")
    return type(builder), [_on_disk(address) for address in splits[split]]


def _on_disk(address: str) -> Path:
    if not address.startswith("hf://"):
        return Path(address)
    place = HfFileSystem().resolve_path(address)
    return Path(hf_hub_download(place.repo_id, place.path_in_repo, repo_type="dataset", revision=place.revision))


@contextmanager
def readable(path: str | Path, problem: str = "no Parquet file, or damaged") -> Iterator[None]:
    """Raises what reading a Parquet file raises as a ValueError of one line."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: {problem}; download it again") from error


def parquet_features(path: str | Path) -> Features:
    """Returns the columns of a file with their types, as `datasets` has them.

    Raises:
        ValueError: for a file that is not Parquet, or is damaged.
    """
    with readable(path):
        return Features.from_arrow_schema(pq.read_schema(path))


def class_name(label: ClassLabel, number: int | None) -> str | None:
    """Returns the name of a class; None where there is none, which data sets without labels write as -1."""
    return label.int2str(number) if number is not None and 0 <= number < label.num_classes else None


def _paths_without_bytes(file: pq.ParquetFile, column: str, folder: str) -> dict[int, str]:
    """Returns the recordings of rows that have a path and no bytes, as `Dataset.to_parquet` writes them, by row.

    Row groups whose statistics say that no bytes are missing are not read.
    """
    paths, first = {}, 0
    if not pa.types.is_struct(kind := file.schema_arrow.field(column).type) or kind.get_field_index("path") < 0:
        return paths
    files = FileNames()
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        chunks = {group.column(index).path_in_schema: group.column(index) for index in range(group.num_columns)}
        statistics = chunks[f"{column}.bytes"].statistics
        if statistics is None or not statistics.has_null_count or statistics.null_count:
            row = first
            for batch in file.iter_batches(RECORDINGS_READ, row_groups=[number], columns=[column]):
                without = pc.is_null(pc.struct_field(batch[column], "bytes"))
                for path in pc.if_else(without, pc.struct_field(batch[column], "path"), None).to_pylist():
                    if path:
                        paths[row] = located(path, (folder, os.curdir), files)
                    row += 1
        first += group.num_rows
    return paths


def parquet_values(path: Path, columns: Sequence[str]) -> Iterator[dict]:
    """Yields the values of a file's rows in some columns, with the names of classes instead of their numbers.

    Raises:
        ValueError: for a file that is damaged, or lacks one of `columns`.
    """
    features = parquet_features(path)
    if missing := [column for column in columns if column not in features]:
        raise ValueError(f"{path}: no column {', '.join(missing)}; it has {', '.join(features)}")
    labels = {name: features[name] for name in columns if isinstance(features[name], ClassLabel)}
    with readable(path, "damaged"), pq.ParquetFile(path) as file:
        if not columns:
            yield from repeat({}, file.metadata.num_rows)
            return
        for batch in file.iter_batches(ROWS_READ, columns=list(columns)):
            for row in batch.to_pylist():
                yield row | {name: class_name(label, row[name]) for name, label in labels.items()}


def parquet_rows(files: Iterable[Path], columns: Sequence[str]) -> Iterator[tuple[str, dict, dict]]:
    """Yields `file:row`, the `columns` of the row, and its `audio` as in the schema.

    The recording of a row that has a path and no bytes is the file there, seen from the folder of its Parquet file or
    from the working directory.

    Raises:
        ValueError: for a file that is damaged, or lacks one of `columns`, or recordings.
    """
    for path in files:
        column = audio_column(parquet_features(path).arrow_schema, path)  # raises where there is none
        with readable(path, "damaged"), pq.ParquetFile(path) as file:
            paths = _paths_without_bytes(file, column, os.path.dirname(os.path.abspath(path)))
        for number, row in enumerate(parquet_values(path, columns)):
            place = {"path": str(path.absolute()), "offset": number, "size": None}
            audio = {"path": paths[number]} if number in paths else place
            yield f"{path}:{number}", row, audio | {"start": None, "end": None}
