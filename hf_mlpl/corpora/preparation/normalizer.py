"""Normalises transcripts beyond Unicode on request: lower case, punctuation, replacements."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field

from ...data.words import EAST_ASIAN, MARKS_OF_WORDS, CharacterKinds, replace_kinds
from ...model.text import normalize_text

INSIDE_WORDS = "'’‘‛՚׳-‐‑֊᐀·"  # forms of the apostrophe and the hyphen, and the middle dot


@dataclass(frozen=True)
class Normalizer:
    """Normalises the transcripts of a language beyond `normalize_text`.

    The paper's models are trained on cased and punctuated text, so by default nothing changes.

    Args:
        replace: maps strings to their replacements, which are made first, in this order.
        lowercase: converts text to lower case.
        dotless_i: makes ı the lower case of I, and i that of İ, as in Turkish and Azerbaijani.
        strip_punctuation: replaces punctuation by spaces, or by nothing beside Chinese or Japanese characters and
            inside of Armenian and Hebrew words. Apostrophes, hyphens and middle dots inside of words stay, and all
            letters, marks, digits and symbols.

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
        text = unicodedata.normalize("NFC", text)
        for old, new in self.replace.items():
            text = text.replace(unicodedata.normalize("NFC", old), new)
        text = normalize_text(text)
        if self.dotless_i:
            text = text.replace("İ", "i").replace("I", "ı")
        if self.lowercase:
            text = text.lower()
        if self.strip_punctuation:
            text = _without_punctuation(text)
        return normalize_text(text)


def _kind(character: str) -> str:
    """Returns the kind of a character: `w` or `c` for letters of words with or without spaces, and so on."""
    category = unicodedata.category(character)
    if character in INSIDE_WORDS:
        return "i"
    if category[0] == "P":
        return "p"
    if category[0] == "M" or character in "\u200c\u200d":  # joiners, which stand between letters
        return "m"
    if category[0] not in "LN" and category not in ("Cn", "Co"):  # letters that this Python or Unicode does not know
        return " "
    return "c" if unicodedata.name(character, "").startswith(EAST_ASIAN) else "w"


KINDS = CharacterKinds(_kind)


def _without_punctuation(text: str) -> str:
    """Replaces punctuation by a space, or by nothing where no words are separated; keeps all letters and marks."""
    text = MARKS_OF_WORDS.sub("", text)
    kinds = text.translate(KINDS)
    kinds = re.sub("cm+", lambda run: "c" * len(run[0]), kinds)  # marks are of the letter before
    kinds = re.sub("(?<=[wcm])i(?=[wcm])", "w", kinds)
    kinds = re.sub("(?<=c)[pi]+|[pi]+(?=c)", lambda run: "-" * len(run[0]), kinds)
    return replace_kinds(text, kinds, {"-": "", "p": " ", "i": " "})
