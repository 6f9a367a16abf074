"""Computes how far several label sets agree on the same utterances, which needs no reference.

The `agreement` of the labels t_1 ... t_n of an utterance, n >= 2, is the mean over all pairs of

    1 - d(t_i, t_j) / max(|t_i|, |t_j|),

where d is the edit distance in characters (Levenshtein's), and |t| a number of characters; two empty texts have 1. It
is null for an utterance with a single label. Texts are compared in lower case and without punctuation, as
`Normalizer` makes them, so that it does not matter which convention a teacher follows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
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
    sums, counts = np.zeros(len(label_sets[0])), np.zeros(len(label_sets[0]), int)
    for _, _, rows, similarities in pair_similarities(label_sets):
        sums[rows] += similarities
        counts[rows] += 1
    return pa.array(sums / np.maximum(counts, 1), mask=counts == 0)


def pair_similarities(
    label_sets: Sequence[pa.Array | pa.ChunkedArray],
) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """Yields for each pair of label sets their numbers, the rows (R,) that both label, and the similarities (R,).

    A similarity is 1 - edit distance / length of the longer text, and exactly 1 where both texts are equal.
    """
    texts = [[None if text is None else COMPARED(text) for text in texts.to_pylist()] for texts in label_sets]
    for one, two in combinations(range(len(texts)), 2):
        both = zip(texts[one], texts[two], strict=True)
        rows = np.array([row for row, pair in enumerate(both) if None not in pair], int)
        pairs = ([texts[each][row] for row in rows] for each in (one, two))
        yield one, two, rows, cpdist(*pairs, scorer=Levenshtein.normalized_similarity, dtype=np.float64, workers=-1)
