"""Reads mirrors of Common Voice in Parquet files, whose columns have different names in different mirrors."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Protocol

import pyarrow as pa

from ...audio.containers import audio_column
from ..listing import parquet_files_below
from ..locales import to_locale
from ..reading import ReadingReport, RowError, human_utterance, sentence_of, with_durations
from .parquet import distinct_values, has_paths, parquet_schema, parquet_values

# The names of columns in mirrors, the likeliest first.
TEXT = ("sentence", "text", "transcription", "transcript")
SPEAKER = ("client_id", "speaker_id", "speaker")
LOCALE = ("locale", "language", "lang")
LABELLED = ("train", "dev", "test")
SPLITS = {name: name for name in (*LABELLED, "validated", "invalidated", "other")} | {
    "training": "train",
    **dict.fromkeys(("validation", "valid", "val"), "dev"),
    **dict.fromkeys(("testing", "eval", "evaluation"), "test"),
}
WORDS = "|".join(sorted(SPLITS, key=len, reverse=True))
SPLIT = re.compile(rf"({WORDS})(?![a-z])")
# `train-00000-of-00002.parquet`, with the fingerprint that `push_to_hub` used to add, or the name of a folder
PLAIN = re.compile(rf"({WORDS})([-_.]?\d+([-_]of[-_]\d+)?)?(-[0-9a-f]{{16}})?(\.parquet)?")
FOLDER_OF_LOCALE = re.compile(r"[a-z]{2,3}([-_][A-Za-z]+)*")


class Skip(Protocol):
    """Chooses among the clips of a split."""

    def has(self, clip: str) -> bool:
        """Returns whether a clip is not to be read, because it is in another split."""

    def check(self, speaker: str | None, text: str | None) -> None:
        """Raises `RowError` for a clip that must not be read."""


def read_mirror(
    root: str | Path, split: str, report: ReadingReport, locales: Sequence[str], skip: Skip | None = None
) -> Iterator[dict]:
    """Yields the utterances of a split in some locales; the recordings stay in their files.

    The report gets a line for a split without files, and for each file that is damaged, or lacks recordings, texts or
    a locale. Rows before the damage are kept.
    """
    splits = _splits(root, problems := [])
    if split not in splits:
        problems.append(f"{root}: no Parquet files of {split}; there are those of {', '.join(splits) or 'no split'}")
    report.note_all(problems)
    for path, folder in splits.get(split, ()):
        with report.noting_errors():
            yield from with_durations(_rows(path, folder, report, locales, skip), report)


def mirror_locales(root: str | Path, problems: list[str]) -> list[str]:
    """Returns the locales of all Parquet files in a folder, sorted; an empty list if there are no such files.

    Args:
        problems: gets a line for each file that cannot be read.

    Raises:
        ValueError: if there are Parquet files, but none can be read.
    """
    found: set[str] = set()
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
    column = _first(LOCALE, parquet_schema(path).names)
    return distinct_values(path, column) if column else {_locale_of_folder(folder, path)}


def mirror_files(root: str | Path, splits: Sequence[str]) -> tuple[Path, ...]:
    """Returns the Parquet files of some splits."""
    files = _splits(root, [])
    return tuple(path for split in splits for path, _ in files.get(split, ()))


def mirror_rows(root: str | Path, split: str, locale: str) -> Iterator[tuple[str, str | None, str]]:
    """Yields the name, the speaker and the text of each clip of a locale in a split, and nothing of a damaged file."""
    for path, folder in _splits(root, []).get(split, ()):
        with suppress(ValueError):  # reading the split reports it
            for number, row in _light_rows(path, folder):
                if row["locale"] == locale:
                    yield _name(row, path, number), _speaker(row), row["text"] or ""


def _splits(root: str | Path, problems: list[str]) -> dict[str, list[tuple[Path, str | None]]]:
    """Maps splits to Parquet files and the locales of their folders. Names of files or folders begin with the split:
    `sl/train-00000-of-00002.parquet`, `sl/partial-train/0000.parquet`, `data/validation-00000-of-00001.parquet`.

    A longer name such as `test_noisy` is that split too, unless it is one of dev or test that is there already: speech
    of another kind would change the error rates.
    """
    root = Path(root).absolute()
    found: list[tuple[Path, str | None, str, bool]] = []
    for path in [root] if root.is_file() else parquet_files_below(root):
        below = path.relative_to(root).parts or (path.name,)
        match = next(filter(None, map(_split_of, reversed(below))), None)
        if match is None:
            problems.append(f"{path}: neither its name nor its folder's is that of a split, such as train or test")
            continue
        folders = [part for part in (*below[:-1][::-1], root.name) if FOLDER_OF_LOCALE.fullmatch(part)]
        found.append((path, next((part for part in folders if not _split_of(part)), None), *match))
    plain = {(split, folder) for _, folder, split, is_plain in found if is_plain}
    splits: dict[str, list[tuple[Path, str | None]]] = {}
    for path, folder, split, is_plain in found:
        if not is_plain and split in ("dev", "test") and (split, folder) in plain:
            problems.append(f"{path}: is not read, because {split} has files of its own")
            continue
        if not is_plain and split in LABELLED:
            problems.append(f"{path}: is read as {split}")
        splits.setdefault(split, []).append((path, folder))
    return splits


def _split_of(name: str) -> tuple[str, bool] | None:
    """Returns the split that a name of a file or folder means, and whether the name has no other words."""
    name = name.removeprefix("partial-")
    if plain := PLAIN.fullmatch(name):
        return SPLITS[plain[1]], True
    if not SPLIT.match(name):
        return None
    splits = [SPLITS[word] for word in re.split("[^a-z]+", name) if word in SPLITS]
    return next((split for split in splits if split in LABELLED), splits[0]), False


def _first(names: Sequence[str], columns: Collection[str]) -> str | None:
    return next((name for name in names if name in columns), None)


def _holds_texts(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)


def _locale_of_folder(locale: str | None, path: Path) -> str:
    if locale is None:
        raise ValueError(f"{path}: no column and no folder says the locale; put it into a folder such as sl")
    return locale


def _light_rows(path: Path, folder: str | None) -> Iterator[tuple[int, dict]]:
    """Yields numbers and contents of a file's rows without the recordings: `name`, `text`, `speaker`, `locale`."""
    schema = parquet_schema(path)
    audio = audio_column(schema, path)
    columns = {"text": _first(TEXT, schema.names), "speaker": _first(SPEAKER, schema.names)}
    columns["locale"] = _first(LOCALE, schema.names)
    if columns["text"] is None:
        raise ValueError(f"{path}: no column {' or '.join(TEXT)}; it has {', '.join(schema.names)}")
    columns["name"] = "path" if "path" in schema.names else f"{audio}.path" if has_paths(schema, audio) else None
    for name in (columns["text"], columns["locale"]):
        if name and not _holds_texts(kind := schema.field(name).type):
            raise ValueError(f"{path}: column {name} holds {kind}; strings are accepted")
    wanted = [column for column in columns.values() if column]
    for number, values in enumerate(parquet_values(path, wanted)):
        values[f"{audio}.path"] = (values.get(audio) or {}).get("path")
        row = {name: values.get(column) for name, column in columns.items()}
        locale = row["locale"] if columns["locale"] else _locale_of_folder(folder, path)
        yield number, row | {"locale": locale and to_locale(locale)}


def _name(row: dict, path: Path, number: int) -> str:
    return PurePosixPath(str(row["name"] or f"{row['locale']}-{path.stem}-{number}.")).stem


def _speaker(row: dict) -> str | None:
    return None if row["speaker"] is None else str(row["speaker"])


def _rows(
    path: Path, folder: str | None, report: ReadingReport, locales: Sequence[str], skip: Skip | None
) -> Iterator[tuple[str, dict]]:
    for number, row in _light_rows(path, folder):
        where, locale = f"{path}:{number}", row["locale"]
        name = _name(row, path, number)
        if locale not in (*locales, None) or skip and skip.has(name):
            continue
        with report.row(where):
            if locale is None:
                raise RowError("no locale")
            text = sentence_of(row["text"])
            if skip:
                skip.check(_speaker(row), text)
            audio = {"path": str(path), "offset": number, "size": None}
            yield where, human_utterance(name, audio, locale, text, _speaker(row))
