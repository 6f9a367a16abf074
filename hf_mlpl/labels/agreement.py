"""Computes how far several label sets agree on the same utterances, which needs no reference.

The `agreement` of the labels t_1 ... t_n of an utterance, n >= 2, is the mean over all pairs of

    1 - d(t_i, t_j) / max(|t_i|, |t_j|),

where d is the edit distance in characters (Levenshtein's), and |t| a number of characters; two empty texts have 1. It
is null for an utterance with a single label. Texts are compared in lower case and without punctuation, as
`Normalizer` makes them, so that it does not matter which convention a teacher follows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cpdist

from ..corpora.preparation.normalizer import Normalizer
from ..data.rows import blocks, select_rows
from .files import AS_FOUND, TableSettings
from .join import Files
from .matching import UtteranceNames, matched_labels

COMPARED = Normalizer(lowercase=True, strip_punctuation=True)


@dataclass
class OtherLabels:
    """Holds the texts of a label set for the utterances of a data set.

    Args:
        texts: null where it has none.
        unmatched: numbers of its labels that are of no utterance, or of a doubtful one, as in `JoinReport`.
    """

    texts: pa.Array
    unmatched: Counter[int] = field(default_factory=Counter)


def other_labels(files: Files, utterances: Dataset, settings: TableSettings = AS_FOUND) -> OtherLabels:
    """Finds the texts of a label set for utterances; memory holds all of these texts.

    Args:
        files: of each language, from `find_label_set`.

    Raises:
        ValueError: as `matched_labels` does.
    """
    rows, texts, unmatched = [np.empty(0, int)], [pa.array([], pa.large_string())], Counter[int]()
    for language, paths in files.items():
        numbers = np.arange(len(utterances))
        if language is not None:
            spoken = (pc.equal(block["language"], language).to_numpy() for block in blocks(utterances, ["language"]))
            numbers = np.flatnonzero(np.concatenate([np.empty(0, bool), *spoken]))
        names = UtteranceNames(select_rows(utterances, numbers))
        for _, labels, found, _ in matched_labels(names, paths, settings):
            has_audio = found >= 0
            unmatched.update(found[~has_audio].tolist())
            rows.append(numbers[found[has_audio]])
            texts.append(labels["text"].filter(pa.array(has_audio)).cast(pa.large_string()).combine_chunks())
    places = np.full(len(utterances), -1)
    places[np.concatenate(rows)] = np.arange(sum(map(len, rows)))
    return OtherLabels(pa.concat_arrays(texts).take(pa.array(places, mask=places < 0)), unmatched)


def agreement(label_sets: Sequence[pa.Array | pa.ChunkedArray]) -> pa.Array:
    """Returns the agreement (N,) of the texts (N,) of several label sets, in which null stands for no label."""
    texts = [[None if text is None else COMPARED(text) for text in texts.to_pylist()] for texts in label_sets]
    sums, counts = np.zeros(len(texts[0])), np.zeros(len(texts[0]), int)
    for one, two in combinations(texts, 2):
        numbers = [number for number, pair in enumerate(zip(one, two, strict=True)) if None not in pair]
        pairs = ([each[number] for number in numbers] for each in (one, two))
        sums[numbers] += cpdist(*pairs, scorer=Levenshtein.normalized_similarity, dtype=np.float64, workers=-1)
        counts[numbers] += 1
    return pa.array(sums / np.maximum(counts, 1), mask=counts == 0)
