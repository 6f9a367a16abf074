"""Writes n-gram models as ARPA files, which KenLM, flashlight and others read."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ..atomic import atomic_write
from ..remote_path import AnyPath
from .estimation import NgramModel
from .sentences import END, START

BLOCK = 100_000  # n-grams that are text at a time


def write_arpa(model: NgramModel, path: str | os.PathLike | AnyPath) -> None:
    """Writes a model in ARPA format; the file appears when it is complete."""
    with atomic_write(path) as partial, open(partial, "w", encoding="utf-8", newline="\n") as file:
        file.write("\\data\\\n")
        for order, ngrams in enumerate(model.orders, 1):
            file.write(f"ngram {order}={len(ngrams.keys)}\n")
        for order in range(1, len(model.orders) + 1):
            file.write(f"\n\\{order}-grams:\n")
            file.writelines(_lines(model, order))
        file.write("\n\\end\\\n")


def _lines(model: NgramModel, order: int) -> Iterator[str]:
    ngrams, units, is_highest = model.orders[order - 1], model.ngrams(order), order == len(model.orders)
    for start in range(0, len(units), BLOCK):
        block = slice(start, start + BLOCK)
        rows = (units[block].tolist(), ngrams.log_probs[block].tolist(), ngrams.backoffs[block].tolist())
        for numbers, log_prob, backoff in zip(*rows, strict=True):
            # An n-gram that ends a sentence is no history, and KenLM wants a weight of <s>, whatever it is.
            has_backoff = not is_highest and numbers[-1] != END and (backoff or numbers == [START])
            name = " ".join(model.units[number] for number in numbers)
            yield f"{log_prob:.7f}\t{name}\t{backoff:.7f}\n" if has_backoff else f"{log_prob:.7f}\t{name}\n"
