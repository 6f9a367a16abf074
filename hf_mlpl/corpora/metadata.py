"""Reads tables that name recordings, in csv, tsv, JSON and Parquet; texts stay texts, whatever they look like."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TextIO

from .readers.parquet import parquet_features, parquet_values
from .tables import DAMAGED, decode_text, open_binary, read_table, row_problem, table_columns

TEXT_TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
JSON = (".jsonl", ".json", ".ndjson", ".jsonl.gz", ".json.gz")
SUFFIXES = (*TEXT_TABLES, *JSON, ".parquet")
METADATA = tuple(f"metadata{suffix}" for suffix in (".csv", ".tsv", ".jsonl", ".parquet"))

# `file:row`, the values by column, and the reason why the row cannot be used, which then has no values.
TableRow = tuple[str, dict, str | None]


def columns_of(path: Path, likely: Sequence[str]) -> list[str]:
    """Returns the columns of a table; of JSON all keys of its rows, in their order.

    Args:
        likely: names by which the delimiter of a csv file is found.

    Raises:
        ValueError: for a file that is no table, or is damaged.
    """
    if path.suffix == ".parquet":
        return list(parquet_features(path))
    if path.name.endswith(TEXT_TABLES):
        return table_columns(path, likely)
    return list(dict.fromkeys(key for _, row, _ in _json_rows(path) for key in row))


def rows_of(path: Path, columns: Sequence[str]) -> Iterator[TableRow]:
    """Yields rows of a table, with None for missing values of `columns`; texts and numbers of csv and JSON are texts.

    Raises:
        ValueError: for a file that is no table, is damaged or, unless it is JSON, lacks one of `columns`.
    """
    if path.suffix == ".parquet":
        for number, row in enumerate(parquet_values(path, columns)):
            yield f"{path}:{number}", row, None
    elif path.name.endswith(TEXT_TABLES):
        for where, row in read_table(path, columns, None):
            yield where, row, row_problem(row)
    else:
        for where, row, problem in _json_rows(path):
            values = {column: row.get(column) for column in columns}
            words = {column: json.dumps(value) for column, value in values.items() if isinstance(value, bool)}
            yield where, values | words, problem


def _json_rows(path: Path) -> Iterator[TableRow]:
    """Yields rows of JSON lines, or of one list of objects; raises ValueError for a damaged file."""
    with open_binary(path) as file:
        try:
            for number, (row, problem) in enumerate(_json_values(path, decode_text(file)), start=1):
                if isinstance(row, dict):
                    yield f"{path}:{number}", row, None
                elif problem != EMPTY:
                    yield f"{path}:{number}", {}, problem or "no JSON object"
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path}: damaged: {error}; download it again") from error


def _json_values(path: Path, lines: TextIO) -> Iterator[tuple[object, str | None]]:
    beginning = next(filter(str.strip, islice(lines, 100)), "").lstrip()
    lines.seek(0)
    if ".json" not in path.suffixes or not beginning.startswith("["):
        yield from map(_parsed, lines)
        return
    content, problem = _parsed(lines.read())
    if problem or not isinstance(content, list):
        raise ValueError(f"{path}: {problem or 'no list of objects'}; it may also have an object in each line")
    yield from ((row, None) for row in content)


EMPTY = "an empty line"


def _parsed(text: str) -> tuple[object, str | None]:
    """Returns the content of a JSON text and its problem, one of which is None; numbers but NaN stay texts."""
    if DAMAGED in text:
        return None, "bytes that are not UTF-8"
    if not text.strip():
        return None, EMPTY
    try:
        content = json.loads(text, parse_int=str, parse_float=str, parse_constant=float)
        if "\\u" in text:
            json.dumps(content, ensure_ascii=False).encode()  # half of a surrogate pair could not be written
    except UnicodeEncodeError:
        return None, "half of a surrogate pair"
    except (ValueError, RecursionError):
        return None, "no JSON object"
    return content, None
