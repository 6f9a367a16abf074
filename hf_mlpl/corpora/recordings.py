"""Finds the recordings that lists, folders and data sets name, and the parts of them, and refuses bad ones."""

from __future__ import annotations

import hashlib
import math
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

from ..audio.folder_walk import walk_folders
from ..audio.reading import AUDIO_SUFFIXES, END_TOLERANCE, looks_like_audio
from .reading import ReadingReport, one_line, with_durations

PART_COLUMNS = ("start", "end", "offset", "duration")


class PartError(ValueError):
    """Refuses times that are no part of a recording, with one line of reason."""


class FileNames:
    """Finds files whose names are written otherwise than on the disk; lists a folder once, where that is needed."""

    def __init__(self):
        self._folders: dict[str, dict[str, list[str]]] = {}

    def find(self, path: str) -> str:
        """Returns a path where there is a file, if `path` names one but for Unicode's forms and case; else `path`.

        A name that differs in its form alone, as NFC from NFD, goes before one in another case. Of several files that
        are equally near none is chosen.
        """
        missing, nearest = [], path
        while not os.path.lexists(nearest) and nearest != os.path.dirname(nearest):
            nearest, name = os.path.split(nearest)
            missing.append(name)
        for name in reversed(missing):
            nearest = os.path.join(nearest, self._nearest(nearest, name))
        return nearest if os.path.lexists(nearest) else path

    def _nearest(self, folder: str, name: str) -> str:
        if folder not in self._folders:
            listing = self._folders[folder] = {}
            try:
                for other in sorted(os.listdir(folder)):
                    listing.setdefault(folded(other), []).append(other)
            except OSError:
                pass  # which is a folder that is not there
        return nearest_name(name, self._folders[folder].get(folded(name), [])) or name


def folded(name: str) -> str:
    """Returns a name in the form that names have in common which differ in case or in Unicode's forms alone."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def nearest_name(name: str, names: Iterable[str]) -> str | None:
    """Returns the one of `names`, all of one folded form, that is `name`, or has its composed form, or is alone."""
    names = list(names)
    if name in names:
        return name
    composed = unicodedata.normalize("NFC", name)
    same = [other for other in names if unicodedata.normalize("NFC", other) == composed] or names
    return same[0] if len(same) == 1 else None


def located(name: str, folders: Iterable[str], files: FileNames) -> str:
    """Returns the file that `name` is in the first of the folders that has it; else its place in the first folder."""
    places = [files.find(os.path.abspath(os.path.join(folder, name))) for folder in folders]
    return next(filter(os.path.exists, places), places[0])


def is_recording(path: str) -> bool:
    """Returns whether a file is a recording, by its name or else by its content; also one that cannot be decoded."""
    return os.path.splitext(path)[1].lower() in AUDIO_SUFFIXES or looks_like_audio(path)


def walk(root: str | Path, report: ReadingReport) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yields what `walk_folders` does; folders that cannot be read, and links that are not followed, are noted."""
    return walk_folders(root, partial(_note_unread, report), report.note)


def _note_unread(report: ReadingReport, error: OSError) -> None:
    report.note(f"{error.filename}: this folder cannot be read: {error.strerror}")


def part_of(row: Mapping) -> tuple[float | None, float | None]:
    """Returns where the speech of a row begins and ends in its recording, in seconds; None where nothing says it.

    Args:
        row: may have `start` and `end`, or `offset` and `duration` as NeMo has them, as numbers or texts. A `duration`
            alone is taken for that of the whole recording.

    Raises:
        PartError: for what is not a time, is negative, infinite or NaN, and for an end before the start.
    """
    start, end = _seconds("start", row), _seconds("end", row)
    if start is None and end is None:
        start = _seconds("offset", row)
        duration = _seconds("duration", row, must_be_number=start is not None)
        if start is not None and duration is not None:
            end = start + duration
    if end is not None and end <= (start or 0.0):
        raise PartError(f"the part ends at {end:g} s and starts at {start or 0.0:g} s")
    return start, end


def _seconds(name: str, row: Mapping, must_be_number: bool = True) -> float | None:
    value = row.get(name)
    if value is None or value == "":
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan if must_be_number else 0.0
    if not 0 <= seconds < math.inf:
        raise PartError(f"{name} is {value!r}, not a number of seconds")
    return seconds


def with_part_durations(
    rows: Iterable[tuple[str, dict]], report: ReadingReport, check_ids: bool = True
) -> Iterator[dict]:
    """Yields what `with_durations` does, of recordings and of parts of them.

    A part that is not inside its recording is dropped, and one that is all of it becomes the whole recording. The
    second utterance of one id and one audio is dropped, and that of another audio gets an id of its own.

    Args:
        rows: pairs of `file:row` and an utterance without duration.
        check_ids: False where no two rows have one id, because the ids of all rows take memory.
    """
    seen: dict[str, set[str]] = {}  # ids, and digests of their audio
    placed = ((where, row | {"where": where}) for where, row in rows)
    for row in with_durations(placed, report):
        where, audio, seconds = row.pop("where"), row["audio"], row["duration_seconds"]
        start, end = audio.get("start") or 0.0, audio.get("end")
        end = seconds if end is None else end
        if end > seconds + END_TOLERANCE or start >= seconds:
            report.drop("segment outside its recording", where, f"{start:g}-{end:g} s of {seconds:.2f} s")
            continue
        if start == 0.0 and end >= seconds - END_TOLERANCE:
            start = end = None
        else:
            row["duration_seconds"] = min(end, seconds) - start
        row["audio"] = audio | {"start": start, "end": end}
        if check_ids:
            name, digest = row["id"], hashlib.sha256(os.fsencode(repr(row["audio"]))).hexdigest()[:8]
            if digest in seen.get(name, ()):
                report.drop("id is there already", where, repr(name))
                continue
            if name in seen:
                row["id"] = f"{name}-{digest}"
                report.lines.append(one_line(f"{where}: id {name!r} is there already; kept as {row['id']!r}"))
            seen.setdefault(name, set()).add(digest)
        yield row
