"""Reads mirrors of Common Voice in Parquet files, on the Hub or in a folder, by the columns that they have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from ...audio.containers import audio_column
from ...model.text import normalize_text
from ..listing import parquet_files_below
from ..locales import to_locale
from ..reading import ReadingReport, human_utterance, with_durations
from .parquet import ROWS_READ, readable

# What mirrors call a column, the likeliest name first.
TEXT = ("sentence", "text", "transcription", "transcript")
SPEAKER = ("client_id", "speaker_id", "speaker")
LOCALE = ("locale", "language", "lang")
SPLITS = {"validation": "dev", "valid": "dev", "val": "dev"} | {
    name: name for name in ("train", "dev", "test", "validated", "invalidated", "other")
}
SPLIT = re.compile(rf"(?:partial-)?({'|'.join(sorted(SPLITS, key=len, reverse=True))})(?![a-z])")
FOLDER_OF_LOCALE = re.compile(r"[a-z]{2,3}([-_][A-Za-z]+)*")


def read_mirror(root: str | Path, split: str, report: ReadingReport, locales: Sequence[str]) -> Iterator[dict]:
    """Yields the utterances of a split in some locales; the bytes of recordings stay where they are.

    Files without recordings or texts, damaged ones, and those for which nothing says the locale, get a line in the
    report; rows before the damage are kept. So does a split of which there is no file.
    """
    splits = _splits(root, problems := [])
    if split not in splits:
        problems.append(f"{root}: no Parquet files of {split}; there are those of {', '.join(splits) or 'no split'}")
    for line in problems:
        report.note(line)
    rows = chain.from_iterable(_rows(file, folder, report, locales) for file, folder in splits.get(split, ()))
    yield from with_durations(rows, report)


def mirror_locales(root: str | Path, problems: list[str] | None = None) -> list[str]:
    """Returns the locales of all Parquet files in a folder, sorted; empty where there are none.

    Args:
        problems: gets a line for each file that cannot be read beside others.

    Raises:
        ValueError: where there are Parquet files, but none can be read.
    """
    found, problems = set(), [] if problems is None else problems
    for files in _splits(root, problems).values():
        for path, folder in files:
            try:
                found |= _locales_of(path, folder)
            except ValueError as error:
                problems.append(str(error))
    if problems and not found:
        raise ValueError(problems[0])
    return sorted({to_locale(locale) for locale in found})


def _locales_of(path: Path, folder: str | None) -> set[str]:
    with _opened(path) as file:
        column = _first(LOCALE, file)
        if column is None:
            return {_locale_of_folder(folder, path)}
        with readable(path):
            batches = file.iter_batches(columns=[column])
            return {locale for batch in batches for locale in batch[0].unique().to_pylist() if locale}


def mirror_files(root: str | Path, splits: Sequence[str]) -> tuple[Path, ...]:
    """Returns the Parquet files of some splits."""
    files = _splits(root, [])
    return tuple(path for split in splits for path, _ in files.get(split, ()))


def mirror_speakers(root: str | Path, split: str, locale: str) -> set[str]:
    """Returns the speakers of a locale in a split; none if there is no such split."""
    speakers = set()
    for path, folder in _splits(root, []).get(split, ()):
        with suppress(ValueError):  # which reading the split reports
            for _, row in _light_rows(path, folder):
                if row["locale"] == locale and row["speaker"]:
                    speakers.add(str(row["speaker"]))
    return speakers


def _splits(root: str | Path, problems: list[str]) -> dict[str, list[tuple[Path, str | None]]]:
    """Maps splits to Parquet files and the locales of their folders. A file's name, or a folder's, has the split:
    `sl/train-00000-of-00002.parquet`, `sl/partial-train/0000.parquet`, `data/validation-00000-of-00001.parquet`.
    """
    root, splits = Path(root).absolute(), {}
    for path in [root] if root.is_file() else parquet_files_below(root):
        below = path.relative_to(root).parts or (path.name,)
        split = next((match[1] for part in reversed(below) if (match := SPLIT.match(part))), None)
        if split is None:
            problems.append(f"{path}: neither its name nor its folder's is that of a split, such as train or test")
            continue
        folders = [part for part in (*below[:-1][::-1], root.name) if FOLDER_OF_LOCALE.fullmatch(part)]
        folder = next((part for part in folders if part not in SPLITS), None)
        splits.setdefault(SPLITS[split], []).append((path, folder))
    return splits


def _opened(path: Path) -> pq.ParquetFile:
    with readable(path):
        return pq.ParquetFile(path)


def _first(names: Sequence[str], file: pq.ParquetFile) -> str | None:
    return next((name for name in names if name in file.schema_arrow.names), None)


def _holds_texts(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)


def _locale_of_folder(locale: str | None, path: Path) -> str:
    if locale is None:
        raise ValueError(f"{path}: no column and no folder says the locale; put it into a folder such as sl")
    return locale


def _light_rows(path: Path, folder: str | None) -> Iterator[tuple[int, dict]]:
    """Yields numbers and contents of a file's rows without the recordings: `name`, `text`, `speaker`, `locale`."""
    with _opened(path) as file:
        audio = audio_column(file.schema_arrow, path)
        columns = {"text": _first(TEXT, file), "speaker": _first(SPEAKER, file), "locale": _first(LOCALE, file)}
        if columns["text"] is None:
            raise ValueError(f"{path}: no column {' or '.join(TEXT)}; it has {', '.join(file.schema_arrow.names)}")
        has_names = (
            pa.types.is_struct(kind := file.schema_arrow.field(audio).type) and kind.get_field_index("path") >= 0
        )
        columns["name"] = "path" if "path" in file.schema_arrow.names else f"{audio}.path" if has_names else None
        for name in (columns["text"], columns["locale"]):
            if name and not _holds_texts(kind := file.schema_arrow.field(name).type):
                raise ValueError(f"{path}: column {name} holds {kind}; strings are accepted")
        wanted, number = [column for column in columns.values() if column], 0
        try:
            for batch in file.iter_batches(ROWS_READ, columns=wanted):
                for row in batch.to_pylist():
                    row[f"{audio}.path"] = (row.get(audio) or {}).get("path")
                    read = {name: row.get(column) for name, column in columns.items()}
                    locale = read["locale"] if columns["locale"] else _locale_of_folder(folder, path)
                    yield number, read | {"locale": locale and to_locale(locale)}
                    number += 1
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path}: is damaged after row {number}; download it again") from error


def _rows(path: Path, folder: str | None, report: ReadingReport, locales: Sequence[str]) -> Iterator[tuple[str, dict]]:
    try:
        yield from _rows_of_file(path, folder, report, locales)
    except ValueError as error:
        report.note(str(error))


def _rows_of_file(
    path: Path, folder: str | None, report: ReadingReport, locales: Sequence[str]
) -> Iterator[tuple[str, dict]]:
    for number, row in _light_rows(path, folder):
        where = f"{path}:{number}"
        if row["locale"] not in (*locales, None):
            continue
        report.read += 1
        text = normalize_text(row["text"] or "")
        if row["locale"] is None:
            report.drop("no locale", where)
        elif not text:
            report.drop("empty sentence", where)
        else:
            name = PurePosixPath(str(row["name"] or f"{row['locale']}-{path.stem}-{number}."))
            audio = {"path": str(path), "offset": number, "size": None, "start": None, "end": None}
            speaker = None if row["speaker"] is None else str(row["speaker"])
            yield where, human_utterance(name.stem, audio, row["locale"], text, speaker)
