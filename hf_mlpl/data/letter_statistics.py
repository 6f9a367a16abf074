"""Measures how unlike transcripts the labels of each speaker are, by the shares of their letter trigrams.

A weak teacher takes a word of a speaker for another word again and again. Then its labels of this speaker lack some
sequences of letters, and have too many of others. Their distance from transcripts of the language is the total
variation

    1 - sum over trigrams g of min(p(g), q(g)),

where p and q are the shares of g among the trigrams of the labels and of the transcripts: 0 if they are the same, 1 if
none is in both. Two spaces stand before each text and one after it, so that an empty text has a trigram of its own.
This needs no reference. Baevski et al. (2021, https://arxiv.org/abs/2105.11084) choose among models in a similar way.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from .collapse import HUMAN
from .drops import FIRST_LINES, DropFile
from .rows import blocks, filter_rows, speakers_of
from .text_arrays import SPACE, TextBlock
from .utterances import FEATURES

logger = logging.getLogger(__name__)

SEPARATORS = r"[^\p{L}\p{M}\p{N}]+"  # between words: teachers differ in punctuation, as in upper case
BITS = 21  # of a code point
SHARPNESS = 30.0  # of the weights; 20 to 40 were as good on digits, and less is worse
PRIOR_TRIGRAMS = 100.0  # a speaker with so many counts half as much as one with very many
# The median excess is multiplied by the first. Good labels of synthetic speech have 0.1 to 0.21, at most 1.3 times the
# median; those of a speaker of digits, with half of the letters wrong, have 0.25 to 0.38, more than twice the median.
MISHEARD_RATIO, LEAST_MISHEARD = 1.5, 0.2
MISHEARD = "misheard speaker"  # as a reason
UNNAMED = "unnamed"  # speakers of a sample, whose labels are compared with transcripts together
MOST_EXACT = 100_000  # expected count, above which a normal distribution gives the mean deviation
Name = tuple[str, str]  # language and speaker, or recording
Counts = tuple[np.ndarray, np.ndarray]  # of keys (K,): the keys, and how often each is there


class Distance(NamedTuple):
    """Holds the distance of a speaker's labels from transcripts.

    Args:
        num_trigrams: of the labels.
        expected: distance of so many trigrams that are drawn from those of transcripts: few are far by chance.
    """

    value: float
    num_trigrams: int
    expected: float

    @property
    def excess(self) -> float:
        """Returns how much further the labels are than by chance."""
        return self.value - self.expected


def vote_weights(distances: Sequence[Mapping[Name, Distance]]) -> list[dict[Name, float]]:
    """Returns the weights of each teacher's votes on each speaker, above 0 and at most 1, for their distances.

    Little speech tells less. All teachers have the same amount of it, so that empty labels do not weigh more.
    """
    most = Counter[Name]()
    for name, distance in chain.from_iterable(each.items() for each in distances):
        most[name] = max(most[name], distance.num_trigrams)
    shares = {name: count / (count + PRIOR_TRIGRAMS) for name, count in most.items()}
    return [
        {name: math.exp(-SHARPNESS * shares[name] * distance.value) for name, distance in each.items()}
        for each in distances
    ]


def mean_excess(distances: Mapping[Name, Distance]) -> float:
    """Returns how much further labels are from transcripts than by chance, weighted by the trigrams of each speaker.

    Without any label it is 1, the largest distance.
    """
    weights = [distance.num_trigrams for distance in distances.values()]
    return float(np.average([distance.excess for distance in distances.values()], weights=weights)) if weights else 1.0


def with_texts(dataset: Dataset, texts: Mapping[int, str]) -> Dataset:
    """Returns the utterances of some rows, with these labels as their texts; memory holds them."""
    rows = [dataset[row] for row in texts]
    rows = [
        row | {"text": text, "speaker": row.get("speaker") or UNNAMED}
        for row, text in zip(rows, texts.values(), strict=True)
    ]
    return Dataset.from_dict({name: [row.get(name) for row in rows] for name in FEATURES}, features=FEATURES)


def misheard_speakers(distances: Mapping[Name, Distance]) -> dict[Name, float]:
    """Returns the speakers whose labels are unlike transcripts, with the excess of their distance.

    The excess is at least 0.2, and at least 1.5 times the median of the language, in which each speaker counts by the
    number of trigrams. Of two speakers with as many, the further one is the median, so that neither is misheard.
    """
    found = {}
    for language in {language for language, _ in distances}:
        own = {name: distance for name, distance in distances.items() if name[0] == language}
        excesses = np.array([distance.excess for distance in own.values()])
        order = np.argsort(excesses)
        amounts = np.array([distance.num_trigrams for distance in own.values()])[order].cumsum()
        median = excesses[order][np.searchsorted(amounts, amounts[-1] / 2, side="right")]
        bound = max(MISHEARD_RATIO * median, LEAST_MISHEARD)
        found |= {name: distance.excess for name, distance in own.items() if distance.excess >= bound}
    return found


def drop_misheard(speech: Dataset, drops: DropFile) -> Dataset:
    """Drops the pseudo-labels of speakers whose labels are unlike the human transcripts, and logs who they are.

    Languages without human transcripts keep all. The letters of all texts are counted: 2 s of a core for 100,000.

    Args:
        speech: utterances with texts of people and pseudo-labels, which have other values of `source`.
        drops: lists what is dropped, in the columns of `selection.DROPPED`.
    """
    people = pa.array(HUMAN, pa.string())

    def are_human(block: pa.Table) -> np.ndarray:
        return pc.is_in(block["source"], people).to_numpy()

    transcripts = filter_rows(speech, ["source"], are_human)
    labels = filter_rows(speech, ["source"], lambda block: ~are_human(block))
    if not len(transcripts) or not len(labels):
        return speech
    if not (misheard := misheard_speakers(TrigramShares(transcripts).distances(labels))):
        return speech
    counts = Counter[Name]()

    def are_kept(block: pa.Table) -> np.ndarray:
        names = list(zip(block["language"].to_pylist(), speakers_of(block).to_pylist(), strict=True))
        kept = are_human(block) | np.array([name not in misheard for name in names])
        dropped = block.filter(pa.array(~kept)).select(["id", "duration_seconds", "text"])
        counts.update(name for name, is_kept in zip(names, kept, strict=True) if not is_kept)
        for utterance, seconds, text in zip(*(column.to_pylist() for column in dropped.columns), strict=True):
            drops.add(MISHEARD, utterance, MISHEARD, seconds, text)
        return kept

    columns = ["id", "language", "text", "speaker", "audio", "duration_seconds", "source"]
    kept = filter_rows(speech, columns, are_kept)
    for name, count in counts.most_common(FIRST_LINES):
        logger.warning(
            "%s: %d pseudo-labels of %s are dropped: their letters are unlike those of transcripts (%.2f further than "
            "by chance)",
            *(name[0], count, name[1], misheard[name]),
        )
    if len(counts) > FIRST_LINES:
        logger.warning("%d pseudo-labels of %d misheard speakers are dropped", counts.total(), len(counts))
    return kept


class TrigramShares:
    """Holds the shares of the letter trigrams in the transcripts of each language.

    Args:
        transcripts: utterances with their texts, which may be null.

    Raises:
        ValueError: if none has a text.
    """

    def __init__(self, transcripts: Dataset):
        found: defaultdict[str, list[Counts]] = defaultdict(list)
        for block in blocks(transcripts, ["language", "text"]):
            for language in block["language"].unique().to_pylist():
                is_spoken = pc.and_(pc.equal(block["language"], language), block["text"].is_valid())
                codes, _ = _trigrams(block["text"].filter(is_spoken))
                found[language].append(np.unique(codes, return_counts=True))
        self.shares: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # sorted codes (G,), and their shares (G,)
        for language, parts in found.items():
            codes, counts = _added(parts)
            if len(codes):
                self.shares[language] = codes, counts / counts.sum()
        if not self.shares:
            raise ValueError("there is no text among the transcripts, with which labels could be compared")

    def distances(self, labels: Dataset) -> dict[Name, Distance]:
        """Returns the distance of each speaker's labels, by language and speaker, or recording where none is known.

        Languages without transcripts are left out. Memory holds 16 bytes of each trigram of each speaker.
        """
        return {
            (language, speaker): distance
            for language in self.shares
            for speaker, distance in self._distances_in(language, labels).items()
        }

    def _distances_in(self, language: str, labels: Dataset) -> dict[str, Distance]:
        codes, shares = self.shares[language]
        numbers: dict[str, int] = {}  # of the speakers
        found: list[Counts] = [(np.empty(0, int), np.empty(0, int))]
        for block in blocks(labels, ["language", "text", "speaker", "audio"]):
            block = block.filter(pc.equal(block["language"], language))
            trigrams, rows = _trigrams(block["text"])
            names = speakers_of(block).to_pylist()
            speakers = np.array([numbers.setdefault(name, len(numbers)) for name in names], int)[rows]
            places = np.searchsorted(codes, trigrams).clip(max=len(codes) - 1)
            places[codes[places] != trigrams] = len(codes)  # a place for all that no transcript has
            found.append(np.unique(speakers * (len(codes) + 1) + places, return_counts=True))
        keys, counts = _added(found)
        speakers, places = np.divmod(keys, len(codes) + 1)
        totals = np.bincount(speakers, counts)
        common = np.bincount(speakers, np.minimum(counts / totals[speakers], np.append(shares, 0)[places]))
        return {
            name: Distance(float(1 - common[number]), int(totals[number]), _expected(shares, totals[number]))
            for name, number in numbers.items()
        }


def _trigrams(texts: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the trigrams of N texts (M,) as numbers, and the text (M,) that each is in; null counts as empty."""
    block = TextBlock(pc.replace_substring_regex(pc.utf8_lower(texts), SEPARATORS, " "))
    starts = np.append(0, block.ends)[:-1] + 1  # after a space; there shall be two
    letters = np.insert(block.code_points, starts, SPACE).astype(np.int64)
    codes = letters[:-2] << 2 * BITS | letters[1:-1] << BITS | letters[2:]
    counts = block.lengths + 1
    rows = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum(block.lengths + 2) - (block.lengths + 2)  # places of the two spaces before each text
    within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    return codes[first[rows] + within], rows


def _added(parts: Sequence[Counts]) -> Counts:
    """Returns sorted keys, each once, and the sums of their counts."""
    keys, counts = map(np.concatenate, zip(*parts, strict=True))
    keys, places = np.unique(keys, return_inverse=True)
    return keys, np.bincount(places, counts, minlength=len(keys))


def _expected(shares: np.ndarray, count: int) -> float:
    """Returns the expected distance of `count` trigrams that are drawn by their shares (G,).

    The count of a trigram is nearly a Poisson variable of mean m, whose mean absolute deviation is
    2 exp(-m) m^(k + 1) / k! with k = floor(m) (Crow 1958).
    """
    means = shares * float(count)
    factorials = np.append(0, np.log(np.arange(1, min(means.max(), MOST_EXACT) + 1)).cumsum())
    whole = means.clip(max=MOST_EXACT).astype(int)
    deviations = 2 * np.exp((whole + 1) * np.log(means) - means - factorials[whole])
    deviations = np.where(means > MOST_EXACT, np.sqrt(2 / np.pi * means), deviations)
    return float(deviations.sum() / (2 * count))
