"""Transcripts: Unicode normalisation, the vocabulary of a set of transcripts, and flashlight's tokens files."""

from __future__ import annotations

import codecs
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

WORD_BOUNDARY = "|"
INSIDE_WORDS = "'’-‐·"
SPELLED_WITH = "‘՚՛՜՞׳״"  # an apostrophe as some write it, and the marks of Armenian and Hebrew inside of words
BLANK_TOKEN = "<blank>"  # never in a tokens file: the program appends the blank after its last line


def encoding_of(start: bytes) -> str:
    """
    Returns the encoding of a text file, by its first bytes: UTF-16 where there is its byte order mark, else UTF-8. A
    byte order mark is no part of what is decoded.
    """
    return "utf-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


def normalize_text(text: str) -> str:
    """NFC, with every run of Unicode white space as one space and none at the ends; case and punctuation stay."""
    return " ".join(unicodedata.normalize("NFC", text).split())


@dataclass(frozen=True)
class Normalizer:
    """
    What is done to the transcripts of a language, beyond `normalize_text`, where one wants that: the paper's models
    are trained on cased and punctuated text as it is.

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
    """The kind of a character as `_without_punctuation` sees it, by code point, for `str.translate`."""

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


def build_vocabulary(texts: Iterable[str]) -> list[str]:
    """
    Entries of a tokens file for `texts`: the word boundary `|`, then each code point of the normalised texts in
    order of code point. Control characters and lone surrogates are left out; the tokenizer skips them as unknown.
    """
    characters = {character for text in texts for character in normalize_text(text)} - {" ", WORD_BOUNDARY}
    return [WORD_BOUNDARY, *sorted(c for c in characters if unicodedata.category(c) not in ("Cc", "Cs"))]


def read_tokens(path: str | os.PathLike) -> list[list[str]]:
    """
    Lines of a flashlight tokens file, each a list of the entries that share the line and hence an index.

    As flashlight's `Dictionary` does it, lines end with a line feed, ASCII white space alone separates entries (a
    no-break space may be an entry), and empty lines have no index. A byte order mark at the beginning is no entry.
    Raises `ValueError` with file and line for a file that is not UTF-8, for an entry that occurs twice, for
    `<blank>`, and for a file in which no line starts with the word boundary `|`.
    """
    with open(path, "rb") as file:
        return _parse_tokens(file.read(), path)


def write_tokens(path: str | os.PathLike, lines: Iterable[str]) -> None:
    """
    Writes a flashlight tokens file, one line an index; entries that share a line have a space between them.

    The file appears complete or not at all. Raises `ValueError` if `read_tokens` would not return the same lines.
    """
    lines = list(lines)
    for number, line in enumerate(lines, start=1):
        if not line or line.encode() != b" ".join(line.encode().split()):
            raise ValueError(f"{path}, line {number}: {line!r} is not a line of entries with one space between them")
    data = "".join(f"{line}\n" for line in lines).encode()
    if _parse_tokens(data, path) != [line.split(" ") for line in lines]:
        raise ValueError(f"{path}: its first entry begins with U+FEFF, which would be read as a byte order mark")
    unfinished = f"{os.fspath(path)}.{os.getpid()}.tmp"
    with open(unfinished, "wb") as file:
        file.write(data)
    os.replace(unfinished, path)


def _parse_tokens(data: bytes, path: str | os.PathLike) -> list[list[str]]:
    lines: list[list[str]] = []
    line_of_entry: dict[str, int] = {}
    for number, line in enumerate(data.removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1):
        try:
            # bytes.split knows ASCII white space only, the same six characters as flashlight
            entries = [entry.decode() for entry in line.split()]
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}, line {number}: {line!r} is not UTF-8; convert the file to UTF-8") from error
        for entry in entries:
            if entry == BLANK_TOKEN:
                raise ValueError(
                    f"{path}, line {number}: {BLANK_TOKEN} must not be in a tokens file, it is appended after the "
                    "last line; remove it"
                )
            if entry in line_of_entry:
                raise ValueError(
                    f"{path}, line {number}: entry {entry!r} is already in line {line_of_entry[entry]}; an entry may "
                    "occur only once"
                )
            line_of_entry[entry] = number
        if entries:
            lines.append(entries)
    if not any(entries[0] == WORD_BOUNDARY for entries in lines):
        raise ValueError(
            f"{path}: none of its {len(lines)} lines with entries starts with the word boundary {WORD_BOUNDARY!r}; "
            "is it a flashlight tokens file?"
        )
    return lines


def unknown_character_report(counts: Counter[str]) -> str:
    """
    One line about the ten most frequent characters of `counts`, with code point and name, for instance
    `'ß' (U+00DF LATIN SMALL LETTER SHARP S) x 12`.
    """
    parts = []
    for character, count in counts.most_common(10):
        code_point = f"U+{ord(character):04X} {unicodedata.name(character, 'without a name')}"
        parts.append(f"{character!r} ({code_point}) x {count}")
    if len(counts) > len(parts):
        parts.append(f"and {len(counts) - len(parts)} other characters")
    return ", ".join(parts)
