"""Finds the recordings that lists, folders and data sets name, and the parts of them, and refuses bad ones."""

from __future__ import annotations

import hashlib
import math
import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

from ..audio.folder_walk import walk_folders
from ..audio.reading import END_TOLERANCE
from .reading import ReadingReport, RowError, one_line, with_durations

# The usual columns of the place of a row's speech in its recording. `offset` and `duration` are NeMo's.
PART_COLUMNS = {
    "start": ("start", "start_time", "begin", "begin_time", "segment_start", "start_seconds", "time_start", "tmin"),
    "end": ("end", "end_time", "segment_end", "end_seconds", "time_end", "tmax"),
    "offset": ("offset",),
    "duration": ("duration",),
    "start_ms": ("start_ms",),
    "end_ms": ("end_ms",),
}
DECIMALS = 9  # of sums of seconds
# `1:02:03.5`, or seconds with a decimal comma; `09:30` is not one, because it may be a time of day.
CLOCK = re.compile(r"(?:(\d+):([0-5]?\d):(?=[0-5]?\d(?!\d)))?(\d+(?:[.,]\d+)?)")
UNIT = "time|s|secs?|seconds|ms|msecs?|milliseconds|samples?|frames?"
ANY_TIME = re.compile(
    r"((time|segment|seg|clip|utterance|utt|audio|speech)[ _-]?)?"
    rf"(start|begin|onset|tmin|xmin|(?P<end>end|stop|offset|tmax|xmax))([ _-]?({UNIT}))?",
    re.IGNORECASE,
)
NO_PART = "not a part of a recording"
FILE_ADDRESS = re.compile(r"file:(//(localhost(?=/))?)?", re.IGNORECASE)
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
# Object storage that tables may name. Other protocols are left out, because a table of somebody else must not read
# files of this machine through them, or hand its keys to a server.
OBJECT = re.compile(r"(s3a?|gs|gcs|abfss?|az|hf)://(?!.*::)", re.IGNORECASE)
WINDOWS_DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\\\")


class FileNames:
    """Finds files whose names are spelled differently on the disk; lists a folder once, and only if it has to."""

    def __init__(self):
        self._folders: dict[str, dict[str, list[str]]] = {}

    def find(self, path: str) -> str:
        """Returns the file that `path` names, apart from Unicode's forms and case; `path` itself if there is none.

        A name that differs only in its form, as NFC from NFD, goes before one in another case. If several files are
        equally near, none is chosen.
        """
        missing, nearest = [], path
        while not os.path.lexists(nearest) and nearest != os.path.dirname(nearest):
            nearest, name = os.path.split(nearest)
            missing.append(name)
        for name in reversed(missing):
            nearest = os.path.join(nearest, self._nearest(nearest, name))
        return nearest if os.path.lexists(nearest) else path

    def locate(self, name: str, folders: Iterable[str | Path]) -> str:
        """Returns the path of `name` in the first folder that has such a file; else its path in the first folder."""
        return self.locate_spelling(name, folders)[1]

    def locate_spelling(self, name: str, folders: Iterable[str | Path]) -> tuple[str, str]:
        """Returns the one of `spellings` of a name that a folder has, or else the name itself, and its path.

        A URL of object storage is its own path, and is not looked for.
        """
        if is_object(name):
            return name, name
        folders = list(folders)
        for spelling in spellings(name):
            for folder in folders:
                path = self.find(os.path.abspath(os.path.join(folder, spelling)))
                if os.path.exists(path):
                    return spelling, path
        return name, self.find(os.path.abspath(os.path.join(folders[0], name)))

    def _nearest(self, folder: str, name: str) -> str:
        if folder not in self._folders:
            listing = self._folders[folder] = {}
            with suppress(OSError):  # the folder does not exist
                for other in sorted(os.listdir(folder)):
                    listing.setdefault(fold_name(other), []).append(other)
        return nearest_name(name, self._folders[folder].get(fold_name(name), [])) or name


def is_object(name: str) -> bool:
    """Returns whether a table names a file of object storage."""
    return OBJECT.match(name) is not None


def spellings(name: str) -> list[str]:
    """Returns a name, and what it may mean: without white space around it, and with `/` for the `\\` of Windows."""
    return list(dict.fromkeys((name, name.strip(), name.strip().replace("\\", "/"))))


def local_path(name: str) -> str:
    """Returns the path that a table means by `~/a.wav` or `file:///a.wav`, and URLs of object storage as they are.

    Raises:
        RowError: for other addresses.
    """
    if is_object(name):
        return name
    if FILE_ADDRESS.match(name):
        return unquote(FILE_ADDRESS.sub("", name))
    if match := ADDRESS.match(name):
        raise RowError("its path is an address", f"{name!r}: download what {match[0]} names, and name its file")
    if WINDOWS_DRIVE.match(name) and not os.path.exists(name):
        raise RowError("its path is of Windows", f"{name!r}: make paths relative to their table, as clips/a.wav")
    return os.path.expanduser(name)


def fold_name(name: str) -> str:
    """Returns one form for all spellings of a name that differ only in case or in Unicode's forms."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def nearest_name(name: str, names: Iterable[str]) -> str | None:
    """Returns the one of `names` that equals `name`, or the only one of its composed form, or else the only one."""
    names = list(names)
    if name in names:
        return name
    composed = unicodedata.normalize("NFC", name)
    same = [other for other in names if unicodedata.normalize("NFC", other) == composed] or names
    return same[0] if len(same) == 1 else None


def member_audio(archive: Path, place: tuple[int, int] | None) -> dict | None:
    """Returns the `audio` of the schema for the offset and size of a member of an archive."""
    return {"path": str(archive), "offset": place[0], "size": place[1]} if place else None


def walk(
    root: str | Path, report: ReadingReport, notes_links: bool = True
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yields what `walk_folders` does; notes folders that cannot be read, and links that are not followed."""

    def failed(error: OSError) -> None:
        report.note(f"{error.filename}: this folder cannot be read: {error.strerror}")

    return walk_folders(root, failed, report.note if notes_links else None)


def part_columns(columns: Collection[str]) -> dict[str, str]:
    """Returns the columns of the place of a row's speech, by the names that `part_of` reads.

    Names such as `start_time` count in pairs: alone, it may be the time of day.
    """
    found = {field: name for field, usual in PART_COLUMNS.items() for name in usual[::-1] if name in columns}
    is_pair = {"start", "end"} <= found.keys()
    return {field: name for field, name in found.items() if is_pair or field == name}


def check_part_columns(table: object, columns: Iterable[str | None], fields: Set[str]) -> None:
    """Raises `ValueError` if columns look like starts and ends, but no start is among the known `fields`."""
    times = {name: match for name in columns if name and (match := ANY_TIME.fullmatch(name))}
    if fields.isdisjoint(("start", "start_ms")) and len({bool(match["end"]) for match in times.values()}) > 1:
        raise ValueError(
            f"{table}: columns {', '.join(times)} may be the place of a row's speech in its recording: rename them to "
            "start and end in seconds, or to start_ms and end_ms, or remove them (in Python, `columns` may name them)"
        )


def part_of(row: Mapping) -> tuple[float | None, float | None]:
    """Returns the start and end of a row's speech in its recording, in seconds; None for each that is not given.

    Args:
        row: may have `start`, and `end` or `duration`, under their usual names, or `offset` and `duration` as NeMo
            has them, as numbers or texts, which may be `1,5` or `0:01:23.5`. A `duration` alone is taken for that of
            the whole recording.

    Raises:
        RowError: for a value that is not a time, is negative, infinite or NaN, and for an end before the start.
    """
    row = {field: row[name] for field, name in part_columns(row).items()}
    start, end = _seconds("start", row), _seconds("end", row)
    if start is None and end is None:
        start = _seconds("offset", row)
    if end is None:
        duration = _seconds("duration", row, must_be_number=start is not None)
        if start is not None and duration is not None:
            end = start + duration
    if end is not None and end <= (start or 0.0):
        raise RowError(NO_PART, f"the part ends at {end:g} s and starts at {start or 0.0:g} s")
    return start, end


def _seconds(name: str, row: Mapping, must_be_number: bool = True) -> float | None:
    value, parts = row.get(name), 1
    if value in (None, ""):
        value, parts = row.get(f"{name}_ms"), 1000
    if value in (None, ""):
        return None
    try:
        clock = CLOCK.fullmatch(value.strip()) if isinstance(value, str) and parts == 1 else None
        hours, minutes, rest = clock.groups("0") if clock else ("0", "0", value)
        seconds = 3600 * int(hours) + 60 * int(minutes) + float(rest.replace(",", ".") if clock else rest)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan if must_be_number else 0.0
    if not 0 <= seconds < math.inf:
        raise RowError(NO_PART, f"{name} is {value!r}, not a number of seconds or a time such as 0:01:23.5")
    return seconds / parts


def with_part_durations(
    rows: Iterable[tuple[str, dict]], report: ReadingReport, check_ids: bool = True, may_be_cut: bool = True
) -> Iterator[dict]:
    """Adds `duration_seconds` as `with_durations` does, to recordings and to parts of them.

    Drops a part that is not inside its recording. One that covers all of it becomes the whole recording, and so does
    one outside of it that is as long: the recording has been cut, and the part is its place in the original. Drops the
    second utterance with the same id and audio; one with the same id and another audio gets an id of its own.

    Args:
        rows: pairs of `file:row` and an utterance without duration. One with `end_is_claim` ends with its recording,
            if that is shorter than it says.
        check_ids: False if no two rows have the same id, because the ids of all rows take memory.
        may_be_cut: False if the parts are known to be of these recordings, and not of longer originals.
    """
    digests: dict[str, dict[str, str]] = {}  # for each id, the place of the row with this digest of audio
    placed = ((where, row | {"where": where}) for where, row in rows)
    for row in with_durations(placed, report):
        where, audio, seconds = row.pop("where"), row["audio"], row["duration_seconds"]
        is_claim = row.pop("end_is_claim", False)
        start, end = audio["start"] or 0.0, audio["end"]
        end = seconds if end is None else end
        if may_be_cut and end > seconds + END_TOLERANCE and abs(end - start - seconds) <= END_TOLERANCE:
            start, end = 0.0, seconds
        if is_claim and end > seconds + END_TOLERANCE:
            difference = f"{seconds:.2f} s, not {end:g} s as its row says"
            report.lines.append(one_line(f"{where}: kept with another duration: {difference}"))
            end = seconds
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
            known = digests.setdefault(name, {})
            if digest in known:
                report.drop("id is there already", where, f"{name!r}; the first is {known[digest]}")
                continue
            if known:
                first, row["id"] = next(iter(known.values())), f"{name}-{digest}"
                report.lines.append(
                    one_line(f"{where}: id {name!r} is there already; kept as {row['id']!r}; the first is {first}")
                )
            known[digest] = where
        yield row
