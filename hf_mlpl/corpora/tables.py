"""Reads tables of corpora and of users: values are strings as written, and damage costs only its own row."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..error_line import missing
from ..model.text import encoding_of
from .reading import RowError

DELIMITERS = "\t,;|"
QUOTED = ",;"  # with other delimiters quotes are ordinary characters, and one alone would swallow lines
SEPARATOR_LINE = re.compile(r'"?sep=([^"\w])"?\s*')  # by which Excel names the delimiter, above the header
MAX_FIELD = 2**17  # characters; the limit of Python's csv
MAX_LINE = 2**20  # characters that are read at once; the rest of a longer line is passed over
MAX_LINES = 100  # of one record in quotes; a longer one lacks its closing quote

# Stands for bytes that cannot be decoded: no valid UTF-8 or UTF-16 has half of a surrogate pair.
DAMAGED = "\udcff"


def _mark_damage(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return DAMAGED, error.end


codecs.register_error("hf_mlpl.damaged", _mark_damage)

ENCODINGS = "windows-1252 (Western Europe), windows-1250 (Central Europe) or windows-1251 (Cyrillic)"
DAMAGED_PER_GOOD = 10  # lines: two characters of another encoding may happen to be one of UTF-8
DAMAGED_BYTES = "bytes that are not"
TOO_LONG = f"a field of more than {MAX_FIELD} characters"

Row = dict[str | None, Any]  # texts, or None in a row that is too short; a list of texts under None
Lines = Iterator[tuple[int, str]]  # with their numbers
BinaryFile = io.BufferedReader | gzip.GzipFile


def open_binary(path: str | Path) -> BinaryFile:
    """Opens a file, and unpacks it if its name ends in `.gz`."""
    return gzip.open(path) if str(path).endswith(".gz") else open(path, "rb")


def read_table(
    path: str | Path, columns: Sequence[str], delimiter: str | None = "\t", encoding: str | None = None
) -> Iterator[tuple[str, Row]]:
    """Yields rows of a table, plain or gzipped, as pairs of `file:line` and a dict by column name.

    Empty lines are skipped. Quotes are ordinary characters in tables with tabs or bars, unless the delimiter is to be
    found and the header is in quotes, and follow RFC 4180 in tables with commas or semicolons.

    A row that is too short has None in the missing columns; one that is too long has its surplus under None. A row
    that cannot be read has None in all columns, and the reason under None. `row_problem` returns the problem of a row.

    Args:
        delimiter: None chooses the one of `DELIMITERS` that separates the most of `columns` in the header, or that a
            line `sep=;` above the header names.
        encoding: of a file without a byte order mark; by default UTF-8.

    Raises:
        ValueError: for a file or a column that is missing, a column that is there twice, and a damaged file.
    """
    with open_table(Path(path)) as file:
        yield from table_rows(file, path, columns, delimiter, encoding)


def open_table(path: Path) -> BinaryFile:
    """Opens a table; raises ValueError, with the names of tables in its folder, if it does not exist."""
    if not path.is_file():
        folder, problem = (path, "is a folder") if path.is_dir() else (path.parent, missing(path))
        siblings = (sibling for pattern in ("*.tsv*", "*.csv*", "*.json*") for sibling in folder.glob(pattern))
        found = ", ".join(sorted(sibling.name for sibling in siblings)) or "none"
        raise ValueError(f"{path}: {problem}; tables there: {found}")
    return open_binary(path)


def table_rows(
    file: BinaryFile,
    name: str | Path,
    columns: Sequence[str],
    delimiter: str | None = "\t",
    encoding: str | None = None,
    loose_quotes: bool = False,
) -> Iterator[tuple[str, Row]]:
    """Yields rows of an open table, which messages call `name`, as `read_table` does.

    Args:
        loose_quotes: follows RFC 4180 for fields with quotes, with any delimiter; where quotes do not match, they are
            ordinary characters.
    """
    lines = _lines(file, name, encoding)
    header, delimiter, is_quoted = _header(lines, name, columns, delimiter)
    records = _quoted_records if is_quoted else _plain_records
    if loose_quotes:
        records = partial(_quoted_records, loose=True)
    for number, fields, problem in records(lines, delimiter):
        row: Row = dict.fromkeys(header)
        if problem:
            row[None] = [problem if encoding is None else problem.replace("UTF-8", encoding)]
        else:
            row.update(zip(header, fields, strict=False))
            if len(fields) > len(header):
                row[None] = fields[len(header) :]
        yield f"{name}:{number}", row


def table_columns(
    path: str | Path, likely: Sequence[str], delimiter: str | None = None, encoding: str | None = None
) -> list[str]:
    """Returns the columns of a table, whose delimiter separates the most of the `likely` ones; raises ValueError."""
    with open_table(Path(path)) as file:
        return _header(_lines(file, path, encoding), path, (), delimiter, likely)[0]


def check_encoding(path: str | Path, encoding: str | None) -> None:
    """Raises ValueError for an unknown encoding, and for a file that is in none that can be found.

    That is a file with many lines that are not UTF-8, and few that have other characters than ASCII's in UTF-8. A file
    with enough of the latter is UTF-8 with damage.
    """
    first, damaged, good = 0, 0, 0
    try:
        with open_table(Path(path)) as file:
            for number, line in _lines(file, path, encoding):
                if not line.isascii():
                    good += not line.replace(DAMAGED, "").isascii()
                    if DAMAGED in line:
                        first, damaged = first or number, damaged + 1
    except LookupError as error:
        raise ValueError(f"{path}: {error}; such as {ENCODINGS} are accepted") from error
    if encoding is None and damaged > max(1, DAMAGED_PER_GOOD * good):
        raise ValueError(
            f"{path}: {damaged} lines, such as line {first}, are not UTF-8; name the encoding with --encoding, such "
            f"as {ENCODINGS}, or save it as UTF-8"
        )


def fold_column(name: str) -> str:
    """Returns one form for spellings of a column's name: `File Name` and `file-name` are `file_name`."""
    return re.sub(r"[\s_-]+", "_", name.strip().casefold())


def row_problem(row: Row) -> str | None:
    """Returns the problem of a row of a table, or None for a good row."""
    if None not in row and None not in row.values():
        return None
    is_unread = None in row and next(iter(row.values())) is None
    return row[None][0] if is_unread else "wrong number of columns"


def check_row(row: Row) -> None:
    """Raises `RowError` for a row of a table that has a problem."""
    if problem := row_problem(row):
        raise RowError(problem)


def text_encoding(start: bytes, encoding: str | None) -> str:
    """Returns the encoding that the byte order mark in `start` shows; without one, what is given, or else UTF-8."""
    found = encoding_of(start)
    has_mark = found != "utf-8-sig" or start.startswith(codecs.BOM_UTF8)
    return found if has_mark or encoding is None else encoding


def read_text(path: Path, encoding: str | None = None) -> str:
    """Returns the content of a text file.

    Args:
        encoding: of a file without a byte order mark; by default UTF-8.

    Raises:
        ValueError: for a file in another encoding, or with NUL characters.
    """
    content = path.read_bytes()
    try:
        text = content.decode(text_encoding(content, encoding))
    except (UnicodeDecodeError, LookupError) as error:  # the last for an encoding that nobody knows
        raise ValueError(f"{error}; --encoding names its encoding, such as {ENCODINGS}") from error
    if "\0" in text:
        raise ValueError("it has NUL characters; is it text?")
    return text


def decode_text(file: BinaryFile, encoding: str | None = None) -> io.TextIOWrapper:
    """Decodes an open file, with `DAMAGED` in place of bytes that cannot be decoded; keeps its line ends.

    Args:
        encoding: of a file without a byte order mark; by default UTF-8.
    """
    return io.TextIOWrapper(file, text_encoding(file.peek(4), encoding), errors="hf_mlpl.damaged", newline="")


def _lines(file: BinaryFile, name: str | Path, encoding: str | None = None) -> Iterator[tuple[int, str]]:
    """Yields numbers and lines with their line ends; of a line over `MAX_LINE` only its beginning."""
    number = 0
    try:
        text = decode_text(file, encoding)
        while line := text.readline(MAX_LINE):
            number += 1
            rest = line
            while len(rest) == MAX_LINE and rest[-1] not in "\r\n":
                rest = text.readline(MAX_LINE)
            yield number, line
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(
            f"{name}: damaged or not a UTF-8 table, after line {number}: {error}; download it again"
        ) from error


def _header(
    lines: Lines, name: str | Path, columns: Sequence[str], delimiter: str | None, likely: Sequence[str] = ()
) -> tuple[list[str], str, bool]:
    """Returns the names of the columns, the delimiter, and whether quotes are those of RFC 4180."""
    full_lines = (line for _, line in lines if line.strip())
    line, is_found = next(full_lines, ""), delimiter is None
    if is_found and (separator := SEPARATOR_LINE.fullmatch(line)):
        delimiter, line = separator[1], next(full_lines, "")
    if DAMAGED in line or "\0" in line or len(line) > MAX_FIELD:
        raise ValueError(
            f"{name}: no table of text in UTF-8, or in UTF-16 with a byte order mark; convert it, or name the "
            f"encoding with --encoding, such as {ENCODINGS}"
        )
    headers, wanted = {}, {fold_column(column) for column in (*columns, *likely)}
    for sign in delimiter or DELIMITERS:
        plain, quoted = line.rstrip("\r\n").split(sign), next(csv.reader([line], delimiter=sign), [])
        # R and spreadsheets put quotes around all fields, also with tabs.
        is_quoted = sign in QUOTED or is_found and all(re.fullmatch('"[^"]+"', each.strip()) for each in plain)
        headers[sign] = [column.strip() for column in (quoted if is_quoted else plain)], is_quoted
    delimiter = max(
        headers, key=lambda sign: (len(wanted.intersection(map(fold_column, headers[sign][0]))), len(headers[sign][0]))
    )
    header, is_quoted = headers[delimiter]
    if missing := [column for column in columns if column not in header]:
        found = ", ".join(filter(None, header)) or "nothing"
        raise ValueError(f"{name}: column {', '.join(missing)} is missing; the header has {found}")
    if twice := [column for column in columns if header.count(column) > 1]:
        raise ValueError(f"{name}: column {', '.join(twice)} is there twice; the header has {', '.join(header)}")
    return header, delimiter, is_quoted


def _problem(text: str, fields: Sequence[str]) -> str | None:
    """Returns the reason why a record of a table cannot be used, or None."""
    if DAMAGED in text:
        return f"{DAMAGED_BYTES} UTF-8"
    if "\0" in text:
        return "NUL characters"
    if len(text) > MAX_FIELD and (len(text) >= MAX_LINE or max(map(len, fields), default=0) > MAX_FIELD):
        return TOO_LONG
    return None


def _plain_records(lines: Lines, delimiter: str) -> Iterator[tuple[int, list[str], str | None]]:
    """Yields the number, the fields and the problem of each line; quotes are ordinary, so that none swallows lines."""
    for number, line in lines:
        if line := line.rstrip("\r\n"):
            fields = line.split(delimiter)
            yield number, fields, _problem(line, fields)


def _quoted_records(lines: Lines, delimiter: str, loose: bool = False) -> Iterator[tuple[int, list[str], str | None]]:
    """Yields what `_plain_records` does, for records of RFC 4180, with the number of their first line.

    A record with a wrong quote ends after its first line, so that the rows behind it are read; so is its own line, as
    `_plain_records` does, if `loose`.
    """
    taken: list[tuple[int, str]] = []
    returned: deque[tuple[int, str]] = deque()

    def record() -> Iterator[str]:
        while len(taken) < MAX_LINES and (line := returned.popleft() if returned else next(lines, None)):
            taken.append(line)
            yield line[1]

    while True:
        fields, wrong = [], None
        taken.clear()
        try:
            fields = next(csv.reader(record(), delimiter=delimiter, strict=True), [])
        except csv.Error as error:
            wrong = TOO_LONG if "field limit" in str(error) else "quotes that do not match"
            returned.extendleft(taken[:0:-1])
            del taken[1:]
        if loose and (wrong or any(delimiter in field for field in fields)):  # the texts do not have any
            returned.extendleft(taken[:0:-1])
            del taken[1:]
            fields, wrong = taken[0][1].rstrip("\r\n").split(delimiter), None
        if not taken:
            return
        problem = _problem("".join(line for _, line in taken), fields) or wrong
        if fields or problem:
            yield taken[0][0], fields, problem
