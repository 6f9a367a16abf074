"""Any data set of the `datasets` library that has a column of audio, or of paths to it."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from datasets import Audio, ClassLabel, Dataset, Features, IterableDataset, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError

from ..atomic import written_whole
from ..containers import audio_column
from ..tars import ContainerError
from ..text import normalize_text
from .parquet import parquet_features, parquet_files, parquet_rows
from .utterances import ReadingReport, with_durations

# Columns that are taken, where there are any, unless others are named. Not `id`: often several rows share one.
USUAL_COLUMNS = {
    "id": (),
    "audio": ("audio", "path", "file", "file_name"),
    "text": ("text", "sentence", "transcription", "transcript", "raw_text", "normalized_text"),
    "language": ("language", "locale", "lang"),
    "speaker": ("speaker", "speaker_id", "client_id"),
}


def read_dataset(
    dataset: str | Path | Dataset | IterableDataset,
    report: ReadingReport,
    columns: Mapping[str, str] | None = None,
    language: str | None = None,
    split: str = "train",
    config: str | None = None,
    copies: str | Path | None = None,
) -> Iterator[dict]:
    """Utterances of a data set whose audio is encoded: paths, bytes, `{path, bytes}`, or an `Audio` column, decoded or
    not; torchcodec is not needed.

    Files stay where they are, and recordings in Parquet files in these, on the Hub in its cache. Other recordings
    inside of a data set have no place that an utterance could name, so they are written to `copies`, under a name made
    from their content.

    Args:
        dataset: a data set, a folder written by `save_to_disk`, a folder with a `metadata.csv` that has a column
            `file_name`, or whatever `load_dataset` takes.
        columns: field of an utterance (`id`, `audio`, `text`, `language`, `speaker`) -> column; by default the first
            one of `USUAL_COLUMNS` that is there. Without an `id`, that is the number of the row behind data set and
            split.
        language: of all rows; by default it is in a column.
        split, config: of a data set that is loaded.
        copies: folder for recordings that are in no file.

    Raises:
        ValueError: for a field, column or split that is not there, for no column of audio or languages, and for
            recordings inside of the data set without `copies`.
    """
    name = dataset.info.dataset_name if isinstance(dataset, (Dataset, IterableDataset)) else Path(dataset).name
    if not isinstance(dataset, (Dataset, IterableDataset)):
        dataset = _opened(dataset, split, config)
    if isinstance(dataset, list):
        features = parquet_features(dataset[0])
        names = _columns(list(features), features, columns or {}, language)
        if names.pop("audio") != audio_column(features.arrow_schema, dataset[0]):
            raise ValueError(f"{dataset[0]}: the recordings are in column {audio_column(features.arrow_schema, name)}")
        prefix, rows = f"{name}/{split}", _rows_of_files(dataset, names)
    else:
        names = _columns(dataset.column_names or [], dataset.features or {}, columns or {}, language)
        prefix = f"{name or 'dataset'}/{dataset.split or split}"
        rows = _rows_of_dataset(dataset, names, prefix, copies and Path(copies))
    yield from with_durations(_utterances(rows, prefix, language, report), report)


def _opened(dataset: str | Path, split: str, config: str | None) -> Dataset | list[Path]:
    """A data set, or its Parquet files, if the recordings are in them."""
    folder = Path(dataset)
    if (folder / "dataset_info.json").is_file():
        return load_from_disk(str(folder))
    if (folder / "dataset_dict.json").is_file():
        splits = load_from_disk(str(folder))
        if split not in splits:
            raise ValueError(f"{folder}: no split {split}; there are {', '.join(splits)}")
        return splits[split]
    for table in (folder / split / "metadata.csv", folder / "metadata.csv"):
        if table.is_file():  # of the library's `audiofolder`, which would need torchcodec
            rows = Dataset.from_csv(glob.escape(str(table)))
            return rows.map(lambda row, folder=table.parent: {"file_name": str(folder / row["file_name"])})
    files = parquet_files(dataset, split, config)
    if files:
        try:
            audio_column(parquet_features(files[0]).arrow_schema, files[0])
            return files
        except ContainerError:
            pass  # they name files
    try:
        return load_dataset(str(dataset), config, split=split)
    except DatasetGenerationError as error:
        raise ValueError(f"{dataset}: `datasets` cannot load it: {error.__cause__ or error}") from error


def _columns(
    there: list[str], features: Features | dict, given: Mapping[str, str], language: str | None
) -> dict[str, str]:
    """The column of each field that has one."""
    if unknown := sorted(set(given) - set(USUAL_COLUMNS)):
        raise ValueError(f"an utterance has no {', '.join(unknown)} from a column; it has {', '.join(USUAL_COLUMNS)}")
    if absent := sorted(set(given.values()) - set(there)):
        raise ValueError(f"the data set has no column {', '.join(absent)}; it has {', '.join(there)}")
    names = {field: name for field, usual in USUAL_COLUMNS.items() for name in usual[::-1] if name in there}
    for name in there:
        if isinstance(features.get(name), Audio):
            names["audio"] = name
    names |= given
    for field, way_out in (("audio", "name it"), ("language", "name it, or the language of all rows")):
        if field not in names and (field == "audio" or language is None):
            raise ValueError(f"no column of the data set is known to be {field}: {way_out}; it has {', '.join(there)}")
    return names


def _rows_of_files(files: list[Path], names: dict[str, str]) -> Iterator[tuple[str, dict, dict]]:
    """Rows as `file:row`, the fields of utterances, and the audio as in the schema."""
    for where, row, audio in parquet_rows(files, sorted(set(names.values()))):
        yield where, {field: row[name] for field, name in names.items()}, audio


def _rows_of_dataset(
    dataset: Dataset | IterableDataset, names: dict[str, str], prefix: str, copies: Path | None
) -> Iterator[tuple[str, dict, dict | None]]:
    """The same of a data set; None for a row without audio."""
    dataset = dataset.select_columns(sorted(set(names.values())))
    features = dataset.features or {}
    if isinstance(features.get(names["audio"]), Audio):
        dataset = dataset.cast_column(names["audio"], Audio(decode=False))
    labels = {name: features[name] for name in names.values() if isinstance(features.get(name), ClassLabel)}
    for number, row in enumerate(dataset):
        row |= {name: label.int2str(row[name]) for name, label in labels.items() if row[name] is not None}
        where = f"{prefix}:{number}"
        path = _path(row[names["audio"]], copies, where)
        audio = path and {"path": path, "start": None, "end": None}
        yield where, {field: row[name] for field, name in names.items()}, audio


def _path(audio, copies: Path | None, where: str) -> str | None:
    """The absolute path of a recording, which is written to `copies` if it is a file nowhere."""
    if not isinstance(audio, dict):
        audio = {"bytes": audio} if isinstance(audio, bytes) else {"path": audio}
    path, content = audio.get("path"), audio.get("bytes")
    if path and (content is None or Path(path).is_absolute() and Path(path).is_file()):
        return str(Path(path).absolute())
    if content is None:
        return None
    if copies is None:
        raise ValueError(f"{where}: its recordings are inside of the data set; name a folder for copies of them")
    copy = copies.absolute() / hashlib.sha256(content).hexdigest()[:32]
    if not copy.is_file():
        with written_whole(copy) as partial:
            partial.write_bytes(content)
    return str(copy)


def _utterances(
    rows: Iterable[tuple[str, dict, dict | None]], prefix: str, language: str | None, report: ReadingReport
) -> Iterator[tuple[str, dict]]:
    for number, (where, fields, audio) in enumerate(rows):
        report.read += 1
        spoken = language or fields["language"]
        text = normalize_text(fields.get("text") or "")
        if audio is None:
            report.drop("no path and no bytes of audio", where)
        elif not spoken:
            report.drop("no language", where)
        else:
            yield (
                where,
                {
                    "id": f"{prefix}/{number}" if fields.get("id") is None else str(fields["id"]),
                    "audio": audio,
                    "language": spoken,
                    "text": text or None,
                    "speaker": None if fields.get("speaker") is None else str(fields["speaker"]),
                    "source": "human" if text else None,
                },
            )
