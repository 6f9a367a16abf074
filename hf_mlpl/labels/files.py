"""Reads files of labels, ours and anyone's, and reports damage in one line that names the file."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Features, Value
from datasets.table import table_cast

from ..audio.reading import AUDIO_SUFFIXES
from ..corpora.locales import to_locale
from ..corpora.metadata import USUAL_COLUMNS, columns_of, find_columns, rows_of
from ..corpora.reading import RowError
from ..corpora.recordings import DECIMALS, PART_COLUMNS, part_of
from ..corpora.tables import fold_column
from ..data.rows import BLOCK
from ..error_line import error_line
from ..remote_path import AnyPath, RemotePath, as_path, parquet_source
from ..storage import StorageError
from .schema import LABEL_FEATURES, LABEL_SET_FEATURES, NEVER_NULL, SCORES

PREDICTIONS = ("pred_text", "whisper_transcript")  # of NeMo, and of distil-whisper
NAMED = ("id", "text", "language")  # columns that options name
# The columns of a table of labels by their usual names, the best first; those of a label set have its names.
USUAL: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in LABEL_SET_FEATURES if name not in PART_COLUMNS},
    "id": ("id", "utt_id", "utterance_id", "audio_id", "segment_id"),
    "audio": USUAL_COLUMNS["audio"],
    "text": (*USUAL_COLUMNS["text"], *PREDICTIONS),
    "language": (*USUAL_COLUMNS["language"], "source_lang"),
    "duration_seconds": ("duration_seconds", "duration"),
    "source_lang": ("source_lang",),
    "target_lang": ("target_lang",),
}
# Columns that say which recording a row means, or which part of it, and whether its text is a translation.
PLACE = ("audio", *PART_COLUMNS, "source_lang", "target_lang")
PLACE_FEATURES = Features({"path": Value("string"), "part_seconds": Value("float64")})
AUDIO_SUFFIX = re.compile(rf"\.({'|'.join(suffix[1:] for suffix in sorted(AUDIO_SUFFIXES))})$", re.IGNORECASE)


class LabelFileError(ValueError):
    """Reports in one line that a file holds no labels, or is damaged."""


@contextmanager
def _damage_in_one_line(path: str | AnyPath) -> Iterator[None]:
    """Raises a LabelFileError for whatever a reader raises on a damaged file: nearly anything, even MemoryError."""
    try:
        yield
    except (LabelFileError, StorageError):
        raise
    except Exception as error:
        reason = error_line(error)[:300]
        raise LabelFileError(f"{path}: no Parquet file of labels, or damaged ({reason})") from error


def label_schema(path: str | AnyPath, needed: Sequence[str] = (), remedy: str = "") -> pa.Schema:
    """Returns the columns of a Parquet file.

    Raises:
        LabelFileError: for a file that does not exist, is not Parquet, or lacks one of the columns `needed`.
    """
    path = as_path(path)
    if not path.is_file():
        raise LabelFileError(f"{path}: no such file of labels")
    with _damage_in_one_line(path):
        schema = pq.read_schema(parquet_source(path))
    if missing := sorted(set(needed) - set(schema.names)):
        raise LabelFileError(f"{path}: has no column {', '.join(missing)}{remedy}")
    return schema


def label_blocks(
    path: str | AnyPath, features: Features, never_null: Sequence[str], columns: Mapping[str, str] | None = None
) -> Iterator[pa.Table]:
    """Yields the columns of `features` with their types, 10,000 rows at a time.

    Args:
        columns: name in `features` -> column of the file, where that has another name; `audio.path` is the field
            `path` of the column `audio`, whose other fields are not read.

    Raises:
        LabelFileError: as `label_schema` does; for a column that cannot be cast to its type; for nulls in a column of
            `never_null`; and for durations that are not positive and finite, unless they are null.
    """
    path = as_path(path)
    names = {name: (columns or {}).get(name, name) for name in features}
    label_schema(path, [name.partition(".")[0] for name in names.values()])
    with _damage_in_one_line(path), pq.ParquetFile(parquet_source(path), page_checksum_verification=True) as file:
        for batch in file.iter_batches(BLOCK, columns=list(dict.fromkeys(names.values()))):
            values = {name: _column(batch, column) for name, column in names.items()}
            labels = _without_nan(table_cast(pa.table(values), features.arrow_schema))
            labels.validate(full=True)
            if empty := [name for name in never_null if labels[name].null_count]:
                raise LabelFileError(f"{path}: has rows without {', '.join(empty)}")
            if "duration_seconds" in features:
                seconds = labels["duration_seconds"].drop_null().to_numpy()
                if not ((0 < seconds) & (seconds < np.inf)).all():
                    raise LabelFileError(f"{path}: has rows with a duration that is none")
            yield labels


def _without_nan(labels: pa.Table) -> pa.Table:
    """Replaces NaN, which numpy and pandas write for no value, by null."""
    for place, kind in enumerate(labels.schema):
        if pa.types.is_floating(kind.type):
            values = labels.column(place)
            labels = labels.set_column(place, kind, pc.if_else(pc.is_nan(values), pa.scalar(None, kind.type), values))
    return labels


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    column, _, part = name.partition(".")
    if name in batch.schema.names or not part:
        return batch[name]
    return pc.struct_field(batch[column], part)


def with_null_scores(labels: pa.Table, path: str | AnyPath, remedy: str = "") -> pa.Table:
    """Returns the columns of `LABEL_FEATURES`, with null for scores that a file of another version does not have.

    Raises:
        LabelFileError: for labels that lack another column, or have no score at all.
    """
    missing = set(LABEL_FEATURES) - set(labels.column_names)
    if missing - SCORES.keys() or missing >= SCORES.keys():
        raise LabelFileError(f"{path}: has no column {', '.join(sorted(missing))}{remedy}")
    for name in missing:
        labels = labels.append_column(name, pa.nulls(len(labels), LABEL_FEATURES.arrow_schema.field(name).type))
    return labels.select(list(LABEL_FEATURES))


def scored_blocks(path: str | AnyPath) -> Iterator[pa.Table]:
    """Yields the columns of `LABEL_FEATURES`, 10,000 rows at a time.

    Raises:
        LabelFileError: as `label_blocks` and `with_null_scores` do.
    """
    schema = label_schema(path)
    with_null_scores(schema.empty_table(), path, "; `hf-mlpl pseudo-label` writes labels with scores")
    present = Features({name: kind for name, kind in LABEL_FEATURES.items() if name in schema.names})
    for labels in label_blocks(path, present, NEVER_NULL):
        yield with_null_scores(labels, path)


@dataclass(frozen=True)
class TableSettings:
    """Describes tables of labels of anyone, where what is usual does not hold.

    Args:
        columns: `id`, `audio` (the path of the recording), `text` or `language` -> column.
        delimiter: of csv files; by default found.
        encoding: of csv and JSON; by default UTF-8, or UTF-16 with a byte order mark.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    delimiter: str | None = None
    encoding: str | None = None


AS_FOUND = TableSettings()


def columns_of_labels(path: AnyPath, settings: TableSettings = AS_FOUND) -> dict[str, str]:
    """Returns the columns of a table of labels, by the names that they have in label sets, in NeMo and in lists.

    Raises:
        LabelFileError: for a file that does not exist or is no table.
        ValueError: for a column of `settings` that the table lacks, and for a table of transcripts and predictions
            that does not say which of them are meant.
    """
    if not path.is_file():
        raise LabelFileError(f"{path}: no such file of labels")
    likely = [*settings.columns.values(), *(name for names in USUAL.values() for name in names)]
    with _damage_in_one_line(path):
        try:
            columns = _columns(path, likely, settings)
        except ValueError as error:
            raise LabelFileError(str(error)) from error
    found = find_columns(columns, settings.columns, path, USUAL)
    if "text" not in settings.columns and (others := [name for name in columns if fold_column(name) in PREDICTIONS]):
        if found["text"] not in others:
            both = " and ".join([found["text"], *others])
            raise ValueError(f"{path}: has {both}; --text-column names the one with the labels")
    if path.suffix == ".parquet" and "audio" in found:
        kind = label_schema(path).field(found["audio"]).type
        if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0 and "id" not in found:
            found["audio"] += ".path"
        elif not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            del found["audio"]  # recordings in the table itself
    return found


def _columns(path: AnyPath, likely: Sequence[str], settings: TableSettings) -> Sequence[str]:
    if not isinstance(path, RemotePath):
        return columns_of(path, likely, settings.delimiter, settings.encoding)
    if path.suffix != ".parquet":
        raise LabelFileError(f"{path}: tables of texts are read from a disk; of object storage, Parquet files are")
    return label_schema(path).names


def labels_of_anyone(
    path: AnyPath,
    features: Features,
    needed: Sequence[str],
    skipped: Callable[[str, str], None] = lambda position, problem: None,
    settings: TableSettings = AS_FOUND,
) -> Iterator[pa.Table]:
    """Yields the columns of `features` of a Parquet, csv, tsv or JSON file, 10,000 rows at a time.

    Columns that the file lacks are null. The column `path`, if it is in `features`, is the path of a row's recording,
    for parts of recordings followed by `_start-end`, as `hf-mlpl prepare-data` names them; `part_seconds` is the end
    of a part that begins with its recording, and may be all of it.

    Args:
        needed: columns that the file must have, with a value in each row; instead of `id` it may have a path.
        skipped: is called with `file:row` and a reason for each row that cannot be read, or is a translation.

    Raises:
        LabelFileError: for a file that is no table, lacks one of `needed`, or is damaged.
    """
    found = columns_of_labels(path, settings)
    is_named = "path" in features
    if is_named and "audio" in found and "id" not in found:
        needed = ["audio" if name == "id" else name for name in needed]
    if missing := [name for name in needed if name not in found]:
        there = ", ".join(_columns(path, (), settings)) or "none"
        options = [f"--{name}-column" for name in missing if name in NAMED]
        option = f"; {' and '.join(options)} {'name them' if options[1:] else 'names it'}" if options else ""
        raise LabelFileError(f"{path}: no labels, it has no column {', '.join(missing)}; it has {there}{option}")
    if is_named:
        has_parts = "audio" in found and not found.keys().isdisjoint(PART_COLUMNS.keys() - {"duration"})
        places = [name for name in PLACE if name in found and (has_parts or name not in PART_COLUMNS)]
        features_read = features | dict.fromkeys(places, Value("string"))
    else:
        features_read = features
    read = Features({name: kind for name, kind in features_read.items() if name in found})
    if isinstance(path, RemotePath) or path.suffix == ".parquet":
        blocks_read = label_blocks(path, read, () if is_named else needed, found)
        if is_named:
            blocks_read = _named_blocks(blocks_read, path, needed, skipped)
    else:
        blocks_read = _text_blocks(path, read, needed, skipped, found, settings)
    for labels in blocks_read:
        for name in features.keys() - set(labels.column_names):
            labels = labels.append_column(name, pa.nulls(len(labels), features.arrow_schema.field(name).type))
        yield labels.select(list(features))


def _named_blocks(
    tables: Iterable[pa.Table], path: AnyPath, needed: Sequence[str], skipped: Callable[[str, str], None]
) -> Iterator[pa.Table]:
    """Yields tables with the columns `path` and `part_seconds`, as `_text_blocks` does, without rows that it skips."""
    first = 0
    for labels in tables:
        places = [name for name in PLACE if name in labels.column_names]
        is_empty = [labels[name].is_null() for name in needed]
        if not places and not any(pc.any(each).as_py() for each in is_empty):
            first += len(labels)
            yield labels
            continue
        found: dict[int, dict] = {}
        rows = labels.select(places).to_pylist() if places else [{}] * len(labels)
        columns = (rows, *(each.to_pylist() for each in is_empty))
        for number, (row, *empty) in enumerate(zip(*columns, strict=True)):
            try:
                if any(empty):
                    raise ValueError(f"no {needed[empty.index(True)]}")
                found[number] = _place(row)
            except ValueError as error:
                skipped(f"{path}:{first + number}", str(error))
        first += len(labels)
        labels = labels.drop_columns(places).take(list(found))
        named = pa.Table.from_pylist(list(found.values()), schema=PLACE_FEATURES.arrow_schema)
        for name in PLACE_FEATURES:
            labels = labels.append_column(name, named[name])
        yield labels


def _place(row: Mapping) -> dict:
    """Returns the `path` and `part_seconds` of a row; raises ValueError for a translation, or a place that is none."""
    spoken, written = row.get("source_lang"), row.get("target_lang")
    if spoken and written and to_locale(spoken) != to_locale(written):
        raise ValueError(f"its text is a translation from {spoken} to {written}")
    path = row.get("audio") or None
    try:
        start, end = part_of({name: value for name, value in row.items() if name in PART_COLUMNS})
    except RowError as error:
        raise ValueError(f"{error.reason}: {error.detail}") from None
    if path is not None and start:
        stem = AUDIO_SUFFIX.sub("", path)
        path = f"{stem}_{round(start, DECIMALS)}-{'' if end is None else round(end, DECIMALS)}"
    return {"path": path, "part_seconds": end if start == 0.0 else None}


def _text_blocks(
    path: Path,
    features: Features,
    needed: Sequence[str],
    skipped: Callable[[str, str], None],
    columns: Mapping[str, str],
    settings: TableSettings,
) -> Iterator[pa.Table]:
    places = [name for name in PLACE if name in features]
    kinds = {name: kind for name, kind in features.items() if name not in PLACE}
    schema = Features(kinds | (PLACE_FEATURES if places else {})).arrow_schema

    def readable_rows() -> Iterator[dict]:
        names = list(dict.fromkeys(columns[name] for name in features))
        for position, values, problem in rows_of(path, names, settings.delimiter, settings.encoding):
            row = {name: values.get(columns[name]) for name in features}
            row = {name: value if value == value else None for name, value in row.items()}  # NaN stands for no value
            try:
                if problem := problem or next((f"no {name}" for name in needed if row[name] is None), None):
                    raise ValueError(problem)
                row = {name: _value(name, row[name], kind.dtype) for name, kind in features.items()}
                yield row | _place(row) if places else row
            except ValueError as error:
                skipped(position, str(error))

    rows = readable_rows()
    with _damage_in_one_line(path):
        while block := list(islice(rows, BLOCK)):
            yield pa.Table.from_pylist(block, schema=schema)


def _value(name: str, value: str | float | bool | None, dtype: str) -> str | float | bool | None:
    """Parses a value of a text file; an empty one is null, except in a column of strings, and so is NaN.

    Raises:
        ValueError: for a value of another type.
    """
    if dtype == "string" and (value is None or isinstance(value, str)):
        return value
    if value in (None, ""):
        return None
    try:
        if dtype == "bool":
            return {"true": True, "false": False}[str(value).lower()]
        if dtype == "float64" and isinstance(value, (str, float)):
            number = float(value)
            if math.isnan(number):
                return None
            if name != "duration_seconds" or 0 < number < np.inf:
                return number
    except (KeyError, ValueError):
        pass
    raise ValueError(f"{name} is {value!r}"[:200])
