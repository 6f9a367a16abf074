"""The one schema of the project, an utterance, and the Parquet files that carry utterances between stages."""

from __future__ import annotations

import glob
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, Features, Value, concatenate_datasets, config
from datasets.exceptions import DatasetsError
from datasets.table import InMemoryTable

from ..atomic import atomic_write, writing
from ..audio import AudioError, audio_duration
from ..error_line import error_line

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


BLOCK = 10_000  # rows that are read or written at a time
DAMAGED = "cannot be read, it is damaged or not an utterance file"
CHECKED = ("id", "language", "duration_seconds", "audio")
REQUIRED = {"id", "language", "duration_seconds", "audio.path"}
NUMBERS = ("duration_seconds", "audio.offset", "audio.size", "audio.start", "audio.end")
# What columns may hold, for people and as what tells it of an Arrow type; null, too, where nothing is required.
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


@dataclass
class ReadingReport:
    """What a corpus reader kept and dropped: counts by reason, and one line with file and row for each drop."""

    read: int = 0
    dropped: Counter = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def drop(self, reason: str, where: str, detail: str = "") -> None:
        """Counts one row under `reason`; `where` is `file:row`."""
        self.dropped[reason] += 1
        self.lines.append(one_line(f"{where}: {reason}" + (f": {detail}" if detail else "")))

    def note(self, line: str) -> None:
        """Keeps a line about something for which no row is dropped; once, however often it is found."""
        if (line := one_line(line)) not in self.notes:
            self.notes.append(line)
            self.lines.append(line)

    @property
    def kept(self) -> int:
        return self.read - self.dropped.total()

    def summary(self) -> str:
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.dropped.most_common())
        return f"{self.read} rows read, {self.kept} kept" + (f"; dropped: {reasons}" if reasons else "")


def printable(line: str) -> str:
    """A line that can be written as UTF-8: names of files need not be."""
    return line.encode(errors="backslashreplace").decode()


def one_line(text: str) -> str:
    """Returns a printable line; names of files may have line breaks, too."""
    return printable(text).replace("\r", "\\r").replace("\n", "\\n")


def audio_problem(error: Exception, audio: dict) -> str:
    """Why a recording cannot be decoded, `FILE: why`; decoders may raise anything."""
    if isinstance(error, AudioError):
        return str(error)
    return f"{audio['path']}: cannot be decoded: {error_line(error, with_type=True)}"


def with_durations(rows: Iterable[tuple[str, dict]], report: ReadingReport, num_threads: int = 8) -> Iterator[dict]:
    """Adds `duration_seconds` from the files' headers; drops unreadable and empty files with a line in the report.

    Args:
        rows: pairs of `file:row` and an utterance without duration, whose audio is a whole recording.
    """

    def measure(row):
        path = printable(row[1]["audio"]["path"])
        if path != row[1]["audio"]["path"]:
            return AudioError(f"{path}: has a name that is not UTF-8")  # and could not be written down
        try:
            return audio_duration(row[1]["audio"])
        except Exception as error:
            return AudioError(audio_problem(error, row[1]["audio"]))

    rows = iter(rows)
    with ThreadPoolExecutor(num_threads) as threads:
        while block := list(islice(rows, 4096)):  # in blocks: a release has millions of rows
            for (where, row), duration in zip(block, threads.map(measure, block), strict=True):
                if isinstance(duration, AudioError):
                    report.drop("unreadable audio", where, str(duration))
                elif not 0 < duration < math.inf:  # nor NaN, which an utterance file must not hold
                    report.drop("no samples", where, row["audio"]["path"])
                else:
                    yield {**row, "duration_seconds": duration}


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
    """Files and their numbers of rows; raises what `read_utterances` says."""
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
    """Looks at what is there of `id`, `language`, `duration_seconds` and `audio` in a part of an utterance file.

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
    """Columns of utterance files, 10,000 rows at a time; raises as `read_utterances` does."""
    for path, _ in utterance_files(paths):
        first = 0
        with arrow_errors(path, DAMAGED), pq.ParquetFile(path) as file:
            for block in file.iter_batches(BLOCK, columns=list(columns)):
                check_rows(block, path, first)
                yield block
                first += len(block)


def languages_of(paths: Iterable[str | Path]) -> list[str]:
    """The languages of utterance files, sorted; raises as `read_utterances` does."""
    return sorted(
        {name for block in read_columns(paths, ["language"]) for name in block["language"].unique().to_pylist()}
    )


@dataclass(frozen=True)
class SpeechTotals:
    """How much speech there is: utterances, their seconds, and the sum of their squared seconds."""

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
    """The speech of each language in utterance files, sorted by language; raises as `read_utterances` does."""
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
    """Utterance files, one after another, as a memory-mapped data set of exactly the columns of `FEATURES`.

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
    if duplicates := _duplicates(dataset):
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
        files, there = ", ".join(map(str, paths)), ", ".join(found) or "none at all"
        raise ValueError(f"{files}: no utterances of {', '.join(missing)}; there are {there}")
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


# Millions of rows: what follows goes through them in blocks, as Arrow tables, and keeps a few bytes of each.


def blocks(dataset: Dataset, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Columns of a data set in its order, 10,000 rows at a time."""
    indices = dataset._indices and dataset._indices.column("indices")
    for first in range(0, len(dataset), BLOCK):
        if indices is None:
            yield dataset.data.fast_slice(first, BLOCK).select(columns)
            continue
        rows = indices.slice(first, BLOCK).to_numpy().astype(np.int64)
        lowest, span = rows.min(), np.ptp(rows) + 1
        if span < 100 * BLOCK:  # the rows of a filter: gathering them one by one takes 50 times as long
            yield dataset.data.fast_slice(lowest, span).select(columns).take(rows - lowest)
        else:
            yield dataset.select_columns(list(columns)).with_format("arrow")[first : first + BLOCK]


def durations_of(dataset: Dataset) -> np.ndarray:
    """(N,) seconds, 8 bytes an utterance."""
    durations, first = np.empty(len(dataset)), 0
    for block in blocks(dataset, ["duration_seconds"]):
        durations[first : first + len(block)] = block["duration_seconds"].to_numpy()
        first += len(block)
    return durations


class Column:
    """Values of a column, `column[row]`, which are read from the mapped file when they are asked for."""

    def __init__(self, dataset: Dataset, name: str):
        self.values, indices = dataset.data.column(name), dataset._indices
        self.rows = range(len(dataset)) if indices is None else indices.column("indices").to_numpy()

    def __getitem__(self, row: int):
        return self.values[int(self.rows[row])].as_py()


def distinct(dataset: Dataset, column: str) -> list:
    """The values of a column, sorted, each once; there should be few. Raises ValueError for a null among them."""
    values = {value for block in blocks(dataset, [column]) for value in block[column].unique().to_pylist()}
    if None in values:
        raise ValueError(f"an utterance of the data set has a null as {column}; a value in every row is accepted")
    return sorted(values)


def filter_rows(dataset: Dataset, columns: Sequence[str], wanted: Callable[[pa.Table], np.ndarray]) -> Dataset:
    """The rows for which `wanted`, given blocks of some columns, is true; 8 bytes for each that is kept."""
    rows, first = [np.empty(0, np.uint64)], 0
    for block in blocks(dataset, columns):
        rows.append((first + np.flatnonzero(wanted(block))).astype(np.uint64))
        first += len(block)
    rows = np.concatenate(rows)
    return dataset if len(rows) == len(dataset) else select_rows(dataset, rows)


def select_rows(dataset: Dataset, rows: np.ndarray) -> Dataset:
    """The rows with these numbers, in their order; 8 bytes for each.

    `Dataset.select` would make Python objects of all row numbers.
    """
    if dataset._indices is not None:
        rows = dataset._indices.column("indices").to_numpy()[rows]
    rows = rows.astype(np.uint64)
    return Dataset(
        dataset.data,
        info=dataset.info,
        split=dataset.split,
        indices_table=InMemoryTable(pa.table({"indices": pa.array(rows, pa.uint64())})),
        fingerprint=hashlib.sha256(dataset._fingerprint.encode() + rows.tobytes()).hexdigest()[:16],
    )


def sorted_by_id(dataset: Dataset) -> Dataset:
    """All rows in the order of their ids' bytes; memory holds the ids while they are sorted."""
    ids = [chunk for block in blocks(dataset, ["id"]) for chunk in block["id"].chunks]
    return select_rows(dataset, pc.sort_indices(pa.chunked_array(ids, pa.string())).to_numpy())


def _duplicates(dataset: Dataset) -> list[str]:
    """Ids of more than one utterance, in their order. Takes 16 bytes an utterance: hashes first, then the suspects."""
    hashes = [id_hashes(block["id"].combine_chunks()) for block in blocks(dataset, ["id"])]
    ordered = np.concatenate([np.empty(0, np.uint64), *hashes])
    ordered.sort()
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(twice):
        return []
    suspects = [
        block["id"].filter(pa.array(np.isin(of_block, twice))).to_pylist()
        for block, of_block in zip(blocks(dataset, ["id"]), hashes, strict=True)
    ]
    return [name for name, count in Counter(chain.from_iterable(suspects)).items() if count > 1]


def id_hashes(names: pa.Array) -> np.ndarray:
    """(N,) hashes of strings: sums of their bytes with a random factor for each position, modulo 2^64."""
    offset_type = np.int64 if pa.types.is_large_string(names.type) else np.int32
    offsets = np.frombuffer(names.buffers()[1], offset_type)[names.offset : names.offset + len(names) + 1].astype(int)
    text = np.frombuffer(names.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
    lengths, starts = np.diff(offsets), offsets[:-1] - offsets[0]
    positions = np.arange(len(text)) - np.repeat(starts, lengths)
    factors = np.random.default_rng(0).integers(2**64, size=lengths.max(initial=0), dtype=np.uint64)
    sums = np.concatenate([[np.uint64(0)], np.cumsum((text.astype(np.uint64) + np.uint64(1)) * factors[positions])])
    return sums[starts + lengths] - sums[starts]
