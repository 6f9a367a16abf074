"""Judges whether labels have collapsed: a model trained on them would learn to say nothing, or always the same.

Labels of a language have collapsed if all of them are empty, or, of at least ten, nine in ten are empty or the same
text, or all together have less than a tenth of the characters that people write for as much speech. Every step of the
recipe judges by this, before any filter.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .rows import id_hashes
from .text_arrays import visible

COLLAPSED_SHARE = 0.9  # of the labels, empty or equal: a model trained on them would learn that one text
COLLAPSED_LENGTH = 0.1  # of the characters in human transcripts: it would learn to say next to nothing
FEWEST_LABELS = 10  # that are judged, unless all of them are empty
HUMAN = ("human", "reference", None)  # sources of human texts; all others are names of teachers
NOT_LEARNED = "nothing else can be learned from them; look at their teacher's error rates"


def describe_collapse(report: Mapping) -> str | None:
    """Describes in a clause how labels have collapsed; returns None if they have not.

    Args:
        report: the number of `labels`, the shares of `empty` ones and of the `commonest` text, and, where it is
            known, `length_ratio`: the characters, divided by those of human transcripts of as much speech.
    """
    count, empty, commonest = report["labels"], report["empty"], report["commonest"]
    if not count or count < FEWEST_LABELS and empty < 1:
        return None
    for share, kind in ((empty, "empty"), (commonest, "the same text")):
        if share >= COLLAPSED_SHARE:
            return f"{share:.0%} of {count} pseudo-labels are {kind}"
    ratio = report.get("length_ratio")
    if ratio is not None and ratio < COLLAPSED_LENGTH:
        return f"{count} pseudo-labels have {ratio:.0%} of the letters that transcripts have"
    return None


def num_characters(texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Counts the characters of each text, without invisible ones and white space at its ends."""
    return pc.utf8_length(visible(texts))


class TextCounts(NamedTuple):
    """Counts texts, those without a visible character, equal ones of the commonest, and visible characters."""

    texts: int = 0
    empty: int = 0
    commonest: int = 0
    characters: int = 0
    seconds: float = 0.0  # of their utterances


def collapse_report(labels: TextCounts, human: TextCounts) -> dict:
    """Returns what `describe_collapse` judges of some labels; ten `human` transcripts or more give the ratio."""
    report = {
        "labels": labels.texts,
        "empty": labels.empty / labels.texts,
        "commonest": labels.commonest / labels.texts,
    }
    if human.texts >= FEWEST_LABELS and human.characters:
        rate = human.characters / human.seconds
        report["length_ratio"] = labels.characters / (rate * labels.seconds)
    return report


class LabelTexts:
    """Counts texts of each language, with 8 bytes for each, to judge whether they have collapsed."""

    def __init__(self):
        self.hashes: defaultdict[str, list[np.ndarray]] = defaultdict(list)
        self.characters: Counter[str] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def add(self, labels: pa.Table | pa.RecordBatch) -> None:
        """Adds rows with `language`, `text` and `duration_seconds`."""
        if not len(labels):
            return
        texts, languages = visible(labels["text"]), labels["language"]
        if isinstance(labels, pa.Table):
            texts, languages = texts.combine_chunks(), languages.combine_chunks()
        hashes, encoded = id_hashes(texts), languages.dictionary_encode()
        characters, seconds = pc.utf8_length(texts).to_numpy(), labels["duration_seconds"].to_numpy()
        codes = encoded.indices.to_numpy()
        order = np.argsort(codes, kind="stable")
        ends = np.cumsum(np.bincount(codes))[:-1]
        parts = (np.split(values[order], ends) for values in (hashes, characters, seconds))
        for language, *part in zip(encoded.dictionary.to_pylist(), *parts, strict=True):
            self.hashes[language].append(part[0])
            self.characters[language] += int(part[1].sum())
            self.seconds[language] += float(part[2].sum())

    def counts(self, language: str) -> TextCounts:
        """Counts the texts of a language; zeros if there is none."""
        if language not in self.hashes:
            return TextCounts()
        hashes = np.concatenate(self.hashes[language])
        commonest = np.unique(hashes, return_counts=True)[1].max()
        empty = (hashes == 0).sum()  # 0 is the hash of a text without characters
        return TextCounts(len(hashes), int(empty), int(commonest), self.characters[language], self.seconds[language])

    def report(self, language: str, human: LabelTexts | None = None) -> dict:
        """Returns what `describe_collapse` judges, as `collapse_report` does."""
        return collapse_report(self.counts(language), human.counts(language) if human is not None else TextCounts())

    def problems(self, human: LabelTexts | None = None) -> dict[str, str]:
        """Returns a clause for each language whose labels have collapsed."""
        clauses = {language: describe_collapse(self.report(language, human)) for language in sorted(self.hashes)}
        return {language: clause for language, clause in clauses.items() if clause}


def collapse_line(problems: Mapping[str, str]) -> str:
    """Returns the clauses of several languages in one."""
    return "; ".join(f"{language}: {clause}" for language, clause in problems.items())
