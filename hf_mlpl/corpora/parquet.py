"""Parquet files with recordings inside, on the Hub or on disk: rows that say where their recording is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features, load_dataset_builder
from datasets.packaged_modules.parquet.parquet import Parquet
from huggingface_hub import HfFileSystem, hf_hub_download

from ..containers import audio_column

BLOCK = 1000  # rows, without their recordings, that are in memory


def parquet_files(name: str | Path, split: str, config: str | None = None) -> list[Path]:
    """The Parquet files of a data set, by its name on the Hub, whose cache they are in then, or in a folder.

    Empty for a data set that is not of Parquet files.

    Raises:
        ValueError: for a split that the data set lacks.
    """
    builder = load_dataset_builder(str(name), config)
    if not isinstance(builder, Parquet):
        return []
    splits = builder.config.data_files
    if split not in splits:
        raise ValueError(f"{name}: no split {split}; there are {', '.join(map(str, splits))}")
    return [_on_disk(address) for address in splits[split]]


def _on_disk(address: str) -> Path:
    if not address.startswith("hf://"):
        return Path(address)
    place = HfFileSystem().resolve_path(address)
    return Path(hf_hub_download(place.repo_id, place.path_in_repo, repo_type="dataset", revision=place.revision))


def parquet_features(path: str | Path) -> Features:
    """The columns of a file with their types, as `datasets` has them.

    Raises:
        ValueError: for a file that is not Parquet, or is damaged.
    """
    try:
        return Features.from_arrow_schema(pq.read_schema(path))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: no Parquet file, or damaged; download it again") from error


def parquet_rows(files: Iterable[Path], columns: Sequence[str]) -> Iterator[tuple[str, dict, dict]]:
    """Rows as `file:row`, their `columns` with classes by name, and their `audio` as in the schema.

    Raises:
        ValueError: for a file that is damaged, or lacks one of `columns`, or recordings.
    """
    for path in files:
        features = parquet_features(path)
        audio_column(features.arrow_schema, path)  # raises where there is none
        if missing := [column for column in columns if column not in features]:
            raise ValueError(f"{path}: no column {', '.join(missing)}; it has {', '.join(features)}")
        labels = {name: features[name] for name in columns if isinstance(features[name], ClassLabel)}
        try:
            with pq.ParquetFile(path) as file:
                batches = file.iter_batches(BLOCK, columns=list(columns))
                rows = chain.from_iterable(map(pa.RecordBatch.to_pylist, batches))
                for number, row in enumerate(rows if columns else repeat({}, file.metadata.num_rows)):
                    named = {name: label.int2str(row[name]) for name, label in labels.items() if row[name] is not None}
                    audio = {"path": str(path.absolute()), "offset": number, "size": None, "start": None, "end": None}
                    yield f"{path}:{number}", row | named, audio
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path}: damaged; download it again") from error
