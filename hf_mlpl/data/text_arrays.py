"""Normalises texts by the thousand as arrays of characters; Python looks only at those that may change."""

from __future__ import annotations

import sys
import unicodedata
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..model.text import normalize_text

NUM_CODE_POINTS = sys.maxunicode + 1
SPACE = ord(" ")


class TextBlock:
    """Holds texts as `normalize_text` makes them, and all their characters in one array.

    Args:
        texts: N strings; null counts as empty.

    Attributes:
        texts: the N normalised ones.
        lengths: (N,) numbers of their characters.
        code_points: (C,) of all texts, with a space before the first one and after each.
    """

    def __init__(self, texts: pa.ChunkedArray):
        texts = pc.fill_null(texts, "").combine_chunks()
        self._set(texts)
        doubtful = pa.array(self.has(self._may_change()))
        as_they_are = texts.filter(doubtful).to_pylist()
        normalized = list(map(normalize_text, as_they_are))
        if normalized != as_they_are:
            self._set(pc.replace_with_mask(texts, doubtful, pa.array(normalized, texts.type)))

    def _set(self, texts: pa.Array) -> None:
        with_end = pa.concat_arrays([texts, pa.array([""], texts.type)])
        joined = " " + str(join(with_end, " "), "utf-8")
        self.texts = texts
        self.code_points = np.frombuffer(joined.encode("utf-32-le"), np.uint32)
        self.lengths = pc.utf8_length(texts).to_numpy()
        self.ends = np.cumsum(self.lengths + 1)  # where the space after each text is

    def _may_change(self) -> np.ndarray:
        """Returns (C,) whether `normalize_text` may change a text at a character; an empty one at its end."""
        marked = _doubtful().take(self.code_points)
        is_space = self.code_points == SPACE
        marked[1:] |= is_space[1:] & is_space[:-1]
        return marked

    def has(self, marked: np.ndarray) -> np.ndarray:
        """Returns (N,) whether any of a text's characters, or the space after it, is marked in a mask (C,)."""
        return self.count(marked) > 0

    def count(self, marked: np.ndarray) -> np.ndarray:
        """Returns (N,) how many of a text's characters, with the space after it, are marked in a mask (C,)."""
        return np.bincount(np.searchsorted(self.ends, np.flatnonzero(marked)), minlength=len(self.ends))


@cache
def _doubtful() -> np.ndarray:
    """Returns (NUM_CODE_POINTS,) whether `normalize_text` may change a text because of a character.

    That is white space but the space, what NFC writes otherwise, and what may become one with a character before it.
    Python does not list these; all of them are marks, vowels and finals of Hangul, or beyond the first 2^16.
    """
    marked = np.ones(NUM_CODE_POINTS, bool)
    for code_point in range(1 << 16):
        character = chr(code_point)
        marked[code_point] = (
            0x1160 <= code_point < 0x1200
            or unicodedata.category(character)[0] == "M"
            or character.isspace()
            or not unicodedata.is_normalized("NFC", character)
        )
    marked[SPACE] = False
    return marked


def join(texts: pa.Array, separator: str) -> pa.Buffer:
    """Returns `separator.join(texts)` in UTF-8, without a string of Python for each text."""
    whole = pa.ListArray.from_arrays(pa.array([0, len(texts)], pa.int32()), texts)
    return pc.binary_join(whole, separator)[0].as_buffer()
