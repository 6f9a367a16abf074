"""Normalises many texts at once as arrays of characters; only texts that may change become Python strings."""

from __future__ import annotations

import sys
import unicodedata
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..model.text import INVISIBLE, normalize_text, without_invisible

NUM_CODE_POINTS = sys.maxunicode + 1
SPACE = ord(" ")


class TextBlock:
    """Holds texts normalised by `normalize_text`, and all their characters in one array.

    Args:
        texts: N strings; null counts as empty.

    Attributes:
        texts: N normalised strings.
        lengths: (N,) numbers of their characters.
        code_points: (C,) of all texts, with a space before the first one and after each.
    """

    def __init__(self, texts: pa.ChunkedArray):
        texts = pc.fill_null(texts, "").combine_chunks()
        self._set(texts)
        is_space = self.code_points == SPACE
        may_change = _may_change().take(self.code_points)
        may_change[1:] |= is_space[1:] & is_space[:-1]  # two spaces, one of them perhaps at the end of a text
        doubtful = pa.array(self.has(may_change))
        originals = texts.filter(doubtful).to_pylist()
        normalized = list(map(normalize_text, originals))
        if normalized != originals:
            self._set(pc.replace_with_mask(texts, doubtful, pa.array(normalized, texts.type)))

    def _set(self, texts: pa.Array) -> None:
        with_end = pa.concat_arrays([texts, pa.array([""], texts.type)])
        joined = " " + str(join(with_end, " "), "utf-8")
        self.texts = texts
        self.code_points = np.frombuffer(joined.encode("utf-32-le"), np.uint32)
        self.lengths = pc.utf8_length(texts).to_numpy()
        self.ends = np.cumsum(self.lengths + 1)  # positions of the space after each text

    def has(self, mask: np.ndarray) -> np.ndarray:
        """Tells (N,) for each text if the mask (C,) is true for a character of it or for the space after it."""
        return self.count(mask) > 0

    def count(self, mask: np.ndarray) -> np.ndarray:
        """Counts (N,) for each text its characters, with the space after it, for which the mask (C,) is true."""
        return np.bincount(np.searchsorted(self.ends, np.flatnonzero(mask)), minlength=len(self.ends))


@cache
def _may_change() -> np.ndarray:
    """Returns a mask (NUM_CODE_POINTS,) of the characters because of which `normalize_text` may change a text.

    They are white space other than the space, invisible characters, those that NFC replaces, and those that NFC may
    compose with the one before. Python has no list of the last; all are marks, vowels and finals of Hangul, or beyond
    2^16.
    """
    mask = np.ones(NUM_CODE_POINTS, bool)
    for code_point in range(1 << 16):
        character = chr(code_point)
        mask[code_point] = (
            0x1160 <= code_point < 0x1200
            or unicodedata.category(character)[0] == "M"
            or character.isspace()
            or without_invisible(f"a{character}") == "a"
            or not unicodedata.is_normalized("NFC", character)
        )
    mask[SPACE] = False
    return mask


def visible(texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Returns texts without invisible characters, and without white space at their ends; null stays null."""
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(texts, f"[{INVISIBLE}]+", ""))


def content_of(texts: pa.StringArray) -> memoryview:
    """Returns all texts one after another in UTF-8, in the memory where they are."""
    first, last = np.frombuffer(texts.buffers()[1], np.int32)[[texts.offset, texts.offset + len(texts)]]
    return memoryview(texts.buffers()[2] or b"")[first:last]


def join(texts: pa.Array, separator: str) -> pa.Buffer:
    """Returns `separator.join(texts)` in UTF-8, without a Python string for each text."""
    one_list = pa.ListArray.from_arrays(pa.array([0, len(texts)], pa.int32()), texts)
    return pc.binary_join(one_list, separator)[0].as_buffer()
