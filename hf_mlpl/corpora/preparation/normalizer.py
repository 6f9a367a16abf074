"""Normalises transcripts beyond Unicode, where a user wants that: lower case, punctuation, replacements."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field

from ...model.text import normalize_text

INSIDE_WORDS = "'’-‐·"
SPELLED_WITH = "‘՚՛՜՞׳״"  # an apostrophe as some write it, and the marks of Armenian and Hebrew inside of words


@dataclass(frozen=True)
class Normalizer:
    """Normalises the transcripts of a language beyond `normalize_text`, where a user wants that.

    The paper's models are trained on cased and punctuated text as it is.

    Args:
        replace: Strings and what takes their place, in this order, before all else.
        lowercase: Whether text becomes lower case.
        dotless_i: Whether the lower case of I is ı, and that of İ is i, as in Turkish and Azerbaijani.
        strip_punctuation: Whether punctuation goes, but for apostrophes, hyphens and middle dots inside of words. A
            space takes its place, but between Chinese or Japanese characters and inside of words of Armenian and
            Hebrew.

    ```python
    >>> Normalizer(lowercase=True, strip_punctuation=True)("„Na, wie geht's?“ – Gut.")
    "na wie geht's gut"

    ```
    """

    replace: Mapping[str, str] = field(default_factory=dict)
    lowercase: bool = False
    dotless_i: bool = False
    strip_punctuation: bool = False

    def __call__(self, text: str) -> str:
        for old, new in self.replace.items():
            text = text.replace(old, new)
        if self.dotless_i:
            text = unicodedata.normalize("NFC", text).replace("İ", "i").replace("I", "ı")
        if self.lowercase:
            text = text.lower()
        if self.strip_punctuation:
            text = _without_punctuation(text)
        return normalize_text(text)


class _Kinds(dict):
    """Maps code points to the kinds of characters that `_without_punctuation` knows, for `str.translate`."""

    def __missing__(self, code_point: int) -> str:
        character = chr(code_point)
        category = unicodedata.category(character)
        if character in INSIDE_WORDS:
            kind = "i"
        elif character in SPELLED_WITH:
            kind = "s"
        elif category[0] == "P":
            kind = "p"
        elif category[0] == "M" or character in "\u200c\u200d":  # joiners, which stand between letters
            kind = "m"
        elif category[0] not in "LN":
            kind = " "
        else:
            kind = "c" if unicodedata.name(character, "").startswith(WITHOUT_SPACES) else "w"
        self[code_point] = kind
        return kind


# Beginnings of the names of letters that are written without spaces between words.
WITHOUT_SPACES = ("CJK ", "IDEOGRAPHIC ", "HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA", "BOPOMOFO")
_KINDS = _Kinds()


def _without_punctuation(text: str) -> str:
    """Puts a space where punctuation is, or nothing where no words are separated; no letter and no mark is lost."""
    kinds = text.translate(_KINDS)
    kinds = re.sub(r"(?<=[wcm])i(?=[wcm])", "w", kinds)
    kinds = re.sub(r"(?<=[wcm])s(?=[wcm])", "-", kinds)
    kinds = re.sub(r"(?<=c)[pis]+|[pis]+(?=c)", lambda run: "-" * len(run[0]), kinds)
    taken = {"-": "", "p": " ", "i": " ", "s": " "}
    return "".join(taken.get(kind, character) for kind, character in zip(kinds, text, strict=True))
