"""Defines the project's one schema, the utterance, and reads and writes the Parquet files that carry utterances."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, Features, Value, concatenate_datasets, config
from datasets.exceptions import DatasetsError

from ..atomic import atomic_write, writing
from ..error_line import error_line
from .rows import BLOCK, blocks, distinct, duplicated_ids, filter_rows

FEATURES = Features(
    {
        "id": Value("string"),
        # The file, and the part of it in seconds; without start and end the whole file. Of a recording in a container,
        # path is the container, and offset and size its bytes in a tar (unpacked, if that is compressed), or offset
        # its row in a Parquet file.
        "audio": {
            "path": Value("string"),
            "offset": Value("int64"),
            "size": Value("int64"),
            "start": Value("float64"),
            "end": Value("float64"),
        },
        "duration_seconds": Value("float64"),
        "language": Value("string"),  # Common Voice's locale code, `sv-SE`
        "text": Value("string"),  # null where nobody has transcribed the utterance
        "speaker": Value("string"),
        "source": Value("string"),  # whose the text is: `human`, the revision of a teacher, or `reference`
    }
)


DAMAGED = "cannot be read, it is damaged or not an utterance file"
CHECKED = ("id", "language", "duration_seconds", "audio")
REQUIRED = {"id", "language", "duration_seconds", "audio.path"}
NUMBERS = ("duration_seconds", "audio.offset", "audio.size", "audio.start", "audio.end")
# What columns may hold, in words and as tests of an Arrow type; null, too, where nothing is required.
KINDS = {
    "a string": (
        (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
        {"id", "audio.path", "language", "text", "speaker", "source"},
    ),
    "an integer": ((pa.types.is_integer,), {"audio.offset", "audio.size"}),
    "a number of seconds": (
        (pa.types.is_floating, pa.types.is_integer),
        {"duration_seconds", "audio.start", "audio.end"},
    ),
}


def write_utterances(rows: Iterable[dict], path: Path, features: Features = FEATURES) -> int:
    """Streams utterances into a Parquet file, which appears under its name only when it is whole; returns the rows."""
    rows, written = iter(rows), 0
    with (
        atomic_write(path) as partial,
        pq.ParquetWriter(partial, features.arrow_schema, write_page_checksum=True) as writer,
    ):
        while block := list(islice(rows, BLOCK)):
            with arrow_errors(path, f"an utterance from row {written} on cannot be written"):
                writer.write_table(pa.Table.from_pylist(block, schema=features.arrow_schema))
            written += len(block)
    return written


@contextmanager
def arrow_errors(path: str | Path, problem: str) -> Iterator[None]:
    """Makes one line, a ValueError that names `path`, of whatever Arrow and datasets raise, but for full disks."""
    try:
        yield
    except (pa.ArrowException, DatasetsError, UnicodeError) as error:
        reason = error.__cause__ if isinstance(error, DatasetsError) and error.__cause__ else error
        raise ValueError(f"{path}: {problem}: {error_line(reason)}") from error
    except OSError as error:
        if error.errno is not None:  # of the system; Arrow's own, about damaged files, have none
            raise
        raise ValueError(f"{path}: {problem}: {error_line(error)}") from error


def utterance_files(paths: Iterable[str | Path]) -> Iterator[tuple[Path, int]]:
    """Yields files and their numbers of rows; raises as `read_utterances` does."""
    for given in paths:
        matching = sorted(glob.glob(str(given))) if "*" in str(given) else [given]
        for path in map(Path, matching or [given]):
            if not path.is_file():
                raise FileNotFoundError(f"{path}: no such utterance file; `hf-mlpl prepare-data` writes them")
            with arrow_errors(path, "not an utterance file, it is no Parquet file or is damaged"):
                metadata = pq.read_metadata(path)
                schema = metadata.schema.to_arrow_schema()
            if missing := set(FEATURES) - set(schema.names):
                raise ValueError(f"{path}: not an utterance file, it has no column {', '.join(sorted(missing))}")
            _check_types(schema, path)
            yield path, metadata.num_rows


def _check_types(schema: pa.Schema, path: Path) -> None:
    audio = schema.field("audio").type
    if not pa.types.is_struct(audio) or audio.get_field_index("path") < 0:
        raise ValueError(f"{path}: audio holds {audio}; a struct with path, offset, size, start and end is accepted")
    types = {column.name: column.type for column in schema} | {f"audio.{part.name}": part.type for part in audio}
    for accepted, (kinds, names) in KINDS.items():
        for name in sorted(names & types.keys()):
            kind = types[name].value_type if pa.types.is_dictionary(types[name]) else types[name]
            if not any(is_kind(kind) for is_kind in kinds) and not (name not in REQUIRED and pa.types.is_null(kind)):
                raise ValueError(f"{path}: {name} holds {types[name]}; {accepted} is accepted")


def check_rows(block: pa.RecordBatch | pa.Table, path: str | Path, first: int) -> None:
    """Checks those of the columns of `CHECKED` that a part of an utterance file has.

    Args:
        first: number of its first row.

    Raises:
        ValueError: for the first row that has a null where there must be none, or a number that cannot be.
    """
    columns = {name: block[name] for name in CHECKED if name in block.schema.names}
    columns = {name: c.combine_chunks() if isinstance(c, pa.ChunkedArray) else c for name, c in columns.items()}
    if "audio" in columns:
        audio = columns.pop("audio")
        columns |= {f"audio.{field.name}": child for field, child in zip(audio.type, audio.flatten(), strict=True)}
    for name, column in columns.items():
        wrong = column.is_null() if column.null_count and name in REQUIRED else None
        if name in NUMBERS:
            numbers = column.cast(pa.float64())
            cannot_be = pc.fill_null(pc.or_(pc.invert(pc.is_finite(numbers)), pc.less(numbers, 0)), False)
            wrong = cannot_be if wrong is None else pc.or_(wrong, cannot_be)
        if wrong is not None and (row := wrong.index(True).as_py()) >= 0:
            named = f" (id {columns['id'][row]})" if "id" in columns else ""
            raise ValueError(
                f"{path}: row {first + row}{named}: {name} is {column[row]}; "
                f"{'a finite number, 0 or more,' if name in NUMBERS else 'a text'} is accepted"
            )


def read_columns(paths: Iterable[str | Path], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yields columns of utterance files, 10,000 rows at a time; raises as `read_utterances` does."""
    for path, _ in utterance_files(paths):
        first = 0
        with arrow_errors(path, DAMAGED), pq.ParquetFile(path) as file:
            for block in file.iter_batches(BLOCK, columns=list(columns)):
                check_rows(block, path, first)
                yield block
                first += len(block)


def languages_of(paths: Iterable[str | Path]) -> list[str]:
    """Returns the languages of utterance files, sorted; raises as `read_utterances` does."""
    return sorted(
        {name for block in read_columns(paths, ["language"]) for name in block["language"].unique().to_pylist()}
    )


@dataclass(frozen=True)
class SpeechTotals:
    """Counts utterances, their seconds, and the sum of their squared seconds."""

    utterances: int = 0
    seconds: float = 0.0
    squared_seconds: float = 0.0

    def __add__(self, other: SpeechTotals) -> SpeechTotals:
        return SpeechTotals(
            self.utterances + other.utterances,
            self.seconds + other.seconds,
            self.squared_seconds + other.squared_seconds,
        )


def speech_totals(paths: Iterable[str | Path]) -> dict[str, SpeechTotals]:
    """Counts the speech of each language in utterance files, sorted by language; raises as `read_utterances` does."""
    amounts: dict[str, SpeechTotals] = {}
    for block in read_columns(paths, ["language", "duration_seconds"]):
        seconds = block["duration_seconds"]
        table = pa.table(
            [block["language"], seconds, pc.multiply(seconds, seconds)], ["language", "seconds", "squared"]
        )
        sums = table.group_by("language").aggregate([("seconds", "count"), ("seconds", "sum"), ("squared", "sum")])
        for row in sums.to_pylist():
            amount = SpeechTotals(row["seconds_count"], row["seconds_sum"], row["squared_sum"])
            amounts[row["language"]] = amounts.get(row["language"], SpeechTotals()) + amount
    return dict(sorted(amounts.items()))


def read_utterances(paths: Iterable[str | Path], languages: Sequence[str] | None = None) -> Dataset:
    """Reads utterance files, one after another, as a memory-mapped data set of exactly the columns of `FEATURES`.

    Args:
        paths: with `*` in a name for all files that match, in the order of their names.
        languages: Locales to keep; by default all.

    Raises:
        FileNotFoundError: for a file that is not there.
        ValueError: for a file that is damaged or lacks a column of the schema, for a column of another type, a null
            or a number that cannot be in one of its rows, two utterances of one id, a language without any.
    """
    parts = []
    for path, num_rows in utterance_files(paths):
        parts.append((path, _read_file(path) if num_rows else Dataset(FEATURES.arrow_schema.empty_table())))
    if not parts:
        raise ValueError("no utterance files were given")
    dataset = concatenate_datasets([part for _, part in parts])
    if duplicates := duplicated_ids(dataset):
        twice = pa.array(duplicates[:1], pa.string())
        files = [
            str(path)
            for path, part in parts
            if any(pc.any(pc.is_in(block["id"], twice)).as_py() for block in blocks(part, ["id"]))
        ]
        raise ValueError(
            f"{len(duplicates)} ids stand for more than one utterance, {duplicates[0]} among them, in "
            f"{' and '.join(files)}; each utterance needs an id of its own"
        )
    if languages is None:
        return dataset
    found = distinct(dataset, "language")
    if missing := sorted(set(languages) - set(found)):
        files, known = ", ".join(map(str, paths)), ", ".join(found) or "none at all"
        raise ValueError(f"{files}: no utterances of {', '.join(missing)}; there are {known}")
    wanted = pa.array(languages, pa.string())
    return filter_rows(dataset, ["language"], lambda block: pc.is_in(block["language"], wanted).to_numpy())


def _read_file(path: Path) -> Dataset:
    pattern = glob.escape(str(path))  # from_parquet takes a path for a pattern
    with writing(config.HF_DATASETS_CACHE), arrow_errors(path, DAMAGED):
        # blocks of 1000 rows, the default, take longer
        dataset = Dataset.from_parquet(pattern, columns=list(FEATURES), features=FEATURES, writer_batch_size=BLOCK)
    for number, block in enumerate(blocks(dataset, CHECKED)):
        check_rows(block, path, number * BLOCK)
    return dataset
