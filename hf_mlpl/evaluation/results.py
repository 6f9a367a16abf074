"""Reads files of results, which `hf-mlpl evaluate` writes, for tables and cards."""

from __future__ import annotations

import math
import os

from ..model.model_files import check_settings, list_of_texts, number, read_settings, text, whole

SCORES = "cer and wer, a number or null each"


def read_results(path: str | os.PathLike) -> dict:
    """Reads a file of results; raises `ValueError`, in one line with file and field, for anything else."""
    try:
        results = read_settings(path)
    except ValueError as error:
        raise ValueError(f"{error}; `hf-mlpl evaluate` writes results") from error
    if "languages" not in results:
        raise ValueError(f"{path}: holds no results of `hf-mlpl evaluate`")
    fields = {
        "languages": (_are_scores, f"an object that has for each language {SCORES}"),
        "macro": (_are_rates, f"an object with {SCORES}"),
        "utterances": whole(0, 10**12),
        "hours": number(0, 1e12),
        "update": whole(0, 10**12),
        "data": list_of_texts(),
        "revision": text(),
        "sources": (_are_named, "a list of objects, each with a name"),
    }
    check_settings(path, results, fields)
    return results


def _are_scores(value: object) -> bool:
    return isinstance(value, dict) and bool(value) and all(map(_are_rates, value.values()))


def _are_rates(value: object) -> bool:
    if not isinstance(value, dict) or not {"cer", "wer"} <= value.keys():
        return False
    known = [value[name] for name in ("cer", "wer", "language_accuracy", "utterances", "hours") if name in value]
    return all(rate is None or (type(rate) in (int, float) and 0 <= rate < math.inf) for rate in known)


def _are_named(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, dict) and isinstance(each.get("name"), str) for each in value
    )
