"""Tab-separated tables of corpora, read as they are: no quoting, a header, every needed column checked."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO


def read_table(
    path: str | Path, columns: Sequence[str], delimiter: str = "\t"
) -> Iterator[tuple[str, dict[str, str | None]]]:
    """Rows of a UTF-8 table, plain or gzipped, as pairs of `file:line` and a dict by column name.

    A row of another length than the header has None for what is missing, or the surplus under None.

    Raises:
        ValueError: where the file or one of `columns` is missing, or the file is damaged or not UTF-8.
    """
    path = Path(path)
    if not path.is_file():
        there = ", ".join(sorted(sibling.name for sibling in path.parent.glob("*.tsv*")))
        raise ValueError(f"{path}: no such file; tables there: {there or 'none'}")
    with (
        gzip.open(path, "rt", encoding="utf-8-sig")
        if path.suffix == ".gz"
        else open(path, encoding="utf-8-sig", newline="") as file
    ):
        yield from table_rows(file, path, columns, delimiter)


def table_rows(
    file: TextIO, name: str | Path, columns: Sequence[str], delimiter: str = "\t"
) -> Iterator[tuple[str, dict[str, str | None]]]:
    """Rows of an open table, which messages call `name`, as `read_table` gives them."""
    # Quotes are ordinary characters here: with quoting, one unbalanced quote swallows the rows that follow.
    reader = csv.DictReader(file, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    try:
        header = reader.fieldnames or ()
        if missing := [column for column in columns if column not in header]:
            raise ValueError(
                f"{name}: column {', '.join(missing)} is missing; the header has {', '.join(header) or 'nothing'}"
            )
        for row in reader:
            yield f"{name}:{reader.line_num}", row
    except (UnicodeDecodeError, csv.Error, OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{name}: damaged or not a UTF-8 table, after line {reader.line_num}: {error}; download it again"
        ) from error
