"""Defines the schema of utterances, and reads and writes the Parquet files that hold them."""

from __future__ import annotations

import atexit
import glob
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from itertools import islice
from pathlib import Path
from tempfile import gettempdir

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, Features, Value, concatenate_datasets, config
from datasets.exceptions import DatasetsError
from filelock import FileLock

from ..atomic import atomic_write, temporary_folder, writing
from ..error_line import error_line
from ..remote_path import AnyPath, RemotePath, matching_paths, parquet_source
from ..storage import RemoteFile, StorageError, file_version
from .rows import BLOCK, blocks, duplicated_ids, filter_rows, with_offsets
from .summary import (
    SpeechTotals,
    Summarizer,
    Summary,
    file_metadata,
    file_summary,
    joined,
    languages_in,
    remember_summary,
)

FEATURES = Features(
    {
        "id": Value("string"),
        # A file, and the start and end of a part in seconds; null means the whole file. If a recording lies in a
        # container, path is the container; offset and size are its bytes in a tar (after decompression), or offset is
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
        "text": Value("string"),  # null if there is no transcript
        "speaker": Value("string"),
        "source": Value("string"),  # author of the text: `human`, the revision of a teacher, or `reference`
    }
)

NOT_WRITTEN = "an utterance from row {} on cannot be written"
DAMAGED = "cannot be read, it is damaged or not an utterance file"
CHECKED = ["id", "language", "duration_seconds", "audio"]  # columns whose values `_check_rows` checks
REQUIRED = {"id", "language", "duration_seconds", "audio.path"}
SECONDS, BYTES = {"duration_seconds", "audio.start", "audio.end"}, {"audio.offset", "audio.size"}
STRINGS = {"id", "audio.path", "language", "text", "speaker", "source"}
# Columns with few values, also of files that have more columns. Dictionaries of the others would take half of the time
# of writing, and save no room.
REPEATED = ["language", "speaker", "source", "predicted_language", "error"]
# Names of types for messages, the Arrow types that are accepted, and the columns. Optional ones may hold nulls only.
TYPES = (
    ("a string", (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view), STRINGS),
    ("an integer", (pa.types.is_integer,), BYTES),
    ("a number of seconds", (pa.types.is_floating, pa.types.is_integer), SECONDS),
)

_own_caches = ExitStack()  # of this process
atexit.register(_own_caches.close)


def write_utterances(rows: Iterable[dict], path: AnyPath, features: Features = FEATURES, keep: bool = False) -> int:
    """Streams utterances into a Parquet file, as `write_tables` does; returns the number of rows."""
    rows, schema = iter(rows), features.arrow_schema

    def tables() -> Iterator[pa.Table]:
        written = 0
        while block := list(islice(rows, BLOCK)):
            with arrow_errors(path, NOT_WRITTEN.format(written)):
                table = pa.Table.from_pylist(block, schema=schema)
            yield table
            written += len(table)

    return write_tables(tables(), path, schema, keep)


class TableSummarizer:
    """Summarises the tables of a file as far as they are utterances that `read_utterances` accepts."""

    def __init__(self, columns: Collection[str] = FEATURES):
        self.summarizer = Summarizer() if FEATURES.keys() <= set(columns) else None

    def add(self, table: pa.Table) -> None:
        if self.summarizer is not None:
            try:
                _check_rows(table, "", 0)
                self.summarizer.add(table)
            except ValueError:  # it is the reader's to say so
                self.summarizer = None

    def summary(self) -> Summary | None:
        return None if self.summarizer is None else self.summarizer.summary()


def write_tables(
    tables: Iterable[pa.Table],
    path: AnyPath,
    schema: pa.Schema,
    keep: bool = False,
    summary: Callable[[], Summary | None] | None = None,
) -> int:
    """Streams tables of utterances, each as a row group, into a Parquet file; returns the number of rows.

    The file appears when it is complete. A summary of its rows is in its footer.

    Args:
        keep: of `atomic_write`.
        summary: returns that of all rows, or None for no summary, when they are written; by default they are
            summarised as they are written.
    """
    written, summarizer = 0, TableSummarizer(schema.names if summary is None else ())
    with (
        atomic_write(path, keep=keep) as partial,
        pq.ParquetWriter(partial, schema, write_page_checksum=True, use_dictionary=REPEATED) as writer,
    ):
        for table in tables:
            with arrow_errors(path, NOT_WRITTEN.format(written)):
                writer.write_table(table)
            summarizer.add(table)
            written += len(table)
        known = summarizer.summary() if summary is None else summary()
        writer.add_key_value_metadata(file_metadata(known, partial.stat().st_size))
    return written


@contextmanager
def arrow_errors(path: str | AnyPath, problem: str) -> Iterator[None]:
    """Converts errors of Arrow and datasets to a ValueError of one line with `path`; other OSErrors pass through."""
    try:
        yield
    except StorageError:  # its line has the path
        raise
    except (pa.ArrowException, DatasetsError, UnicodeError) as error:
        reason = error.__cause__ if isinstance(error, DatasetsError) and error.__cause__ else error
        raise ValueError(f"{path}: {problem}: {error_line(reason)}") from error
    except OSError as error:
        if error.errno is not None:  # of the system, such as a full disk; Arrow's own, of damaged files, have none
            raise
        raise ValueError(f"{path}: {problem}: {error_line(error)}") from error


def utterance_files(paths: Iterable[str | AnyPath]) -> Iterator[tuple[AnyPath, int]]:
    """Yields files and their numbers of rows; raises as `read_utterances` does."""
    for path, metadata in _files(paths):
        yield path, metadata.num_rows


def _files(paths: Iterable[str | AnyPath]) -> Iterator[tuple[AnyPath, pq.FileMetaData]]:
    for pattern in map(str, paths):
        for path in matching_paths(pattern):
            source = opened(path)
            with arrow_errors(path, "not an utterance file, it is no Parquet file or is damaged"):
                metadata = pq.read_metadata(source)
                schema = metadata.schema.to_arrow_schema()
            if missing := set(FEATURES) - set(schema.names):
                raise ValueError(f"{path}: not an utterance file, it has no column {', '.join(sorted(missing))}")
            _check_types(schema, path)
            yield path, metadata


def opened(path: AnyPath) -> Path | RemoteFile:
    """Returns what pyarrow reads an utterance file from. Raises FileNotFoundError where there is none."""
    if isinstance(path, Path) and not path.is_file():
        raise FileNotFoundError(f"{path}: no such utterance file; `hf-mlpl prepare-data` writes them")
    return parquet_source(path)


def _check_types(schema: pa.Schema, path: AnyPath) -> None:
    audio = schema.field("audio").type
    if not pa.types.is_struct(audio) or audio.get_field_index("path") < 0:
        raise ValueError(f"{path}: audio holds {audio}; a struct with path, offset, size, start and end is accepted")
    types = {column.name: column.type for column in schema} | {f"audio.{part.name}": part.type for part in audio}
    for accepted, checks, names in TYPES:
        for name in sorted(names & types.keys()):
            kind = types[name].value_type if pa.types.is_dictionary(types[name]) else types[name]
            if not any(check(kind) for check in checks) and not (name not in REQUIRED and pa.types.is_null(kind)):
                raise ValueError(f"{path}: {name} holds {types[name]}; {accepted} is accepted")


def _check_rows(block: pa.Table, path: str | AnyPath, first: int) -> None:
    """Checks the columns of `CHECKED` in a block whose first row has the number `first` in its file.

    Raises:
        ValueError: for the first null in a required column, negative number, infinity or NaN.
    """
    columns = block.select([name for name in CHECKED if name in block.column_names]).flatten()
    for name in columns.column_names:
        column = columns[name]
        if is_number := name in SECONDS | BYTES:
            numbers = column.cast(pa.float64())
            is_invalid = pc.or_(pc.invert(pc.is_finite(numbers)), pc.less(numbers, 0))
            is_invalid = pc.fill_null(is_invalid, name in REQUIRED)
        elif name in REQUIRED:
            is_invalid = column.is_null()
        else:  # of an audio struct with more fields than ours
            continue
        if (row := is_invalid.index(True).as_py()) >= 0:
            utterance = f" (id {columns['id'][row]})" if "id" in columns.column_names else ""
            raise ValueError(
                f"{path}: row {first + row}{utterance}: {name} is {column[row]}; "
                f"{'a finite number, 0 or more,' if is_number else 'a text'} is accepted"
            )


def read_columns(paths: Iterable[str | AnyPath], columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yields columns of utterance files, 10,000 rows at a time; raises as `read_utterances` does."""
    for path, _ in utterance_files(paths):
        with arrow_errors(path, DAMAGED), pq.ParquetFile(opened(path)) as file:
            tables = (pa.Table.from_batches([batch]) for batch in file.iter_batches(BLOCK, columns=list(columns)))
            for first, block in with_offsets(tables):
                _check_rows(block, path, first)
                yield block


def languages_of(paths: Iterable[str | AnyPath]) -> list[str]:
    """Returns the languages of utterance files, sorted; raises as `read_utterances` does."""
    languages: set[str] = set()
    for path, metadata in _files(paths):
        if (summary := file_summary(metadata)) is not None:
            languages.update(summary.languages)
        else:
            for block in read_columns([path], ["language"]):
                languages.update(block["language"].unique().to_pylist())
    return sorted(languages)


def speech_totals(paths: Iterable[str | AnyPath]) -> dict[str, SpeechTotals]:
    """Counts the speech of each language in utterance files, sorted by language; raises as `read_utterances` does."""
    totals: dict[str, SpeechTotals] = defaultdict(SpeechTotals)
    for path, metadata in _files(paths):
        if (summary := file_summary(metadata)) is not None:
            counted = [summary.totals()]
        else:
            counted = map(_totals_of_block, read_columns([path], ["language", "duration_seconds"]))
        for each in counted:
            for language, amount in each.items():
                totals[language] += amount
    return dict(sorted(totals.items()))


def _totals_of_block(block: pa.Table) -> dict[str, SpeechTotals]:
    seconds = block["duration_seconds"].cast(pa.float64())  # the squares of integers may have too many digits
    table = block.append_column("squared", pc.multiply(seconds, seconds))
    sums = [(column, "sum") for column in ("duration_seconds", "squared")]
    sums = [("duration_seconds", "count"), *sums, ("duration_seconds", "max")]
    rows = table.group_by("language").aggregate(sums).to_pylist()
    return {row["language"]: SpeechTotals(*(row[f"{column}_{function}"] for column, function in sums)) for row in rows}


def read_utterances(
    paths: Iterable[str | AnyPath], languages: Sequence[str] | None = None, is_checked: bool = False
) -> Dataset:
    """Reads utterance files, one after another, as a memory-mapped data set of exactly the columns of `FEATURES`.

    Where all files have a summary, it says what else each row would be looked at for, and `summary_of` returns it.

    Args:
        paths: also URLs, such as `s3://bucket/train.parquet`. A name with `*` means all files that match it, in the
            order of their names.
        languages: locales to keep; by default all.
        is_checked: another process of the job has read the same, so that neither numbers nor ids are checked again.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: for a damaged file, a column that is missing or has another type, a null or an impossible number,
            two utterances with the same id, or a language without utterances.
    """
    parts, summaries = [], []
    for path, metadata in _files(paths):
        summaries.append(file_summary(metadata))
        parts.append((path, _read_file(path, metadata.num_rows, is_checked or summaries[-1] is not None)))
    if not parts:
        raise ValueError("no utterance files were given")
    dataset, summary = concatenate_datasets([part for _, part in parts]), joined(summaries)
    remember_summary(dataset, summary)
    if not is_checked and (summary is None or summary.ids is None):
        _check_ids(dataset, parts)
    if languages is None:
        return dataset
    present = languages_in(dataset)
    if missing := sorted(set(languages) - set(present)):
        names, accepted = ", ".join(map(str, paths)), ", ".join(present) or "none at all"
        raise ValueError(f"{names}: no utterances of {', '.join(missing)}; there are {accepted}")
    if set(languages) == set(present):
        return dataset
    chosen = pa.array(languages, pa.string())
    kept = filter_rows(dataset, ["language"], lambda block: pc.is_in(block["language"], chosen).to_numpy())
    remember_summary(kept, summary and summary.of_languages(languages))
    return kept


def _check_ids(dataset: Dataset, parts: Sequence[tuple[AnyPath, Dataset]]) -> None:
    """Raises a ValueError for two utterances with the same id, with the files that have them."""
    if duplicates := duplicated_ids(dataset):
        first_duplicate = pa.array(duplicates[:1], pa.string())
        files = [
            str(path)
            for path, part in parts
            if any(pc.any(pc.is_in(block["id"], first_duplicate)).as_py() for block in blocks(part, ["id"]))
        ]
        raise ValueError(
            f"{len(duplicates)} ids stand for more than one utterance, {duplicates[0]} among them, in "
            f"{' and '.join(files)}; each utterance needs an id of its own, which "
            "`hf-mlpl prepare-data` gives to all that it prepares together"
        )


def _read_file(path: AnyPath, num_rows: int, is_checked: bool) -> Dataset:
    if not num_rows:  # from_parquet refuses such a file
        return Dataset(FEATURES.arrow_schema.empty_table())
    local, cache = _local_copy(path) if isinstance(path, RemotePath) else (path, None)
    pattern = glob.escape(str(local))  # from_parquet takes a path for a pattern
    with writing(config.HF_DATASETS_CACHE), arrow_errors(path, DAMAGED):
        # blocks of 1000 rows, the default, take longer
        dataset = Dataset.from_parquet(
            pattern, columns=list(FEATURES), features=FEATURES, writer_batch_size=BLOCK, cache_dir=cache
        )
    for first, block in with_offsets(blocks(dataset, CHECKED)) if not is_checked else ():
        _check_rows(block, path, first)
    return dataset


def _local_copy(path: RemotePath) -> tuple[Path, str | None]:
    """Downloads a file into the cache of datasets; returns its copy, and where datasets may keep its tables.

    datasets would not download it where the Hub must not be reached (`HF_HUB_OFFLINE`).
    """
    size, version = file_version(path.url)
    folder, cache = Path(config.HF_DATASETS_CACHE, "hf_mlpl"), None
    if version is None:  # a copy of an older file would not be told from this one
        folder = _own_caches.enter_context(temporary_folder(gettempdir(), "partial"))
        cache = str(folder)
    copy = folder / f"{sha256(repr((path.url, size, version)).encode()).hexdigest()[:32]}.parquet"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{copy}.lock"):
        if not copy.exists():
            with atomic_write(copy) as partial:
                path.download(partial)
    return copy, cache
