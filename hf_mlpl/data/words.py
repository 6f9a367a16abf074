"""Splits texts into words, and joins texts, also in scripts without spaces between words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import cache

# Beginnings of the Unicode names of letters that are written without spaces between words. East Asian punctuation has
# no spaces beside it either; the other scripts have some between phrases.
EAST_ASIAN = ("CJK ", "IDEOGRAPHIC ", "HIRAGANA", "HENTAIGANA", "KATAKANA", "HALFWIDTH KATAKANA", "BOPOMOFO")
WITHOUT_SPACES = (
    *EAST_ASIAN,
    *("THAI ", "LAO ", "KHMER ", "MYANMAR ", "TIBETAN ", "JAVANESE ", "BALINESE "),
    *("TAI LE ", "NEW TAI LUE ", "TAI THAM "),
)
# Punctuation that is set inside of a word and separates nothing: Armenian's marks of tone, and Hebrew's gershayim, for
# which quotation marks are typed too.
MARKS_OF_WORDS = re.compile('(?<=[Ա-և])[՛՜՞]+(?=[Ա-և])|(?<=[\u0591-\u05ea])[״"“”](?=[א-ת])')


class CharacterKinds(dict):
    """Maps code points to kinds of characters, one letter each, for `str.translate`; computes each kind once."""

    def __init__(self, kind_of: Callable[[str], str]):
        self.kind_of = kind_of

    def __missing__(self, code_point: int) -> str:
        return self.setdefault(code_point, self.kind_of(chr(code_point)))


def replace_kinds(text: str, kinds: str, replacements: Mapping[str, str]) -> str:
    """Replaces each run of characters of one kind by a string.

    Args:
        kinds: the kind of each character of the text.
        replacements: by kind; characters of other kinds stay.
    """
    parts, end = [], 0
    for run in re.finditer("|".join(f"{kind}+" for kind in replacements), kinds):
        parts += [text[end : run.start()], replacements[run[0][0]]]
        end = run.end()
    return "".join([*parts, text[end:]])


@cache
def is_unspaced(character: str) -> bool:
    """Returns whether a character is of a script without spaces between words."""
    return unicodedata.name(character, "").startswith(WITHOUT_SPACES)


def words_of(text: str) -> list[str]:
    """Returns the words of a text; of scripts without spaces, each character.

    >>> words_of("two words"), words_of("两个词 ok")
    (['two', 'words'], ['两', '个', '词', 'ok'])
    """
    return [part for word in text.split() for part in (word if any(map(is_unspaced, word)) else [word])]


def join_texts(texts: Sequence[str]) -> str:
    """Joins the texts of successive pieces of a recording, with a space unless both sides are written without spaces.

    >>> join_texts(["good", "", "morning"]), join_texts(["早上", "好"])
    ('good morning', '早上好')
    """
    joined = ""
    for text in filter(None, (text.strip() for text in texts)):
        needs_space = joined and not (is_unspaced(joined[-1]) and is_unspaced(text[0]))
        joined += (" " if needs_space else "") + text
    return joined
