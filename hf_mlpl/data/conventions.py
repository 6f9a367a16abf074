"""Describes how texts are written: with capital letters, punctuation and digits or without, and compares that.

A teacher such as Whisper writes `Dobro jutro, 20 ljudi.` where others write `dobro jutro dvajset ljudi`. A student
that learns both learns neither, so every step says which convention its labels have.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .text_arrays import NUM_CODE_POINTS, TextBlock

CASED, CAPITALS, PUNCTUATION, DIGITS = (1 << number for number in range(4))  # kinds of characters, as bits
# Names of the counts of texts that have such a character, in JSON.
KINDS = {"cased": CASED, "capitals": CAPITALS, "punctuation": PUNCTUATION, "digits": DIGITS}
SELDOM, OFTEN = 0.05, 0.5  # shares of texts: at most and at least so many have what their convention lacks or has
FEWEST_TEXTS = 10  # that are compared


class Conventions:
    """Counts for each key, such as a language, all texts, and those that have letters with case, capitals and so on.

    Capitals are letters of upper or title case; letters have case if they have a title case of their own, which those
    of Georgian have not. Punctuation are Unicode's categories P, and digits are Nd.
    """

    def __init__(self):
        self.counts: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def add(self, key: str, texts: pa.ChunkedArray) -> None:
        """Counts the texts that are not empty."""
        block = TextBlock(texts)
        kinds = _kinds().take(block.code_points)
        self.counts[key]["texts"] += int((block.lengths > 0).sum())
        for name, kind in KINDS.items():
            self.counts[key][name] += int(block.has(kinds & kind > 0).sum())

    def add_by(self, column: str, labels: pa.Table) -> None:
        """Counts the column `text` of a table for each value of another column."""
        for value, part in parts_by(column, labels):
            self.add(value, part["text"])

    def report(self, key: str) -> dict[str, int]:
        """Returns the counts, for JSON."""
        return {name: self.counts[key][name] for name in ("texts", *KINDS)}


def parts_by(column: str, table: pa.Table) -> Iterator[tuple[Any, pa.Table]]:
    """Yields the values of a column, null among them, and the rows of each."""
    for value in table[column].unique():
        yield value.as_py(), table.filter(pc.is_in(table[column], pa.array([value.as_py()], table[column].type)))


@cache
def _kinds() -> np.ndarray:
    """Returns the kinds (NUM_CODE_POINTS,) of all characters."""
    kinds = np.zeros(NUM_CODE_POINTS, np.uint8)
    for code_point in range(1 << 17):  # the planes above have none of these
        category = unicodedata.category(character := chr(code_point))
        if category[0] == "P":
            kinds[code_point] = PUNCTUATION
        elif category == "Nd":
            kinds[code_point] = DIGITS
        elif category in ("Lu", "Lt"):
            kinds[code_point] = CASED | CAPITALS
        elif category == "Ll" and character.title() != character:
            kinds[code_point] = CASED
    return kinds


def shares(counts: Mapping[str, int]) -> dict[str, float | None]:
    """Returns the shares of texts with capitals (of those with letters that have case), punctuation and digits.

    A share is None where there is no such text.
    """
    totals = {"capitals": counts["cased"], "punctuation": counts["texts"], "digits": counts["texts"]}
    return {name: counts[name] / total if total else None for name, total in totals.items()}


def describe_convention(counts: Mapping[str, int]) -> str:
    """Describes a convention: `capitals in 98% of the texts, no punctuation, digits in 3% of the texts`."""

    def clause(name: str, share: float | None) -> str:
        if share is None:
            return "letters without case" if counts["texts"] else f"no {name}"
        return f"{name} in {share:.0%} of the texts" if counts[name] else f"no {name}"

    return ", ".join(clause(name, share) for name, share in shares(counts).items())


def differences(labels: Mapping[str, int], transcripts: Mapping[str, int]) -> list[str]:
    """Returns clauses about kinds of characters that labels seldom have and transcripts often, or the other way round.

    Fewer than ten texts on either side say nothing.
    """
    if min(labels["texts"], transcripts["texts"]) < FEWEST_TEXTS:
        return []
    theirs = shares(transcripts)
    return [
        f"{name} in {share:.0%} of the labels and {other:.0%} of the transcripts"
        for name, share in shares(labels).items()
        if share is not None
        and (other := theirs[name]) is not None
        and min(share, other) <= SELDOM
        and max(share, other) >= OFTEN
    ]
