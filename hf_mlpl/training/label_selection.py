"""Keeps slimIPL from learning the habits of a weak teacher: its favourite letters, and the labels it is least sure of.

Both parts need no transcript of the unlabelled speech. Labels are judged in the order of an update's batches, so that
any number of processes selects the same ones.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset

from ..ctc_models import CtcInterface
from ..inference.decoding import Hypothesis

NUM_TRANSCRIPTS = 10_000  # that are counted, evenly spread over the data set
SMOOTHING = 1e-3  # added to the share of each class, so that rare ones change little
LARGEST_SHIFT = 5.0  # nats
RATE = 0.1  # of the running mean, for each update
NUM_COMPARED = 300  # labels of a language, the last ones, among which a new one is ranked


class TeacherLabel(NamedTuple):
    """Holds a label, the language of its utterance, and the counts (V,) that `ClassPrior` expects, if it is used."""

    language: str
    hypothesis: Hypothesis
    counts: np.ndarray | None = None


class ClassPrior:
    """Shifts a teacher's outputs, which brings the classes of its labels nearer to their frequencies in transcripts.

    A weak teacher hears its favourite letters everywhere, and a student learns the habit. This is the distribution
    alignment of ReMixMatch (https://arxiv.org/abs/1911.09785) for CTC. As the frames of CTC are independent given the
    audio, the number of times that a class c is written is expected to be the sum over frames t of
    p_t(c) (1 - p_{t-1}(c)).

    Args:
        labelled: utterances with their transcripts.
        strength: multiplies the shifts; 0 has no effect.
    """

    def __init__(self, labelled: Dataset, ctc: CtcInterface, num_classes: int, strength: float):
        self.strength, self.blank_id = strength, ctc.blank_id
        self.transcribed: dict[str, np.ndarray] = {}  # (V,) shares of the classes, by language
        if strength:
            rows = np.unique(np.linspace(0, len(labelled) - 1, NUM_TRANSCRIPTS).astype(int))
            counts = defaultdict(lambda: np.zeros(num_classes))
            for row in labelled.select(rows).select_columns(["language", "text"]):
                np.add.at(counts[row["language"]], ctc.label_ids(row["text"]), 1)
            self.transcribed = {language: count / count.sum() for language, count in counts.items() if count.any()}
        self.expected = {language: shares.copy() for language, shares in self.transcribed.items()}  # running means

    def shifted(
        self, log_probs: torch.Tensor, num_frames: torch.Tensor, languages: Sequence[str]
    ) -> tuple[torch.Tensor, list[np.ndarray]]:
        """Returns outputs (B, S, V) with their shifts, and the expected counts (V,) of each row, without shifts.

        Args:
            log_probs: (B, S, V), of the classes.
            num_frames: (B,), valid frames.
        """
        probs = log_probs.exp().masked_fill(
            torch.arange(log_probs.shape[1], device=log_probs.device)[:, None] >= num_frames[:, None, None], 0.0
        )
        begins = probs.clone()
        begins[:, 1:] *= 1 - probs[:, :-1]
        counts = begins.sum(dim=1).double()
        counts[:, self.blank_id] = 0.0
        shifts = torch.tensor(np.stack([self.shift(language, log_probs.shape[2]) for language in languages]))
        return log_probs + shifts.to(log_probs)[:, None], list(counts.cpu().numpy())

    def shift(self, language: str, num_classes: int) -> np.ndarray:
        """Returns what is added to the log-probability of each class (V,); 0 for those that no transcript has."""
        if language not in self.transcribed:
            return np.zeros(num_classes)
        target = self.transcribed[language]
        ratio = np.log((target + SMOOTHING) / (self.expected[language] + SMOOTHING))
        return self.strength * np.where(target > 0, ratio.clip(-LARGEST_SHIFT, LARGEST_SHIFT), 0.0)

    def update(self, labels: Sequence[TeacherLabel]) -> None:
        """Takes the expected counts of an update's labels."""
        for language, shares in self.transcribed.items():
            total = np.zeros_like(shares)
            for label in labels:
                if label.language == language and label.counts is not None:
                    total += label.counts
            if total.any():
                self.expected[language] += RATE * (total / total.sum() - self.expected[language])

    def state_dict(self) -> dict:
        return {language: shares.tolist() for language, shares in self.expected.items()}

    def load_state_dict(self, state: dict) -> None:
        self.expected |= {language: np.array(shares) for language, shares in state.items()}


class ConfidentLabels:
    """Selects the labels whose letters the teacher is surest of, a growing share of them.

    Args:
        first_share: of the labels that are selected at the beginning; it grows evenly to all of them.
    """

    def __init__(self, first_share: float):
        self.first_share = first_share
        self.scores: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=NUM_COMPARED))  # by language

    def select(self, labels: Sequence[TeacherLabel], progress: float) -> list[bool]:
        """Says of each label of an update whether it is learned; an empty one is not, unless all are.

        Args:
            progress: share of slimIPL's updates that are over.
        """
        share = self.first_share + (1 - self.first_share) * progress
        if share >= 1:
            return [True] * len(labels)
        for label in labels:
            self.scores[label.language].append(label.hypothesis.letter_log_prob)
        bounds = {language: float(np.quantile(scores, 1 - share)) for language, scores in self.scores.items()}
        return [
            bool(label.hypothesis.text) and label.hypothesis.letter_log_prob >= bounds[label.language]
            for label in labels
        ]

    def state_dict(self) -> dict:
        return {language: list(scores) for language, scores in self.scores.items()}

    def load_state_dict(self, state: dict) -> None:
        for language, scores in state.items():
            self.scores[language].extend(scores)
