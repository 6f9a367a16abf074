"""Reads the rows of `metrics.jsonl`."""

from __future__ import annotations

import json
from pathlib import Path


def read_metrics(path: Path) -> list[dict]:
    """Returns the rows of `metrics.jsonl`, without a last one whose writing was interrupted, or is going on.

    Raises:
        ValueError: for another damage.
    """
    *lines, last = path.read_bytes().split(b"\n")
    try:
        rows = [json.loads(line) for line in lines]
        is_intact = all(isinstance(row["update"], int) for row in rows)
    except (ValueError, TypeError, KeyError):
        is_intact = False
    prefix = b'{"update": '  # of a last row whose writing was interrupted
    if not is_intact or last[: len(prefix)] != prefix[: len(last)]:
        raise ValueError(f"{path} is damaged; remove it to go on without the history of the updates before")
    return rows


def flatten(row: dict, prefix: str = "") -> dict[str, float]:
    """Returns the numbers of a row under dotted names, such as `labels.cer`; those that are not known are left out."""
    numbers: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            numbers |= flatten(value, f"{prefix}{name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            numbers[f"{prefix}{name}"] = value
    return numbers
