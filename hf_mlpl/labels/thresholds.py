"""Counts what each filter of pseudo-labels would keep at each threshold, block by block.

Thresholds are decimal numbers with few digits, so that a condition can be pasted into a file of filters, and what is
counted for it is exactly what `filter_labels` keeps. Memory holds a few numbers for each threshold, and none for a
label.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..data.collapse import num_characters
from .filters import LANGUAGE_AGREES, LabelFilter
from .references import edits_and_characters
from .schema import SCORES
from .summary import BINS, RANGES

# Operators of the conditions on each score that leave out faulty labels, and digits behind the point of thresholds
OPERATORS = dict.fromkeys(SCORES, (">=",)) | {
    "length_ratio": (">=", "<="),  # below 1 letters are missing, above it some are too many
    "blank_ratio": ("<=",),
    "characters_per_second": ("<=", ">="),  # a loop has too many, a text with holes too few
    "compression_ratio": ("<=",),
    "repetition": ("<=",),
    "no_speech_probability": ("<=",),
    "expected_cer": ("<=",),
}
DIGITS = dict.fromkeys(SCORES, 3) | {"characters_per_second": 1, "compression_ratio": 2}
# By which labels are ordered where it is not known how their scores follow the error rate, the best first
PREFERRED = (
    *("expected_cer", "agreement", "letter_log_prob", "mean_log_prob", "lowest_word_confidence"),
    *("language_probability", "no_speech_probability"),
)
MARGIN = 3  # thresholds on both sides of a histogram, or more, for half of `BINS` altogether
FEWEST_COMPARED = 50  # labels with a reference, of a language: fewer say little about its scores
SHARES = np.arange(0.05, 1.001, 0.05)  # of the hours, at which error rates are compared


@dataclass(frozen=True)
class Kept:
    """Counts the labels that a condition keeps.

    Args:
        edits, characters: of the labels and the references of those that have one.
    """

    labels: int
    hours: float
    edits: int
    characters: int

    @classmethod
    def of(cls, sums: np.ndarray) -> Kept:
        """Returns the counts of sums (4,)."""
        labels, hours, edits, characters = sums.tolist()
        return cls(round(labels), hours, round(edits), round(characters))

    @property
    def cer(self) -> float | None:
        """Returns the character error rate; None without references."""
        return self.edits / self.characters if self.characters else None


def thresholds(score: str) -> np.ndarray:
    """Returns (T,) thresholds of a score, ascending: the numbers of `DIGITS[score]` digits in `RANGES[score]`."""
    scale = 10 ** DIGITS[score]
    low, high = (round(bound * scale) for bound in RANGES[score])
    return np.arange(low, high + 1) / scale  # as Python parses their decimals, to the last bit


def condition(score: str, operator: str, number: int) -> str:
    """Returns the condition with a threshold of this number, as a file of filters has it."""
    return f"{score} {operator} {thresholds(score)[number]:.{DIGITS[score]}f}"


class ThresholdCounts:
    """Counts the labels of one language, or of several, that have a text: filters drop empty ones by default.

    Attributes:
        everything: sums (4,) of all labels, also empty ones: their number, hours, edits and reference characters.
        total: sums (4,) of those with a text.
        compared: number of labels with a text and a reference.
        agreeing: sums (4,) of the labels that `language agrees` keeps.
        known: by score, sums (4,) of the labels that have it.
    """

    def __init__(self):
        self.everything, self.total, self.agreeing = np.zeros(4), np.zeros(4), np.zeros(4)
        self.compared, self.predicted = 0, 0
        self.known = {score: np.zeros(4) for score in SCORES}
        # By score and operator, sums (4, T + 1) of the labels between two thresholds
        self._sums = {
            (score, operator): np.zeros((4, len(thresholds(score)) + 1))
            for score, operators in OPERATORS.items()
            for operator in operators
        }

    def add(self, labels: pa.Table, references: pa.Array | pa.ChunkedArray | None = None) -> None:
        """Counts labels.

        Args:
            labels: columns `text`, `language`, `predicted_language`, `duration_seconds` and `SCORES`.
            references: N texts; null for labels without one.
        """
        weights = np.zeros((4, len(labels)))
        weights[0], weights[1] = 1, labels["duration_seconds"].to_numpy() / 3600
        if references is not None:
            weights[2:] = edits_and_characters(labels["text"], references)
        self.everything += weights.sum(axis=1)
        has_text = pc.greater(num_characters(labels["text"]), 0)
        labels, weights = labels.filter(has_text), weights[:, has_text.to_numpy()]
        if references is not None:
            self.compared += pc.sum(pc.and_(has_text, references.is_valid())).as_py() or 0
        self.total += weights.sum(axis=1)
        self.agreeing += weights[:, LabelFilter(LANGUAGE_AGREES).keeps(labels)].sum(axis=1)
        self.predicted += len(labels) - labels["predicted_language"].null_count
        for score, operators in OPERATORS.items():
            is_known = labels[score].is_valid().to_numpy()
            values, known = labels[score].drop_null().to_numpy(), weights[:, is_known]
            self.known[score] += known.sum(axis=1)
            for operator in operators:
                # A value that is a threshold is kept by it, so it counts to the side that is kept.
                places = np.searchsorted(thresholds(score), values, "right" if operator == ">=" else "left")
                sums = self._sums[score, operator]
                for row, weight in zip(sums, known, strict=True):
                    row += np.bincount(places, weight, sums.shape[1])

    def add_counts(self, other: ThresholdCounts) -> None:
        """Adds the counts of another language."""
        self.everything += other.everything
        self.total += other.total
        self.agreeing += other.agreeing
        self.compared += other.compared
        self.predicted += other.predicted
        for score in SCORES:
            self.known[score] += other.known[score]
        for key, sums in other._sums.items():
            self._sums[key] += sums

    def conditions(self) -> list[tuple[str, str]]:
        """Returns scores and operators, of the scores that any label has."""
        return [(score, operator) for score, operator in self._sums if self.known[score][0]]

    def kept(self, score: str, operator: str) -> np.ndarray:
        """Returns sums (4, T) of the labels that each threshold keeps: number, hours, edits, reference characters."""
        sums = self._sums[score, operator]
        if operator == ">=":
            return sums[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]
        return sums.cumsum(axis=1)[:, :-1]

    def kept_at(self, score: str, operator: str, number: int) -> Kept:
        """Returns what a threshold keeps, by its number among `thresholds`."""
        return Kept.of(self.kept(score, operator)[:, number])

    def settings(self, score: str, operator: str, shares: Sequence[float]) -> Iterator[int]:
        """Yields numbers of thresholds: for each share of the hours, of the strictest that keeps as much.

        A share is left out where no threshold keeps as much, or the same one as for the share before.
        """
        hours, before = self.kept(score, operator)[1], None
        for share in shares:
            enough = np.flatnonzero(hours >= share * self.total[1] - 1e-9)
            if len(enough) and (number := int(enough[-1 if operator == ">=" else 0])) != before:
                yield (before := number)

    def histogram(self, score: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the numbers (B,) of labels in bins of equal width, B <= 40, and the edges (B + 1,) of the bins.

        The bins hold 99 % of the labels; the first and the last one hold what lies outside, too.
        """
        below, values = self._below(score), thresholds(score)
        first, last = np.searchsorted(below, np.array([0.005, 0.995]) * below[-1])
        margin = max(MARGIN, (BINS // 2 - (last - first)) // 2)
        first, last = max(first - margin, 0), min(last + margin, len(values) - 1)
        step = -(-(last - first) // BINS)
        last = first + step * -(-(last - first) // step)  # whole bins
        bounds = np.arange(first, last + 1, step) - max(last - (len(values) - 1), 0)
        inside = below[bounds]
        inside[0], inside[-1] = 0, below[-1]
        return np.diff(inside), values[bounds]

    def quantiles(self, score: str, shares: Sequence[float]) -> np.ndarray:
        """Returns the thresholds (Q,) below which shares of the labels that have the score lie."""
        below = self._below(score)
        places = np.searchsorted(below, np.asarray(shares) * below[-1])
        return thresholds(score)[np.minimum(places, len(below) - 2)]

    def _below(self, score: str) -> np.ndarray:
        """Returns numbers (T + 1,) of labels below each threshold, and of all that have the score."""
        return self._sums[score, OPERATORS[score][0]][0].cumsum()

    def error_rates(self, score: str, operator: str) -> np.ndarray:
        """Returns the error rates (S,) of the best labels by a score, at `SHARES` of all hours.

        Labels that lack the score are the worst. Within a step between thresholds, edits grow evenly.
        """
        sums = self._sums[score, operator]
        ordered = np.column_stack([sums[:, ::-1] if operator == ">=" else sums, self.total - self.known[score]])
        _, hours, edits, characters = np.column_stack([np.zeros(4), ordered.cumsum(axis=1)])
        at = SHARES * hours[-1]
        return np.interp(at, hours, edits) / np.maximum(np.interp(at, hours, characters), 1e-9)


def best_order(languages: Sequence[ThresholdCounts]) -> tuple[tuple[str, str] | None, bool]:
    """Returns the score and operator by which to order labels, and whether error rates have chosen it.

    Where enough labels have references, it is the score whose best labels have the lowest error rates, as the mean
    over `SHARES` and languages. Elsewhere it is the first of `PREFERRED` that most labels have, or any other that
    labels have; None without scores.
    """
    compared = [counts for counts in languages if counts.compared >= FEWEST_COMPARED and counts.total[3]]
    known = {score: sum(counts.known[score][0] for counts in languages) for score in SCORES}
    candidates = [key for key in ThresholdCounts()._sums if known[key[0]]]
    if compared and candidates:
        return min(candidates, key=lambda key: np.mean([counts.error_rates(*key) for counts in compared])), True
    labels = sum(counts.total[0] for counts in languages)
    usual = [key for key in candidates if key[0] in PREFERRED and known[key[0]] > labels / 2]
    usual.sort(key=lambda key: PREFERRED.index(key[0]))
    return next(iter([*usual, *candidates]), None), False
