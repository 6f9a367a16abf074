"""Remembers what was computed of all rows of a data set, for later runs with the same files and the same selection.

It lies beside the tables that `datasets` has made of the files, and is found by the fingerprint of the data set: that
depends on the paths and times of the files, as these tables do, and on the rows that were selected.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from datasets import Dataset, config

from ..atomic import write_json

FEWEST_ROWS = 100_000  # fewer are looked at in hundredths of a second
Value = TypeVar("Value")  # that JSON can say


def remembered(name: str, dataset: Dataset, compute: Callable[[], Value]) -> Value:
    """Returns what `compute` returns, or has returned for these rows, also in another process.

    Args:
        name: of the values, which the name of their file begins with.
    """
    tables = [Path(table["filename"]) for table in dataset.cache_files]
    if len(dataset) < FEWEST_ROWS or not tables or not all(map(_is_kept, tables)):
        return compute()
    path = Path(config.HF_DATASETS_CACHE, "hf_mlpl", f"{name}-{dataset._fingerprint}.json")
    with suppress(OSError, ValueError, KeyError, TypeError):  # it is not there, or damaged
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["rows"] == len(dataset):
            return content["value"]
    value = compute()
    with suppress(OSError):  # of a full disk, or one that must not be written
        write_json(path, {"rows": len(dataset), "value": value})
    return value


def _is_kept(table: Path) -> bool:
    """Returns whether later runs find a table: files whose changes cannot be seen have theirs elsewhere."""
    return table.absolute().is_relative_to(Path(config.HF_DATASETS_CACHE).absolute())
