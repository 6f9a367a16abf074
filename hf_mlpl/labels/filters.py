"""Filters pseudo-labels by the scores that are stored with them, without labelling again.

A file of filters is YAML, `filter: none` or a list of conditions that all must hold:

    filter:
      - mean_log_prob >= -0.3
      - characters_per_second <= 25
      - language agrees

A percentage keeps that share of the hours of each language, the best by the score: `mean_log_prob >= 50%` the half
with the highest ones, `blank_ratio <= 50%` the half with the lowest. It is a share of the labels that have a text and
the score, whatever other filters drop. Labels with the very value of the bound are all kept: it may be more.

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
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from ..data.collapse import num_characters
from ..error_line import error_line
from .schema import SCORES

logger = logging.getLogger(__name__)

CHARACTERS = "characters"
OPERATORS: dict[str, Callable] = {">=": np.greater_equal, "<=": np.less_equal, ">": np.greater, "<": np.less}
CONDITION = re.compile(rf"\s*({'|'.join((*SCORES, CHARACTERS))})\s*({'|'.join(OPERATORS)})\s*([^\s=]\S*)\s*")
LANGUAGE_AGREES, PREDICTED_LANGUAGE = "language agrees", "predicted_language"
REMEDIES = {
    "agreement": "; --agreement-with or `hf-mlpl vote-labels` computes it",
    "expected_cer": "; --calibration computes it, of labels with most of its scores",
}


@dataclass(frozen=True)
class LabelFilter:
    """Keeps labels by one condition, such as `mean_log_prob >= -0.3`, `mean_log_prob >= 50%` or `language agrees`.

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

    @property
    def operator(self) -> str | None:
        """Returns the operator; None for `language agrees`."""
        return None if self.condition == LANGUAGE_AGREES else self._parse()[1]

    @property
    def share(self) -> float | None:
        """Returns the share of the hours that a percentage keeps, 0.5 for 50%; None for other conditions."""
        bound = "" if self.condition == LANGUAGE_AGREES else self._parse()[2]
        return float(bound[:-1]) / 100 if bound.endswith("%") else None

    def _parse(self) -> tuple[str, str, str]:
        """Returns score, operator and bound."""
        if match := CONDITION.fullmatch(self.condition):
            score, operator, bound = match.groups()
            try:
                number = float(bound.removesuffix("%"))
            except ValueError:
                number = math.nan
            if bound.endswith("%") and not (0 < number <= 100 and operator in (">=", "<=")):
                raise ValueError(
                    f"{self.condition!r} is no filter; a share of the labels takes >= or <=, and more than 0% up to "
                    f"100%, as in '{score} >= 50%'"
                )
            if not math.isnan(number):
                return score, operator, bound
        raise ValueError(
            f"{self.condition!r} is no filter; write '{LANGUAGE_AGREES}', or a score, >=, <=, > or < and a number, or "
            f">= or <= and a share such as 50%, with one of {', '.join((*SCORES, CHARACTERS))}"
        )

    def values(self, labels: pa.Table | pa.RecordBatch) -> np.ndarray:
        """Returns (N,) values of the score; NaN where it is null."""
        column = num_characters(labels["text"]) if self.column == "text" else labels[self.column]
        return column.cast(pa.float64()).to_numpy(zero_copy_only=False)

    def keeps(self, labels: pa.Table | pa.RecordBatch, bounds: Mapping[str, float] | None = None) -> np.ndarray:
        """Returns the (N,) mask of the labels that fulfil the condition.

        Args:
            bounds: by language, which a percentage needs; of a language without one, no label is kept.
        """
        if self.condition == LANGUAGE_AGREES:
            kept = pc.equal(labels["language"], labels[PREDICTED_LANGUAGE])
            return kept.fill_null(False).to_numpy(zero_copy_only=False)
        _, operator, bound = self._parse()
        if self.share is None:
            return OPERATORS[operator](self.values(labels), float(bound))
        places = pc.index_in(labels["language"], pa.array(list(bounds), pa.string())).fill_null(len(bounds))
        return OPERATORS[operator](self.values(labels), np.array([*bounds.values(), np.nan])[places.to_numpy()])


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
                    f"{each.condition!r} cannot hold: none of {self.labels} labels has a value of {each.column}"
                    f"{REMEDIES.get(each.column, '')}; their scores are {', '.join(there)}"
                )
            without = self.labels - self.known[each.column]
            logger.warning(
                "%s: drops %d of %d labels that have no %s", each.condition, without, self.labels, each.column
            )


def filter_masks(
    labels: pa.Table | pa.RecordBatch,
    filters: Sequence[LabelFilter],
    bounds: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, np.ndarray]:
    """Returns (N,) masks of `all` labels, of those that each filter keeps, by its condition, and of those `kept`.

    Args:
        bounds: of filters that keep a share, by condition and language, from `relative_bounds`.
    """
    masks = {"all": np.ones(len(labels), bool)}
    masks |= {each.condition: each.keeps(labels, (bounds or {}).get(each.condition)) for each in filters}
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
