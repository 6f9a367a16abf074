"""Computes confidence intervals of error rates by the bootstrap over utterances."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95
FEWEST_SAMPLED = 10  # utterances: the samples of fewer are too much alike, and those of one are all the same
BLOCK_DRAWS = 2**20  # 8 MB for each of four arrays


def resampled_sums(counts: np.ndarray, name: str = "") -> np.ndarray:
    """Returns (1000, K) sums of K counts over samples of N utterances, drawn with replacement from N.

    The draws depend on N and `name` alone. So the sums of two models on the same utterances, in the same order, are of
    the same samples, and the interval of their difference is that of paired samples.

    Args:
        counts: (N, K) whole numbers, of each utterance.
        name: of a language, so that the samples of different languages are independent.
    """
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    counts, size = counts.astype(np.float64), len(counts)  # whole numbers and their sums are exact up to 2**53
    block = max(1, BLOCK_DRAWS // size)
    sums = []
    for first in range(0, RESAMPLES, block):
        rows = generator.integers(size, size=(min(block, RESAMPLES - first), size))
        rows += np.arange(len(rows))[:, None] * size
        times_drawn = np.bincount(rows.ravel(), minlength=rows.size).reshape(rows.shape)
        sums.append(times_drawn @ counts)
    return np.concatenate(sums)


def resampled_rates(edits: np.ndarray, lengths: np.ndarray, name: str = "") -> np.ndarray:
    """Returns (1000,) error rates of samples of N utterances, as `resampled_sums` draws them.

    Args:
        edits: (N,) of each utterance.
        lengths: (N,) characters or words of each reference. A sample without any has the rate 0 without edits, else
            1, as in `ErrorRate`.
        name: of a language.
    """
    return rates_of_sums(resampled_sums(np.stack([edits, lengths], axis=1), name))[:, 0]


def rates_of_sums(sums: np.ndarray) -> np.ndarray:
    """Returns (1000, K) error rates of (1000, 2 K) sums, in which edits and lengths alternate."""
    edits, lengths = sums[:, ::2], sums[:, 1::2]
    return np.where(lengths > 0, edits / np.maximum(lengths, 1), edits > 0)


def interval(samples: np.ndarray) -> tuple[float, float]:
    """Returns the bounds between which the middle 95 % of the samples lie: equal ones if no utterance has an error."""
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def macro_rates(rates: Mapping[str, np.ndarray], weights: Sequence[float] | None = None) -> np.ndarray:
    """Returns (1000,) means over languages of their `resampled_rates`, on request weighted."""
    return np.average(list(rates.values()), axis=0, weights=weights)
