"""Any data set of the `datasets` library that has a column of audio, or of paths to it."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from datasets import Audio, ClassLabel, Dataset, IterableDataset, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError

from ..atomic import written_whole
from ..text import normalize_text
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

    Files stay where they are. Recordings inside of the data set have no place that an utterance could name, so they
    are written to `copies`, under a name made from their content.

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
        ValueError: for a field or column that is not there, for no column of audio or languages, and for recordings
            inside of the data set without `copies`.
    """
    name = dataset.info.dataset_name if isinstance(dataset, (Dataset, IterableDataset)) else Path(dataset).name
    if not isinstance(dataset, (Dataset, IterableDataset)):
        dataset = _load(dataset, split, config)
    names = _columns(dataset, columns or {}, language)
    dataset = dataset.select_columns(sorted(set(names.values())))
    if isinstance((dataset.features or {}).get(names["audio"]), Audio):
        dataset = dataset.cast_column(names["audio"], Audio(decode=False))
    prefix = f"{name or 'dataset'}/{dataset.split or split}"
    yield from with_durations(_rows(dataset, names, prefix, language, copies and Path(copies), report), report)


def _load(dataset: str | Path, split: str, config: str | None) -> Dataset:
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
    try:
        return load_dataset(str(dataset), config, split=split)
    except DatasetGenerationError as error:
        raise ValueError(f"{dataset}: `datasets` cannot load it: {error.__cause__ or error}") from error


def _columns(dataset: Dataset | IterableDataset, given: Mapping[str, str], language: str | None) -> dict[str, str]:
    """The column of each field that has one."""
    there = dataset.column_names or []
    if unknown := sorted(set(given) - set(USUAL_COLUMNS)):
        raise ValueError(f"an utterance has no {', '.join(unknown)} from a column; it has {', '.join(USUAL_COLUMNS)}")
    if absent := sorted(set(given.values()) - set(there)):
        raise ValueError(f"the data set has no column {', '.join(absent)}; it has {', '.join(there)}")
    names = {field: name for field, usual in USUAL_COLUMNS.items() for name in usual[::-1] if name in there}
    for name in there:
        if isinstance((dataset.features or {}).get(name), Audio):
            names["audio"] = name
    names |= given
    for field in ("audio", "language"):
        if field not in names and (field == "audio" or language is None):
            way_out = "name it" if field == "audio" else "name it, or the language of all rows"
            raise ValueError(f"no column of the data set is known to be {field}: {way_out}; it has {', '.join(there)}")
    return names


def _rows(
    dataset: Dataset | IterableDataset,
    names: dict[str, str],
    prefix: str,
    language: str | None,
    copies: Path | None,
    report: ReadingReport,
) -> Iterator[tuple[str, dict]]:
    languages = (dataset.features or {}).get(names.get("language"))
    for number, row in enumerate(dataset):
        report.read += 1
        where = f"{prefix}:{number}"
        fields = {field: row[name] for field, name in names.items()}
        spoken = language or fields["language"]
        if language is None and isinstance(languages, ClassLabel) and spoken is not None:
            spoken = languages.int2str(spoken)
        text = normalize_text(fields.get("text") or "")
        path = _path(fields["audio"], copies, where)
        if path is None:
            report.drop("no path and no bytes of audio", where)
        elif not spoken:
            report.drop("no language", where)
        else:
            yield (
                where,
                {
                    "id": f"{prefix}/{number}" if fields.get("id") is None else str(fields["id"]),
                    "audio": {"path": path, "start": None, "end": None},
                    "language": spoken,
                    "text": text or None,
                    "speaker": None if fields.get("speaker") is None else str(fields["speaker"]),
                    "source": "human" if text else None,
                },
            )


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
