"""Learns from labels with references which character error rate to expect of a label with certain scores.

The expected error rate of a label is a logistic function of a weighted sum of terms, each of a score that the teacher
gives: quasi-binomial regression (Papke and Wooldridge 1996) with a ridge penalty, in which a label counts as often as
its reference has characters; then one number stretches the sum, without a penalty. Scores of the text alone, such as
`characters_per_second`, are left out but for loops: they differ between speakers and between sentences more than
between right and wrong labels, so that weights learned from a few speakers mislead for others.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..atomic import check_fields, read_json, write_json
from ..data.collapse import num_characters
from ..error_line import error_line
from .filters import KnownScores
from .schema import SCORES

logger = logging.getLogger(__name__)

VERSION = 1
HIGHEST_CER = 1.5  # error rates above it count as this, and none is expected
RIDGE = 300.0  # penalty on squared weights, in labels: a few hundred labels of a few speakers show little of others
MOST_DEVIATIONS = 3.0  # a term further from its mean counts as if it were so far: nothing was learned beyond
FEWEST_LABELS = 50  # that a calibration learns from
FEWEST_MISSING = 10  # labels that lack a score, and that have it, from which something is learned about its lack
SMALLEST = 1e-3  # probability; a smaller doubt counts as this
REPETITIVE = 1.5  # compression ratio above which a text may be a loop; short texts have lower ones


def _doubt(log_prob: np.ndarray) -> np.ndarray:
    """Returns the logarithm of -log(p): scores of certain labels lie close together, but differ in what they mean."""
    return np.log(SMALLEST - np.minimum(log_prob, 0))


def _log_ratio(ratio: np.ndarray) -> np.ndarray:
    return np.log(np.clip(ratio, 0.25, 4))


# Terms by name: the score that they depend on, and how
TERMS: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "mean_log_prob": ("mean_log_prob", _doubt),
    "letter_log_prob": ("letter_log_prob", _doubt),
    "length_ratio": ("length_ratio", _log_ratio),
    "length_difference": ("length_ratio", lambda ratio: np.abs(_log_ratio(ratio))),
    "lowest_word_confidence": ("lowest_word_confidence", lambda p: _doubt(np.log(np.maximum(p, 1e-9)))),
    "blank_ratio": ("blank_ratio", lambda ratio: ratio),
    "language_probability": ("language_probability", lambda p: np.log(SMALLEST + np.clip(1 - p, 0, 1))),
    "no_speech_probability": ("no_speech_probability", lambda p: np.log(SMALLEST + np.clip(p, 0, 1))),
    "repetition": ("repetition", lambda share: share),
    "compression_ratio": ("compression_ratio", lambda ratio: np.maximum(ratio - REPETITIVE, 0)),
    "agreement": ("agreement", lambda share: share),
}
MISSING = "no "  # before the name of a score, the term of its lack


@dataclass(frozen=True)
class Term:
    """Holds what was learned of one term: its mean and its standard deviation, and the weight of its deviation."""

    mean: float
    scale: float
    weight: float


@dataclass(frozen=True)
class Calibration:
    """Computes `expected_cer = 1.5 / (1 + exp(-z))`, z = intercept + sum of `weight * (term - mean) / scale`.

    A deviation `(term - mean) / scale` lies between -3 and 3, and is 0 where a label lacks the score.

    Args:
        terms: by names in `TERMS`, or `no ` and the name of a score, which is 1 for labels without it and else 0.
        learned_from: counts of the labels, and their error rate, for people.
        held_out: how well labels are judged that it has not seen, for people.
    """

    intercept: float
    terms: Mapping[str, Term]
    learned_from: Mapping[str, object] = field(default_factory=dict)
    held_out: Mapping[str, object] = field(default_factory=dict)

    @property
    def scores(self) -> list[str]:
        """Returns the scores on which it depends."""
        return list(dict.fromkeys(TERMS[name][0] if name in TERMS else name[len(MISSING) :] for name in self.terms))

    def expected_cer(self, labels: pa.Table) -> pa.Array:
        """Returns the expected character error rate (N,) of labels, from 0 to 1.5.

        It is 1 for an empty text, all of whose letters are missing, and null for a label that lacks most of `scores`.

        Args:
            labels: columns `text` and `SCORES`.
        """
        known = np.stack([labels[name].is_valid().to_numpy() for name in self.scores])
        values = {name: labels[name].to_numpy() for name in self.scores}
        rates = HIGHEST_CER / (1 + np.exp(-self._sum(values)))
        rates[pc.equal(num_characters(labels["text"]), 0).to_numpy(zero_copy_only=False)] = 1
        return pa.array(rates, mask=known.mean(axis=0) < 0.5)

    def _sum(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        total = np.full(len(next(iter(values.values()))), self.intercept)
        for name, term in self.terms.items():
            total += term.weight * _deviation(_term(name, values), term.mean, term.scale)
        return total

    def log_missing(self, known: KnownScores) -> None:
        """Warns of scores that some labels lack, or all of them."""
        for score in self.scores:
            if missing := known.labels - known.known[score]:
                logger.warning(
                    "expected_cer: %d of %d labels have no %s, and count as if theirs were average",
                    *(missing, known.labels, score),
                )

    def write(self, path: str | os.PathLike) -> None:
        """Writes the calibration as JSON, atomically."""
        write_json(path, {"version": VERSION, **asdict(self)})

    @classmethod
    def read(cls, path: str | os.PathLike) -> Calibration:
        """Reads what `write` wrote.

        Raises:
            FileNotFoundError: for a missing file.
            ValueError: for a file that is no calibration, of a newer version, or damaged.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such file; `hf-mlpl calibrate` writes a calibration")
        content = read_json(path)
        try:
            check_fields(content, {"version": int, "intercept": (int, float), "terms": dict})
            if content["version"] != VERSION:
                raise ValueError(f"version is {content['version']}, which this hf_mlpl does not know; update it")
            terms = {name: _read_term(name, term) for name, term in content["terms"].items()}
            if not any(name in TERMS for name in terms):
                raise ValueError("terms has no score")
            facts = {name: dict(content.get(name, {})) for name in ("learned_from", "held_out")}
            return cls(_finite("intercept", content["intercept"]), terms, **facts)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: no calibration ({error_line(error)}); `hf-mlpl calibrate` writes one"
            ) from error


def _finite(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}; a finite number is accepted")
    return float(value)


def _read_term(name: str, content: object) -> Term:
    if name not in TERMS and not (name.startswith(MISSING) and name.removeprefix(MISSING) in SCORES):
        raise ValueError(f"a term is {name!r}; accepted are {', '.join(TERMS)}, and '{MISSING}' before a score")
    if not isinstance(content, dict) or content.keys() != {"mean", "scale", "weight"}:
        raise ValueError(f"{name} is {content!r}; an object with mean, scale and weight is accepted"[:200])
    term = Term(**{key: _finite(f"{key} of {name}", value) for key, value in content.items()})
    if term.scale <= 0:
        raise ValueError(f"scale of {name} is {term.scale}; a number above 0 is accepted")
    return term


def _term(name: str, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the values (N,) of a term; NaN where the score is not known."""
    if name.startswith(MISSING):
        return np.isnan(values[name.removeprefix(MISSING)]).astype(float)
    score, function = TERMS[name]
    return function(values[score])


def _deviation(values: np.ndarray, mean: float, scale: float) -> np.ndarray:
    return np.nan_to_num(np.clip((values - mean) / scale, -MOST_DEVIATIONS, MOST_DEVIATIONS), nan=0.0)


def fit(scores: Mapping[str, np.ndarray], edits: np.ndarray, characters: np.ndarray) -> Calibration:
    """Learns a calibration from labels with references.

    Args:
        scores: by name, (N,), NaN where a score is not known; those that are not in `TERMS` are not used.
        edits, characters: (N,), of the labels, and of their references; these have at least one character.

    Raises:
        ValueError: for scores that are the same for all labels, or not known.
    """
    count = len(edits)
    columns: dict[str, np.ndarray] = {}
    for score in dict.fromkeys(score for score, _ in TERMS.values()):
        missing = int(np.isnan(scores.get(score, np.full(count, np.nan))).sum())
        if missing > count / 2:
            continue
        columns |= {name: _term(name, scores) for name, (of_score, _) in TERMS.items() if of_score == score}
        if FEWEST_MISSING <= missing:
            columns[MISSING + score] = _term(MISSING + score, scores)
    moments = {name: (float(np.nanmean(values)), float(np.nanstd(values))) for name, values in columns.items()}
    moments = {name: (mean, scale) for name, (mean, scale) in moments.items() if scale > 1e-6}
    if not any(name in TERMS for name in moments):
        raise ValueError("the labels have no scores from which an error rate could be expected, or the same ones all")
    inputs = np.column_stack([np.ones(count), *(_deviation(columns[name], *each) for name, each in moments.items())])
    rates = np.minimum(edits / characters, HIGHEST_CER) / HIGHEST_CER
    counts = characters / characters.mean()
    weights = logistic_ridge(inputs, rates, counts, RIDGE)[1:]
    # The penalty finds an order that holds for others, but shrinks all differences: the second fit stretches them.
    sums = np.column_stack([np.ones(count), inputs[:, 1:] @ weights])
    intercept, slope = logistic_ridge(sums, rates, counts, 0.0).tolist()
    terms = {
        name: Term(*moments[name], slope * weight) for name, weight in zip(moments, weights.tolist(), strict=True)
    }
    return Calibration(intercept, terms)


def logistic_ridge(inputs: np.ndarray, rates: np.ndarray, weights: np.ndarray, ridge: float) -> np.ndarray:
    """Returns the coefficients (D,) of the logistic regression of rates (N,) on inputs (N, D), by Newton's method.

    The least of the weighted sum of `-rate * log(p) - (1 - rate) * log(1 - p)`, and `ridge / 2` times the sum of the
    squared coefficients. The first one, the intercept, has no penalty, so that the mean of the rates is met.
    """
    penalty = np.full(inputs.shape[1], max(ridge, 1e-3))
    penalty[0] = 1e-3  # where all rates are 0, or all are 1, it would go on for ever
    coefficients = np.zeros(inputs.shape[1])
    for _ in range(50):
        found = 1 / (1 + np.exp(-inputs @ coefficients))
        gradient = inputs.T @ (weights * (found - rates)) + penalty * coefficients
        curvature = (inputs * (weights * found * (1 - found))[:, None]).T @ inputs + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        coefficients -= step * min(1, 2 / np.abs(step).max()) if np.abs(step).max() > 0 else 0
        if np.abs(step).max() < 1e-10:
            break
    return coefficients
