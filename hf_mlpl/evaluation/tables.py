"""Lays out tables of error rates: of one model, of several side by side, and of what each gains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from ..text_table import aligned
from .error_rate import RATES, mean_rate


def results_table(results: dict) -> str:
    """Returns results of `score` as a table, rates in percent: a row for each language, then the macro average."""
    totals = {"utterances": results["utterances"], "hours": results["hours"]}
    scores_of_row = {**dict(sorted(results["languages"].items())), "macro": {**results["macro"], **totals}}
    table = [("language", "utterances", "hours", "CER %", "WER %", "language %")]
    for name, scores in scores_of_row.items():
        rates = ("-" if scores[rate] is None else f"{100 * scores[rate]:.1f}" for rate in RATES)
        table.append((name, str(scores["utterances"]), f"{scores['hours']:.2f}", *rates))
    return aligned(table)


def comparison_table(results: dict[str, Sequence[dict]], languages: Sequence[str] = (), metric: str = "cer") -> str:
    """Returns error rates in percent as a table: a column for each of `results`, a row for each language, means below.

    A cell for several runs has their mean and, in brackets, the lowest and highest. The last column is the change from
    the first to the last entry, relative to the first.

    Args:
        results: name -> results of `score`, one per run; all of the same languages, with as many runs for each.
        languages: languages with a mean of their own, beside that of the other languages.

    Raises:
        ValueError: where entries have different languages or numbers of runs, or lack one of `languages`.
    """
    table = [("language", *(f"{name}, {metric.upper()} %" for name in results), "change")]
    for row, members in _rows(results, languages).items():
        rates = [[_rate(run, members, metric) for run in runs] for runs in results.values()]
        change = _ratio(fmean(rates[-1]), fmean(rates[0])) - 1
        table.append((row, *map(_spread, rates), _percent(change, "+.0f", " %")))
    return aligned(table)


def gap_table(
    results: dict[str, Sequence[dict]],
    languages: Sequence[str],
    oracle: str,
    control: str | None = None,
    metric: str = "cer",
) -> str:
    """Returns a table of what each entry gains, a row for each run, in the mean of `languages`, or of all by default.

    The first entry is the start, and `oracle` the best that can be hoped for. A column has the share of the gap
    between the two that an entry closes and, with a `control`, its change relative to that. `-` stands for a share or
    change that is not defined: without a gap, or against a control without errors.

    Raises:
        ValueError: as `comparison_table` does, and where `oracle` or `control` is no entry.
    """
    if unknown := [name for name in (oracle, control) if name and name not in results]:
        raise ValueError(f"no results are called {', '.join(unknown)}; there are {', '.join(results)}")
    members = languages or _rows(results, languages)["macro average"]
    rates = {name: [_rate(run, members, metric) for run in runs] for name, runs in results.items()}
    start, *names = (name for name in results if name != oracle)
    columns = [["run", *(str(number) for number in range(1, len(rates[start]) + 1)), "mean"]]
    for name in names:
        gaps = zip(rates[start], rates[name], rates[oracle], strict=True)
        shares = [_ratio(first - rate, first - best) for first, rate, best in gaps]
        column = [f"{name}, % of gap", *(_percent(share, ".0f") for share in (*shares, fmean(shares)))]
        if control:
            changes = [_ratio(rate, base) - 1 for rate, base in zip(rates[name], rates[control], strict=True)]
            texts = [f"vs {control}", *(_percent(change, "+.1f", " %") for change in (*changes, fmean(changes)))]
            column = list(map(", ".join, zip(column, texts, strict=True)))
        columns.append(column)
    return aligned(list(zip(*columns, strict=True)))


def _rows(results: dict[str, Sequence[dict]], languages: Sequence[str]) -> dict[str, list[str]]:
    """Returns the rows of a comparison: name -> the languages it averages; raises as `comparison_table` does."""
    first, *_ = results.values()
    scored = sorted(first[0]["languages"])
    for name, runs in results.items():
        if len(runs) != len(first):
            raise ValueError(f"{name} has {len(runs)} runs, but others {len(first)}")
        for run in runs:
            if sorted(run["languages"]) != scored:
                found, expected = ", ".join(sorted(run["languages"])), ", ".join(scored)
                raise ValueError(f"{name} has results of {found}, but others of {expected}")
    if missing := sorted(set(languages) - set(scored)):
        raise ValueError(f"no results of {', '.join(missing)}; there are {', '.join(scored)}")
    rows = {language: [language] for language in scored}
    if languages:
        rows[f"mean of {' '.join(languages)}"] = list(languages)
        if others := [language for language in scored if language not in languages]:
            rows["mean of the others"] = others
    return rows | {"macro average": scored}


def _rate(result: dict, languages: Sequence[str], metric: str) -> float:
    """Returns the mean of the languages' rates, NaN where none is known."""
    rate = mean_rate(result["languages"][language][metric] for language in languages)
    return math.nan if rate is None else rate


def _ratio(part: float, total: float) -> float:
    return part / total if total else math.nan


def _percent(fraction: float, number_format: str, unit: str = "") -> str:
    return "-" if math.isnan(fraction) else f"{100 * fraction:{number_format}}{unit}"


def _spread(rates: Sequence[float]) -> str:
    """Returns the mean of the runs in percent, with the lowest and the highest where there are several."""
    mean, lowest, highest = (_percent(rate, ".1f") for rate in (fmean(rates), min(rates), max(rates)))
    return mean if len(rates) == 1 or mean == "-" else f"{mean} ({lowest}-{highest})"
