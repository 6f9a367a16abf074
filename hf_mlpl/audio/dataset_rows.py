"""Reads rows of data sets of `datasets` with their audio as paths and bytes, for which torchcodec is not needed."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any


def datasets():
    """Returns the library `datasets`, which the program that has a data set has imported."""
    return sys.modules["datasets"]


class UndecodedRows:
    """Yields the rows of a data set or stream, whatever its format: those of torch and NumPy would also format bytes.

    Args:
        columns: of the rows; all if None.
    """

    def __init__(self, dataset, columns: Sequence[str] | None = None):
        dataset = dataset.with_format(None)
        self.dataset = dataset if columns is None else dataset.select_columns(list(columns))
        self.features = self.dataset.features or {}  # which a stream of rows may lack
        self.audio = [name for name, feature in self.features.items() if isinstance(feature, datasets().Audio)]

    def __iter__(self) -> Iterator[dict]:
        rows = iter(self._cast(datasets().Audio(decode=False)))
        try:
            first = next(rows)
        except StopIteration:
            return
        except ImportError:  # torchcodec encodes the rows of a stream of files; nothing encodes values of this type
            rows = iter(self._cast(datasets().Value("binary")))
        else:
            yield first
        yield from rows

    def _cast(self, feature: Any):
        dataset = self.dataset
        for name in self.audio:
            dataset = dataset.cast_column(name, feature)
        return dataset
