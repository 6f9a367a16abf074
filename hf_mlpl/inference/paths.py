"""Finds the best class of each output frame of a batch, and the path that a search prefers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from transformers import PreTrainedModel

from ..ctc_models import CtcInterface
from .candidates import (
    BLOCK_LOGITS,
    Candidates,
    PathSearch,
    join_candidates,
    likeliest_classes,
    log_probs_of,
)
from .pieces import Piece, explain_memory_errors

# Changes log-probabilities (B, S, V) of the classes, given their valid frames (B,) and their first row in the batch.
Adjust = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]


@dataclass
class GreedyPath:
    """Holds the best class of each output frame of an utterance, or of the middle of a piece; or a search's path."""

    log_probs: np.ndarray  # (S,), of the labels
    labels: np.ndarray  # (S,)
    expected_labels: np.ndarray  # (S,), probabilities that a label begins with the frame
    language_log_probs: torch.Tensor | None  # (L,), of the whole piece; None for a model without languages
    seconds: float
    candidates: Candidates | None = None  # for a search

    def middle(self, piece: Piece) -> GreedyPath:
        """Returns the path without the context at the ends of its piece."""
        middle = slice(piece.left, piece.end)
        candidates = None if self.candidates is None else self.candidates.part(middle)
        path = self.log_probs[middle], self.labels[middle], self.expected_labels[middle]
        return GreedyPath(*path, self.language_log_probs, piece.seconds, candidates)


@torch.inference_mode()
def best_paths(
    model: PreTrainedModel,
    ctc: CtcInterface,
    features: torch.Tensor,
    mask: torch.Tensor,
    with_candidates: bool = False,
    adjust: Adjust | None = None,
) -> list[GreedyPath]:
    """Returns the greedy path of each row of a batch, without padding.

    Args:
        features: (B, T, F), or samples (B, T).
        mask: (B, T), 1 for valid inputs.
        with_candidates: whether paths have their `candidates`.
        adjust: changes the model's log-probabilities before.
    """
    if ctc.pads_exactly:
        return _paths_of_padded(model, ctc, features, mask, with_candidates, adjust)
    lengths = mask.sum(1).tolist()
    rows = [(features[i : i + 1, :length], mask[i : i + 1, :length]) for i, length in enumerate(lengths)]
    return [
        path
        for first, row in enumerate(rows)
        for path in _paths_of_padded(model, ctc, *row, with_candidates, adjust, first)
    ]


def _paths_of_padded(
    model: PreTrainedModel,
    ctc: CtcInterface,
    features: torch.Tensor,
    mask: torch.Tensor,
    with_candidates: bool,
    adjust: Adjust | None,
    first: int = 0,
) -> list[GreedyPath]:
    with explain_memory_errors(
        f"a batch of {len(mask)} utterances or pieces, together {ctc.input_seconds(mask.numel()):.0f} s with padding, "
        "does not fit into memory; let batches have fewer seconds (--batch-seconds, max_batch_seconds)"
    ):
        output = ctc.forward(model, *(tensor.to(model.device, non_blocking=True) for tensor in (features, mask)))
        logits = output.logits
        if adjust is not None:
            logits = adjust(logits.float().log_softmax(-1), output.num_frames, first)
        classes = best_classes(logits, ctc.blank_id)
        log_probs, labels, expected = (tensor.cpu().numpy() for tensor in classes)  # (B, S)
        if with_candidates:
            found = likeliest_classes(logits, ctc.blank_id)
            candidate_log_probs, candidates = (tensor.cpu().numpy() for tensor in found)  # (B, S, K)
    languages = [None] * len(mask) if output.language_log_probs is None else output.language_log_probs.cpu()
    seconds = (ctc.input_seconds(length) for length in mask.sum(1).tolist())
    return [
        GreedyPath(
            log_probs[i, :length].copy(),
            labels[i, :length].astype(np.int32),
            expected[i, :length].copy(),
            languages[i],
            of_row,
            Candidates(candidates[i, :length].astype(np.int32), candidate_log_probs[i, :length].copy())
            if with_candidates
            else None,
        )
        for i, (length, of_row) in enumerate(zip(output.num_frames.tolist(), seconds, strict=True))
    ]


def searched_paths(paths: list[GreedyPath], search: PathSearch | None, locale: str | None) -> list[GreedyPath]:
    """Returns the paths of an utterance's pieces, with the labels that a search finds for all of them together."""
    if search is None:
        return paths
    candidates = join_candidates([path.candidates for path in paths if path.candidates is not None])
    if (labels := search.path(locale, candidates)) is None:
        return paths
    ends = np.cumsum([len(path.labels) for path in paths])[:-1]
    parts = zip(paths, np.split(labels, ends), np.split(log_probs_of(labels, candidates), ends), strict=True)
    return [replace(path, labels=part, log_probs=log_probs, candidates=None) for path, part, log_probs in parts]


def collapsed_length(path: np.ndarray, blank_id: int) -> int:
    """Returns the number of labels of a path (S,): of frames with a label that the frame before does not have."""
    return int(((path != blank_id) & (np.diff(path, prepend=blank_id) != 0)).sum())


def best_classes(logits: torch.Tensor, blank_id: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Finds the best class of each frame, and how likely it is that a label of a text begins with the frame.

    Frames are independent of each other given the audio, so the probability that a label begins with frame t is the
    sum over classes c that are not blank of `p_t(c) * (1 - p_{t-1}(c))`, where p is 0 before the first frame. The sum
    over frames is the expected number of labels of a path (Graves et al. 2006 define the collapse of paths).

    Args:
        logits: (B, S, V).

    Returns:
        The log-probability of the best class, the class, and the probability that a label begins; each (B, S).
    """
    # A block of frames at a time, which stays in a processor's cache: all probabilities together never exist.
    num_frames, frames = logits.shape[1], logits.flatten(0, 1)
    size, parts = max(1, BLOCK_LOGITS // logits.shape[2]), []
    last = torch.zeros(logits.shape[2], device=logits.device)  # probabilities of the labels in the frame before
    for first in range(0, len(frames), size):
        block = frames[first : first + size].float()
        highest, classes = block.max(-1)
        odds = block.sub(highest[:, None]).exp_()  # against the best class
        sums = odds.sum(-1)
        blank = odds[:, blank_id] / sums
        odds[:, blank_id] = 0
        same = torch.empty_like(sums)  # the probability of the label of the frame before
        same[0] = last @ odds[0]
        same[1:] = torch.linalg.vecdot(odds[1:], odds[:-1]) / sums[:-1]
        same[-first % num_frames :: num_frames] = 0  # no frame is before the first one of an utterance
        last = odds[-1] / sums[-1]
        parts.append((-sums.log(), classes, 1 - blank - same / sums))
    return tuple(torch.cat(each).view(logits.shape[:2]) for each in zip(*parts, strict=True))
