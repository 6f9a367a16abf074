"""Computes confidence intervals of error rates by the bootstrap over utterances."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95
FEWEST_SAMPLED = 10  # utterances: the samples of fewer are too much alike, and those of one are all the same
BLOCK_DRAWS = 2**22  # 32 MB


def resampled_rates(edits: np.ndarray, lengths: np.ndarray, name: str = "") -> np.ndarray:
    """Returns (1000,) error rates of samples of N utterances, drawn with replacement from N, in order of the draws.

    The draws depend on N and `name` alone. So the rates of two models on the same utterances, in the same order, are
    of the same samples, and the interval of their difference is that of paired samples.

    Args:
        edits: (N,) of each utterance.
        lengths: (N,) characters or words of each reference. A sample without any has the rate 0 without edits, else
            1, as in `ErrorRate`.
        name: of a language, so that the samples of different languages are independent.
    """
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    block = max(1, BLOCK_DRAWS // len(edits))
    sums = []
    for first in range(0, RESAMPLES, block):
        rows = generator.integers(len(edits), size=(min(block, RESAMPLES - first), len(edits)))
        sums.append([edits[rows].sum(1), lengths[rows].sum(1)])
    sampled_edits, sampled_lengths = np.concatenate(sums, axis=1)
    return np.where(sampled_lengths > 0, sampled_edits / np.maximum(sampled_lengths, 1), sampled_edits > 0)


def interval(samples: np.ndarray) -> tuple[float, float]:
    """Returns the bounds between which the middle 95 % of the samples lie: equal ones if no utterance has an error."""
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def macro_rates(rates: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns (1000,) means over languages of their `resampled_rates`."""
    return np.mean(list(rates.values()), axis=0)
