"""Filters pseudo-labels by the scores that are stored with them, without labelling again.

A file of filters is YAML, `filter: none` or a list of conditions that all must hold:

    filter:
      - mean_log_prob >= -0.3
      - characters_per_second <= 25
      - language agrees

Scores are those of `labels.schema.SCORES`; a null score fulfils no condition. `language agrees` keeps labels whose
language the teacher's language-ID head recognises.
"""

from __future__ import annotations

import logging
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from ..atomic import atomic_write
from ..error_line import error_line
from ..folder_lock import claimed_file
from .files import label_blocks, label_schema
from .schema import LABEL_FEATURES, NEVER_NULL, SCORES

logger = logging.getLogger(__name__)

OPERATORS: dict[str, Callable] = {">=": pc.greater_equal, "<=": pc.less_equal}
CONDITION = re.compile(rf"\s*({'|'.join(SCORES)})\s*({'|'.join(OPERATORS)})\s*(\S+)\s*")
LANGUAGE_AGREES = "language agrees"


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

    def _parse(self) -> tuple[str, str, float]:
        """Returns score, operator and bound."""
        try:
            if (match := CONDITION.fullmatch(self.condition)) and not math.isnan(bound := float(match[3])):
                return match[1], match[2], bound
        except ValueError:
            pass
        raise ValueError(
            f"{self.condition!r} is no filter; write '{LANGUAGE_AGREES}', or a score, >= or <= and a number, with one "
            f"of {', '.join(SCORES)}"
        )

    def keeps(self, labels: pa.Table | pa.RecordBatch) -> np.ndarray:
        """Returns the (N,) mask of the labels that fulfil the condition."""
        if self.condition == LANGUAGE_AGREES:
            kept = pc.equal(labels["language"], labels["predicted_language"])
        else:
            score, operator, bound = self._parse()
            kept = OPERATORS[operator](labels[score], bound)
        return kept.fill_null(False).to_numpy(zero_copy_only=False)


def filter_masks(labels: pa.Table | pa.RecordBatch, filters: Sequence[LabelFilter]) -> dict[str, np.ndarray]:
    """Returns (N,) masks of `all` labels, of those that each filter keeps, by its condition, and of those `kept`."""
    masks = {"all": np.ones(len(labels), bool)} | {each.condition: each.keeps(labels) for each in filters}
    return masks | {"kept": np.logical_and.reduce(list(masks.values()))}


def read_filters(path: str | Path) -> list[LabelFilter]:
    """Reads the filters of a YAML file; `filter: none` gives an empty list, which keeps everything."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or list(content) != ["filter"]:
            raise ValueError("must hold `filter: none`, or `filter:` and a list of conditions, and nothing else")
        conditions = content["filter"]
        if conditions in ("none", None):
            return []
        if not isinstance(conditions, list) or not all(isinstance(condition, str) for condition in conditions):
            raise ValueError(f"filter is {conditions!r}; it must be none or a list of conditions")
        return [LabelFilter(" ".join(condition.split())) for condition in conditions]
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {error_line(error)}") from None


def filter_labels(
    labels: Sequence[str | Path], filters: Sequence[LabelFilter], output: str | Path, allow_empty: bool = False
) -> dict[str, dict[str, float]]:
    """Writes the labels that all filters keep; returns language -> hours of `all`, of each filter alone, and `kept`.

    Warns of languages whose kept labels are all empty, as those of a collapsed teacher are.

    Args:
        allow_empty: writes the file even if no kept label has a text.

    Raises:
        ValueError: for a file of `labels` that holds no pseudo-labels, and for labels of which none that is kept has a
            text.
        InUseError: if another job is writing the same file.
    """
    for path in labels:
        label_schema(path, list(LABEL_FEATURES), "; `hf-mlpl pseudo-label` writes labels with scores")
    hours: dict[str, Counter] = defaultdict(Counter)
    num_read, num_kept, num_with_text = 0, Counter[str](), Counter[str]()
    with (
        claimed_file(output),
        atomic_write(output) as partial,
        pq.ParquetWriter(partial, LABEL_FEATURES.arrow_schema, write_page_checksum=True) as writer,
    ):
        for block in chain.from_iterable(label_blocks(path, LABEL_FEATURES, NEVER_NULL) for path in labels):
            masks = filter_masks(block, filters)
            durations, languages = block["duration_seconds"].to_numpy() / 3600, np.array(block["language"])
            for language in np.unique(languages).tolist():
                for name, mask in masks.items():
                    hours[language][name] += durations[mask & (languages == language)].sum()
            num_read += len(block)
            num_kept.update(languages[masks["kept"]].tolist())
            num_with_text.update(languages[masks["kept"] & pc.not_equal(block["text"], "").to_numpy()].tolist())
            writer.write_table(block.filter(pa.array(masks["kept"])))
        if num_read and not num_with_text and not allow_empty:
            raise ValueError(
                f"of {num_read} labels the filters keep {num_kept.total()}, and none of these has a text; relax the "
                "filters, or look at the teacher's error rates; --allow-empty writes them all the same"
            )
    for language in sorted(num_kept.keys() - num_with_text.keys()):
        logger.warning("%s: all %d labels that are kept are empty", language, num_kept[language])
    return {language: dict(hours[language]) for language in sorted(hours)}
