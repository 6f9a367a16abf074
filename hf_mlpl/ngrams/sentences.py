"""Splits texts into the units of a language model, and keeps millions of them as numbers."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..model.text import WORD_BOUNDARY, normalize_text

if TYPE_CHECKING:
    from ..model.tokenization_mlpl import MlplTokenizer

SPECIAL = ("<s>", "</s>", "<unk>")  # begin and end of a sentence, and all units that the model does not know
START, END, UNKNOWN = range(len(SPECIAL))
# What no tokenizer has: control characters, lone surrogates, and a boundary between words that is written
_SKIPPED = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff|]")

Split = Callable[[str], Sequence[str]]  # a text to its units


def words_units(text: str) -> list[str]:
    """Returns the words of a text, normalised as training does; those with the name of a special unit are left out."""
    return [word for word in _normalized(text).split() if word.lower() not in SPECIAL]


def characters_units(text: str) -> list[str]:
    """Returns the characters of a text, normalised as training does, with `|` for each space."""
    return list(_normalized(text).replace(" ", WORD_BOUNDARY))


def tokens_units(tokenizer: MlplTokenizer) -> Split:
    """Returns a function that splits texts into the entries of a tokenizer.

    Entries that share a line of the tokens file become the first of them, which is what `BeamSearchDecoder` looks up,
    and a tokenizer with `surround` has boundaries at both ends of a text.
    """

    def split(text: str) -> list[str]:
        return tokenizer.convert_ids_to_tokens(tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text)))

    return split


def _normalized(text: str) -> str:
    text = normalize_text(text)
    return " ".join(_SKIPPED.sub("", text).split()) if _SKIPPED.search(text) else text


class Sentences:
    """Holds the units of texts as numbers, 4 bytes each.

    Args:
        split: returns the units of a text.

    Attributes:
        texts, characters: how many were added; characters are those of the normalised texts, and one for each end.
    """

    def __init__(self, split: Split):
        self.split, self.texts, self.characters = split, 0, 0
        self._ids = {unit: number for number, unit in enumerate(SPECIAL)}
        self._numbers = array("i")

    def add(self, texts: Iterable[str]) -> None:
        """Adds texts, each as one sentence; those without a unit are left out."""
        ids = self._ids
        for text in texts:
            if units := self.split(text):
                self._numbers.append(START)
                self._numbers.extend([ids.setdefault(unit, len(ids)) for unit in units])
                self._numbers.append(END)
                self.texts += 1
                self.characters += len(_normalized(text)) + 1

    def numbered(self) -> tuple[list[str], np.ndarray]:
        """Returns the units, `SPECIAL` first and the others in order, and the numbers (N,) of the units of all texts.

        A text begins with `<s>` and ends with `</s>`. Another order of the texts gives the same units.
        """
        units = [*SPECIAL, *sorted(list(self._ids)[len(SPECIAL) :])]
        place = {unit: number for number, unit in enumerate(units)}
        return units, np.array([place[unit] for unit in self._ids], np.int32)[self._array()]

    def numbered_as(self, units: Sequence[str]) -> np.ndarray:
        """Returns the numbers (N,) of the units of all texts in another list of units, or else that of `<unk>`."""
        place = {unit: number for number, unit in enumerate(units)}
        return np.array([place.get(unit, UNKNOWN) for unit in self._ids], np.int32)[self._array()]

    def _array(self) -> np.ndarray:
        return np.frombuffer(self._numbers, np.int32)
