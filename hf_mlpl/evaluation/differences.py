"""Tells real differences between models from chance, by the paired bootstrap over utterances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .error_rate import mean_rate
from .hypotheses import COUNTS, hypotheses_path, of_language, read_hypotheses
from .intervals import FEWEST_SAMPLED, LEVEL, interval, macro_rates, rates_of_sums, resampled_sums
from .results import rate_of

Row = TypeVar("Row", str, "str | None")
NO_TRANSCRIPTS = "there are no transcripts"
ROUNDING = 1e-12  # of means over the same runs in another order


@dataclass(frozen=True)
class Difference:
    """Holds the change of an error rate and the bounds of its 95 % interval, as fractions.

    Args:
        stands_out: whether chance alone seldom makes the largest of all languages' differences as large as this one.
    """

    change: float
    low: float
    high: float
    stands_out: bool = True

    @property
    def leaves_out_zero(self) -> bool:
        """Returns whether the interval leaves out 0, as it does by chance for one of 20 equal languages."""
        return self.low > ROUNDING or self.high < -ROUNDING

    @property
    def is_real(self) -> bool:
        """Returns whether the interval leaves out 0, and not because many languages are compared."""
        return self.leaves_out_zero and self.stands_out


@dataclass(frozen=True)
class ScoredRun:
    """Holds results and their transcripts, in columns of `HYPOTHESIS_FEATURES`; None for the reason of `problem`."""

    path: Path
    results: dict
    hypotheses: pa.Table | None
    problem: str = ""


def with_transcripts(path: Path, results: dict) -> ScoredRun:
    """Adds the transcripts beside a file of results, or the reason why they cannot be used."""
    try:
        return ScoredRun(path, results, read_hypotheses(hypotheses_path(path), results))
    except (FileNotFoundError, ValueError) as error:
        return ScoredRun(path, results, None, str(error))


def differences(
    first: Sequence[ScoredRun], last: Sequence[ScoredRun], rows: Mapping[Row, Sequence[str]], metric: str
) -> dict[Row, Difference | str]:
    """Returns by how much the last runs differ from the first, or why it is not known whether that is chance.

    Error rates of several runs are averaged. All runs are resampled together, so that each sample has the same
    utterances of all of them; they are paired by id, whatever their order. The samples of different languages are
    independent. Which other runs there might have been, with other seeds, is no part of the intervals.

    Of models that are equally good, the difference of one or more of the languages is real in 5 % of comparisons,
    however many languages there are. A mean is one question, and is not corrected for others.

    Args:
        rows: name -> the languages whose rates are averaged with equal weights.
        metric: one of the `METRICS`.
    """
    samples = {language: _samples(first, last, language, metric) for members in rows.values() for language in members}
    least = least_deviations({members[0]: samples[members[0]] for members in rows.values() if len(members) == 1})
    found: dict[Row, Difference | str] = {}
    for row, members in rows.items():
        known = {name: each for name in members if isinstance(each := samples[name], np.ndarray)}
        reasons = {name: each for name in members if isinstance(each := samples[name], str)}
        if reasons:
            some = ", ".join(list(reasons)[:3]) + (" and others" if len(reasons) > 3 else "")
            found[row] = next(iter(reasons.values())) if row in reasons else f"it is not known of {some}"
        else:
            rates = [_mean_of(runs, members, metric) for runs in (first, last)]
            change, mean = rates[1] - rates[0], macro_rates(known)
            stands_out = len(members) > 1 or abs(change) > least * mean.std()
            found[row] = Difference(change, *interval(mean), stands_out)
    return found


def least_deviations(samples: Mapping[str, np.ndarray | str]) -> float:
    """Returns how many standard deviations chance alone exceeds in 5 % of samples, in at least one of the languages.

    This is the single-step maxT method of Westfall and Young, "Resampling-Based Multiple Testing", 1993.
    """
    known = [each for each in samples.values() if isinstance(each, np.ndarray) and each.std() > ROUNDING]
    if len(known) < 2:
        return 0.0  # the interval alone decides
    largest = np.max([np.abs(each - each.mean()) / each.std() for each in known], axis=0)
    return float(np.quantile(largest, LEVEL))


def _mean_of(runs: Sequence[ScoredRun], languages: Sequence[str], metric: str) -> float:
    means = (mean_rate(rate_of(run.results["languages"][name], metric) for name in languages) for run in runs)
    return fmean(mean or 0.0 for mean in means)


def _samples(first: Sequence[ScoredRun], last: Sequence[ScoredRun], language: str, metric: str) -> np.ndarray | str:
    """Returns (1000,) differences of a language's rate in samples of utterances, or why there are none."""
    tables = []
    for run in (*first, *last):
        if run.hypotheses is None:
            return NO_TRANSCRIPTS
        table = of_language(run.hypotheses, language)
        if rate_of(run.results["languages"][language], metric) is None or table[COUNTS[metric][0]].null_count:
            return f"{run.path} does not know its rate"
        tables.append(table)
    if len(tables[0]) < FEWEST_SAMPLED:
        return f"there are {len(tables[0])} utterances, fewer than {FEWEST_SAMPLED}"
    for number, run in enumerate((*first[1:], *last), start=1):
        paired = _in_order_of(tables[0], tables[number])
        if paired is None:
            return f"{first[0].path} and {run.path} are of other utterances or references"
        tables[number] = paired
    counts = np.stack([table[column].to_numpy() for table in tables for column in COUNTS[metric]], axis=1)
    rates = rates_of_sums(resampled_sums(counts, language))  # (1000, runs)
    return rates[:, len(first) :].mean(1) - rates[:, : len(first)].mean(1)


def _in_order_of(first: pa.Table, other: pa.Table) -> pa.Table | None:
    """Returns rows in the order in which another table has their ids; None for other ids or references."""
    if len(first) != len(other):
        return None
    if not first["id"].equals(other["id"]):
        places = pc.index_in(first["id"], value_set=other["id"].combine_chunks())
        if places.null_count or pc.count_distinct(places).as_py() < len(first):
            return None
        other = other.take(places)
    return other if first["text"].equals(other["text"]) else None
