"""Defines character and word error rates, for results, pseudo-labels and reports of training alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

from rapidfuzz.distance import Levenshtein

from ..model.text import normalize_text

RATES = ("cer", "wer", "language_accuracy")  # for each language of the results
EDITS = ("substitutions", "deletions", "insertions")


class ErrorRate:
    """Counts the edits that turn hypotheses into references, divided by the characters or words of the references.

    Both texts are compared as training sees them, after `normalize_text`: in NFC, with one space between words, and
    none at the ends. Case, punctuation and spaces count. Edits are substitutions, deletions and insertions.

    Args:
        words: compares words, which spaces separate, instead of characters.
    """

    def __init__(self, words: bool = False):
        self.words = words
        self.edits = 0
        self.length = 0  # of all references

    def add(self, hypothesis: str, reference: str) -> None:
        """Counts one pair; all characters or words of a hypothesis for an empty reference are insertions."""
        hypothesis, reference = normalize_text(hypothesis), normalize_text(reference)
        pair = (hypothesis.split(), reference.split()) if self.words else (hypothesis, reference)
        self.edits += Levenshtein.distance(*pair)
        self.length += len(pair[1])

    @property
    def rate(self) -> float:
        """Returns a fraction, which can exceed 1; for empty references alone, 0.0 without edits and 1.0 with any."""
        return fraction(self.edits, self.length)


def fraction(edits: int, length: int) -> float:
    """Returns an error rate, which stays finite over nothing, so that it can be averaged and written as JSON."""
    return edits / length if length else float(edits > 0)


def count_edits(hypothesis: Sequence[str], reference: Sequence[str]) -> list[int]:
    """Counts the `EDITS` of one of the shortest ways from a reference to a hypothesis, the one that jiwer counts."""
    if hypothesis == reference:
        return [0, 0, 0]
    kinds = [edit[0] for edit in Levenshtein.editops(reference, hypothesis).as_list()]
    return [kinds.count(kind) for kind in ("replace", "delete", "insert")]


def mean_rate(rates: Iterable[float | None]) -> float | None:
    """Returns the mean of the rates that are known, None if none is."""
    known = [rate for rate in rates if rate is not None]
    return fmean(known) if known else None
