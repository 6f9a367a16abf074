"""Reports and counts utterances that training cannot use, and stops training when they are most of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from ..data.batches import SpeechBatch

logger = logging.getLogger(__name__)

WINDOW = 1000  # utterances that are judged together; one pass over the data if it has fewer
MOST_UNUSABLE = 0.5  # share; more mean a wrong mount, a disk that is gone, or the files of another machine


class TrainingError(RuntimeError):
    """Signals that training cannot go on; all that it has saved remains."""


class Problems:
    """Counts the utterances that all processes read, and those that could not be used.

    Args:
        num_utterances: size of the smallest data set of the run.
    """

    def __init__(self, accelerator: Accelerator, num_utterances: int):
        self.accelerator = accelerator
        self.window = min(WINDOW, num_utterances)
        self.reported: set[str] = set()
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
                    logger.warning("%s; skipped", problem)
                    self.reported.add(problem)
        counts = torch.tensor([read, unusable], device=self.accelerator.device)
        read, unusable = self.accelerator.reduce(counts).tolist()
        self.read, self.unusable = self.read + read, self.unusable + unusable
        self.total_read, self.total_unusable = self.total_read + read, self.total_unusable + unusable
        if self.read >= self.window:
            self._judge()

    def finish(self) -> None:
        """Judges a run that was shorter than a window; all processes call it, and it raises as `add` does."""
        if self.read == self.total_read:
            self._judge()

    def _judge(self) -> None:
        if self.unusable > MOST_UNUSABLE * self.read:  # in all processes, which have the same numbers
            example = gather_object([self.last] if self.last else [])[0]
            raise TrainingError(
                f"{self.unusable} of the last {self.read} utterances could not be used, for example: {example}; "
                "see whether the disk with the audio is there, then give the same command again"
            )
        self.read = self.unusable = 0
