"""Reads tables of corpora and of people: values are strings as written, and damage costs the row that has it."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from ..model.text import encoding_of

DELIMITERS = "\t,;"
QUOTED = ",;"  # with other delimiters quotes are ordinary characters, and one alone would swallow lines
MAX_FIELD = 2**17  # characters; the limit of Python's csv
MAX_LINE = 2**20  # characters that are read at once; the rest of a longer line is passed over
MAX_LINES = 100  # of one record in quotes; a longer one lacks its closing quote

# Stands for bytes that cannot be decoded: no valid UTF-8 or UTF-16 has half of a surrogate pair.
DAMAGED = "\udcff"
codecs.register_error("hf_mlpl.damaged", lambda error: (DAMAGED, error.end))

TOO_LONG = f"a field of more than {MAX_FIELD} characters"

Row = dict[str | None, Any]  # texts, or None where a row is too short; a list of texts under None


def read_table(path: str | Path, columns: Sequence[str], delimiter: str | None = "\t") -> Iterator[tuple[str, Row]]:
    """Yields rows of a table, plain or gzipped, as pairs of `file:line` and a dict by column name.

    The text is UTF-8, or what its byte order mark says. Empty lines are skipped. Quotes are ordinary characters where
    tabs separate columns, and those of RFC 4180 where commas or semicolons do.

    A row of another length than the header has None for what is missing, or the surplus under None. A row that cannot
    be read has None in all columns, and the reason under None. `row_problem` returns what is wrong with a row.

    Args:
        delimiter: None takes tab, comma or semicolon, whichever separates the most of `columns` in the header.

    Raises:
        ValueError: where the file or one of `columns` is missing, a column is there twice, or the file is damaged.
    """
    path = Path(path)
    if not path.is_file():
        siblings = (sibling for pattern in ("*.tsv*", "*.csv*") for sibling in path.parent.glob(pattern))
        found = ", ".join(sorted(sibling.name for sibling in siblings)) or "none"
        raise ValueError(f"{path}: no such file; tables there: {found}")
    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
        yield from table_rows(file, path, columns, delimiter)


def table_rows(
    file: BinaryIO, name: str | Path, columns: Sequence[str], delimiter: str | None = "\t"
) -> Iterator[tuple[str, Row]]:
    """Yields rows of an open, buffered table, which messages call `name`, as `read_table` does."""
    lines = _Lines(file)
    try:
        header, delimiter = _header(lines, name, columns, delimiter)
        records = _quoted_records if delimiter in QUOTED else _plain_records
        for number, fields, problem in records(lines, delimiter):
            row: Row = dict.fromkeys(header) if problem else dict(zip(header, fields, strict=False))
            if problem:
                row[None] = [problem]
            elif len(fields) > len(header):
                row[None] = fields[len(header) :]
            else:
                row |= dict.fromkeys(header[len(fields) :])
            yield f"{name}:{number}", row
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(
            f"{name}: damaged or not a UTF-8 table, after line {lines.number}: {error}; download it again"
        ) from error


def table_columns(path: str | Path, likely: Sequence[str]) -> list[str]:
    """Returns the names in the header of a table, whose delimiter is found as in `read_table`; raises as it does."""
    with gzip.open(path) if Path(path).suffix == ".gz" else open(path, "rb") as file:
        header, _ = _header(_Lines(file), path, (), None, likely)
    return header


def row_problem(row: Row) -> str | None:
    """Returns what is wrong with a row of a table, or None for a good one."""
    if None not in row and None not in row.values():
        return None
    is_unread = None in row and next(iter(row.values())) is None
    return row[None][0] if is_unread else "wrong number of columns"


def opened_text(file: BinaryIO) -> TextIO:
    """Returns the text of an open, buffered file, with `DAMAGED` where it cannot be decoded, and its own line ends."""
    return io.TextIOWrapper(file, encoding_of(file.peek(4)), errors="hf_mlpl.damaged", newline="")


class _Lines:
    """Reads the lines of a text with their line ends, and counts those that were taken."""

    def __init__(self, file: BinaryIO):
        self._file, self._text, self._returned, self.number = file, None, deque(), 0

    def take(self) -> str:
        """Returns the next line, and an empty text at the end; of a line over `MAX_LINE` its beginning."""
        if self._text is None:
            self._text = opened_text(self._file)
        if self._returned:
            line = self._returned.popleft()
        else:
            line = rest = self._text.readline(MAX_LINE)
            while len(rest) == MAX_LINE and rest[-1] not in "\r\n":
                rest = self._text.readline(MAX_LINE)
        self.number += bool(line)
        return line

    def give_back(self, lines: Sequence[str]) -> None:
        """Makes lines that were taken last the next ones."""
        self._returned.extendleft(reversed(lines))
        self.number -= len(lines)


def _header(
    lines: _Lines, name: str | Path, columns: Sequence[str], delimiter: str | None, likely: Sequence[str] = ()
) -> tuple[list[str], str]:
    line = lines.take()
    while line and not line.strip():
        line = lines.take()
    if DAMAGED in line or "\0" in line or len(line) > MAX_FIELD:
        raise ValueError(f"{name}: no table of text in UTF-8, or in UTF-16 with a byte order mark; convert it")

    def separated(delimiter: str) -> list[str]:
        plain = line.rstrip("\r\n").split(delimiter)
        if delimiter in QUOTED:
            plain = next(csv.reader([line], delimiter=delimiter), [])
        return [column.strip() for column in plain]

    headers = {each: separated(each) for each in delimiter or DELIMITERS}
    wanted = {*columns, *likely}
    delimiter = max(headers, key=lambda each: (len(wanted.intersection(headers[each])), len(headers[each])))
    header = headers[delimiter]
    if missing := [column for column in columns if column not in header]:
        found = ", ".join(filter(None, header)) or "nothing"
        raise ValueError(f"{name}: column {', '.join(missing)} is missing; the header has {found}")
    if twice := [column for column in columns if header.count(column) > 1]:
        raise ValueError(f"{name}: column {', '.join(twice)} is there twice; the header has {', '.join(header)}")
    return header, delimiter


def _problem(text: str, fields: Sequence[str]) -> str | None:
    """Returns why a record of a table cannot be used."""
    if DAMAGED in text:
        return "bytes that are not UTF-8"
    if "\0" in text:
        return "NUL characters"
    if len(text) > MAX_FIELD and (len(text) >= MAX_LINE or max(map(len, fields), default=0) > MAX_FIELD):
        return TOO_LONG
    return None


def _plain_records(lines: _Lines, delimiter: str) -> Iterator[tuple[int, list[str], str | None]]:
    """Yields the number, the fields and the problem of each line; there are no quotes, which could swallow lines."""
    while line := lines.take():
        if line := line.rstrip("\r\n"):
            fields = line.split(delimiter)
            yield lines.number, fields, _problem(line, fields)


class _Record:
    """Yields the lines of one record, as csv asks for them; unlike a generator it goes on after an end or an error."""

    def __init__(self, lines: _Lines):
        self.lines, self.taken = lines, []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if len(self.taken) == MAX_LINES:
            raise csv.Error("no closing quote")
        line = self.lines.take()
        if not line:
            raise StopIteration
        self.taken.append(line)
        return line


def _quoted_records(lines: _Lines, delimiter: str) -> Iterator[tuple[int, list[str], str | None]]:
    """Yields the same of records of RFC 4180, with the number of their first line.

    A record with a wrong quote ends with its first line, so that the rows after it are read.
    """
    record = _Record(lines)
    reader = csv.reader(record, delimiter=delimiter, strict=True)
    while True:
        record.taken, first, fields, wrong = [], lines.number + 1, [], None
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            wrong = TOO_LONG if "field limit" in str(error) else "quotes that do not match"
            lines.give_back(record.taken[1:])
            del record.taken[1:]
        problem = _problem("".join(record.taken), fields) or wrong
        if fields or problem:
            yield first, fields, problem
