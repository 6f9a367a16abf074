"""Chooses pseudo-labels by the scores that are stored with them, without labelling again.

A file of filters is YAML, `filter: none` or a list of conditions that all must hold:

    filter:
      - mean_log_prob >= -0.3
      - characters_per_second <= 25
      - language agrees

Scores are those of `label_schema.SCORES`; a score that is null fulfils no condition. `language agrees` keeps labels
whose language the teacher's language-ID head recognises.
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
            self._parts()

    def _parts(self) -> tuple[str, str, float]:
        match = re.fullmatch(r"\s*(\w+)\s*(>=|<=)\s*(\S+)\s*", self.condition)
        try:
            name, operator, bound = match.groups()
            if name in SCORES and not math.isnan(float(bound)):
                return name, operator, float(bound)
        except (AttributeError, ValueError):
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
            name, operator, bound = self._parts()
            kept = OPERATORS[operator](labels[name], bound)
        return kept.fill_null(False).to_numpy(zero_copy_only=False)


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
    labels: Sequence[str | Path], filters: list[LabelFilter], output: str | Path, allow_empty: bool = False
) -> dict[str, dict[str, float]]:
    """Writes the labels that all filters keep; returns language -> hours of `all`, of each filter alone, and `kept`.

    A warning names the languages of which all labels that are kept are empty, as those of a collapsed teacher are.

    Args:
        allow_empty: writes a file without a single text, too.

    Raises:
        ValueError: where one of `labels` is no file of pseudo-labels, and where there are labels, but none that is
            kept has a text.
        InUseError: where another job is writing the same file.
    """
    for path in labels:
        label_schema(path, list(LABEL_FEATURES), "; `hf-mlpl pseudo-label` writes labels with scores")
    names = ["all", *(each.condition for each in filters), "kept"]
    hours: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(names, 0.0))
    num_read, num_kept, num_with_text = 0, Counter(), Counter()
    with (
        claimed_file(output),
        atomic_write(output) as partial,
        pq.ParquetWriter(partial, LABEL_FEATURES.arrow_schema, write_page_checksum=True) as writer,
    ):
        for block in chain.from_iterable(label_blocks(path, LABEL_FEATURES, NEVER_NULL) for path in labels):
            masks = [each.keeps(block) for each in filters]
            kept = np.logical_and.reduce([np.ones(len(block), dtype=bool), *masks])
            durations, languages = block["duration_seconds"].to_numpy() / 3600, np.array(block["language"])
            for name, mask in zip(names, [np.ones_like(kept), *masks, kept], strict=True):
                for language in np.unique(languages):
                    hours[language][name] += durations[mask & (languages == language)].sum()
            has_text = pc.not_equal(block["text"], "").to_numpy()
            num_read += len(block)
            num_kept.update(languages[kept].tolist())
            num_with_text.update(languages[kept & has_text].tolist())
            writer.write_table(block.filter(pa.array(kept)))
        if num_read and not num_with_text and not allow_empty:
            raise ValueError(
                f"of {num_read} labels the filters keep {num_kept.total()}, and none of these has a text; relax the "
                "filters, or look at the teacher's error rates; --allow-empty writes them all the same"
            )
    for language in sorted(num_kept.keys() - num_with_text.keys()):
        logger.warning("%s: all %d labels that are kept are empty", language, num_kept[language])
    return dict(sorted(hours.items()))
