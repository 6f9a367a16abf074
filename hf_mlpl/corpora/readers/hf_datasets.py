"""Reads any data set of the `datasets` library that has a column of audio, or of paths to audio files."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from datasets import Audio, Dataset, DatasetDict, IterableDataset, IterableDatasetDict, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError
from datasets.packaged_modules.audiofolder.audiofolder import AudioFolder

from ...atomic import atomic_write
from ...audio.containers import audio_column
from ...audio.reading import AudioError, encode_flac, load_audio
from ...audio.tar_index import ContainerError
from ...model.text import normalize_text
from ..locales import noted_locale
from ..metadata import LIKELY, METADATA, SUFFIXES, TableRow, columns_of, find_columns, rows_of
from ..reading import ReadingReport, RowError, human_utterance
from ..recordings import FileNames, check_part_columns, is_recording, part_of, walk, with_part_durations
from .parquet import data_files, parquet_features, parquet_rows, with_class_names

MAX_SAMPLE = 2.0  # floats in [-1, 1] may be a little louder; converted integers are much louder
SPLIT_FOLDERS = ("train", "test", "validation", "valid", "val", "dev", "eval")


@dataclass(frozen=True)
class _OpenDataset:
    """Holds the columns of a data set and the function that reads its rows.

    Args:
        columns: names.
        rows: columns -> rows; each has the folder to which its paths are relative, and `file:row` if it is in a file.
        audio: the column of recordings, if it is known.
        name: of the file, for messages.
    """

    columns: Collection[str]
    rows: Callable[[Sequence[str]], Iterator[tuple[str, TableRow]]]
    audio: str | None = None
    name: str = ""


def read_dataset(
    dataset: str | Path | Dataset | IterableDataset | DatasetDict | IterableDatasetDict,
    report: ReadingReport,
    columns: Mapping[str, str] | None = None,
    language: str | None = None,
    split: str = "train",
    config: str | None = None,
    copies: str | Path | None = None,
) -> Iterator[dict]:
    """Yields utterances of a data set whose audio is encoded: paths, bytes, `{path, bytes}`, or an `Audio` column,
    decoded or not; torchcodec is not needed. Lists of float samples with a sampling rate are accepted too.

    Files stay where they are; so do recordings in Parquet files, those of the Hub in its cache. Other recordings
    inside a data set have no place that an utterance could name, so they are written to `copies`, named by content.

    Rows with `start` and `end`, or similar columns such as `begin_time` or `end_ms`, with `start` and `duration`, or
    with `offset` and `duration` are parts of their recordings; so is audio of the form `{path, start, end}`. If a part
    is as long as its recording and lies outside of it, the recording is that part. Values of csv and JSON files are
    read as texts.

    Args:
        dataset: a data set, or its splits, a folder written by `save_to_disk`, a folder with a `metadata.csv`,
            `.jsonl` or `.parquet` that has a column `file_name`, a folder of recordings, whose sub-folders are their
            `label`, a table (csv, tsv, JSON, Parquet), or a name that `load_dataset` accepts. Paths in tables are
            relative to the table, or else to the working directory.
        columns: field of an utterance (`id`, `audio`, `text`, `language`, `speaker`, `start`, `end`, `start_ms`, ...)
            -> column; by default the first of `USUAL_COLUMNS` that the data set has. The default `id` is data set,
            split and number of the row.
        language: of all rows; by default from a column.
        split, config: of a data set that is loaded.
        copies: folder for recordings that are in no file.

    Raises:
        ValueError: for a field, column or split that is missing, for a data set without rows or without a column of
            audio or languages, for columns that seem to be starts and ends but are unknown, and for recordings inside
            the data set without `copies`.
    """
    if isinstance(dataset, Mapping):
        dataset = _split_of(dataset, split, "the data set")
    if isinstance(dataset, (Dataset, IterableDataset)):
        source, prefix = _open_dataset(dataset), f"{dataset.info.dataset_name or 'dataset'}/{dataset.split or split}"
    else:
        source, prefix = _open(dataset, split, config, report), f"{Path(dataset).name}/{split}"
    try:
        names = _columns(source, columns or {}, language, report, prefix)
    except ValueError as error:
        raise ValueError(f"{source.name or prefix}: {error}") from None
    check_part_columns(source.name or prefix, source.columns, names.keys())
    before = report.read
    rows = _utterances(source, names, prefix, language, report, Path(copies) if copies else None)
    yield from with_part_durations(rows, report, check_ids="id" in names)
    if report.read == before:
        raise ValueError(
            f"{source.name or prefix}: the data set has no rows; its columns are {', '.join(source.columns)}"
        )


def _open(name: str | Path, split: str, config: str | None, report: ReadingReport) -> _OpenDataset:
    """Opens a data set in a folder or file, or on the Hub."""
    path = Path(name)
    if (path / "dataset_info.json").is_file():
        return _open_dataset(load_from_disk(str(path)))
    if (path / "dataset_dict.json").is_file():
        return _open_dataset(_split_of(load_from_disk(str(path)), split, str(path)))
    if path.is_file() and path.name.endswith(SUFFIXES):
        return _open_tables([path])
    for folder in (path / split, path):
        if tables := [folder / table for table in METADATA if (folder / table).is_file()]:
            return _open_tables(tables[:1])
    kind, files = data_files(name, split, config)
    if issubclass(kind, AudioFolder):
        tables = [file for file in files if file.name in METADATA]
        return _open_tables(tables) if tables else _open_folder(path, split, files, report)
    if files and all(file.name.endswith(SUFFIXES) for file in files):
        return _open_tables(files)
    try:
        return _open_dataset(load_dataset(str(name), config, split=split))
    except DatasetGenerationError as error:
        raise ValueError(f"{name}: `datasets` cannot load it: {error.__cause__ or error}") from error


def _split_of(splits: Mapping, split: str, name: str) -> Dataset | IterableDataset:
    if split not in splits:
        raise ValueError(f"{name}: no split {split}; there are {', '.join(splits)}")
    return splits[split]


def _open_dataset(dataset: Dataset | IterableDataset) -> _OpenDataset:
    features = dataset.features or dict.fromkeys(dataset.column_names or [])
    audio = [name for name, feature in features.items() if isinstance(feature, Audio)]
    return _OpenDataset(features, partial(_rows_of_dataset, dataset), audio[-1] if audio else None)


def _rows_of_dataset(dataset: Dataset | IterableDataset, columns: Sequence[str]) -> Iterator[tuple[str, TableRow]]:
    features = dataset.features or {}
    dataset = dataset.select_columns(columns).with_format(None)
    for name in columns:
        if isinstance(features.get(name), Audio):
            dataset = dataset.cast_column(name, Audio(decode=False))
    for row in dataset:
        yield os.curdir, ("", with_class_names(row, features), None)


def _open_tables(files: Sequence[Path]) -> _OpenDataset:
    """Opens Parquet files that contain recordings, or tables of any kind that name recordings."""
    first, rows = files[0], partial(_rows_of_tables, files)
    audio = "file_name" if first.name in METADATA else None
    if first.suffix != ".parquet":
        columns = dict.fromkeys(name for file in files for name in columns_of(file, LIKELY))
        return _OpenDataset(columns, rows, audio, str(first))
    features = parquet_features(first)
    with suppress(ContainerError):  # no recordings inside
        audio = audio_column(features.arrow_schema, first)
        rows = partial(_rows_of_containers, files, audio)
    return _OpenDataset(features, rows, audio, str(first))


def _rows_of_containers(files: Sequence[Path], audio: str, columns: Sequence[str]) -> Iterator[tuple[str, TableRow]]:
    for where, row, place in parquet_rows(files, [column for column in columns if column != audio]):
        yield os.curdir, (where, row | {audio: place}, None)


def _rows_of_tables(files: Sequence[Path], columns: Sequence[str]) -> Iterator[tuple[str, TableRow]]:
    for file in files:
        for row in rows_of(file, columns):
            yield os.path.dirname(os.path.abspath(file)), row


def _open_folder(root: Path, split: str, files: Sequence[Path], report: ReadingReport) -> _OpenDataset:
    """Opens recordings without a table, as the library's `audiofolder` does: the folder of each is its label.

    `files` are those that the library finds, which does not follow links to folders.
    """
    folder = root / split if (root / split).is_dir() else root
    if folder.is_dir() and (folder != root or not any((root / name).is_dir() for name in SPLIT_FOLDERS)):
        found = sorted(walk(folder, report), key=lambda each: Path(each[0]).parts)  # links in the order of their names
        files = [Path(place, name) for place, _, names in found for name in names]
    recordings = [str(file) for file in files if is_recording(str(file))]
    if others := len(files) - len(recordings):
        report.note(f"{root}: {others} files of {split} are no recordings")

    def rows(columns: Sequence[str]) -> Iterator[tuple[str, TableRow]]:
        for path in recordings:
            yield os.curdir, (path, {"audio": path, "label": os.path.basename(os.path.dirname(path))}, None)

    return _OpenDataset(dict.fromkeys(("audio", "label")), rows, "audio")


def _columns(
    source: _OpenDataset, given: Mapping[str, str], language: str | None, report: ReadingReport, prefix: str
) -> dict[str, str]:
    """Returns the columns of the fields that have one."""
    found = ", ".join(source.columns) or "none at all"
    names = find_columns(source.columns, given, report, source.name or prefix)
    if source.audio in source.columns and "audio" not in given:
        names["audio"] = source.audio
    for field, way_out in (("audio", "name it"), ("language", "name it, or the language of all rows")):
        if field not in names and (field == "audio" or language is None):
            raise ValueError(f"no column of the data set is known to be {field}: {way_out}; it has {found}")
    return names


def _utterances(
    source: _OpenDataset,
    names: Mapping[str, str],
    prefix: str,
    language: str | None,
    report: ReadingReport,
    copies: Path | None,
) -> Iterator[tuple[str, dict]]:
    recordings = _Recordings(copies)
    for number, (folder, (where, row, problem)) in enumerate(source.rows(sorted(set(names.values())))):
        where = where or f"{prefix}:{number}"
        with report.row(where):
            if problem:
                raise RowError(problem)
            fields = {field: row[name] for field, name in names.items()}
            locale = noted_locale(language or _text(fields, "language"), report)
            if not locale:
                raise RowError("no language")
            text = normalize_text(_text(fields, "text") or "")
            name = _text(fields, "id") or f"{prefix}/{number}"
            audio, speaker = recordings.audio(fields, folder, where), _text(fields, "speaker") or None
            yield where, human_utterance(name, audio, locale, text, speaker)


def _text(fields: Mapping, name: str) -> str | None:
    """Returns a field as a text: numbers as Python prints them, and None for NaN, which pandas has for no value."""
    value = fields.get(name)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and math.isnan(value):
        return None
    if not isinstance(value, (bool, int, float)):
        raise RowError(f"{name} is no text", f"a {type(value).__name__}")
    return str(value)


class _Recordings:
    """Finds the recordings of rows, and writes those that are in no file to `copies`."""

    def __init__(self, copies: Path | None):
        self._copies, self._files = copies and copies.absolute(), FileNames()

    def audio(self, fields: Mapping, folder: str, where: str) -> dict:
        """Returns the audio of a row as in the schema; raises `RowError` if there is none."""
        value = fields["audio"]
        if not isinstance(value, Mapping):
            kind = "bytes" if isinstance(value, bytes) else "path" if isinstance(value, str) else "array"
            value = {kind: value}
        is_container = value.get("offset") is not None and "duration" not in value
        start, end = part_of({**value, "offset": None} if is_container else value)
        if start is None and end is None:
            start, end = part_of(fields)
        place = _container(value) if is_container else self._place(value, fields, folder, where)
        return place | {"start": start, "end": end}

    def _place(self, value: Mapping, fields: Mapping, folder: str, where: str) -> dict:
        path, content, samples = (value.get(name) for name in ("path", "bytes", "array"))
        if path and not isinstance(path, str):
            raise RowError("path is no text", f"a {type(path).__name__}")
        is_outside = content is None and samples is None
        if path and (is_outside or os.path.isabs(path) and os.path.isfile(path)):
            return {"path": self._files.locate(path, (folder, os.curdir))}
        if content is None and samples is not None:
            content = _encoded(samples, value.get("sampling_rate") or fields.get("sampling_rate"))
        if not isinstance(content, bytes):
            raise RowError("no path and no bytes of audio")
        if self._copies is None:
            raise ValueError(f"{where}: its recordings are inside of the data set; name a folder for copies of them")
        copy = self._copies / hashlib.sha256(content).hexdigest()[:32]
        if not copy.is_file():
            with atomic_write(copy) as unfinished:
                unfinished.write_bytes(content)
        return {"path": str(copy)}


def _container(value: Mapping) -> dict:
    try:
        offset, size = int(value["offset"]), None if value.get("size") is None else int(value["size"])
        return {"path": os.path.abspath(value["path"]), "offset": offset, "size": size}
    except (KeyError, TypeError, ValueError) as error:
        raise RowError("no place in a container", str(error)) from error


def _encoded(samples: Sequence, rate: str | float | None) -> bytes:
    """Returns a FLAC file of float samples, (N,) or (channels, N)."""
    try:
        rate = int(float(rate or 0))
        mono = load_audio({"array": np.asarray(samples), "sampling_rate": rate}, rate)
        if np.abs(mono).max() > MAX_SAMPLE:
            raise AudioError(f"array: has samples up to {np.abs(mono).max():g}; divide 16-bit samples by 32768")
        return encode_flac(mono, rate)
    except (AudioError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise RowError("samples that cannot be used", str(error)) from error
