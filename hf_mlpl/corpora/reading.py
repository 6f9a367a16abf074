"""Counts the rows that a corpus reader keeps and drops, and measures the recordings that it keeps."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from ..audio.reading import AudioError, audio_duration
from ..error_line import error_line
from ..model.text import normalize_text

THREADS = 8  # that read headers
MEASURED_ROWS = 4096  # rows that are measured together, because a release has millions


class RowError(Exception):
    """Refuses a row of a corpus, for a reason under which the report counts it."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass
class ReadingReport:
    """Counts what a corpus reader keeps and drops, by reason, with one line of file and row for each drop."""

    read: int = 0
    dropped: Counter = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def drop(self, reason: str, where: str, detail: str = "") -> None:
        """Counts one row under `reason`; `where` is `file:row`."""
        self.dropped[reason] += 1
        self.lines.append(one_line(f"{where}: {reason}" + (f": {detail}" if detail else "")))

    @contextmanager
    def row(self, where: str) -> Iterator[None]:
        """Counts one row as read, and drops it if a `RowError` is raised inside."""
        self.read += 1
        try:
            yield
        except RowError as error:
            self.drop(error.reason, where, error.detail)

    def note(self, line: str) -> None:
        """Keeps a line about something for which no row is dropped; once, however often it is found."""
        if (line := one_line(line)) not in self.notes:
            self.notes.append(line)
            self.lines.append(line)

    def note_first(self, line: str) -> None:
        """Keeps a line as `note` does, before others, because it explains what is missing."""
        self.note(line)
        self.notes.insert(0, self.notes.pop(self.notes.index(one_line(line))))

    def note_all(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.note(line)

    @contextmanager
    def noting_errors(self) -> Iterator[None]:
        """Notes a ValueError that is raised inside, so that the rest of a corpus is read."""
        try:
            yield
        except ValueError as error:
            self.note(str(error))

    @property
    def kept(self) -> int:
        return self.read - self.dropped.total()

    def summary(self) -> str:
        return reading_summary(self.read, self.dropped)


def reading_summary(read: int, dropped: Counter) -> str:
    """Returns one line about the rows that were read, kept, and dropped by reason."""
    reasons = drop_reasons(dropped)
    return f"{read} rows read, {read - dropped.total()} kept" + (f"; dropped: {reasons}" if reasons else "")


def drop_reasons(dropped: Counter) -> str:
    """Returns the numbers and reasons of drops, the most frequent first."""
    return ", ".join(f"{count} {reason}" for reason, count in dropped.most_common())


def human_utterance(name: str, audio: dict, language: str, text: str | None, speaker: str | None = None) -> dict:
    """Returns an utterance, still without duration, whose text, if it has one, was written by a person.

    Args:
        audio: a place as in the schema; without `start` and `end` it is a whole recording.
    """
    audio = audio | {"start": audio.get("start"), "end": audio.get("end")}
    utterance = {"id": name, "audio": audio, "language": language, "text": text or None}
    return utterance | {"speaker": speaker, "source": "human" if text else None}


def sentence_of(text: str | None) -> str:
    """Returns the normalised text of a row; raises `RowError` if it is empty."""
    if sentence := normalize_text(text or ""):
        return sentence
    raise RowError("empty sentence")


def file_name_of(name: str | None, column: str) -> str:
    """Returns the name of a file in a row; raises `RowError` for a path or nothing, so that no row leads elsewhere."""
    if name and Path(name).name == name:
        return name
    raise RowError(f"{column} is not a file name", repr(name or ""))


def check_known(wanted: Iterable[str], known: Iterable[str], message: str) -> None:
    """Raises ValueError, with `message` before the missing names and with all known names, if some are not known."""
    if missing := sorted(set(wanted) - set(known)):
        raise ValueError(f"{message} {', '.join(missing)}; there are {', '.join(known) or 'none'}")


def check_languages(wanted: set[str], known: Iterable[str], message: str, report: ReadingReport) -> None:
    """Notes languages that a corpus lacks, because another may have them; raises ValueError if it has none of them."""
    with report.noting_errors() if wanted.intersection(known) else nullcontext():
        check_known(wanted, known, message)


def printable(line: str) -> str:
    """Returns a line that can be written as UTF-8: names of files need not be."""
    return line.encode(errors="backslashreplace").decode()


def one_line(text: str) -> str:
    """Returns a printable line; names of files may have line breaks, too."""
    return printable(text).replace("\r", "\\r").replace("\n", "\\n")


def audio_problem(error: Exception, audio: dict) -> str:
    """Explains why a recording cannot be decoded, as `FILE: reason`; decoders may raise anything."""
    if isinstance(error, AudioError):
        return str(error)
    return f"{audio['path']}: cannot be decoded: {error_line(error, with_type=True)}"


def _place(audio: dict) -> tuple:
    return audio["path"], audio.get("offset"), audio.get("size")


def with_durations(rows: Iterable[tuple[str, dict]], report: ReadingReport) -> Iterator[dict]:
    """Adds `duration_seconds` from the files' headers; drops unreadable and empty files with a line in the report.

    Args:
        rows: pairs of `file:row` and an utterance whose audio is a whole recording, most of them without duration. If
            a ValueError ends them, what comes before is yielded, and then the error is raised.
    """

    def measure(audio: dict) -> float | AudioError:
        path = printable(audio["path"])
        if path != audio["path"]:
            return AudioError(f"{path}: has a name that is not UTF-8")  # and could not be written down
        try:
            return audio_duration(audio)
        except Exception as error:
            return AudioError(audio_problem(error, audio))

    rows, failure = iter(rows), None
    with ThreadPoolExecutor(THREADS) as threads:
        while failure is None:
            block = []
            try:
                for row in islice(rows, MEASURED_ROWS):
                    block.append(row)  # not extend, so that the list keeps the rows before an error
            except ValueError as error:  # of a damaged table
                failure = error
            audios = [row["audio"] for _, row in block if row.get("duration_seconds") is None]
            recordings = {_place(audio): audio for audio in audios}  # a long one has many utterances
            measured = dict(zip(recordings, threads.map(measure, recordings.values()), strict=True))
            for where, row in block:
                duration = row.get("duration_seconds")
                duration = measured[_place(row["audio"])] if duration is None else duration
                if isinstance(duration, AudioError):
                    report.drop("unreadable audio", where, str(duration))
                elif not 0 < duration < math.inf:  # nor NaN, which an utterance file must not hold
                    report.drop("no samples", where, row["audio"]["path"])
                else:
                    yield row | {"duration_seconds": duration}
            if not block:
                break
    if failure:
        raise failure
