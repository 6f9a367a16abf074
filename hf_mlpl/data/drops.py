"""Reports utterances that cannot be used: counts of them, lines about the first few, and a file with all."""

from __future__ import annotations

import csv
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack

from ..atomic import atomic_write
from ..audio.reading import SAMPLING_RATE, load_audio
from ..error_line import error_line
from ..remote_path import AnyPath

FIRST_LINES = 5  # of each reason
MOST_UNUSABLE = 0.5  # share; more mean a wrong mount, a disk that is gone, or the files of another machine


class DropFile:
    """Writes a tsv file of dropped utterances, which appears when it is complete; one without rows is removed.

    Args:
        path: None for a list that is counted only.
    """

    def __init__(self, path: AnyPath | None, columns: Sequence[str]):
        self.path, self.columns = path, columns
        self.counts: Counter[str] = Counter()  # by reason
        self.stack = ExitStack()
        self.write_row: Callable[[Iterable], object] | None = None  # from the first row on

    def __enter__(self) -> DropFile:
        return self

    def add(self, reason: str, *row: object) -> bool:
        """Adds a row; returns whether it is one of the first with this reason, which deserve a line in the log."""
        self.counts[reason] += 1
        if self.path is not None:
            if self.write_row is None:
                partial = self.stack.enter_context(atomic_write(self.path))
                file = self.stack.enter_context(open(partial, "w", encoding="utf-8", newline=""))
                self.write_row = csv.writer(file, delimiter="\t", lineterminator="\n").writerow
                self.write_row(self.columns)
            self.write_row(row)
        return self.counts[reason] <= FIRST_LINES

    def __exit__(self, *exception) -> None:
        self.stack.__exit__(*exception)
        if self.path is not None and self.write_row is None and exception[0] is None:
            self.path.unlink(missing_ok=True)

    def log_rest(self, logger: logging.Logger, what: str) -> None:
        """Logs the counts in one line if more were dropped than the log has lines about."""
        if any(count > FIRST_LINES for count in self.counts.values()):
            counts = ", ".join(f"{count} {reason}" for reason, count in self.counts.most_common())
            where = f"; all are listed in {self.path}" if self.path is not None else ""
            logger.warning("%d %s: %s%s", self.counts.total(), what, counts, where)


def describe_unusable(unusable: int, read: int, those: str = "") -> str | None:
    """Describes in a clause that most utterances could not be used; returns None if half of them could, or more.

    Args:
        unusable, read: numbers of utterances.
        those: words before the number of those that were read, such as `the last `.
    """
    return f"{unusable} of {those}{read} utterances could not be used" if unusable > MOST_UNUSABLE * read else None


def blame_disk(problem: str, example: str) -> str:
    """Adds an example and a remedy to the clause of `describe_unusable`."""
    return (
        f"{problem}, for example: {example}; see whether the disk with the audio is there, then give the same command "
        "again"
    )


def audio_problem(audio: dict) -> str | None:
    """Returns in a line why the audio of an utterance cannot be read; None if it can."""
    try:
        load_audio(audio, SAMPLING_RATE)
    except (OSError, ValueError, MemoryError) as error:
        return error_line(error)
    return None
