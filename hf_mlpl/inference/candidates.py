"""Keeps the likeliest classes of each output frame, from which a search finds the path of a better transcript."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

NUM_CANDIDATES = 50  # classes of each frame that may extend a transcript
BLOCK_LOGITS = 2**20  # logits that become probabilities at a time, 4 MB


@dataclass
class Candidates:
    """Holds the likeliest classes of each output frame of an utterance, or of the middle of a piece.

    An hour takes 50 MB, however many classes the model has.

    Args:
        classes: (S, K), the likeliest first; the blank is among them.
        log_probs: (S, K), of these classes.
    """

    classes: np.ndarray
    log_probs: np.ndarray

    def part(self, frames: slice) -> Candidates:
        """Returns those of some frames."""
        return Candidates(self.classes[frames].copy(), self.log_probs[frames].copy())


class PathSearch(Protocol):
    """Finds the path of a transcript that is better than the greedy one; several threads may call it at a time."""

    def path(self, language: str | None, candidates: Candidates) -> np.ndarray | None:
        """Returns the labels (S,) of a path; None where the greedy one shall stay, as in a language of no model."""
        ...


def join_candidates(parts: Sequence[Candidates]) -> Candidates:
    """Joins the candidates of an utterance's pieces, in their order."""
    return Candidates(
        np.concatenate([part.classes for part in parts]), np.concatenate([part.log_probs for part in parts])
    )


def likeliest_classes(logits: torch.Tensor, blank_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns log-probabilities (B, S, K) of the likeliest classes of logits (B, S, V), and the classes (B, S, K)."""
    num_classes = logits.shape[2]
    frames = logits.flatten(0, 1).split(max(1, BLOCK_LOGITS // num_classes))
    found = []
    for block in frames:
        log_probs = block.float().log_softmax(-1)
        likeliest, classes = log_probs.topk(min(NUM_CANDIDATES, num_classes))
        if num_classes > NUM_CANDIDATES:  # a blank may always follow, as flashlight's search has it
            is_missing = (classes != blank_id).all(1)
            classes[is_missing, -1], likeliest[is_missing, -1] = blank_id, log_probs[is_missing, blank_id]
        found.append((likeliest, classes))
    log_probs, classes = (torch.cat(parts).unflatten(0, logits.shape[:2]) for parts in zip(*found, strict=True))
    return log_probs, classes


def log_probs_of(path: np.ndarray, candidates: Candidates) -> np.ndarray:
    """Returns the log-probabilities (S,) of the labels of a path; of one that is no candidate, that of the last."""
    is_label = candidates.classes == path[:, None]
    place = np.where(is_label.any(1), is_label.argmax(1), candidates.classes.shape[1] - 1)
    return np.take_along_axis(candidates.log_probs, place[:, None], axis=1)[:, 0]
