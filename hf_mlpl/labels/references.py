"""Compares pseudo-labels with the transcripts of their utterances, where these are known."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from datasets import Dataset
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cpdist

from ..data.rows import blocks, select_rows
from ..model.text import normalize_text
from .files import PLACE_FEATURES
from .matching import UtteranceNames


class References:
    """Finds the transcripts of labels by the ids of their utterances, or by other spellings of these.

    Memory holds 16 bytes of each utterance, as `UtteranceNames` does.

    Args:
        utterances: with their texts, which may be null.
    """

    def __init__(self, utterances: Dataset):
        self.utterances, self._names = utterances, UtteranceNames(utterances)

    def places(self, labels: pa.Table) -> np.ndarray:
        """Returns (N,) rows of the utterances of labels, columns `id` and `language`; negative where there is none."""
        labels = labels.select(["id", "language"])
        for name, kind in zip(PLACE_FEATURES, PLACE_FEATURES.arrow_schema, strict=True):
            labels = labels.append_column(name, pa.nulls(len(labels), kind.type))
        return self._names.find(labels)[0]

    def texts(self, places: np.ndarray) -> pa.Array:
        """Returns (N,) transcripts of the utterances in these rows; null for a negative one."""
        return self.column("text", places)

    def column(self, name: str, places: np.ndarray) -> pa.Array:
        """Returns (N,) values of a column of texts; null for a negative row."""
        known = places[places >= 0]
        found = [
            chunk for block in blocks(select_rows(self.utterances, known), [name]) for chunk in block[name].chunks
        ]
        numbers = np.cumsum(places >= 0) - 1
        return pa.concat_arrays([pa.array([], pa.string()), *found]).take(pa.array(numbers, mask=places < 0))


def edits_and_characters(texts: pa.ChunkedArray, references: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Returns (2, N) edits and reference characters of labels, as `ErrorRate` counts them; 0 without a reference."""
    counts = np.zeros((2, len(texts)))
    rows = np.flatnonzero(references.is_valid().to_numpy(zero_copy_only=False))
    spoken = list(map(normalize_text, references.take(rows).to_pylist()))
    written = list(map(normalize_text, texts.take(rows).to_pylist()))
    counts[0, rows] = cpdist(written, spoken, scorer=Levenshtein.distance, dtype=np.int64, workers=-1)
    counts[1, rows] = list(map(len, spoken))
    return counts
