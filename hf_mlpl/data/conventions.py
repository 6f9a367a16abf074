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

from ..model.text import normalize_text
from .text_arrays import NUM_CODE_POINTS

CASED, CAPITALS, PUNCTUATION, DIGITS, VISIBLE = (1 << number for number in range(5))  # kinds of characters, as bits
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
        self.add_by("key", pa.table({"key": pa.repeat(key, len(texts)), "text": texts}))

    def add_by(self, column: str, labels: pa.Table) -> None:
        """Counts the column `text` of a table for each value of another column."""
        if not len(labels):
            return
        keys = labels[column].combine_chunks().dictionary_encode("encode")
        codes, values = keys.indices.to_numpy(), keys.dictionary.to_pylist()
        found = _kinds_in(labels["text"].combine_chunks())
        for name, kind in {"texts": VISIBLE, **KINDS}.items():
            for value, count in zip(values, np.bincount(codes[found & kind > 0], minlength=len(values)), strict=True):
                self.counts[value][name] += int(count)

    def report(self, key: str) -> dict[str, int]:
        """Returns the counts, for JSON."""
        return {name: self.counts[key][name] for name in ("texts", *KINDS)}


def parts_by(column: str, table: pa.Table) -> Iterator[tuple[Any, pa.Table]]:
    """Yields the values of a column, null among them, and the rows of each."""
    for value in table[column].unique():
        yield value.as_py(), table.filter(pc.is_in(table[column], pa.array([value.as_py()], table[column].type)))


def _kinds_in(texts: pa.Array) -> np.ndarray:
    """Returns (N,) the kinds of characters of each text."""
    texts = pc.fill_null(texts, "").cast(pa.large_string())
    offsets = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
    content = np.frombuffer(texts.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
    content = np.concatenate([content, np.zeros(4, np.uint8)])
    kinds = np.frombuffer(bytearray(content).translate(_kinds_of_ascii()), np.uint8)
    kinds[-4:] = 0
    # The code points of the others, from the bits of their bytes in UTF-8, whose first byte says how many there are.
    starts = np.flatnonzero(content >= 0xC0)
    first_bytes = content[starts]
    for first, end, bits in ((0xC0, 0xE0, 0x1F), (0xE0, 0xF0, 0x0F), (0xF0, 0x100, 0x07)):
        is_of_length = (first_bytes >= first) & (first_bytes < end)
        places = starts[is_of_length]
        code_points = (first_bytes[is_of_length] & bits).astype(np.uint32)
        for place in range(1, 7 - bits.bit_length()):
            code_points = code_points << 6 | content[places + place] & 0x3F
        kinds[places] = _kinds().take(code_points)
    return np.where(np.diff(offsets) > 0, np.bitwise_or.reduceat(kinds, offsets[:-1] - offsets[0]), 0)


@cache
def _kinds_of_ascii() -> bytes:
    """Returns the kinds (256,) of bytes; those of other characters have none."""
    return bytes(_kinds()[:128]) + bytes(128)


@cache
def _kinds() -> np.ndarray:
    """Returns the kinds (NUM_CODE_POINTS,) of all characters, which are those of their normalised texts."""
    kinds = np.full(NUM_CODE_POINTS, VISIBLE, np.uint8)
    for code_point in range(1 << 17):  # the planes above have none of these
        category = unicodedata.category(character := chr(code_point))
        if category[0] in "CMZ" and not normalize_text(character):
            kinds[code_point] = 0
        elif category[0] == "P":
            kinds[code_point] |= PUNCTUATION
        elif category == "Nd":
            kinds[code_point] |= DIGITS
        elif category in ("Lu", "Lt"):
            kinds[code_point] |= CASED | CAPITALS
        elif category == "Ll" and character.title() != character:
            kinds[code_point] |= CASED
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
