"""Processes the rows of a data set in Arrow blocks: for millions of rows, memory holds a few bytes of each."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from datasets.table import InMemoryTable

WORD = 8  # bytes
BLOCK = 10_000  # rows that are read or written at a time
Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)


def blocks(dataset: Dataset, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yields columns of a data set in its order, 10,000 rows at a time."""
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


def with_offsets(row_blocks: Iterable[Rows]) -> Iterator[tuple[int, Rows]]:
    """Yields consecutive blocks, each with the number of its first row."""
    first = 0
    for block in row_blocks:
        yield first, block
        first += len(block)


def row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Joins tables to ones of 10,000 rows, but for the last one, without copies."""
    waiting, num_rows = [], 0
    for table in tables:
        waiting.append(table)
        num_rows += len(table)
        while num_rows >= BLOCK:
            whole = pa.concat_tables(waiting)
            yield whole.slice(0, BLOCK)
            waiting, num_rows = [whole.slice(BLOCK)], num_rows - BLOCK
    if num_rows:
        yield pa.concat_tables(waiting)


def longest_seconds(dataset: Dataset) -> float:
    """Returns the longest duration in the files of a data set, also of utterances that it leaves out."""
    return pc.max(dataset.data.column("duration_seconds")).as_py() or 0.0


def durations_of(dataset: Dataset) -> np.ndarray:
    """Returns (N,) seconds, 8 bytes an utterance."""
    durations = np.empty(len(dataset))
    for first, block in with_offsets(blocks(dataset, ["duration_seconds"])):
        durations[first : first + len(block)] = block["duration_seconds"].to_numpy()
    return durations


def recording_order(dataset: Dataset) -> np.ndarray | None:
    """Returns (N,) numbers by which utterances lie in the order of recordings; None if that is the data set's own.

    Recordings keep the order in which they first appear. Of one file, utterances are in the order of their places in
    it: by the byte or row where a container has them, and then by the second where they start. Takes 24 bytes an
    utterance meanwhile.
    """
    offsets, starts = np.zeros(len(dataset), np.int64), np.zeros(len(dataset))
    is_new, hashes = np.ones(len(dataset), bool), [np.empty(0, np.uint64)]  # where another file begins, and which
    for first, block in with_offsets(blocks(dataset, ["audio"])):
        audio, rows = block["audio"].combine_chunks(), slice(first, first + len(block))
        paths = audio.field("path")
        is_new[rows][1:] = pc.not_equal(paths[1:], paths[:-1])
        hashes.append(id_hashes(paths.filter(pa.array(is_new[rows]))))
        offsets[rows] = pc.fill_null(audio.field("offset"), 0)
        starts[rows] = pc.fill_null(audio.field("start"), 0.0)
    files = np.concatenate(hashes)
    goes_on = np.append(False, files[1:] == files[:-1])[: len(files)]  # in the next block
    is_new[np.flatnonzero(is_new)[goes_on]] = False
    _, firsts, runs = np.unique(files[~goes_on], return_index=True, return_inverse=True)
    is_later = (offsets[1:] > offsets[:-1]) | ((offsets[1:] == offsets[:-1]) & (starts[1:] >= starts[:-1]))
    if len(firsts) == len(runs) and np.all(is_new[1:] | is_later):
        return None
    places = np.empty(len(dataset), np.int64)
    places[np.lexsort((starts, offsets, firsts[runs][np.cumsum(is_new) - 1]))] = np.arange(len(dataset))
    return places


def speakers_of(utterances: pa.Table) -> pa.ChunkedArray:
    """Returns the speaker of each utterance; where none is known its recording, as `recording_of` does."""
    paths, offsets = (pc.struct_field(utterances["audio"], name) for name in ("path", "offset"))
    places = pc.binary_join_element_wise(paths, pc.cast(offsets, pa.string()), ":")
    recordings = pc.if_else(pc.is_valid(offsets), places, paths)
    return pc.coalesce(utterances["speaker"], recordings) if "speaker" in utterances.column_names else recordings


def recording_of(audio: dict) -> str:
    """Returns the path of an utterance's recording, and its place in a container such as a tar file."""
    return audio["path"] if audio["offset"] is None else f"{audio['path']}:{audio['offset']}"


class Column:
    """Reads single values of a column, `column[row]`, from the memory-mapped file."""

    def __init__(self, dataset: Dataset, name: str):
        self.values, indices = dataset.data.column(name), dataset._indices
        self.rows = range(len(dataset)) if indices is None else indices.column("indices").to_numpy()

    def __getitem__(self, row: int):
        return self.values[int(self.rows[row])].as_py()


def distinct(dataset: Dataset, column: str) -> list:
    """Returns the distinct values of a column, sorted, where they are few; raises ValueError for a null."""
    values = {value for block in blocks(dataset, [column]) for value in block[column].unique().to_pylist()}
    if None in values:
        raise ValueError(f"an utterance of the data set has a null as {column}; a value in every row is accepted")
    return sorted(values)


def filter_rows(dataset: Dataset, columns: Sequence[str], predicate: Callable[[pa.Table], np.ndarray]) -> Dataset:
    """Keeps the rows for which `predicate`, given blocks of some columns, is true; 8 bytes for each."""
    numbered = with_offsets(blocks(dataset, columns))
    kept = [(first + np.flatnonzero(predicate(block))).astype(np.uint64) for first, block in numbered]
    rows = np.concatenate([np.empty(0, np.uint64), *kept])
    return dataset if len(rows) == len(dataset) else select_rows(dataset, rows)


def whole(dataset: Dataset) -> Dataset:
    """Returns all rows of the file of a data set that may have some of them."""
    return Dataset(dataset.data, info=dataset.info, split=dataset.split)


def select_rows(dataset: Dataset, rows: np.ndarray) -> Dataset:
    """Selects rows by their numbers, in the order of `rows`; 8 bytes for each.

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


def choose_rows(dataset: Dataset, count: int, max_seconds: float) -> np.ndarray:
    """Chooses at most `count` rows by hashes of their ids, in order, of utterances of at most `max_seconds`."""
    rows, hashes = np.empty(0, np.int64), np.empty(0, np.uint64)  # of the smallest hashes so far
    for first, block in with_offsets(blocks(dataset, ["id", "duration_seconds"])):
        fitting = np.flatnonzero(block["duration_seconds"].to_numpy() <= max_seconds)
        rows = np.append(rows, first + fitting)
        hashes = np.append(hashes, id_hashes(block["id"].combine_chunks())[fitting])
        kept = np.argsort(hashes, kind="stable")[:count]
        rows, hashes = rows[kept], hashes[kept]
    return np.sort(rows)


def sorted_by_id(dataset: Dataset) -> Dataset:
    """Sorts rows by the bytes of their ids; memory holds the ids meanwhile."""
    ids = [chunk for block in blocks(dataset, ["id"]) for chunk in block["id"].chunks]
    return select_rows(dataset, pc.sort_indices(pa.chunked_array(ids, pa.string())).to_numpy())


def duplicated_ids(dataset: Dataset) -> list[str]:
    """Returns the ids that several utterances share, in order of appearance.

    Compares hashes (16 bytes an utterance), and then the ids whose hashes are equal.
    """
    hashes = [id_hashes(block["id"].combine_chunks()) for block in blocks(dataset, ["id"])]
    if not len(duplicates := repeated(hashes)):
        return []
    suspects = [
        block["id"].filter(pa.array(np.isin(block_hashes, duplicates))).to_pylist()
        for block, block_hashes in zip(blocks(dataset, ["id"]), hashes, strict=True)
    ]
    return [name for name, count in Counter(chain.from_iterable(suspects)).items() if count > 1]


def repeated(hashes: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the values, sorted, that occur more than once in some arrays."""
    ordered = np.concatenate([np.empty(0, np.uint64), *hashes])
    ordered.sort()
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])


def id_hashes(names: pa.Array) -> np.ndarray:
    """Returns (N,) hashes of strings, 0 for an empty one; equal in all processes.

    Each word of 8 bytes is mixed as by splitmix64, so that all of its bits matter; a hash is the sum of the words and
    of the length, each with an odd random factor, modulo 2^64.
    """
    offset_type = np.int64 if pa.types.is_large_string(names.type) else np.int32
    offsets = np.frombuffer(names.buffers()[1], offset_type)[names.offset : names.offset + len(names) + 1].astype(int)
    content = np.frombuffer(names.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
    text = np.concatenate([content, np.zeros(WORD, np.uint8)])
    windows = np.ndarray(len(content) + 1, "<u8", text, strides=(1,))  # the 8 bytes from each one on
    starts, lengths = offsets[:-1] - offsets[0], np.diff(offsets)
    num_words = -(-lengths // WORD)
    ends = np.cumsum(num_words)
    places = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - num_words, num_words)  # in their text
    words = windows[np.repeat(starts, num_words) + WORD * places]
    is_cut = num_words > 0
    cut_bits = (8 * (num_words * WORD - lengths)[is_cut]).astype(np.uint64)  # of the next text, in a last word
    words[ends[is_cut] - 1] &= np.uint64(2**64 - 1) >> cut_bits
    words ^= words >> np.uint64(30)
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    factors = np.random.default_rng(0).integers(2**64, size=num_words.max(initial=0) + 1, dtype=np.uint64) | np.uint64(
        1
    )
    words *= factors[places + 1]
    sums = np.concatenate([[np.uint64(0)], np.cumsum(words)])
    return sums[ends] - sums[ends - num_words] + lengths.astype(np.uint64) * factors[0]
