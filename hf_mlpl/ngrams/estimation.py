"""Estimates n-gram models by interpolated Witten-Bell smoothing.

P(w | h) = (c(h w) + t(h) P(w | h')) / (c(h) + t(h)), where c counts, t(h) is the number of different units after the
history h, and h' is h without its first unit; below the unigrams stands the uniform distribution over all units, the
end and `<unk>` included (Witten and Bell 1991; Chen and Goodman 1998, section 2.5). It is defined for any counts: the
discounts of modified Kneser-Ney smoothing are not for the counts of a few hundred short sentences.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .sentences import START

BLOCK = 2**22  # units that are sorted at a time
MOST_NGRAMS = 2**62  # numbers of histories times units: keys are 64-bit integers
LOWEST_ORDER, HIGHEST_ORDER = 2, 6  # of the models that KenLM, as flashlight-text builds it, can read
START_LOG_PROB = -99.0  # by convention: nothing predicts <s>


@dataclass(frozen=True)
class Ngrams:
    """Holds the n-grams of one order, sorted by history and last unit.

    Args:
        keys: (N,), number of the history among the n-grams of the order below, times the number of units, plus the
            last unit; of unigrams the unit alone.
        suffixes: (N,), number of the n-gram without its first unit among those of the order below; none of unigrams.
        log_probs: (N,), decimal, of the last unit after the others.
        backoffs: (N,), decimal, of the weight of the lower order where the n-gram is the history; 0 if nothing
            follows it.
    """

    keys: np.ndarray
    suffixes: np.ndarray
    log_probs: np.ndarray
    backoffs: np.ndarray


@dataclass(frozen=True)
class NgramModel:
    """Holds an interpolated model in backoff form: log P(w | h) = backoff(h) + log P(w | h') for an n-gram it lacks.

    Args:
        units: names of the units; `sentences.SPECIAL` come first.
        orders: the n-grams of each order, unigrams first. Without the last ones they are the model of a lower order.
    """

    units: list[str]
    orders: list[Ngrams]

    def log_probs(self, numbers: np.ndarray) -> np.ndarray:
        """Returns decimal log-probabilities (O, N) of units by the models of all orders; of `<s>` 0.

        Args:
            numbers: (N,), of the units of texts, from `Sentences.numbered_as`.
        """
        is_start = numbers == START
        found, rows = numbers.astype(np.int64), [np.where(is_start, 0.0, self.orders[0].log_probs[numbers])]
        for below, ngrams in zip(self.orders, self.orders[1:], strict=False):
            keys = _keys(found, numbers, len(self.units))
            backoff = np.zeros(len(numbers))
            backoff[1:] = np.where(keys[1:] >= 0, below.backoffs[found[:-1]], 0.0)
            found, row = _find(ngrams.keys, keys), backoff + rows[-1]
            row[found >= 0] = ngrams.log_probs[found[found >= 0]]
            rows.append(row)
        return np.stack(rows)

    def ngrams(self, order: int) -> np.ndarray:
        """Returns the units (N, order) of the n-grams of an order."""
        units = np.arange(len(self.units), dtype=np.int32)[:, None]
        for each in self.orders[1:order]:
            prefixes, last = np.divmod(each.keys, len(self.units))
            units = np.column_stack([units[prefixes], last.astype(np.int32)])
        return units


def check_order(order: int) -> None:
    """Raises a ValueError for an order that KenLM does not read."""
    if not LOWEST_ORDER <= order <= HIGHEST_ORDER:
        raise ValueError(f"--order is {order}; {LOWEST_ORDER} to {HIGHEST_ORDER} are accepted")


def estimate(units: list[str], numbers: np.ndarray, order: int) -> NgramModel:
    """Estimates a model from texts; the order of the texts has no influence.

    Args:
        units, numbers: of the texts, from `Sentences.numbered`.
        order: the number of units of the longest n-grams; without a text so long, the model has fewer orders.

    Raises:
        ValueError: for an order that KenLM does not read, for no texts, and for so many different n-grams that 64 bits
            do not number them.
    """
    check_order(order)
    if not len(numbers):
        raise ValueError("there are no texts")
    counts = np.bincount(numbers, minlength=len(units)).astype(float)
    counts[START] = 0
    num_types = np.count_nonzero(counts)
    probs = (counts + num_types / (len(units) - 1)) / (counts.sum() + num_types)
    probs[START] = 10**START_LOG_PROB
    keys, suffixes = np.arange(len(units), dtype=np.int64), np.zeros(len(units), np.int64)
    orders, found = list[Ngrams](), numbers.astype(np.int64)
    for _ in range(order - 1):
        if len(keys) * len(units) > MOST_NGRAMS:
            raise ValueError(f"{len(keys):,} n-grams and {len(units):,} units are too many; choose a lower order")
        next_keys, next_counts, next_suffixes = _count(found, numbers, len(units))
        if not len(next_keys):
            break
        histories = next_keys // len(units)
        total = np.bincount(histories, next_counts, len(keys))
        types = np.bincount(histories, minlength=len(keys))
        followed = np.maximum(total + types, 1)
        backoffs = np.log10(np.where(types, types / followed, 1.0))
        orders.append(Ngrams(keys, suffixes, np.log10(probs), backoffs))
        probs = (next_counts + types[histories] * probs[next_suffixes]) / followed[histories]
        found = _find(next_keys, _keys(found, numbers, len(units)))
        keys, suffixes = next_keys, next_suffixes
    orders.append(Ngrams(keys, suffixes, np.log10(probs), np.zeros(len(keys))))
    return NgramModel(units, orders)


def _keys(found: np.ndarray, numbers: np.ndarray, num_units: int) -> np.ndarray:
    """Returns the keys (N,) of the n-grams that end at each place of texts; -1 where none does within its text.

    Args:
        found: (N,), numbers of the n-grams of the order below that end at each place, or -1.
        numbers: (N,), of units.
    """
    keys = np.full(len(numbers), -1, np.int64)
    keys[1:] = np.where((found[:-1] >= 0) & (numbers[1:] != START), found[:-1] * num_units + numbers[1:], -1)
    return keys


def _find(sorted_keys: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Returns the places (N,) of keys among sorted ones; -1 for those that are not there."""
    places = np.minimum(np.searchsorted(sorted_keys, keys), max(len(sorted_keys) - 1, 0))
    return np.where(sorted_keys[places] == keys, places, -1) if len(sorted_keys) else np.full(len(keys), -1)


def _count(found: np.ndarray, numbers: np.ndarray, num_units: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns sorted keys of the n-grams of texts, their counts, and the numbers of their suffixes."""
    parts = list(_counts_of_blocks(found, numbers, num_units))
    keys, counts, suffixes = (np.concatenate(each) for each in zip(*parts, strict=True))
    keys, first, place = np.unique(keys, return_index=True, return_inverse=True)
    return keys, np.bincount(place, counts, len(keys)), suffixes[first]


def _counts_of_blocks(found: np.ndarray, numbers: np.ndarray, num_units: int) -> Iterator[tuple[np.ndarray, ...]]:
    keys = _keys(found, numbers, num_units)
    for start in range(0, len(keys), BLOCK):
        ends = start + np.flatnonzero(keys[start : start + BLOCK] >= 0)
        unique, first, counts = np.unique(keys[ends], return_index=True, return_counts=True)
        yield unique, counts, found[ends[first]]
