"""Tables of error rates: of one model, of several side by side, and of what each gains."""

from __future__ import annotations

import math
from collections.abc import Sequence

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

    Of several runs a cell gives the mean and, in brackets, the lowest and highest. The last column is the change from
    the first to the last entry, relative to the first.

    Args:
        results: name -> results of `score`, one per run; all of the same languages, as many runs for each.
        languages: get a mean of their own, beside that of the other languages.

    Raises:
        ValueError: where entries have different languages or numbers of runs, or lack one of `languages`.
    """
    groups = _groups(results, languages)
    table = [("language", *(f"{name}, {metric.upper()} %" for name in results), "change")]
    for name, members in groups.items():
        rates = [[_rate(run, members, metric) for run in runs] for runs in results.values()]
        first, last = mean_rate(rates[0]), mean_rate(rates[-1])
        table.append((name, *map(_spread, rates), f"{100 * (last / first - 1):+.0f} %" if first else "-"))
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
    between the two that an entry closes and, with a `control`, its change relative to that.

    Raises:
        ValueError: as `comparison_table` does, and where `oracle` or `control` is no entry.
    """
    if unknown := [name for name in (oracle, control) if name and name not in results]:
        raise ValueError(f"no results are called {', '.join(unknown)}; there are {', '.join(results)}")
    groups = _groups(results, languages)
    members = groups["macro average"] if not languages else list(languages)
    rates = {name: [_rate(run, members, metric) for run in runs] for name, runs in results.items()}
    first, *shown = (name for name in results if name != oracle)
    table = [("run", *(f"{name}, % of gap" + (f", vs {control}" if control else "") for name in shown))]
    cells = {name: ([], []) for name in shown}
    for run, (start, best) in enumerate(zip(rates[first], rates[oracle], strict=True)):
        for name, (shares, changes) in cells.items():
            shares.append((start - rates[name][run]) / (start - best) if start != best else math.nan)
            changes.append(rates[name][run] / rates[control][run] - 1 if control else 0.0)
        table.append((str(run + 1), *(_gain(shares[-1], changes[-1], control) for shares, changes in cells.values())))
    table.append(
        ("mean", *(_gain(mean_rate(shares), mean_rate(changes), control) for shares, changes in cells.values()))
    )
    return aligned(table)


def _gain(share: float, change: float, control: str | None) -> str:
    return f"{100 * share:.0f}" + (f", {100 * change:+.1f} %" if control else "")


def _groups(results: dict[str, Sequence[dict]], languages: Sequence[str]) -> dict[str, list[str]]:
    """Returns the rows of a comparison: name -> the languages whose mean it is; raises as `comparison_table` does."""
    first, *_ = results.values()
    scored = sorted(first[0]["languages"])
    for name, runs in results.items():
        if len(runs) != len(first):
            raise ValueError(f"{name} has {len(runs)} runs, but others {len(first)}")
        for run in runs:
            if sorted(run["languages"]) != scored:
                theirs, others = ", ".join(sorted(run["languages"])), ", ".join(scored)
                raise ValueError(f"{name} has results of {theirs}, but others of {others}")
    if missing := sorted(set(languages) - set(scored)):
        raise ValueError(f"no results of {', '.join(missing)}; there are {', '.join(scored)}")
    groups = {language: [language] for language in scored}
    if languages:
        groups[f"mean of {' '.join(languages)}"] = list(languages)
        if others := [language for language in scored if language not in languages]:
            groups["mean of the others"] = others
    return groups | {"macro average": scored}


def _rate(result: dict, languages: Sequence[str], metric: str) -> float | None:
    return mean_rate(result["languages"][language][metric] for language in languages)


def _spread(rates: Sequence[float | None]) -> str:
    """Returns the mean of the runs in percent, with the lowest and the highest where there are several."""
    if any(rate is None for rate in rates):  # the mean of no languages
        return "-"
    mean = f"{100 * math.fsum(rates) / len(rates):.1f}"
    return mean if len(rates) == 1 else f"{mean} ({100 * min(rates):.1f}-{100 * max(rates):.1f})"
