"""Filters pseudo-labels by the scores that are stored with them, without labelling again.

A file of filters is YAML, `filter: none` or a list of conditions that all must hold:

    filter:
      - mean_log_prob >= -0.3
      - characters_per_second <= 25
      - language agrees

Scores are those of `labels.schema.SCORES`, and `characters`, the length of the text. A null score fulfils no
condition: such labels are dropped, and a line counts them. A score that none of the labels has is refused, because its
teacher, or whoever wrote the table, has none. `language agrees` keeps labels whose language the teacher's language-ID
head recognises.

`characters > 0`, which drops empty labels, holds everywhere, also without a file. A condition on `characters` in the
file takes its place (`characters >= 0` keeps empty labels), and `filter: none` keeps everything.
"""

from __future__ import annotations

import logging
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from ..corpora.preparation.normalizer import Normalizer
from ..data.collapse import NOT_LEARNED, LabelTexts, collapse_line, num_characters
from ..data.rows import row_groups, with_offsets
from ..data.utterances import write_tables
from ..error_line import error_line
from ..folder_lock import claimed_file
from ..model.text import normalize_text
from ..remote_path import AnyPath, as_path
from .agreement import agreement
from .files import scored_blocks
from .schema import LABEL_FEATURES, SCORES

logger = logging.getLogger(__name__)

CHARACTERS = "characters"
OPERATORS: dict[str, Callable] = {">=": pc.greater_equal, "<=": pc.less_equal, ">": pc.greater, "<": pc.less}
CONDITION = re.compile(rf"\s*({'|'.join((*SCORES, CHARACTERS))})\s*({'|'.join(OPERATORS)})\s*([^\s=]\S*)\s*")
LANGUAGE_AGREES, PREDICTED_LANGUAGE = "language agrees", "predicted_language"


@dataclass(frozen=True)
class LabelFilter:
    """Keeps labels by one condition, such as `mean_log_prob >= -0.3` or `language agrees`.

    Raises:
        ValueError: for a text that is no condition, with those that are accepted.
    """

    condition: str

    def __post_init__(self):
        if self.condition != LANGUAGE_AGREES:
            self._parse()

    @property
    def column(self) -> str:
        """Returns the column of labels on which the condition depends."""
        if self.condition == LANGUAGE_AGREES:
            return PREDICTED_LANGUAGE
        score, _, _ = self._parse()
        return "text" if score == CHARACTERS else score

    def _parse(self) -> tuple[str, str, float]:
        """Returns score, operator and bound."""
        try:
            if (match := CONDITION.fullmatch(self.condition)) and not math.isnan(bound := float(match[3])):
                return match[1], match[2], bound
        except ValueError:
            pass
        raise ValueError(
            f"{self.condition!r} is no filter; write '{LANGUAGE_AGREES}', or a score, >=, <=, > or < and a number, "
            f"with one of {', '.join((*SCORES, CHARACTERS))}"
        )

    def keeps(self, labels: pa.Table | pa.RecordBatch) -> np.ndarray:
        """Returns the (N,) mask of the labels that fulfil the condition."""
        if self.condition == LANGUAGE_AGREES:
            kept = pc.equal(labels["language"], labels[PREDICTED_LANGUAGE])
        else:
            score, operator, bound = self._parse()
            values = num_characters(labels["text"]) if score == CHARACTERS else labels[score]
            kept = OPERATORS[operator](values, bound)
        return kept.fill_null(False).to_numpy(zero_copy_only=False)


DEFAULT_FILTERS = (LabelFilter(f"{CHARACTERS} > 0"),)


class KnownScores:
    """Counts the labels that have each score, among those with a text: an empty one has no words to score."""

    def __init__(self):
        self.labels = 0
        self.known: Counter[str] = Counter()

    def add(self, labels: pa.Table | pa.RecordBatch) -> None:
        """Counts labels, columns of `LABEL_FEATURES`."""
        has_text = pc.greater(num_characters(labels["text"]), 0)
        self.labels += pc.sum(has_text).as_py() or 0
        for name in (*SCORES, PREDICTED_LANGUAGE):
            self.known[name] += pc.sum(pc.and_(has_text, labels[name].is_valid())).as_py() or 0

    def check(self, filters: Sequence[LabelFilter]) -> None:
        """Checks that labels have the scores of filters; warns of a score that some of them lack.

        Raises:
            ValueError: for a score that none of the labels has, with those that they have.
        """
        for each in filters:
            if each.column == "text" or self.known[each.column] == self.labels:
                continue
            if not self.known[each.column]:
                there = [name for name in SCORES if self.known[name]] + [CHARACTERS]
                raise ValueError(
                    f"{each.condition!r} cannot hold: none of {self.labels} labels has a value of {each.column}; "
                    f"their scores are {', '.join(there)}"
                )
            without = self.labels - self.known[each.column]
            logger.warning(
                "%s: drops %d of %d labels that have no %s", each.condition, without, self.labels, each.column
            )


def filter_masks(labels: pa.Table | pa.RecordBatch, filters: Sequence[LabelFilter]) -> dict[str, np.ndarray]:
    """Returns (N,) masks of `all` labels, of those that each filter keeps, by its condition, and of those `kept`."""
    masks = {"all": np.ones(len(labels), bool)} | {each.condition: each.keeps(labels) for each in filters}
    return masks | {"kept": np.logical_and.reduce(list(masks.values()))}


def read_filters(path: str | Path) -> list[LabelFilter]:
    """Reads the filters of a YAML file, and adds `characters > 0` unless the file has a condition on `characters`.

    `filter: none` gives an empty list, which keeps everything.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or list(content) != ["filter"]:
            raise ValueError("must hold `filter: none`, or `filter:` and a list of conditions, and nothing else")
        conditions = content["filter"]
        if conditions in ("none", None):
            return []
        if not isinstance(conditions, list) or not all(isinstance(condition, str) for condition in conditions):
            raise ValueError(f"filter is {conditions!r}; it must be none or a list of conditions")
        filters = [LabelFilter(" ".join(condition.split())) for condition in conditions]
        names_characters = any(re.match(rf"{CHARACTERS}\b", each.condition) for each in filters)
        return filters if names_characters else [*DEFAULT_FILTERS, *filters]
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {error_line(error)}") from None


def filter_labels(
    labels: Sequence[str | AnyPath],
    filters: Sequence[LabelFilter],
    output: str | AnyPath,
    allow_collapsed: bool = False,
    others: Sequence[pa.Array] = (),
    normalizers: Mapping[str, Normalizer] | None = None,
) -> dict[str, dict[str, float]]:
    """Writes the labels that all filters keep; returns language -> hours of `all`, of each filter alone, and `kept`.

    Warns of languages of which the filters keep no label.

    Args:
        others: texts of other label sets for the same utterances, in this order, as `agreement.other_labels` finds
            them; they give the score `agreement`, which is written, too.
        normalizers: of the texts that are written, by language; `*` is for all other languages. Filters see these
            texts; other scores stay those of the teacher's.
        allow_collapsed: writes the file also if labels have collapsed, or if the filters keep none.

    Raises:
        ValueError: for a file of `labels` that holds no pseudo-labels, for languages whose labels have collapsed, for
            a filter on a score that no label has, and if there is no label, or the filters keep none; then nothing is
            written.
        InUseError: if another job is writing the same file.
    """
    hours: dict[str, Counter] = defaultdict(Counter)
    kept_by: dict[str, Counter[str]] = defaultdict(Counter)  # numbers of labels, as `hours`
    texts, known = LabelTexts(), KnownScores()

    def kept_labels() -> Iterator[pa.Table]:
        for first, block in with_offsets(chain.from_iterable(map(scored_blocks, labels))):
            if others:
                texts_of_all = [block["text"], *(each.slice(first, len(block)) for each in others)]
                block = _with_column(block, "agreement", agreement(texts_of_all))
            block = _normalized(block, normalizers or {})
            masks = filter_masks(block, filters)
            durations, languages = block["duration_seconds"].to_numpy() / 3600, np.array(block["language"])
            for language in np.unique(languages).tolist():
                for name, mask in masks.items():
                    hours[language][name] += durations[mask & (languages == language)].sum()
                    kept_by[language][name] += int((mask & (languages == language)).sum())
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
        for counts in kept_by.values():
            total.update(counts)  # a sum of counters has no zeros
        if not total["kept"] and not allow_collapsed:
            problem = (
                f"{_none_kept(total)}; relax the filters" if total else f"{', '.join(map(str, labels))}: no labels"
            )
            raise ValueError(f"{problem}; --allow-collapsed writes a file without labels")

    with claimed_file(output):
        write_tables(row_groups(kept_labels()), as_path(output), LABEL_FEATURES.arrow_schema)
    for language, counts in sorted(kept_by.items()):
        if not counts["kept"]:
            logger.warning("%s: %s", language, _none_kept(counts))
    return {language: dict(hours[language]) for language in sorted(hours)}


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
