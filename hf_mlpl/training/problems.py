"""What training meets and cannot use: a line for each utterance, a count, and an end where it is most of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from ..data.batches import SpeechBatch

logger = logging.getLogger(__name__)

WINDOW = 1000  # utterances, of which not more than MOST_LOST may be lost; a whole pass where there are fewer
MOST_LOST = 0.5  # share; more are a wrong mount, a disk that is gone, or the files of another machine


class TrainingError(RuntimeError):
    """Training cannot go on; what it has saved so far stays."""


class Problems:
    """Counts the utterances that all processes meet, and those of them that could not be used.

    Args:
        num_utterances: of the smallest data set that is trained on.
    """

    def __init__(self, accelerator: Accelerator, num_utterances: int):
        self.accelerator = accelerator
        self.window = min(WINDOW, num_utterances)
        self.reported: set[str] = set()
        self.last: str | None = None
        self.met, self.lost = 0, 0  # in the window that is not judged yet
        self.total_met, self.total_lost = 0, 0

    def add(self, batches: Iterable[SpeechBatch]) -> None:
        """Takes what this process has loaded for an update; all processes call it.

        Raises:
            TrainingError: where most utterances of a window could not be used.
        """
        met = lost = 0
        for batch in batches:
            met += len(batch.indices) + len(batch.problems)
            lost += len(batch.problems)
            for problem in batch.problems.values():
                self._report(problem)
        met, lost = self.accelerator.reduce(torch.tensor([met, lost], device=self.accelerator.device)).tolist()
        self.met, self.lost = self.met + met, self.lost + lost
        self.total_met, self.total_lost = self.total_met + met, self.total_lost + lost
        if self.met >= self.window:
            self._judge()

    def end(self) -> None:
        """Judges a run that was shorter than a window; all processes call it, and it raises as `add` does."""
        if self.met == self.total_met:
            self._judge()

    def _report(self, problem: str) -> None:
        self.last = problem
        if problem not in self.reported:
            logger.warning("%s; skipped", problem)
            self.reported.add(problem)

    def _judge(self) -> None:
        if self.lost > MOST_LOST * self.met:  # on all processes, which have the same numbers
            last = gather_object([self.last] if self.last else [])[0]
            raise TrainingError(
                f"{self.lost} of the last {self.met} utterances could not be used, for example: {last}; see whether "
                "the disk with the audio is there, then give the same command again"
            )
        self.met = self.lost = 0
