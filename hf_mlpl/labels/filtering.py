"""Writes the pseudo-labels that filters keep, and reports what they keep and what is lost."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from ..corpora.preparation.normalizer import Normalizer
from ..data.collapse import NOT_LEARNED, LabelTexts, collapse_line
from ..data.rows import row_groups, with_offsets
from ..data.utterances import write_tables
from ..data.words import words_of
from ..folder_lock import claimed_file
from ..model.text import normalize_text
from ..remote_path import AnyPath, as_path
from .agreement import agreement
from .calibration import Calibration
from .files import scored_blocks
from .filters import KnownScores, LabelFilter, filter_masks
from .references import References, edits_and_characters
from .relative import Bounds, relative_bounds
from .schema import LABEL_FEATURES

logger = logging.getLogger(__name__)


@dataclass
class LanguageReport:
    """Counts the labels of one language: `all` of them, those of each filter alone, by its condition, and `kept`.

    Args:
        labels, hours: of each of these.
        edits, characters: of those of them that have a reference, and of the references.
        compared: number of labels with a reference.
        words, kept_words: how often each word is in labels, and in those that are kept.
        true_words: how often each word is in references. In scripts without spaces, characters are words.
    """

    labels: Counter[str] = field(default_factory=Counter)
    hours: Counter[str] = field(default_factory=Counter)
    edits: Counter[str] = field(default_factory=Counter)
    characters: Counter[str] = field(default_factory=Counter)
    compared: int = 0
    words: Counter[str] = field(default_factory=Counter)
    kept_words: Counter[str] = field(default_factory=Counter)
    true_words: Counter[str] = field(default_factory=Counter)

    def cer(self, name: str) -> float | None:
        """Returns the character error rate of `all` labels, of those that a filter keeps, or of those `kept`.

        None where none of them has a reference.
        """
        return self.edits[name] / self.characters[name] if self.characters[name] else None

    def lost_words(self, of_references: bool = False) -> Counter[str]:
        """Returns the words of labels, or of references, that no kept label has, and how often they are there."""
        words = self.true_words if of_references else self.words
        return Counter({word: count for word, count in words.items() if word not in self.kept_words})


@dataclass
class FilterReport:
    """Says what filters keep.

    Args:
        languages: counts of each, in the order of their names.
        bounds: of filters that keep a share, by condition and language.
    """

    languages: dict[str, LanguageReport]
    bounds: Bounds

    @property
    def hours(self) -> dict[str, dict[str, float]]:
        """Returns language -> hours of `all`, of each filter alone, by its condition, and `kept`."""
        return {language: dict(report.hours) for language, report in self.languages.items()}


def filter_labels(
    labels: Sequence[str | AnyPath],
    filters: Sequence[LabelFilter],
    output: str | AnyPath,
    allow_collapsed: bool = False,
    others: Sequence[pa.Array] = (),
    normalizers: Mapping[str, Normalizer] | None = None,
    calibration: Calibration | None = None,
    references: Dataset | None = None,
) -> FilterReport:
    """Writes the labels that all filters keep; returns what each of them keeps.

    Warns of languages of which the filters keep no label. Files are read twice if a filter keeps a share; memory then
    holds 8 bytes of each label, and 8 for each such filter.

    Args:
        others: texts of other label sets for the same utterances, in this order, as `agreement.other_labels` finds
            them; they give the score `agreement`, which is written, too.
        normalizers: of the texts that are written, by language; `*` is for all other languages. Filters see these
            texts; other scores stay those of the teacher's.
        allow_collapsed: writes the file also if labels have collapsed, or if the filters keep none.
        calibration: gives the score `expected_cer`, which is written, too.
        references: utterances with the true texts of labels, for the error rates of the report alone.

    Raises:
        ValueError: for a file of `labels` that holds no pseudo-labels, for languages whose labels have collapsed, for
            a filter on a score that no label has, for references of no label, and if there is no label, or the
            filters keep none; then nothing is written.
        InUseError: if another job is writing the same file.
    """
    reports: defaultdict[str, LanguageReport] = defaultdict(LanguageReport)
    texts, known, transcripts = LabelTexts(), KnownScores(), None if references is None else References(references)
    blocks = _Blocks(labels, others, normalizers or {}, calibration)
    bounds = relative_bounds(blocks, filters)

    def kept_labels() -> Iterator[pa.Table]:
        for block in blocks:
            masks = filter_masks(block, filters, bounds)
            _count(reports, block, masks, transcripts)
            texts.add(block)
            known.add(block)
            yield block.filter(pa.array(masks["kept"]))
        if (problems := texts.problems()) and not allow_collapsed:
            raise ValueError(
                f"{collapse_line(problems)}: {NOT_LEARNED}, or leave out the file; --allow-collapsed filters them all "
                "the same"
            )
        known.check(filters)
        total: Counter[str] = Counter()
        for report in reports.values():
            total.update(report.labels)  # a sum of counters has no zeros
        if not total["kept"] and not allow_collapsed:
            problem = (
                f"{_none_kept(total)}; relax the filters" if total else f"{', '.join(map(str, labels))}: no labels"
            )
            raise ValueError(f"{problem}; --allow-collapsed writes a file without labels")
        if transcripts is not None and total and not any(report.compared for report in reports.values()):
            raise ValueError(f"none of {total['all']} labels is of an utterance with a text among the references")

    with claimed_file(output):
        write_tables(row_groups(kept_labels()), as_path(output), LABEL_FEATURES.arrow_schema)
    for language, report in sorted(reports.items()):
        if not report.labels["kept"]:
            logger.warning("%s: %s", language, _none_kept(report.labels))
    if calibration is not None:
        calibration.log_missing(known)
    return FilterReport(dict(sorted(reports.items())), bounds)


class _Blocks:
    """Reads labels with their texts and scores as they are written, 10,000 at a time, as often as is needed."""

    def __init__(
        self,
        labels: Sequence[str | AnyPath],
        others: Sequence[pa.Array],
        normalizers: Mapping[str, Normalizer],
        calibration: Calibration | None,
    ):
        self.labels, self.others, self.normalizers, self.calibration = labels, others, normalizers, calibration
        self._agreements: dict[int, pa.Array] = {}  # by a block's first row: they take longer than the rest

    def __iter__(self) -> Iterator[pa.Table]:
        for first, block in with_offsets(chain.from_iterable(map(scored_blocks, self.labels))):
            if self.others:
                if first not in self._agreements:
                    texts_of_all = [block["text"], *(each.slice(first, len(block)) for each in self.others)]
                    self._agreements[first] = agreement(texts_of_all)
                block = _with_column(block, "agreement", self._agreements[first])
            block = _normalized(block, self.normalizers)
            if self.calibration is not None:
                block = _with_column(block, "expected_cer", self.calibration.expected_cer(block))
            yield block


def _count(
    reports: defaultdict[str, LanguageReport],
    labels: pa.Table,
    masks: Mapping[str, np.ndarray],
    transcripts: References | None,
) -> None:
    """Counts a block of labels in the report of each language."""
    amounts = {"hours": labels["duration_seconds"].to_numpy() / 3600}
    spoken, has_reference = labels["text"], np.zeros(len(labels), bool)
    if transcripts is not None:
        spoken = transcripts.texts(transcripts.places(labels))
        has_reference = spoken.is_valid().to_numpy(zero_copy_only=False)
        amounts |= zip(("edits", "characters"), edits_and_characters(labels["text"], spoken), strict=True)
    languages = np.array(labels["language"])
    for language in np.unique(languages).tolist():
        report, is_spoken = reports[language], languages == language
        report.compared += int((has_reference & is_spoken).sum())
        for name, mask in masks.items():
            report.labels[name] += int((mask & is_spoken).sum())
            for amount, values in amounts.items():
                getattr(report, amount)[name] += float(values[mask & is_spoken].sum())
        _count_words(report.words, labels["text"].filter(pa.array(is_spoken)))
        _count_words(report.kept_words, labels["text"].filter(pa.array(is_spoken & masks["kept"])))
        _count_words(report.true_words, spoken.filter(pa.array(is_spoken & has_reference)))


def _count_words(words: Counter[str], texts: pa.Array | pa.ChunkedArray) -> None:
    for each in pc.value_counts(pc.list_flatten(pc.utf8_split_whitespace(texts))).to_pylist():
        for word in words_of(each["values"]):
            words[word] += each["counts"]


def _with_column(labels: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return labels.set_column(labels.column_names.index(name), labels.schema.field(name), values)


def _normalized(labels: pa.Table, normalizers: Mapping[str, Normalizer]) -> pa.Table:
    """Normalises texts by the normaliser of their language, or else by that of `*`, if there is one."""
    if not normalizers:
        return labels
    pairs = zip(labels["language"].to_pylist(), labels["text"].to_pylist(), strict=True)
    texts = [normalizers.get(language, normalizers.get("*", normalize_text))(text) for language, text in pairs]
    return _with_column(labels, "text", pa.array(texts, pa.string()))


def _none_kept(counts: Mapping[str, int]) -> str:
    """Says how many labels each filter removes; `counts` are those that it keeps, by its name in `filter_masks`."""
    removed = [f"{name} removes {counts['all'] - counts[name]}" for name in counts if name not in ("all", "kept")]
    return f"the filters keep none of {counts['all']} labels: {', '.join(removed)}"
