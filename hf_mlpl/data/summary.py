"""Summarises utterances when they are written, so that later a footer is read in place of all rows.

`data/utterances.py` keeps the summary in the metadata of its Parquet files. A file that another tool has written again
has none, or one that does not fit; then all rows are read, as of older files.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from operator import add
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset

from .collapse import HUMAN, LabelTexts, TextCounts
from .conventions import Conventions, parts_by
from .remembered import remembered
from .rows import blocks, distinct, id_hashes, repeated
from .text_arrays import TextBlock, content_of, join

KEY, VERSION = b"hf_mlpl.summary", 1
COLUMNS = ("id", "language", "source", "text", "duration_seconds")
MOST_GROUPS = 1000  # in a footer, which each process reads


@dataclass(frozen=True)
class SpeechTotals:
    """Counts utterances, their seconds, and the sum of their squared seconds, and has those of the longest one."""

    utterances: int = 0
    seconds: float = 0.0
    squared_seconds: float = 0.0
    longest: float = 0.0

    def __add__(self, other: SpeechTotals) -> SpeechTotals:
        return SpeechTotals(
            self.utterances + other.utterances,
            self.seconds + other.seconds,
            self.squared_seconds + other.squared_seconds,
            max(self.longest, other.longest),
        )


@dataclass(frozen=True)
class Group:
    """Summarises the utterances of one language and one source.

    Args:
        longest: seconds.
        texts: counts of them; the commonest one of groups that were added up is there at most so often.
        conventions: of the texts, as `Conventions` counts them.
        alphabet: all characters of the normalised texts, in order.
    """

    utterances: int = 0
    seconds: float = 0.0
    squared_seconds: float = 0.0
    longest: float = 0.0
    texts: TextCounts = TextCounts()
    conventions: Mapping[str, int] = field(default_factory=dict)
    alphabet: str = ""

    def __add__(self, other: Group) -> Group:
        conventions = Counter(self.conventions)
        conventions.update(other.conventions)
        return Group(
            self.utterances + other.utterances,
            self.seconds + other.seconds,
            self.squared_seconds + other.squared_seconds,
            max(self.longest, other.longest),
            TextCounts(*map(add, self.texts, other.texts)),
            dict(conventions),
            "".join(sorted({*self.alphabet, *other.alphabet})),
        )


@dataclass(frozen=True)
class Summary:
    """Summarises all rows of a data set.

    Args:
        groups: by language and source.
        is_normalized: whether `normalize_text` changes none of the texts.
        ids: the first and the last one in the order of their bytes, if each occurs once; None if that is not known.
        ids_sha256: of `ids_sha256`, None if it is not known.
        rows_sha256: of `rows_sha256`, None if it is not known.
    """

    groups: Mapping[tuple[str, str | None], Group]
    is_normalized: bool
    ids: tuple[str, str] | None = None
    ids_sha256: str | None = None
    rows_sha256: str | None = None

    @property
    def num_rows(self) -> int:
        return sum(group.utterances for group in self.groups.values())

    @property
    def languages(self) -> list[str]:
        return sorted({language for language, _ in self.groups})

    @property
    def longest(self) -> float:
        """Returns the seconds of the longest utterance."""
        return max((group.longest for group in self.groups.values()), default=0.0)

    @property
    def alphabet(self) -> set[str]:
        """Returns all characters of the normalised texts."""
        return {character for group in self.groups.values() for character in group.alphabet}

    def of_language(self, language: str) -> tuple[Group, Group]:
        """Returns the utterances of a language whose texts are of people, and those of teachers."""
        human, pseudo = Group(), Group()
        for (name, source), group in self.groups.items():
            if name == language and source in HUMAN:
                human += group
            elif name == language:
                pseudo += group
        return human, pseudo

    def totals(self) -> dict[str, SpeechTotals]:
        """Counts the speech of each language, sorted."""
        totals = dict.fromkeys(self.languages, SpeechTotals())
        for (language, _), group in self.groups.items():
            totals[language] += SpeechTotals(group.utterances, group.seconds, group.squared_seconds, group.longest)
        return totals

    def of_languages(self, languages: Collection[str]) -> Summary:
        """Returns the summary of the utterances in some languages."""
        groups = {key: group for key, group in self.groups.items() if key[0] in languages}
        return self if len(groups) == len(self.groups) else Summary(groups, self.is_normalized, self.ids)

    def as_dict(self) -> dict:
        groups = [
            {"language": language, "source": source, **asdict(group)}
            for (language, source), group in self.groups.items()
        ]
        return {**vars(self), "groups": groups}

    @classmethod
    def of_dict(cls, content: Mapping) -> Summary:
        """Reads what `as_dict` returns, also after JSON."""
        groups = {}
        for each in map(dict, content["groups"]):
            key, texts = (each.pop("language"), each.pop("source")), TextCounts(*each.pop("texts"))
            groups[key] = Group(**each, texts=texts)
        return cls(**{**content, "groups": groups, "ids": content["ids"] and tuple(content["ids"])})


def joined(summaries: Iterable[Summary | None], is_distinct: bool = False) -> Summary | None:
    """Returns the summary of the rows of several summaries together; None if one of them is missing.

    Args:
        is_distinct: no two rows have the same id; by default that is known only if the ranges of ids do not overlap.
    """
    parts: list[Summary] = []
    for summary in summaries:
        if summary is None:
            return None
        if summary.groups:
            parts.append(summary)
    if len(parts) < 2:
        return parts[0] if parts else Summary({}, True)
    groups: dict[tuple[str, str | None], Group] = {}
    for summary in parts:
        for key, group in summary.groups.items():
            groups[key] = groups[key] + group if key in groups else group
    ranges = sorted(summary.ids for summary in parts if summary.ids)
    is_apart = all(one[1] < other[0] for one, other in pairwise(ranges))
    ids = None
    if len(ranges) == len(parts) and (is_apart or is_distinct):
        ids = ranges[0][0], max(last for _, last in ranges)
    return Summary(groups, all(summary.is_normalized for summary in parts), ids)


class Summarizer:
    """Makes a `Summary` of tables of rows that come one after another; keeps 16 bytes of each.

    Args:
        with_ids: looks at ids, too.
    """

    def __init__(self, with_ids: bool = True):
        self.with_ids = with_ids
        self.groups: dict[tuple[str, str | None], Group] = {}
        self.texts: defaultdict[str | None, LabelTexts] = defaultdict(LabelTexts)  # by source
        self.conventions: defaultdict[str | None, Conventions] = defaultdict(Conventions)
        self.alphabets: defaultdict[tuple[str, str | None], set[int]] = defaultdict(set)
        self.is_normalized = True
        self.hashes: list[np.ndarray] = []  # of ids
        self.ids: tuple[str, str] | None = None
        self.hashed_ids, self.hashed_rows = hashlib.sha256(), hashlib.sha256()

    def add(self, table: pa.Table) -> None:
        """Adds rows with the columns `COLUMNS`, none of whose ids, languages and seconds is null."""
        if not len(table):
            return
        table = table.select(COLUMNS).combine_chunks()
        if self.with_ids:
            self._add_ids(table)
        for source, rows in parts_by("source", table):
            self._add_speech(source, rows)
            self._add_texts(source, rows.filter(rows["text"].is_valid()))

    def _add_ids(self, table: pa.Table) -> None:
        hash_ids(self.hashed_ids, table["id"], is_first=not self.hashes)
        hash_rows(self.hashed_rows, table)
        self.hashes.append(id_hashes(table["id"].combine_chunks()))
        first, last = (value.as_py() for value in pc.min_max(table["id"]).values())
        before = self.ids or (first, last)
        self.ids = min(before[0], first), max(before[1], last)

    def _add_speech(self, source: str | None, rows: pa.Table) -> None:
        seconds = rows["duration_seconds"]
        table = pa.table({"language": rows["language"], "seconds": seconds, "squared": pc.multiply(seconds, seconds)})
        wanted = [("seconds", "count"), ("seconds", "sum"), ("squared", "sum"), ("seconds", "max")]
        for row in table.group_by("language", use_threads=False).aggregate(wanted).to_pylist():
            group = Group(*(row[f"{column}_{function}"] for column, function in wanted))
            key = row["language"], source
            self.groups[key] = self.groups.get(key, Group()) + group

    def _add_texts(self, source: str | None, rows: pa.Table) -> None:
        if not len(rows):
            return
        self.texts[source].add(rows)
        self.conventions[source].add_by("language", rows)
        languages = rows["language"].combine_chunks().dictionary_encode()
        codes = languages.indices.to_numpy()
        order = np.argsort(codes, kind="stable")
        raw = rows["text"].take(pa.array(order)).combine_chunks()
        texts = TextBlock(pa.chunked_array([raw]))
        self.is_normalized &= texts.texts.equals(raw)
        last = texts.ends[np.cumsum(np.bincount(codes)) - 1]  # the places behind the texts of each language
        parts = np.split(texts.code_points[: last[-1] + 1], last[:-1] + 1)
        for language, part in zip(languages.dictionary.to_pylist(), parts, strict=True):
            self.alphabets[language, source].update(np.flatnonzero(np.bincount(part)).tolist())

    def summary(self) -> Summary:
        """Returns the summary of all rows that were added."""
        groups = {key: self._with_texts(key, group) for key, group in self.groups.items()}
        if not self.with_ids:
            return Summary(groups, self.is_normalized)
        ids = None if len(repeated(self.hashes)) else self.ids
        return Summary(groups, self.is_normalized, ids, self.hashed_ids.hexdigest(), self.hashed_rows.hexdigest())

    def _with_texts(self, key: tuple[str, str | None], group: Group) -> Group:
        language, source = key
        if key not in self.alphabets:
            return group
        return replace(
            group,
            texts=self.texts[source].counts(language),
            conventions=self.conventions[source].report(language),
            alphabet="".join(map(chr, sorted(self.alphabets[key]))),
        )


# ------------------------------------------------------------------------------------------------ hashes of all rows


def hash_ids(sha, ids: pa.ChunkedArray, is_first: bool) -> None:
    """Adds ids to a hash, with a line break between each two."""
    sha.update((b"" if is_first else b"\n") + bytes(join(ids.combine_chunks(), "\n")))


def ids_sha256(dataset: Dataset) -> str:
    """Returns a hash of the ids of a data set in their order, as `job.json` of labels has it."""
    if (summary := known_summary(dataset)) is not None and summary.ids_sha256 is not None:
        return summary.ids_sha256

    def compute() -> str:
        sha = hashlib.sha256()
        for number, block in enumerate(blocks(dataset, ["id"])):
            hash_ids(sha, block["id"], number == 0)
        return sha.hexdigest()

    return remembered("ids_sha256", dataset, compute)


def hash_rows(sha, table: pa.Table) -> None:
    """Adds ids and texts to a hash: id, NUL, text or None, NUL."""
    ids, texts = (pc.fill_null(table[name], "None") for name in ("id", "text"))
    rows = pc.binary_join_element_wise(ids, texts, "", "\0").combine_chunks()
    sha.update(content_of(rows))


def rows_sha256(dataset: Dataset) -> str:
    """Returns a hash of the ids and texts of a data set in their order, as checkpoints have it."""
    if (summary := known_summary(dataset)) is not None and summary.rows_sha256 is not None:
        return summary.rows_sha256

    def compute() -> str:
        sha = hashlib.sha256()
        for block in blocks(dataset, ["id", "text"]):
            hash_rows(sha, block)
        return sha.hexdigest()

    return remembered("rows_sha256", dataset, compute)


def seconds_by_source(dataset: Dataset) -> list[tuple[str, str | None, float]]:
    """Returns languages, sources of texts, and the seconds of their utterances."""
    if (summary := known_summary(dataset)) is not None:
        return [(*key, group.seconds) for key, group in summary.groups.items()]

    def compute() -> list[list]:
        totals = defaultdict[tuple[str, str | None], float](float)
        for block in blocks(dataset, ["language", "source", "duration_seconds"]):
            groups = block.group_by(["language", "source"], use_threads=False)
            for row in groups.aggregate([("duration_seconds", "sum")]).to_pylist():
                totals[row["language"], row["source"]] += row["duration_seconds_sum"]
        return [[*key, seconds] for key, seconds in totals.items()]

    return [(language, source, seconds) for language, source, seconds in remembered("seconds", dataset, compute)]


# --------------------------------------------------------------------------------- in files, and beside data sets


def file_metadata(summary: Summary | None, size: int) -> dict[bytes, bytes]:
    """Returns the metadata for the footer of a file with the rows of a summary, whose footer begins at byte `size`."""
    if summary is None or len(summary.groups) > MOST_GROUPS:
        return {}
    content = {"version": VERSION, "footer": size, "summary": summary.as_dict()}
    return {KEY: json.dumps(content, ensure_ascii=False).encode()}


def file_summary(metadata: pq.FileMetaData) -> Summary | None:
    """Returns the summary in the footer of a file; None without one, and for one of other rows or another version.

    pyarrow passes the metadata of a file that it reads on to the table, and to the file that it writes of the table,
    whatever was changed in between. There they are in the table's own schema, too, and the summary is not believed.
    """
    if KEY in (metadata.schema.to_arrow_schema().metadata or {}):
        return None
    try:
        content = json.loads((metadata.metadata or {})[KEY])
        if content["version"] != VERSION or content["footer"] != _end_of_rows(metadata):
            return None
        summary = Summary.of_dict(content["summary"])
        return summary if summary.num_rows == metadata.num_rows else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _end_of_rows(metadata: pq.FileMetaData) -> int:
    """Returns the place of the first byte behind the last row group; 4 bytes are before the first one."""
    if not metadata.num_row_groups:
        return 4
    last = metadata.row_group(metadata.num_row_groups - 1)
    columns = [last.column(number) for number in range(last.num_columns)]
    return max(_start(column) + column.total_compressed_size for column in columns)


def _start(column: pq.ColumnChunkMetaData) -> int:
    return column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset


_summaries: WeakKeyDictionary[Dataset, Summary] = WeakKeyDictionary()


def remember_summary(dataset: Dataset, summary: Summary | None) -> None:
    """Keeps the summary of all rows of a data set; one that is made of it, such as by a filter, has none."""
    if summary is not None:
        _summaries[dataset] = summary


def known_summary(dataset: Dataset) -> Summary | None:
    """Returns the summary of a data set, if its files have it or it was computed."""
    return _summaries.get(dataset)


def summary_of(dataset: Dataset) -> Summary:
    """Returns the summary of a data set, and computes it, without hashes of ids, if it is not known."""
    if (summary := known_summary(dataset)) is None:
        summarizer = Summarizer(with_ids=False)
        for block in blocks(dataset, COLUMNS):
            summarizer.add(block)
        remember_summary(dataset, summary := summarizer.summary())
    return summary


def languages_in(dataset: Dataset) -> list[str]:
    """Returns the languages of a data set, sorted; raises ValueError for a null."""
    summary = known_summary(dataset)
    return distinct(dataset, "language") if summary is None else summary.languages
