"""Writes and counts the shards of a labelling job; a shard has its counts with it, so that the join need not count.

A shard is an Arrow stream, which is read in a fifth of the time that Parquet takes, and the CRC-32 of its bytes. The
counts are JSON in the metadata of its schema. Shards of older versions are Parquet, and counted when they are joined.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cpdist

from ..atomic import atomic_write
from ..data.collapse import FEWEST_LABELS, LabelTexts, TextCounts
from ..data.conventions import KINDS, Conventions
from ..data.summary import Group, Summary
from ..data.text_arrays import TextBlock
from ..data.utterances import NOT_WRITTEN, TableSummarizer, arrow_errors
from ..evaluation.error_rate import fraction
from ..remote_path import AnyPath
from .files import with_null_scores
from .schema import LABEL_FEATURES

SCHEMA = LABEL_FEATURES.arrow_schema
COUNTS = b"hf_mlpl.label_counts"  # in the metadata of a shard's schema
CHECKSUM_SIZE = 4  # bytes at the end of a shard
PARQUET = b"PAR1"  # begins a shard of an older version
CONVENTION = ("texts", *KINDS)
# Sums of a language that a shard has with it, and those of the labels that are compared with transcripts.
SUMS = ("labels", "empty", "hours", "log_probs", "scored", "seconds", "squared_seconds", "characters", *CONVENTION)
COMPARED = ("compared", "written", "expected", "edits", "length")
HASHES = np.dtype("<u8")


def write_shard(rows: Iterable[dict], path: AnyPath, transcripts: pa.Table | None = None, keep: bool = True) -> None:
    """Writes rows of `LABEL_FEATURES` as a shard, which appears when it is complete, with their counts.

    Args:
        transcripts: `id` and `text` of the utterances that have a transcript.
        keep: of `atomic_write`.
    """
    rows = list(rows)
    with arrow_errors(path, NOT_WRITTEN.format(0)):
        shard = pa.Table.from_pylist(rows, schema=SCHEMA)
    counts = _counted(shard, transcripts)
    counts.facts = Facts.of_labels(made_labels(shard))
    content = counts.content()
    if transcripts is not None:
        content["transcripts_crc32"] = _checksum(transcripts)
    schema = SCHEMA.with_metadata({**(SCHEMA.metadata or {}), COUNTS: json.dumps(content)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(shard.replace_schema_metadata(schema.metadata))
    stream = sink.getvalue()
    with atomic_write(path, keep=keep) as partial, open(partial, "wb") as file:
        file.write(stream)
        file.write(zlib.crc32(stream).to_bytes(CHECKSUM_SIZE, "little"))


def read_shard(path: AnyPath) -> pa.Table:
    """Reads a shard; raises nearly any error for one that is damaged."""
    content = path.read_bytes()  # in one request, where the disk is far away
    if content.startswith(PARQUET):
        with pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True) as file:
            shard = file.read(use_threads=False)  # a small file; the join reads several at once
    else:
        stream, checksum = memoryview(content)[:-CHECKSUM_SIZE], content[-CHECKSUM_SIZE:]
        if zlib.crc32(stream) != int.from_bytes(checksum, "little"):
            raise ValueError("its bytes do not have its checksum")
        shard = pa.ipc.open_stream(stream, options=pa.ipc.IpcReadOptions(use_threads=False)).read_all()
    shard = with_null_scores(shard, path)
    if not shard.schema.equals(SCHEMA):
        raise ValueError("it has other columns than labels")
    return shard


def made_labels(shard: pa.Table) -> pa.Table:
    """Returns the labels of a shard without those that have an error, in the same memory."""
    failed = np.flatnonzero(shard["error"].is_valid().to_numpy()).tolist()
    starts, ends = [0, *(row + 1 for row in failed)], [*failed, len(shard)]
    return pa.concat_tables(shard.slice(start, end - start) for start, end in zip(starts, ends, strict=True))


def counts_of(shard: pa.Table, transcripts: pa.Table | None = None) -> ShardCounts:
    """Returns the counts that a shard has with it; counts its labels where there are none.

    Args:
        transcripts: of `write_shard`; other ones than there are compared anew.
    """
    # A shard of an older version has none, or other ones.
    with suppress(AttributeError, KeyError, TypeError, ValueError):
        content = json.loads(shard.schema.metadata[COUNTS])
        is_compared = transcripts is not None and content.get("transcripts_crc32") == _checksum(transcripts)
        counts = ShardCounts.of_content(content, is_compared)
        if transcripts is not None and not is_compared:
            counts.compare(made_labels(shard), transcripts)
        return counts
    return _counted(shard, transcripts)


def _counted(shard: pa.Table, transcripts: pa.Table | None) -> ShardCounts:
    labels = made_labels(shard)
    counts = ShardCounts.of_labels(labels)
    if transcripts is not None:
        counts.compare(labels, transcripts)
    return counts


def _checksum(texts: pa.Table) -> int:
    """Returns the CRC-32 of columns of strings, without a copy of them."""
    checksum = 0
    for column in texts.columns if len(texts) else ():
        column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        if column.null_count:
            checksum = zlib.crc32(column.is_null().to_numpy(zero_copy_only=False), checksum)
        _, offsets, content = column.buffers()  # nulls have no bytes there
        offsets = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
        checksum = zlib.crc32(offsets - offsets[0], checksum)
        checksum = zlib.crc32(memoryview(content or b"")[offsets[0] : offsets[-1]], checksum)
    return checksum


@dataclass
class Facts:
    """Holds what a `Summary` of labels says and no sum does.

    Args:
        sources: of all labels; one teacher makes all labels of a job.
        ids: the first and the last one.
        longest: seconds, by language.
        alphabets: characters of the texts, by language.
    """

    sources: set[str] = field(default_factory=set)
    is_normalized: bool = True
    ids: tuple[str, ...] = ()
    longest: defaultdict[str, float] = field(default_factory=partial(defaultdict, float))
    alphabets: defaultdict[str, set[str]] = field(default_factory=partial(defaultdict, set))

    @classmethod
    def of_labels(cls, labels: pa.Table) -> Facts | None:
        """Returns those of the labels of a shard; None if these are no utterances that `read_utterances` accepts."""
        summarizer = TableSummarizer()
        summarizer.add(labels)
        summary, facts = summarizer.summary(), cls()
        if summary is None or len(labels) and summary.ids is None:
            return None
        facts.is_normalized, facts.ids = summary.is_normalized, summary.ids or ()
        for (language, source), group in summary.groups.items():
            if source is None:
                return None
            facts.sources.add(source)
            facts.longest[language] = max(facts.longest[language], group.longest)
            facts.alphabets[language].update(group.alphabet)
        return facts

    def merge(self, other: Facts) -> None:
        """Adds those of other labels."""
        self.sources |= other.sources
        self.is_normalized &= other.is_normalized
        ids = self.ids + other.ids
        self.ids = (min(ids), max(ids)) if ids else ()
        for language, longest in other.longest.items():
            self.longest[language] = max(self.longest[language], longest)
            self.alphabets[language] |= other.alphabets[language]

    def content(self) -> list:
        """Returns the facts for JSON."""
        alphabets = {language: "".join(sorted(characters)) for language, characters in self.alphabets.items()}
        return [sorted(self.sources), self.is_normalized, self.ids, self.longest, alphabets]

    @classmethod
    def of_content(cls, content: list) -> Facts:
        """Returns the facts of `content`; raises ValueError or TypeError for what is none."""
        sources, is_normalized, ids, longest, alphabets = content
        facts = cls(set(sources), is_normalized, tuple(ids))
        facts.longest.update(longest)
        facts.alphabets.update((language, set(characters)) for language, characters in alphabets.items())
        return facts


class ShardCounts:
    """Counts the labels of each language, in columns; 8 bytes of each label stay in memory.

    Args:
        facts: for a summary of the labels; None if those of some are not known.
    """

    def __init__(self, facts: Facts | None):
        self.facts = facts
        self.sums: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
        self.texts = LabelTexts()

    @classmethod
    def of_labels(cls, labels: pa.Table) -> ShardCounts:
        """Counts labels, which have no error."""
        counts, texts, conventions = cls(None), LabelTexts(), Conventions()
        texts.add(labels)
        conventions.add_by("language", labels)
        log_probs, seconds = labels["mean_log_prob"], labels["duration_seconds"].to_numpy()
        counts._add_sums(
            labels["language"],
            labels=np.ones(len(labels)),
            empty=pc.equal(labels["text"], "").to_numpy(),
            hours=seconds / 3600,
            log_probs=log_probs.fill_null(0.0).to_numpy(),
            scored=log_probs.is_valid().to_numpy(),
            seconds=seconds,
            squared_seconds=seconds**2,
        )
        for language, sums in counts.sums.items():
            sums.update(conventions.report(language), characters=texts.characters[language])
            counts.texts.hashes[language] = texts.hashes[language]
        return counts

    def compare(self, labels: pa.Table, transcripts: pa.Table) -> None:
        """Compares labels with the transcripts of the same ids, as `ErrorRate` does."""
        rows = pc.index_in(labels["id"], transcripts["id"].combine_chunks())
        labels = labels.select(["language", "text"]).filter(rows.is_valid())
        transcripts = transcripts["text"].take(rows.drop_null())
        texts, expected = TextBlock(labels["text"]), TextBlock(transcripts)
        pairs = (each.texts.to_pylist() for each in (texts, expected))
        self._add_sums(
            labels["language"],
            compared=np.ones(len(labels)),
            written=pc.utf8_length(labels["text"]).to_numpy(),
            expected=pc.utf8_length(transcripts).to_numpy(),
            edits=cpdist(*pairs, scorer=Levenshtein.distance, dtype=np.int64),
            length=expected.lengths,
        )

    def _add_sums(self, languages: pa.ChunkedArray, **columns: np.ndarray) -> None:
        encoded = languages.combine_chunks().dictionary_encode()
        codes, names = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
        for column, values in columns.items():
            for language, total in zip(names, np.bincount(codes, values, len(names)).tolist(), strict=True):
                self.sums[language][column] += total

    def merge(self, other: ShardCounts) -> None:
        """Adds counts of other utterances."""
        if self.facts is not None and other.facts is not None:
            self.facts.merge(other.facts)
        else:
            self.facts = None
        for language, sums in other.sums.items():
            own = self.sums[language]
            for name, value in sums.items():
                own[name] += value
            self.texts.hashes[language] += other.texts.hashes[language]

    def content(self) -> dict:
        """Returns the counts for JSON."""
        hashes = [np.concatenate(self.texts.hashes[language]).astype(HASHES).tobytes() for language in self.sums]
        return {
            "labels": {language: [sums[name] for name in SUMS] for language, sums in self.sums.items()},
            "compared": {language: [sums[name] for name in COMPARED] for language, sums in self.sums.items()},
            "hashes": base64.b64encode(b"".join(hashes)).decode(),
            "facts": self.facts and self.facts.content(),
        }

    @classmethod
    def of_content(cls, content: dict, is_compared: bool = False) -> ShardCounts:
        """Returns the counts of `content`.

        Args:
            is_compared: includes those of the comparison with transcripts.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: for what is none.
        """
        counts, first = cls(content["facts"] and Facts.of_content(content["facts"])), 0
        hashes = np.frombuffer(base64.b64decode(content["hashes"]), HASHES).astype(np.uint64)
        for language, sums in content["labels"].items():
            counts.sums[language].update(zip(SUMS, sums, strict=True))
            end = first + int(sums[0])
            counts.texts.hashes[language], first = [hashes[first:end]], end
        for language, sums in content["compared"].items() if is_compared else ():
            counts.sums[language].update(zip(COMPARED, sums, strict=True))
        return counts

    @cached_property
    def text_counts(self) -> dict[str, TextCounts]:
        """Returns those of each language, when all labels have been added."""
        return {
            language: self.texts.counts(language)._replace(characters=int(sums["characters"]), seconds=sums["seconds"])
            for language, sums in self.sums.items()
        }

    def summary(self) -> Summary | None:
        """Returns the summary of all labels, whose ids differ; None if it is not known."""
        if self.facts is None or len(self.facts.sources) > 1:
            return None
        [source] = self.facts.sources or [""]
        groups = {
            (language, source): Group(
                int(sums["labels"]),
                sums["seconds"],
                sums["squared_seconds"],
                self.facts.longest[language],
                self.text_counts[language],
                self._convention(language),
                "".join(sorted(self.facts.alphabets[language])),
            )
            for language, sums in self.sums.items()
        }
        first_and_last = (self.facts.ids[0], self.facts.ids[-1]) if self.facts.ids else None
        return Summary(groups, self.facts.is_normalized, first_and_last)

    def _convention(self, language: str) -> dict[str, int]:
        return {name: int(self.sums[language][name]) for name in CONVENTION}

    def report(self, errors: Counter[str]) -> dict[str, dict]:
        """Returns the fields of each language in `complete.json`.

        Args:
            errors: numbers of utterances without a label.
        """
        return {language: self._report(language, errors) for language in sorted(self.sums.keys() | errors.keys())}

    def _report(self, language: str, errors: Counter[str]) -> dict:
        sums = self.sums[language]
        is_enough = sums["compared"] >= FEWEST_LABELS and sums["expected"]
        return {
            "labels": int(sums["labels"]),
            "empty": int(sums["empty"]),
            "errors": errors[language],
            "hours": sums["hours"],
            "mean_log_prob": sums["log_probs"] / sums["scored"] if sums["scored"] else None,
            "convention": self._convention(language),
            "cer": fraction(int(sums["edits"]), int(sums["length"])) if sums["compared"] else None,
            "commonest": self.text_counts[language].commonest / sums["labels"] if sums["labels"] else 0.0,
            "length_ratio": sums["written"] / sums["expected"] if is_enough else None,
        }
