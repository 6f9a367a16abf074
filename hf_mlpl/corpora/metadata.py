"""Reads tables that name recordings, in csv, tsv, JSON and Parquet; texts stay texts, whatever they look like.

Also finds their columns, by the usual names of all forms of tables and data sets.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TextIO

from .readers.parquet import parquet_features, parquet_values
from .recordings import PART_COLUMNS, part_columns
from .tables import (
    DAMAGED,
    check_encoding,
    decode_text,
    fold_column,
    open_binary,
    read_table,
    row_problem,
    table_columns,
)

TEXT_TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
JSON = (".jsonl", ".json", ".ndjson", ".jsonl.gz", ".json.gz")
SUFFIXES = (*TEXT_TABLES, *JSON, ".parquet")
SPREADSHEETS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods", ".numbers")
SPREADSHEET_STARTS = (b"PK\x03\x04", bytes.fromhex("d0cf11e0"))  # a zip, and an older file of Office
METADATA = tuple(f"metadata{suffix}" for suffix in (".csv", ".tsv", ".jsonl", ".parquet"))

# `file:row`, the values by column, and the reason why the row cannot be used, which then has no values.
TableRow = tuple[str, dict, str | None]

# The columns of each field, unless others are named, in the form of `fold_column`; the first that a table has counts.
# None for `id`, because several rows often share one.
USUAL_COLUMNS: dict[str, tuple[str, ...]] = {
    "id": (),
    "audio": (
        *("audio", "path", "file", "file_name", "audio_filepath"),
        *("filename", "audio_path", "audio_file", "file_path", "filepath", "wav", "wav_path", "recording"),
    ),
    "text": ("text", "sentence", "transcription", "transcript", "raw_transcription", "raw_text", "normalized_text"),
    "language": ("language", "locale", "lang", "language_code"),
    "speaker": ("speaker", "speaker_id", "client_id", "spk", "speaker_name"),
    "sampling_rate": ("sampling_rate", "sample_rate"),
    **PART_COLUMNS,
}
LIKELY = [name for names in USUAL_COLUMNS.values() for name in names]


def find_columns(
    columns: Collection[str],
    given: Mapping[str, str],
    kind: object = "the data set",
    usual: Mapping[str, Sequence[str]] = USUAL_COLUMNS,
    has_parts: bool = True,
) -> dict[str, str]:
    """Returns the column of each field of an utterance: the one that is given, or the first with a usual name.

    A name in other letters (`File Name`) counts if no column has the name itself.

    Args:
        given: field -> column.
        kind: what errors call the data set.
        usual: field -> usual names.
        has_parts: False if recordings have been cut already, whatever their times say.

    Raises:
        ValueError: for a field or a column that is unknown.
    """
    if unknown := sorted(set(given) - set(USUAL_COLUMNS)):
        raise ValueError(f"an utterance has no {', '.join(unknown)} from a column; it has {', '.join(USUAL_COLUMNS)}")
    if absent := sorted(set(given.values()) - set(columns)):
        found = ", ".join(columns) or "none at all"
        raise ValueError(f"{kind} has no column {', '.join(absent)}; it has {found}")
    spelled = {fold_column(name): name for name in [*columns][::-1]} | {name: name for name in columns}
    names = {
        field: next(spelled[name] for name in known if name in spelled)
        for field, known in usual.items()
        if field not in PART_COLUMNS and not spelled.keys().isdisjoint(known)
    }
    if has_parts:
        parts = part_columns({name for name, column in spelled.items() if column not in given.values()} | {*given})
        if not {"start", "end"} <= parts.keys():  # one in other letters, alone, may be the time of day
            parts = part_columns({*columns} - {*given.values()} | {*given})
        names |= {field: spelled.get(name, name) for field, name in parts.items()}
    return names | dict(given)


def refuse_spreadsheet(path: Path) -> None:
    """Raises ValueError for a spreadsheet, by its name or its content; says how to save it as a table."""
    if not path.is_file():
        return
    with open(path, "rb") as file:
        start = file.read(4)
    if path.suffix.lower() in SPREADSHEETS or start in SPREADSHEET_STARTS and path.suffix.lower() != ".zip":
        raise ValueError(
            f"{path}: is a spreadsheet, which is not read; save its sheet as csv: in Excel with Save As, CSV UTF-8; "
            "in LibreOffice with Save As, Text CSV; in Google Sheets with Download, Comma-separated values"
        )


def columns_of(
    path: Path, likely: Sequence[str], delimiter: str | None = None, encoding: str | None = None
) -> list[str]:
    """Returns the columns of a table; of JSON all keys of its rows, in their order.

    Args:
        likely: names by which the delimiter of a csv file is found, unless it is given.
        encoding: of csv and JSON; by default UTF-8.

    Raises:
        ValueError: for a file that is no table, such as a spreadsheet, is in an unknown encoding, or damaged.
    """
    refuse_spreadsheet(path)
    if path.suffix == ".parquet":
        return list(parquet_features(path))
    check_encoding(path, encoding)
    if is_json(path):
        return list(dict.fromkeys(key for _, row, _ in _json_rows(path, encoding) for key in row))
    return table_columns(path, likely, delimiter, encoding)


def rows_of(
    path: Path, columns: Sequence[str], delimiter: str | None = None, encoding: str | None = None
) -> Iterator[TableRow]:
    """Yields rows of a table, with None for missing values of `columns`; texts and numbers of csv and JSON are texts.

    Raises:
        ValueError: for a file that is no table, is damaged or, unless it is JSON, lacks one of `columns`.
    """
    if path.suffix == ".parquet":
        for number, row in enumerate(parquet_values(path, columns)):
            yield f"{path}:{number}", row, None
    elif is_json(path):
        for where, row, problem in _json_rows(path, encoding):
            values = {column: row.get(column) for column in columns}
            words = {column: json.dumps(value) for column, value in values.items() if isinstance(value, bool)}
            yield where, values | words, problem
    else:
        for where, row in read_table(path, columns, delimiter, encoding):
            yield where, row, row_problem(row)


def is_json(path: Path) -> bool:
    """Returns whether a file has JSON, by its name or, where that says nothing, by its first character."""
    name = path.name.lower()
    if name.endswith((*JSON, *TEXT_TABLES)):
        return name.endswith(JSON)
    try:
        with open_binary(path) as file:
            return decode_text(file).read(1000).lstrip()[:1] in ("{", "[")
    except (EOFError, OSError, zlib.error):
        return False


def _json_rows(path: Path, encoding: str | None = None) -> Iterator[TableRow]:
    """Yields rows of JSON lines, or of one list of objects; raises ValueError for a damaged file."""
    with open_binary(path) as file:
        try:
            for number, (row, problem) in enumerate(_json_values(path, decode_text(file, encoding)), start=1):
                if isinstance(row, dict):
                    yield f"{path}:{number}", row, None
                elif problem != EMPTY:
                    yield f"{path}:{number}", {}, problem or "no JSON object"
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path}: damaged: {error}; download it again") from error


def _json_values(path: Path, lines: TextIO) -> Iterator[tuple[object, str | None]]:
    beginning = next(filter(str.strip, islice(lines, 100)), "").lstrip()
    lines.seek(0)
    if ".json" not in map(str.lower, path.suffixes) or not beginning.startswith("["):
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
