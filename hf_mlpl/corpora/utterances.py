"""The one schema of the project, an utterance, and the Parquet files that carry utterances between stages."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, Features, Value, concatenate_datasets, config

from ..atomic import writing, written_whole
from ..audio import AudioError, audio_duration

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
        line = f"{where}: {reason}" + (f": {detail}" if detail else "")
        self.lines.append(line.encode(errors="backslashreplace").decode())  # names of files need not be UTF-8

    def note(self, line: str) -> None:
        """Keeps a line about something for which no row is dropped; once, however often it is found."""
        if line not in self.notes:
            self.notes.append(line)
            self.lines.append(line)

    @property
    def kept(self) -> int:
        return self.read - self.dropped.total()

    def summary(self) -> str:
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.dropped.most_common())
        return f"{self.read} rows read, {self.kept} kept" + (f"; dropped: {reasons}" if reasons else "")


def with_durations(rows: Iterable[tuple[str, dict]], report: ReadingReport, num_threads: int = 8) -> Iterator[dict]:
    """Adds `duration_seconds` from the files' headers; drops unreadable and empty files with a line in the report.

    Args:
        rows: pairs of `file:row` and an utterance without duration, whose audio is a whole recording.
    """

    def measure(row):
        path = row[1]["audio"]["path"].encode(errors="backslashreplace").decode()
        if path != row[1]["audio"]["path"]:
            return AudioError(f"{path}: has a name that is not UTF-8")  # and could not be written down
        try:
            return audio_duration(row[1]["audio"])
        except AudioError as error:
            return error

    rows = iter(rows)
    with ThreadPoolExecutor(num_threads) as threads:
        while block := list(islice(rows, 4096)):  # in blocks: a release has millions of rows
            for (where, row), duration in zip(block, threads.map(measure, block), strict=True):
                if isinstance(duration, AudioError):
                    report.drop("unreadable audio", where, str(duration))
                elif not duration:
                    report.drop("no samples", where, row["audio"]["path"])
                else:
                    yield {**row, "duration_seconds": duration}


def write_utterances(rows: Iterable[dict], path: Path, features: Features = FEATURES) -> int:
    """Streams utterances into a Parquet file, which appears under its name only when it is whole; returns the rows."""
    rows, written = iter(rows), 0
    with written_whole(path) as partial, pq.ParquetWriter(partial, features.arrow_schema) as writer:
        while block := list(islice(rows, 10_000)):
            writer.write_table(pa.Table.from_pylist(block, schema=features.arrow_schema))
            written += len(block)
    return written


def _utterance_files(paths: Iterable[str | Path]) -> Iterator[tuple[Path, int]]:
    """Files and their numbers of rows; raises what `read_utterances` says."""
    for given in paths:
        matching = sorted(glob.glob(str(given))) if "*" in str(given) else [given]
        for path in map(Path, matching or [given]):
            if not path.is_file():
                raise FileNotFoundError(f"{path}: no such utterance file; recipes/prepare_data.py writes them")
            try:
                metadata = pq.read_metadata(path)
            except pa.ArrowInvalid as error:
                raise ValueError(f"{path}: not an utterance file, it is no Parquet file or is damaged") from error
            missing = set(FEATURES) - set(metadata.schema.to_arrow_schema().names)
            if missing:
                raise ValueError(f"{path}: not an utterance file, it has no column {', '.join(sorted(missing))}")
            yield path, metadata.num_rows


def languages_of(paths: Iterable[str | Path]) -> list[str]:
    """The languages of utterance files, sorted; raises as `read_utterances` does."""
    columns = [pq.read_table(path, columns=["language"])["language"] for path, _ in _utterance_files(paths)]
    return sorted({language for column in columns for language in column.unique().to_pylist()})


@dataclass(frozen=True)
class Amount:
    """How much speech there is: utterances, their seconds, and the sum of their squared seconds."""

    utterances: int = 0
    seconds: float = 0.0
    squared_seconds: float = 0.0

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            self.utterances + other.utterances,
            self.seconds + other.seconds,
            self.squared_seconds + other.squared_seconds,
        )


def amounts_of(paths: Iterable[str | Path]) -> dict[str, Amount]:
    """The speech of each language in utterance files, sorted by language; raises as `read_utterances` does."""
    amounts: dict[str, Amount] = {}
    for path, _ in _utterance_files(paths):
        table = pq.read_table(path, columns=["language", "duration_seconds"])
        seconds = table["duration_seconds"]
        table = table.append_column("squared", pc.multiply(seconds, seconds)).group_by("language")
        sums = table.aggregate([("duration_seconds", "count"), ("duration_seconds", "sum"), ("squared", "sum")])
        for row in sums.to_pylist():
            amount = Amount(row["duration_seconds_count"], row["duration_seconds_sum"], row["squared_sum"])
            amounts[row["language"]] = amounts.get(row["language"], Amount()) + amount
    return dict(sorted(amounts.items()))


def read_utterances(paths: Iterable[str | Path], languages: Sequence[str] | None = None) -> Dataset:
    """Utterance files, one after another, as a memory-mapped data set of exactly the columns of `FEATURES`.

    Args:
        paths: with `*` in a name for all files that match, in the order of their names.
        languages: Locales to keep; by default all.

    Raises:
        FileNotFoundError: for a file that is not there.
        ValueError: for a file without a column of the schema, two utterances of one id, a language without any.
    """
    parts = []
    for path, num_rows in _utterance_files(paths):
        if num_rows:
            pattern = glob.escape(str(path))  # from_parquet takes a path for a pattern
            with writing(config.HF_DATASETS_CACHE):
                parts.append(Dataset.from_parquet(pattern, columns=list(FEATURES), features=FEATURES))
        else:  # which from_parquet refuses
            parts.append(Dataset(FEATURES.arrow_schema.empty_table()))
    if not parts:
        raise ValueError("no utterance files were given")
    dataset = concatenate_datasets(parts)
    duplicates = [name for name, count in Counter(dataset["id"][:]).items() if count > 1]
    if duplicates:
        raise ValueError(f"{len(duplicates)} ids stand for more than one utterance, {duplicates[0]} among them")
    if languages is None:
        return dataset
    spoken = dataset["language"][:]
    found = set(spoken)
    if missing := sorted(set(languages) - found):
        files, there = ", ".join(map(str, paths)), ", ".join(sorted(found)) or "none at all"
        raise ValueError(f"{files}: no utterances of {', '.join(missing)}; there are {there}")
    return dataset.select([row for row, language in enumerate(spoken) if language in languages])
