"""Turns filters that keep a share of the labels, such as `mean_log_prob >= 50%`, into bounds of each language."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..data.collapse import num_characters
from .filters import LabelFilter

Bounds = Mapping[str, Mapping[str, float]]  # by condition and language


def relative_bounds(blocks: Iterable[pa.Table | pa.RecordBatch], filters: Sequence[LabelFilter]) -> Bounds:
    """Finds the bounds of the filters that keep a share: for each of them, and each language, the strictest that does.

    What counts is the hours of the labels of a language that have a text and the score, before other filters. All
    labels with the very value of the bound are kept, so it may be more than the share.

    Memory holds 8 bytes of each label for its duration, and 8 for each of these filters.

    Args:
        blocks: labels, columns of `LABEL_FEATURES`; not read if no filter keeps a share.
    """
    relative = {each.condition: each for each in filters if each.share is not None}
    if not relative:
        return {}
    found: defaultdict[str, list[np.ndarray]] = defaultdict(list)  # by language, arrays (1 + filters, N)
    for block in blocks:
        values = [each.values(block) for each in relative.values()]
        has_text = pc.greater(num_characters(block["text"]), 0).to_numpy(zero_copy_only=False)
        columns = np.stack([block["duration_seconds"].to_numpy(), *values])[:, has_text]
        languages = np.array(block["language"])[has_text]
        for language in np.unique(languages).tolist():
            found[language].append(columns[:, languages == language])
    bounds: dict[str, dict[str, float]] = {condition: {} for condition in relative}
    for language, parts in found.items():
        seconds, *scores = np.concatenate(parts, axis=1)
        for each, values in zip(relative.values(), scores, strict=True):
            is_known = ~np.isnan(values)
            if is_known.any():
                bounds[each.condition][language] = share_bound(values[is_known], seconds[is_known], each)
    return bounds


def share_bound(values: np.ndarray, seconds: np.ndarray, of_filter: LabelFilter) -> float:
    """Returns the strictest bound with which a filter keeps its share of the seconds (N,) of values (N,)."""
    order = np.argsort(-values if of_filter.operator == ">=" else values, kind="stable")
    kept = seconds[order].cumsum()
    return float(values[order][np.searchsorted(kept, of_filter.share * kept[-1] * (1 - 1e-12))])
