"""Reads flashlight's list files, which have a line for each recording: `id path duration [transcript ...]`."""

from __future__ import annotations

import codecs
import math
import os
from collections.abc import Iterator, Sequence
from ctypes import c_float
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ListEntry:
    """Holds a line of a list file.

    Args:
        where: the list file and the line's number, for messages.
        id: bytes that are not UTF-8 are escaped.
        path: of the recording.
        duration: as in the list, in milliseconds by flashlight's convention; only the order depends on it.
        transcript: words with one space between them, or an empty text.
    """

    where: str
    id: str
    path: str
    duration: float
    transcript: str


def read_lists(names: Sequence[str], datadir: str = "") -> tuple[list[ListEntry], list[str]]:
    """
    Returns the entries of list files in the order in which `fl_asr_test` runs them: by decreasing duration, and with
    equal durations in the order of the files; and a line for each list or line that cannot be used.

    Lines end with a line feed, and only ASCII white space separates columns, as in flashlight; empty lines are
    skipped. Paths of recordings are relative to the working directory, or else to `datadir`.

    Args:
        names: list files, relative to `datadir` if that is not empty.

    Raises:
        OSError: for a list that cannot be read.
    """
    entries, problems = [], []
    for name in (os.path.join(datadir, name) for name in names):
        lines = list(lines_of_list(name, datadir))
        entries += [entry for _, entry in lines if isinstance(entry, ListEntry)]
        problems += [f"{where}: {entry}" for where, entry in lines if isinstance(entry, ValueError)]
        if not lines:
            problems.append(f"{name}: has no lines")
    # flashlight compares float32 values
    return sorted(entries, key=lambda entry: -c_float(entry.duration).value), problems


def lines_of_list(name: str, datadir: str) -> Iterator[tuple[str, ListEntry | ValueError]]:
    """Yields the place of each line that is not empty, with its entry or the error that explains why there is none.

    A byte order mark before the first line is ignored.
    """
    with open(name, "rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if columns := line.split():  # bytes.split knows the six characters that flashlight splits at
                where = f"{name}, line {number}"
                try:
                    yield where, _entry(where, columns, datadir)
                except ValueError as error:
                    yield where, error


def _entry(where: str, columns: list[bytes], datadir: str) -> ListEntry:
    if len(columns) < 3:
        raise ValueError(f"has {len(columns)} of the columns that it needs: id, path, duration")
    if b"\0" in b"".join(columns):
        raise ValueError("has a NUL character; is it a text file?")
    try:
        duration = float(columns[2])
    except ValueError:
        duration = math.nan
    if not math.isfinite(duration):
        raise ValueError(
            f"its duration is {columns[2].decode(errors='backslashreplace')!r}, not a number (paths must "
            "not have spaces)"
        )
    try:
        transcript = b" ".join(columns[3:]).decode()
    except UnicodeDecodeError as error:
        raise ValueError("its transcript is not UTF-8") from error
    path = os.fsdecode(columns[1])
    if datadir and not os.path.exists(path) and os.path.exists(below := os.path.join(datadir, path)):
        path = below
    return ListEntry(where, columns[0].decode(errors="backslashreplace"), path, duration, transcript)
