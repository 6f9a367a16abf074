"""Reads files of results, which `hf-mlpl evaluate` writes, for tables and cards."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from functools import partial

from ..model.model_files import check_settings, list_of_texts, number, read_settings, text, whole
from .error_rate import RATES


def read_results(path: str | os.PathLike, metrics: Sequence[str] = ("cer", "wer")) -> dict:
    """Reads a file of results, or the `complete.json` of labels, which has a CER alone.

    Args:
        metrics: error rates that each language must have.

    Raises:
        ValueError: for anything else, in one line with file and field.
    """
    try:
        results = read_settings(path)
    except ValueError as error:
        raise ValueError(f"{error}; `hf-mlpl evaluate` writes results") from error
    if "languages" not in results:
        raise ValueError(f"{path}: holds no results of `hf-mlpl evaluate`")
    form = f"{' and '.join(metrics)}, each a number or null"
    has_scores: Callable = partial(_has_scores, metrics)
    has_rates: Callable = partial(_has_rates, metrics)
    fields = {
        "languages": (has_scores, f"an object that has for each language {form}"),
        "macro": (has_rates, f"an object with {form}"),
        "utterances": whole(0, 10**12),
        "hours": number(0, 1e12),
        "update": whole(0, 10**12),
        "data": list_of_texts(),
        "revision": text(),
        "sources": (_has_names, "a list of objects, each with a name"),
    }
    check_settings(path, results, fields)
    return results


def _has_scores(metrics: Sequence[str], value: object) -> bool:
    return isinstance(value, dict) and bool(value) and all(_has_rates(metrics, rates) for rates in value.values())


def _has_rates(metrics: Sequence[str], value: object) -> bool:
    if not isinstance(value, dict) or not set(metrics) <= value.keys():
        return False
    numbers = [value[name] for name in (*RATES, "utterances", "hours") if name in value]
    return all(rate is None or (type(rate) in (int, float) and 0 <= rate < math.inf) for rate in numbers)


def _has_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(s, dict) and isinstance(s.get("name"), str) for s in value)
