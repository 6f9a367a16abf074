"""Choosing pseudo-labels by the scores that are stored with them, without labelling again.

A file of filters is YAML, `filter: none` or a list of conditions that all must hold:

    filter:
      - mean_log_prob >= -0.3
      - characters_per_second <= 25
      - language agrees

Scores are those of `pseudo_label.SCORES`; a score that is null fulfils no condition. `language agrees` keeps labels
whose language the teacher's language-ID head recognises.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from .atomic import written_whole
from .pseudo_label import SCORES

OPERATORS: dict[str, Callable] = {">=": pc.greater_equal, "<=": pc.less_equal}
LANGUAGE_AGREES = "language agrees"


@dataclass(frozen=True)
class LabelFilter:
    """One condition, such as `mean_log_prob >= -0.3` or `language agrees`.

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
            if name in SCORES:
                return name, operator, float(bound)
        except (AttributeError, ValueError):
            pass
        raise ValueError(
            f"{self.condition!r} is no filter; write '{LANGUAGE_AGREES}', or a score, >= or <= and a number, with one "
            f"of {', '.join(SCORES)}"
        )

    def keeps(self, labels: pa.RecordBatch) -> np.ndarray:
        """(N,) mask of the labels that fulfil the condition."""
        if self.condition == LANGUAGE_AGREES:
            kept = pc.equal(labels["language"], labels["predicted_language"])
        else:
            name, operator, bound = self._parts()
            kept = OPERATORS[operator](labels[name], bound)
        return kept.fill_null(False).to_numpy(zero_copy_only=False)


def read_filters(path: str | Path) -> list[LabelFilter]:
    """Filters of a YAML file; `filter: none` gives an empty list, which keeps everything."""
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
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None


def filter_labels(
    labels: Sequence[str | Path], filters: list[LabelFilter], output: str | Path
) -> dict[str, dict[str, float]]:
    """Writes the labels that all filters keep; returns language -> hours of `all`, of each filter alone, and `kept`.

    Raises:
        ValueError: where one of `labels` is no file of pseudo-labels.
    """
    files = [_open(path) for path in labels]
    names = ["all", *(each.condition for each in filters), "kept"]
    hours: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(names, 0.0))
    with written_whole(output) as partial, pq.ParquetWriter(partial, files[0].schema_arrow) as writer:
        for batch in chain.from_iterable(file.iter_batches() for file in files):
            masks = [each.keeps(batch) for each in filters]
            kept = np.logical_and.reduce([np.ones(len(batch), dtype=bool), *masks])
            durations, languages = batch["duration_seconds"].to_numpy() / 3600, np.array(batch["language"])
            for name, mask in zip(names, [np.ones_like(kept), *masks, kept], strict=True):
                for language in np.unique(languages):
                    hours[language][name] += durations[mask & (languages == language)].sum()
            writer.write_batch(batch.filter(pa.array(kept)))
    return dict(sorted(hours.items()))


def _open(path: str | Path) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: no Parquet file, or damaged") from error
    missing = {*SCORES, "language", "predicted_language", "duration_seconds"} - set(file.schema_arrow.names)
    if missing:
        raise ValueError(
            f"{path}: has no column {', '.join(sorted(missing))}; recipes/pseudo_label.py writes labels with scores"
        )
    return file
