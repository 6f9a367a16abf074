"""Tab-separated tables of corpora, read as they are: no quoting, a header, every needed column checked."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

MAX_FIELD = 131_072  # characters; a longer field is no transcript, but what follows a lost line end
MAX_LINE = 2**21  # characters that are in memory of a line that does not end


def read_table(
    path: str | Path, columns: Sequence[str], delimiter: str = "\t"
) -> Iterator[tuple[str, dict[str | None, str | list[str] | None]]]:
    """Yields the rows of a UTF-8 table, plain or gzipped, as pairs of `file:line` and a dict by column name.

    A row of another length than the header has None for what is missing, or the surplus under None. A row that cannot
    be read has None in every column. `row_problem` says what is wrong with a row.

    Raises:
        ValueError: where the file or one of `columns` is missing, or the file is damaged or its header not UTF-8.
    """
    path = Path(path)
    if not path.is_file():
        there = ", ".join(sorted(sibling.name for sibling in path.parent.glob("*.tsv*") if sibling.name[0] != "."))
        raise ValueError(f"{path}: no such file; tables there: {there or 'none'}")
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        yield from table_rows(file, path, columns, delimiter)


def table_rows(
    file: TextIO, name: str | Path, columns: Sequence[str], delimiter: str = "\t"
) -> Iterator[tuple[str, dict[str | None, str | list[str] | None]]]:
    """Yields rows of an open table, which messages call `name`, as `read_table` does.

    Bytes that are not UTF-8 are to be surrogates in the text that `file` gives.
    """
    # Quotes are ordinary characters here: with quoting, one unbalanced quote swallows the rows that follow.
    number = 0
    try:
        lines = _lines(file)
        header = next(lines, "")
        number = 1
        if problem := _line_problem(header, delimiter):
            raise ValueError(
                f"{name}: not a UTF-8 table, its header {problem}; save it as UTF-8, or download it again"
            )
        header = header.split(delimiter) if header else []
        if missing := [column for column in columns if column not in header]:
            raise ValueError(
                f"{name}: column {', '.join(missing)} is missing; the header has {', '.join(header) or 'nothing'}"
            )
        for number, line in enumerate(lines, start=2):
            if line:
                yield f"{name}:{number}", _row(line, header, delimiter)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{name}: damaged or not a UTF-8 table, after line {number}: {error}; download it again"
        ) from error


def row_problem(row: dict) -> str | None:
    """Says why a row of `read_table` cannot be used, or returns None."""
    if None not in row and None not in row.values():
        return None
    return row[None][0] if None in row and None in row.values() else "wrong number of columns"


def _row(line: str, header: list[str], delimiter: str) -> dict:
    if problem := _line_problem(line, delimiter):
        return dict.fromkeys(header) | {None: [problem]}
    fields = line.split(delimiter)
    row = dict(zip(header, fields, strict=False))
    if len(fields) < len(header):
        row |= dict.fromkeys(header[len(fields) :])
    elif len(fields) > len(header):
        row[None] = fields[len(header) :]
    return row


def _line_problem(line: str, delimiter: str) -> str | None:
    if not line.isascii():
        try:
            line.encode()
        except UnicodeEncodeError:
            return "is not UTF-8"
    if "\0" in line:
        return "has NUL characters"
    if len(line) > MAX_FIELD and max(map(len, line.split(delimiter))) > MAX_FIELD:
        return f"has a field of more than {MAX_FIELD} characters"
    return None


def _lines(file: TextIO) -> Iterator[str]:
    """Yields lines without their ends, and of a longer one its first `MAX_LINE` characters."""
    while line := file.readline(MAX_LINE):
        rest = line
        while len(rest) == MAX_LINE and rest[-1] not in "\r\n":
            rest = file.readline(MAX_LINE)
        yield line.rstrip("\r\n")
