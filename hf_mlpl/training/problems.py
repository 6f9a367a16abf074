"""Reports and counts utterances that training cannot use, and stops training when they are most of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from ..atomic import write_text
from ..data.batches import SpeechBatch
from ..data.drops import FIRST_LINES, blame_disk, describe_unusable

logger = logging.getLogger(__name__)

WINDOW = 1000  # utterances that are judged together; one pass over the data if it has fewer


class TrainingError(RuntimeError):
    """Signals that training cannot go on; all that it has saved remains."""


class Problems:
    """Counts the utterances of a data set that all processes read, and those that could not be used.

    Args:
        num_utterances: size of the data set.
        path: text file with a line for each utterance that could not be used; several data sets may share it;
            None for no file.
    """

    def __init__(self, accelerator: Accelerator, num_utterances: int, path: Path | None):
        self.accelerator, self.path = accelerator, path
        self.window = min(WINDOW, num_utterances)
        self.reported: dict[str, None] = {}  # problems of this process
        self.num_written = 0  # of them, in the file
        self.last: str | None = None
        self.read, self.unusable = 0, 0  # in the window that is not judged yet
        self.total_read, self.total_unusable = 0, 0

    def add(self, batches: Iterable[SpeechBatch]) -> None:
        """Counts the batches that this process has loaded for an update; all processes call it.

        Raises:
            TrainingError: if most utterances of a window could not be used.
        """
        read = unusable = 0
        for batch in batches:
            read += len(batch.indices) + len(batch.problems)
            unusable += len(batch.problems)
            for problem in batch.problems.values():
                self.last = problem
                if problem not in self.reported:
                    self.reported[problem] = None
                    if len(self.reported) <= FIRST_LINES:
                        logger.warning("%s; skipped", problem)
        counts = torch.tensor([read, unusable], device=self.accelerator.device)
        read, unusable = self.accelerator.reduce(counts).tolist()
        self.read, self.unusable = self.read + read, self.unusable + unusable
        self.total_read, self.total_unusable = self.total_read + read, self.total_unusable + unusable
        if self.read >= self.window:
            self._judge(describe_unusable(self.unusable, self.read, "the last "))
            self.read = self.unusable = 0

    def finish(self, is_whole_run: bool) -> None:
        """Judges what is left of a window at the end; all processes call it, and it raises as `add` does.

        A run that was shorter than a window is judged like a window. Of another, and of one that was continued, at
        least a tenth of a window is judged, and it is refused where none of it could be used.
        """
        if is_whole_run and self.read == self.total_read or self.unusable == self.read >= max(self.window / 10, 1):
            self._judge(describe_unusable(self.unusable, self.read, "the last "))
        self.write()

    def _judge(self, problem: str | None) -> None:
        if problem:  # in all processes, which have the same numbers
            self.write()
            example = gather_object([self.last] if self.last else [])[0]
            raise TrainingError(blame_disk(problem, example))

    def write(self) -> None:
        """Adds to the file the lines that it lacks; all processes call it."""
        lines = gather_object(list(self.reported)[self.num_written :])
        self.num_written = len(self.reported)
        if lines and self.path is not None and self.accelerator.is_main_process:
            known = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
            write_text(self.path, "".join(f"{line}\n" for line in dict.fromkeys([*known, *lines])))
