"""Counts what a corpus reader keeps and drops, and measures the recordings that it keeps."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

from ..audio.reading import AudioError, audio_duration
from ..error_line import error_line


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

    def note(self, line: str) -> None:
        """Keeps a line about something for which no row is dropped; once, however often it is found."""
        if (line := one_line(line)) not in self.notes:
            self.notes.append(line)
            self.lines.append(line)

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
    """Returns an utterance, still without duration, whose text, if it has one, was written by a person."""
    utterance = {"id": name, "audio": audio, "language": language, "text": text or None}
    return utterance | {"speaker": speaker, "source": "human" if text else None}


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


def with_durations(rows: Iterable[tuple[str, dict]], report: ReadingReport, num_threads: int = 8) -> Iterator[dict]:
    """Adds `duration_seconds` from the files' headers; drops unreadable and empty files with a line in the report.

    Args:
        rows: pairs of `file:row` and an utterance without duration, whose audio is a whole recording.
    """

    def measure(row):
        path = printable(row[1]["audio"]["path"])
        if path != row[1]["audio"]["path"]:
            return AudioError(f"{path}: has a name that is not UTF-8")  # and could not be written down
        try:
            return audio_duration(row[1]["audio"])
        except Exception as error:
            return AudioError(audio_problem(error, row[1]["audio"]))

    rows = iter(rows)
    with ThreadPoolExecutor(num_threads) as threads:
        while block := list(islice(rows, 4096)):  # in blocks: a release has millions of rows
            for (where, row), duration in zip(block, threads.map(measure, block), strict=True):
                if isinstance(duration, AudioError):
                    report.drop("unreadable audio", where, str(duration))
                elif not 0 < duration < math.inf:  # nor NaN, which an utterance file must not hold
                    report.drop("no samples", where, row["audio"]["path"])
                else:
                    yield {**row, "duration_seconds": duration}
