"""Normalises transcripts, builds their vocabulary, and reads and writes flashlight's tokens files."""

from __future__ import annotations

import codecs
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable

WORD_BOUNDARY = "|"
BLANK_TOKEN = "<blank>"  # never in a tokens file: the program appends the blank after its last line


def encoding_of(start: bytes) -> str:
    """Detects UTF-16 by its byte order mark, else UTF-8; decoding with the returned name drops the mark."""
    return "utf-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


def normalize_text(text: str) -> str:
    """Returns NFC with one space for each run of Unicode white space, none at the ends; keeps case and punctuation."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def build_vocabulary(texts: Iterable[str]) -> list[str]:
    """
    Returns entries of a tokens file for `texts`: the word boundary `|`, then each code point of the normalised texts
    in order. Control characters and lone surrogates are omitted; the tokenizer skips them as unknown.
    """
    characters = {character for text in texts for character in normalize_text(text)} - {" ", WORD_BOUNDARY}
    return [WORD_BOUNDARY, *sorted(c for c in characters if unicodedata.category(c) not in ("Cc", "Cs"))]


def read_tokens(path: str | os.PathLike) -> list[list[str]]:
    """Reads the lines of a flashlight tokens file, each a list of the entries that share the line and hence an index.

    As in flashlight's `Dictionary`, lines end with a line feed, only ASCII white space separates entries (a no-break
    space may be an entry), and empty lines have no index. A byte order mark at the beginning is ignored.
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
        raise ValueError(f"{path}: its first entry begins with U+FEFF, which readers take for a byte order mark")
    unfinished = f"{os.fspath(path)}.{os.getpid()}.tmp"
    with open(unfinished, "wb") as file:
        file.write(data)
    os.replace(unfinished, path)


def _parse_tokens(data: bytes, path: str | os.PathLike) -> list[list[str]]:
    lines: list[list[str]] = []
    line_of_entry: dict[str, int] = {}
    for number, line in enumerate(data.removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1):
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
