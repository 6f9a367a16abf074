"""Normalises transcripts, builds their vocabulary, and reads and writes flashlight's tokens files."""

from __future__ import annotations

import codecs
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache

WORD_BOUNDARY = "|"
BLANK_TOKEN = "<blank>"  # never in a tokens file: the program appends the blank after its last line

# Characters without a glyph of their own: Unicode's default ignorable code points, but Hangul's fillers, which are
# letters, and the anchors of annotations. The second group chooses between forms of the letters beside it.
INVISIBLE = (
    "\u00ad\u034f\u061c\u17b4\u17b5\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff0-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
JOINERS = "\u180b-\u180f\u200c\u200d\ufe00-\ufe0f"
_ANY_INVISIBLE = re.compile(f"[{INVISIBLE}{JOINERS}]")
_INVISIBLE = re.compile(f"[{INVISIBLE}]+")
_JOINERS = re.compile(f"[{JOINERS}]+")
_BYTE_ORDER_MARKS = re.compile(rb"\A(\xef\xbb\xbf)+(?=\S)")  # of files that were joined
# Beginnings of the Unicode names of letters that joiners change: scripts with joined letters or with a virama.
JOINED_SCRIPTS = tuple(
    "ADLAM,ARABIC,EXTENDED ARABIC,CHORASMIAN,HANIFI ROHINGYA,MANDAIC,MANICHAEAN,MONGOLIAN,NKO,OLD SOGDIAN,OLD UYGHUR,"
    "PHAGS-PA,PSALTER PAHLAVI,SOGDIAN,SYRIAC,"
    "BALINESE,BENGALI,BHAIKSUKI,BRAHMI,CHAKMA,DEVANAGARI,DIVES AKURU,DOGRA,GRANTHA,GUJARATI,GUNJALA GONDI,GURMUKHI,"
    "GURUNG KHEMA,JAVANESE,KAITHI,KANNADA,KAWI,KHAROSHTHI,KHMER,KHOJKI,MALAYALAM,MASARAM GONDI,MEETEI MAYEK,MODI,"
    "MYANMAR,NANDINAGARI,NEWA,ORIYA,SAURASHTRA,SHARADA,SIDDHAM,SINHALA,SOYOMBO,SUNDANESE,SYLOTI NAGRI,TAI THAM,TAKRI,"
    "TAMIL,TELUGU,TIRHUTA,TULU-TIGALARI,ZANABAZAR SQUARE".split(",")
)


def encoding_of(start: bytes) -> str:
    """Detects UTF-16 by its byte order mark, else UTF-8; decoding with the returned name drops the mark."""
    return "utf-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


def normalize_text(text: str) -> str:
    """Returns the text in NFC without invisible characters, with one space for each run of white space.

    There is no space at the ends. Case and punctuation stay. Byte order marks, soft hyphens, marks of direction,
    zero-width spaces and others are removed (`without_invisible`).
    """
    return " ".join(unicodedata.normalize("NFC", without_invisible(text)).split())


def without_invisible(text: str) -> str:
    """Removes characters that nobody sees or hears, so that none of them is a token or counts as an error.

    Joiners, non-joiners and variation selectors stay in words of scripts whose letters they change, as in Persian and
    Hindi: behind a letter, mark or digit, if this or the next one is of such a script. They also stay in emoji.
    """
    if text.isascii() or not _ANY_INVISIBLE.search(text):
        return text
    return _JOINERS.sub(_needed_joiners, _INVISIBLE.sub("", text))


def _needed_joiners(match: re.Match) -> str:
    """Returns each joiner of a run once if it stands where it is needed, else nothing."""
    text, (start, end) = match.string, match.span()
    joiners = match[0] if end == start + 1 else "".join(dict.fromkeys(match[0]))
    before = start - 1
    # Other joiners, and marks of all scripts, such as the combining acute, belong to the letter before
    while before >= 0 and not _is_joined(text[before]) and unicodedata.category(text[before]) in ("Mn", "Me", "Cf"):
        before -= 1
    if before < 0:
        return ""
    if _is_joined(text[before]):
        return joiners
    if _is_emoji(text[before]):
        return "".join(c for c in joiners if c in "\ufe0e\ufe0f" or c == "\u200d" and _is_emoji(text[end : end + 1]))
    return joiners if unicodedata.category(text[before])[0] in "LMN" and _is_joined(text[end : end + 1]) else ""


def _is_emoji(character: str) -> bool:
    """Returns whether a character may be an emoji or a skin tone; there is none at the end of a text."""
    return character > "\u2000" and unicodedata.category(character) in ("So", "Sk")


@cache
def _is_joined(character: str) -> bool:
    if not character or unicodedata.category(character)[0] not in "LMN" or _JOINERS.match(character):
        return False
    return unicodedata.name(character, "").startswith(JOINED_SCRIPTS)


def build_vocabulary(texts: Iterable[str]) -> list[str]:
    """
    Returns entries of a tokens file for `texts`: the word boundary `|`, then each code point of the normalised texts
    in order, as `characters_of` lists them.
    """
    return [WORD_BOUNDARY, *characters_of(map(normalize_text, texts))]


def characters_of(normalized: Iterable[str]) -> list[str]:
    """Lists the code points of normalised texts in order, but spaces and word boundaries.

    Control characters and lone surrogates are omitted; the tokenizer skips them as unknown.
    """
    characters = {character for text in normalized for character in text} - {" ", WORD_BOUNDARY}
    return sorted(c for c in characters if unicodedata.category(c) not in ("Cc", "Cs"))


def read_tokens(path: str | os.PathLike) -> list[list[str]]:
    """Reads the lines of a flashlight tokens file, each a list of the entries that share the line and hence an index.

    As in flashlight's `Dictionary`, lines end with a line feed, only ASCII white space separates entries (a no-break
    space may be an entry), and empty lines have no index. Byte order marks at the beginning of the file, and of lines
    with other characters, are ignored: files that are joined have some inside.
    Raises `ValueError` with file and line for a file that is not UTF-8, for an entry that occurs twice, for
    `<blank>`, and for a file in which no line starts with the word boundary `|`.
    """
    with open(path, "rb") as file:
        return _parse_tokens(file.read(), path)


def write_tokens(path: str | os.PathLike, lines: Iterable[str]) -> None:
    """Writes a flashlight tokens file with a line for each index; a space separates entries that share a line.

    The file appears complete or not at all. Raises `ValueError` if `read_tokens` would not return the same lines.
    """
    lines = list(lines)
    for number, line in enumerate(lines, start=1):
        if not line or line.encode() != b" ".join(line.encode().split()):
            raise ValueError(f"{path}, line {number}: {line!r} is not a line of entries with one space between them")
    data = "".join(f"{line}\n" for line in lines).encode()
    if _parse_tokens(data, path) != [line.split(" ") for line in lines]:
        raise ValueError(f"{path}: an entry begins with U+FEFF, which readers take for a byte order mark")
    unfinished = f"{os.fspath(path)}.{os.getpid()}.tmp"
    with open(unfinished, "wb") as file:
        file.write(data)
    os.replace(unfinished, path)


def _parse_tokens(data: bytes, path: str | os.PathLike) -> list[list[str]]:
    lines: list[list[str]] = []
    line_of_entry: dict[str, int] = {}
    for number, line in enumerate(data.removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1):
        line = _BYTE_ORDER_MARKS.sub(b"", line)
        try:
            # bytes.split splits at ASCII white space only, the same six characters as flashlight
            entries = [entry.decode() for entry in line.split()]
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}, line {number}: {line!r} is not UTF-8; convert the file to UTF-8") from error
        for entry in entries:
            if entry == BLANK_TOKEN:
                raise ValueError(
                    f"{path}, line {number}: {BLANK_TOKEN} must not be in a tokens file, because it is appended after "
                    "the last line; remove it"
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
    """Describes in one line the ten most frequent characters of `counts`, with code point and name, for instance
    `'ß' (U+00DF LATIN SMALL LETTER SHARP S) x 12`.
    """
    parts = []
    for character, count in counts.most_common(10):
        code_point = f"U+{ord(character):04X} {unicodedata.name(character, 'without a name')}"
        parts.append(f"{character!r} ({code_point}) x {count}")
    if len(counts) > len(parts):
        parts.append(f"and {len(counts) - len(parts)} other characters")
    return ", ".join(parts)
