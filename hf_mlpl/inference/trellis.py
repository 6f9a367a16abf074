"""Finds the likeliest CTC path for labels that are known, in recordings of hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..data.selection import min_ctc_frames

BLOCK_FRAMES = 1000  # frames between scores that are kept, at least: 30 s
MAX_BLOCKS = 100  # so that the kept scores of ten hours fit into memory


@dataclass(frozen=True)
class LabelSpans:
    """Holds the frames of each label of a path; all other frames are blank.

    Args:
        starts: (L,), first frame of each label.
        ends: (L,), the frame after its last.
        log_prob: of the path, the sum over all frames.
    """

    starts: np.ndarray
    ends: np.ndarray
    log_prob: float


def viterbi(log_probs: np.ndarray, labels: Sequence[int], blank: int | Sequence[int]) -> LabelSpans:
    """Returns the likeliest of all CTC paths that collapse to `labels`, exactly.

    The states of a frame are the L labels and the L + 1 blanks around them. From one frame to the next, a path stays
    in its state, or goes on to the next state, or from a label to the next label if both differ. Where several ways
    into a state are equally likely, it takes the first of these.

    A first pass computes the best score of each state, frame by frame, and keeps the scores of every thousandth frame.
    A second pass goes back from the end, block by block, and computes again only the states from which the path can
    still reach its known end of the block: a label for each frame. So the scores of an hour take about 100 MB.

    Args:
        log_probs: (T, C), log-probabilities of classes.
        labels: (L,), columns of `log_probs`, none of them the blank; at least one.
        blank: column of the blank; or columns (L + 1,) of the blanks before, between and after the labels, which
            need not be the same.

    Raises:
        ValueError: for labels that need more frames than there are, and for log-probabilities that are NaN or allow
            no path.
    """
    classes, num_frames, num_labels = np.asarray(labels, np.intp), len(log_probs), len(labels)
    if (needed := min_ctc_frames(classes.tolist())) > num_frames:
        raise ValueError(f"{num_labels} labels need {needed} output frames, and there are {num_frames}")
    length = max(BLOCK_FRAMES, -(-num_frames // MAX_BLOCKS))
    blocks = [range(first, min(first + length, num_frames)) for first in range(0, num_frames, length)]
    blanks = np.broadcast_to(np.asarray(blank, np.intp), num_labels + 1)
    scores, kept = _Scores.before_the_first_frame(classes, blanks), []
    for block in blocks:
        # Within some frames, the path reaches as many labels at most; from too early labels it would miss the end.
        kept.append(scores.part(num_labels - num_frames + block.start - 1, block.stop).copy())
        for frame in block:
            part = scores.part(num_labels - num_frames + frame, frame + 1)
            part.advance(log_probs[frame])
    label_end, blank_end = float(scores.labels[-1]), float(scores.blanks[-1])
    state, log_prob = (2 * num_labels, blank_end) if blank_end > label_end else (2 * num_labels - 1, label_end)
    if not np.isfinite(log_prob):
        raise ValueError(f"the best path has the log-probability {log_prob}; the model's output allows no path")
    states = np.empty(num_frames, np.int64)  # label i is state 2i + 1, and the blank before it 2i
    for block in reversed(blocks):
        end = (state + 1) // 2
        state = _trace_back(kept.pop().part(end - 1 - len(block), end), log_probs, block, state, states)
    positions = 2 * np.arange(num_labels) + 1
    return LabelSpans(np.searchsorted(states, positions), np.searchsorted(states, positions, "right"), log_prob)


@dataclass
class _Scores:
    """Holds the log-probabilities of the best paths to successive labels, and to the blanks around them."""

    labels: np.ndarray  # (n + 1,), fp64; the first belongs to the label before
    blanks: np.ndarray  # (n + 1,), fp64; before and after each label
    classes: np.ndarray  # (n,), of the labels
    blank_classes: np.ndarray  # (n + 1,)
    skips: np.ndarray  # (n,), 0 where a path may come from the label before, else -inf
    first: int = 0  # number of the first label

    @classmethod
    def before_the_first_frame(cls, classes: np.ndarray, blank_classes: np.ndarray) -> _Scores:
        labels, blanks = np.full((2, len(classes) + 1), -np.inf)
        blanks[0] = 0.0
        may_not_skip = np.append(True, classes[1:] == classes[:-1])
        return cls(labels, blanks, classes, blank_classes, np.where(may_not_skip, -np.inf, 0.0))

    def part(self, first: int, end: int) -> _Scores:
        """Returns a view of the labels from number `first` on and before `end`, as far as they are here."""
        low = max(first - self.first, 0)
        high = max(min(end - self.first, len(self.classes)), low)
        with_before = slice(low, high + 1)
        return _Scores(
            self.labels[with_before],
            self.blanks[with_before],
            self.classes[low:high],
            self.blank_classes[with_before],
            self.skips[low:high],
            self.first + low,
        )

    def copy(self) -> _Scores:
        return replace(self, labels=self.labels.copy(), blanks=self.blanks.copy())

    def advance(self, log_probs: np.ndarray) -> None:
        """Replaces the scores by those after one more frame, whose log-probabilities are (C,)."""
        log_probs = log_probs.astype(np.float64)
        best = np.maximum(self.labels[1:], self.blanks[:-1])
        np.maximum(best, self.labels[:-1] + self.skips, out=best)
        np.maximum(self.blanks, self.labels, out=self.blanks)
        self.blanks += log_probs.take(self.blank_classes)
        np.add(best, log_probs.take(self.classes), out=self.labels[1:])

    def steps(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns how many states the best paths take in the next frame, to the labels (n,) and blanks (n + 1,)."""
        stay_or_blank = np.maximum(self.labels[1:], self.blanks[:-1])
        is_skip = self.labels[:-1] + self.skips > stay_or_blank
        return np.where(is_skip, 2, self.blanks[:-1] > self.labels[1:]), self.labels > self.blanks


def _trace_back(scores: _Scores, log_probs: np.ndarray, block: range, state: int, states: np.ndarray) -> int:
    """Fills the states of a block that ends in `state`, from the scores before it; returns the state before it."""
    label_steps = np.empty((len(block), len(scores.classes)), np.uint8)
    blank_steps = np.empty((len(block), len(scores.blanks)), np.uint8)
    for i, frame in enumerate(block):
        label_steps[i], blank_steps[i] = scores.steps()
        scores.advance(log_probs[frame])
    for i in reversed(range(len(block))):
        states[block[i]] = state
        steps = label_steps if state % 2 else blank_steps
        state -= int(steps[i, state // 2 - scores.first])
    return state
