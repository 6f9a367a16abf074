"""Reads tar files of the format WebDataset in place: members whose names differ only in the suffix are a row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from ...audio.containers import open_member
from ...audio.folder_walk import is_hidden
from ...audio.reading import AUDIO_SUFFIXES
from ...audio.tar_index import tar_index
from ..metadata import TableRow
from ..reading import ReadingReport
from ..recordings import member_audio

SUFFIXES = (".tar", ".tar.gz", ".tgz")
AUDIO = "audio"  # the column of the first recording of a row
TEXTS = {"txt": "text", "cls": "label"}  # suffix -> column; other suffixes are columns themselves
KNOWN = ("json", *TEXTS)
MAX_TEXT = 2**16  # bytes of a member with another suffix, which may be a text


def webdataset_columns(files: Sequence[Path], report: ReadingReport) -> list[str]:
    """Returns the columns of all rows: `audio`, the suffixes of members, and the keys of `json` members."""
    columns: dict[str, None] = {}
    for file in files:
        report.note_all(tar_index(file).problems)
        for _, row, _ in webdataset_rows([file]):
            columns |= dict.fromkeys(row)
    return list(columns)


def webdataset_rows(files: Sequence[Path], columns: Sequence[str] | None = None) -> Iterator[TableRow]:
    """Yields rows in the order of the archives, with None for missing values of `columns`.

    Raises:
        ValueError: for an archive that cannot be read.
    """
    for file in files:
        index = tar_index(file)
        members: dict[str, list[int]] = {}
        for number, name in enumerate(index.names()):
            if not any(map(is_hidden, name.split("/"))):
                members.setdefault(_split_name(name)[0], []).append(number)
        for key, numbers in members.items():
            texts, recordings, problem = {}, {}, None
            for number in numbers:
                name, offset, size = index.name(number), int(index.offsets[number]), int(index.sizes[number])
                suffix = _split_name(name)[1]
                if f".{suffix.rpartition('.')[2].lower()}" in AUDIO_SUFFIXES:
                    recordings[suffix] = member_audio(file, (offset, size))
                    recordings.setdefault(AUDIO, recordings[suffix])
                elif size <= MAX_TEXT or suffix in KNOWN:
                    try:
                        texts |= _texts(suffix, open_member(file, offset, size).read().decode("utf-8-sig"))
                    except ValueError:
                        problem = f"its {suffix} cannot be read" if suffix in KNOWN else problem
            row = texts | recordings
            yield f"{file}:{key}", row if columns is None else {name: row.get(name) for name in columns}, problem


def _split_name(name: str) -> tuple[str, str]:
    """Returns the name of a row and the suffix of a member, which begins at the first dot of the file's name."""
    path = PurePosixPath(name)
    stem, _, suffix = path.name.partition(".")
    return str(path.with_name(stem)) if stem else name, suffix


def _texts(suffix: str, content: str) -> dict:
    if suffix != "json":
        return {TEXTS.get(suffix, suffix): content}
    values = json.loads(content)
    return values if isinstance(values, dict) else {suffix: values}
