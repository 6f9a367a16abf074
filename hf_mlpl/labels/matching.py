"""Finds the utterances that labels of anyone are of, by ids or by names of recordings; a doubtful name finds none.

A name is another spelling of an id, or of the path of a recording that is an utterance as a whole, if one of the two
is the end of the other, folder by folder. The suffix of an audio file does not count, and neither does the code of the
utterance's own language before the name, as in `sl_20190101-0900-PLENARY_sl_0.wav`. Names that share a folder go
before others, and a name of digits alone says nothing without its folder.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features

from ..corpora.locales import is_other_language, iso_code
from ..data.rows import blocks, distinct, durations_of, id_hashes, select_rows, with_offsets
from ..data.text_arrays import TextBlock
from ..remote_path import AnyPath
from .files import AS_FOUND, AUDIO_SUFFIX, PLACE_FEATURES, TableSettings, labels_of_anyone
from .schema import LABEL_SET_FEATURES

# Stand for the row of an utterance where a label is of none, has a name of several utterances or labels, is there
# already with the same text, is there already with another text, or says that it is of another language.
NONE, SEVERAL, AGAIN, SECOND, FOREIGN = -1, -2, -3, -4, -5
DURATION_TOLERANCE = 0.1  # seconds, some three output frames: tables of segments are rounded
MOST_CANDIDATES = 100  # utterances whose recordings have one name, such as audio.wav in many folders
FOLDERS = {1: "(?s)^.*/([^/]*)$", 2: "(?s)^.*/([^/]*/[^/]*)$"}  # match all but the last parts of a path
# The columns that are read of labels; start and end are those of the utterance.
READ = Features(
    {name: kind for name, kind in LABEL_SET_FEATURES.items() if name not in ("start", "end")} | PLACE_FEATURES
)
NAMES = Features({name: READ[name] for name in ("id", "text", "language", *PLACE_FEATURES)})
NEEDED = ("id", "text")


class UtteranceNames:
    """Finds the rows of utterances by their ids, and by other spellings of these or of their paths.

    Memory holds 16 bytes of each utterance, and up to 64 more if there are other spellings.
    """

    def __init__(self, utterances: Dataset):
        self.utterances = utterances
        hashes = [id_hashes(block["id"].combine_chunks()) for block in blocks(utterances, ["id"])]
        self._ids = _Index(hashes, [np.arange(len(utterances))])
        self._spellings: dict[int, _Index] = {}
        self._languages = distinct(utterances, "language")
        self._prefix = f"(?i)(^|/)({'|'.join(map(_codes, self._languages))})_([^/]+)$"

    def find(self, labels: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """Returns (N,) rows of the utterances of labels, or why there is none, and (N,) whether their ids are equal.

        There is none for `NONE`, `SEVERAL` or `FOREIGN`. If the id and the path of a label mean different utterances,
        it is of `SEVERAL`.

        Args:
            labels: columns `id`, `path`, `part_seconds` and `language` of `labels_of_anyone`.
        """
        ids, paths = (pc.fill_null(labels[name], "").combine_chunks() for name in ("id", "path"))
        rows, by_path = self._by_id(ids), np.full(len(labels), NONE)
        is_exact = rows >= 0
        self._add_spellings(ids, rows)
        self._add_spellings(paths, by_path)
        self._refuse_parts(labels["part_seconds"].to_numpy(), by_path)
        is_contradiction = (rows >= 0) & (by_path >= 0) & (rows != by_path)
        rows = np.where((rows < 0) & (by_path != NONE), by_path, rows)
        rows[is_contradiction] = SEVERAL
        self._refuse_foreign(labels["language"], rows)
        return rows, is_exact & ~is_contradiction

    def _by_id(self, ids: pa.Array) -> np.ndarray:
        found = np.full(len(ids), NONE)
        for numbers, rows in self._ids.candidates(id_hashes(ids)):  # once, unless two ids share a hash
            for first, local in with_offsets(blocks(select_rows(self.utterances, rows), ["id"])):
                some = numbers[first : first + len(local)]
                is_same = pc.equal(local["id"], ids.take(some)).to_numpy()
                found[some[is_same]] = rows[first : first + len(local)][is_same]
        return found

    def _add_spellings(self, names: pa.Array, found: np.ndarray) -> None:
        """Replaces `NONE` in (N,) rows by the one utterance of which a name is another spelling, or by `SEVERAL`."""
        for depth in sorted(FOLDERS, reverse=True):
            wanted = np.flatnonzero((found == NONE) & (pc.utf8_length(names).to_numpy() > 0))
            if not len(wanted):
                return
            if depth not in self._spellings:
                self._spellings[depth] = self._index_of_spellings(depth)
            index, some = self._spellings[depth], names.take(wanted)
            keys, texts = self._keys(some, depth), some.to_pylist()
            too_many = index.counts(keys) > MOST_CANDIDATES
            found[wanted[too_many]] = SEVERAL
            matches: defaultdict[int, set[int]] = defaultdict(set)
            for numbers, rows in index.candidates(np.where(too_many, np.uint64(0), keys)):
                local = self._rows(rows, ["id", "audio", "language"])
                for number, row, utterance in zip(numbers.tolist(), rows.tolist(), local, strict=True):
                    if any(_is_spelling(texts[number], name, utterance["language"]) for name in _names(utterance)):
                        matches[number].add(row)
            for number, matching in matches.items():
                found[wanted[number]] = matching.pop() if len(matching) == 1 else SEVERAL

    def _index_of_spellings(self, depth: int) -> _Index:
        """Returns the index of the last `depth` parts of the ids and paths."""
        hashes, rows, first = [], [], 0
        for block in blocks(self.utterances, ["id", "audio"]):
            audio = block["audio"].combine_chunks()
            is_whole = pc.and_(*(pc.struct_field(audio, name).is_null() for name in ("start", "offset")))
            is_whole = pc.and_(is_whole, pc.struct_field(audio, "end").is_null())
            numbers = np.arange(first, first + len(block))
            hashes += [self._keys(block["id"].combine_chunks(), depth)]
            hashes += [self._keys(pc.struct_field(audio, "path").filter(is_whole), depth)]
            rows += [numbers, numbers[is_whole.to_numpy(zero_copy_only=False)]]
            first += len(block)
        return _Index(hashes, rows)

    def _keys(self, names: pa.Array, depth: int) -> np.ndarray:
        """Returns (N,) hashes of the last parts of names, without what does not count; 0 is that of none."""
        keys = pc.replace_substring(pc.utf8_normalize(names, "NFC"), "\\", "/")
        keys = pc.replace_substring_regex(keys, f"(?i){AUDIO_SUFFIX.pattern}", "")
        keys = pc.replace_substring_regex(keys, self._prefix, r"\1\3")
        return id_hashes(pc.replace_substring_regex(keys, FOLDERS[depth], r"\1"))

    def _rows(self, rows: np.ndarray, columns: Sequence[str]) -> Iterator[dict]:
        for block in blocks(select_rows(self.utterances, rows), columns):
            yield from block.to_pylist()

    def _refuse_parts(self, seconds: np.ndarray, rows: np.ndarray) -> None:
        """Replaces rows of recordings that are longer than the part of them that a label is of by `NONE`."""
        numbers = np.flatnonzero((rows >= 0) & ~np.isnan(seconds))
        if len(numbers):
            durations = durations_of(select_rows(self.utterances, rows[numbers]))
            rows[numbers[np.abs(durations - seconds[numbers]) > DURATION_TOLERANCE]] = NONE

    def _refuse_foreign(self, languages: pa.ChunkedArray, rows: np.ndarray) -> None:
        """Replaces rows of utterances whose language is another one than their labels say by `FOREIGN`."""
        named = [name for name in languages.unique().to_pylist() if name]
        if not any(is_other_language(name, spoken) for name in named for spoken in self._languages):
            return
        numbers = np.flatnonzero((rows >= 0) & pc.is_in(languages, pa.array(named, languages.type)).to_numpy())
        spoken = (row["language"] for row in self._rows(rows[numbers], ["language"]))
        is_foreign = list(map(is_other_language, languages.take(pa.array(numbers)).to_pylist(), spoken))
        rows[numbers[np.array(is_foreign, bool)]] = FOREIGN


class _Index:
    """Finds rows by hashes."""

    def __init__(self, hashes: Sequence[np.ndarray], rows: Sequence[np.ndarray]):
        self.hashes = np.concatenate([np.empty(0, np.uint64), *hashes])
        order = np.argsort(self.hashes, kind="stable")
        self.hashes, self.rows = self.hashes[order], np.concatenate([np.empty(0, int), *rows])[order]

    def counts(self, wanted: np.ndarray) -> np.ndarray:
        """Returns (N,) numbers of rows with the same hash."""
        first, end = (np.searchsorted(self.hashes, wanted, side) for side in ("left", "right"))
        return end - first

    def candidates(self, wanted: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields numbers of hashes and rows with the same hash: at first one row for each, then others."""
        first, counts = np.searchsorted(self.hashes, wanted), self.counts(wanted)
        for number in range(int(counts.max(initial=0))):
            numbers = np.flatnonzero(counts > number)
            yield numbers, self.rows[first[numbers] + number]


@lru_cache
def _codes(language: str) -> str:
    """Returns a pattern of the codes of a language, the longer one first: `sv-SE`, `sv_SE` and `sv`."""
    return "|".join(re.escape(code).replace(r"\-", "[-_]") for code in dict.fromkeys([language, iso_code(language)]))


def _names(utterance: dict) -> list[str]:
    audio = utterance["audio"]
    is_whole = all(audio[name] is None for name in ("start", "end", "offset"))
    return [utterance["id"], *([audio["path"]] if is_whole else [])]


def _is_spelling(name: str, other: str, language: str) -> bool:
    """Returns whether one name is the end of the other, folder by folder, for an utterance of a language."""
    (*folders, stem), (*others, other_stem) = _parts(name), _parts(other)
    prefix = re.compile(f"({_codes(language)})_(?=.)", re.IGNORECASE)
    bare, other_bare = (prefix.sub("", text, count=1) if prefix.match(text) else text for text in (stem, other_stem))
    num_shared = min(len(folders), len(others))
    if bare != other_bare or bare.isdigit() and not num_shared and (stem != other_stem or folders or others):
        return False
    return folders[len(folders) - num_shared :] == others[len(others) - num_shared :]


def _parts(name: str) -> list[str]:
    """Returns the folders and the stem of a name."""
    parts = AUDIO_SUFFIX.sub("", unicodedata.normalize("NFC", name).replace("\\", "/")).split("/")
    return [part for part in parts[:-1] if part not in ("", ".")] + parts[-1:]


def matched_labels(
    names: UtteranceNames,
    paths: Sequence[AnyPath],
    settings: TableSettings = AS_FOUND,
    skipped: Callable[[str, str], None] = lambda position, problem: None,
) -> Iterator[tuple[AnyPath, pa.Table, np.ndarray, np.ndarray]]:
    """Yields each file, some of its labels, (N,) rows of their utterances, and (N,) whether the ids are equal.

    Reads files twice, and a third time where an utterance has several labels. Of these, those with its own id go
    before others. The same text counts once; others have `AGAIN` or `SEVERAL` instead of a row. Memory holds 9 bytes
    of each label, or 17 where an utterance has several.

    Raises:
        LabelFileError: as `labels_of_anyone` does.
        ValueError: for two texts of one id.
    """
    all_rows, all_exact = _rows_of_labels(names, paths, settings)
    read = 0
    for path in paths:
        for labels in labels_of_anyone(path, READ, NEEDED, skipped, settings):
            rows, is_exact = (each[read : read + len(labels)] for each in (all_rows, all_exact))
            read += len(labels)
            if (rows == SECOND).any():
                name = labels["id"][int(np.argmax(rows == SECOND))].as_py()
                raise ValueError(f"{path}: has a second label of {name!r}, with another text; leave one of them out")
            yield path, labels, rows, is_exact


def _rows_of_labels(
    names: UtteranceNames, paths: Sequence[AnyPath], settings: TableSettings
) -> tuple[np.ndarray, np.ndarray]:
    def all_labels() -> Iterator[pa.Table]:
        for path in paths:  # rows of tables of text cannot be read if one of their values cannot
            features = NAMES if path.suffix == ".parquet" else READ
            yield from labels_of_anyone(path, features, NEEDED, settings=settings)

    found = list(map(names.find, all_labels()))
    if not found:
        return np.empty(0, int), np.empty(0, bool)
    rows, is_exact = map(np.concatenate, zip(*found, strict=True))
    values, counts = np.unique(rows[rows >= 0], return_counts=True)
    is_doubtful = np.isin(rows, values[counts > 1])
    if not is_doubtful.any():
        return rows, is_exact
    texts, labels_of_row = np.zeros(len(rows), np.uint64), defaultdict[int, list[int]](list)
    for first, block in with_offsets(all_labels()):
        numbers = np.flatnonzero(is_doubtful[first : first + len(block)])
        texts[first + numbers] = id_hashes(TextBlock(block["text"].take(pa.array(numbers))).texts)
    for number in np.flatnonzero(is_doubtful).tolist():
        labels_of_row[int(rows[number])].append(number)
    for numbers in labels_of_row.values():
        first = next((number for number in numbers if is_exact[number]), numbers[0])
        are_equal = all(texts[number] == texts[first] for number in numbers)
        for number in numbers:
            if texts[number] == texts[first] and (are_equal or is_exact[first]):
                rows[number] = rows[number] if number == first else AGAIN
            else:
                rows[number] = SECOND if is_exact[number] else SEVERAL
    return rows, is_exact
