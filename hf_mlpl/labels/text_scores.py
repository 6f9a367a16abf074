"""Computes the scores of pseudo-labels that depend on the text alone, and on the duration of its audio."""

from __future__ import annotations

import zlib

from ..data.words import words_of


def text_scores(text: str, duration_seconds: float) -> dict[str, float | None]:
    """Returns `characters_per_second`, `compression_ratio` and `repetition` of a text, as `SCORES` defines them."""
    encoded = text.encode()
    return {
        "characters_per_second": len(text) / duration_seconds if duration_seconds > 0 else None,
        "compression_ratio": len(encoded) / len(zlib.compress(encoded)),
        "repetition": repetition(text),
    }


def repetition(text: str) -> float:
    """Returns the share of the 4-grams of words that repeat an earlier one: seq-rep-4 of Welleck et al. 2020.

    In scripts without spaces, characters stand for words. A text of fewer than four has none that repeats.
    """
    words = words_of(text)
    ngrams = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0
