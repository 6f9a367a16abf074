"""Lays out tables of error rates: of one model, of several side by side, and of what each gains."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from ..text_table import aligned
from .differences import Difference
from .error_rate import EDITS, mean_rate
from .normalization import leads_with_cer
from .results import METRICS, TITLES, interval_of, rate_of

MOST_NAMED = 5  # confusions of languages, and spreads of speakers
PERHAPS = "perhaps (one of 20 languages seems different by chance)"


def results_table(results: dict) -> str:
    """Returns results of `score` as a table: a row for each language, then the means over languages and over hours.

    Rates are in percent, with the bounds of their 95 % intervals in brackets where these are known. What no row has,
    such as normalised rates of older results, has no column.
    """
    totals = {"utterances": results["utterances"], "hours": results["hours"]}
    rows = [*sorted(results["languages"].items()), ("macro average", {**results["macro"], **totals})]
    if "by_hours" in results:
        rows.append(("weighted by hours", {**results["by_hours"], **totals}))
    columns = [
        ("language", [name for name, _ in rows]),
        ("utterances", [f"{scores['utterances']:,}" for _, scores in rows]),
        ("hours", [f"{scores['hours']:.2f}" for _, scores in rows]),
        *((f"{TITLES[metric]} %", [_rate_cell(scores, metric) for _, scores in rows]) for metric in METRICS),
        ("language %", [_in_percent(scores.get("language_accuracy")) for _, scores in rows]),
    ]
    shown = [(title, *cells) for title, cells in columns if set(cells) != {"-"}]
    return aligned(list(zip(*shown, strict=True)))


def _rate_cell(scores: Mapping, metric: str) -> str:
    bounds = interval_of(scores, metric)
    text = _in_percent(rate_of(scores, metric))
    return text if bounds is None else f"{text} ({_in_percent(bounds[0])}-{_in_percent(bounds[1])})"


def _in_percent(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.1f}"


def weights_of_search(lm: dict) -> str:
    """Returns the weight of the language models in words, and the penalty of blanks, from `lm` of results."""
    penalty = lm.get("blank_penalty")  # which older versions did not have
    return f"weight {lm['lm_weight']:g}" + (f", blank penalty {penalty:g}" if penalty else "")


def remarks_on(results: dict) -> list[str]:
    """Returns lines on results of `score`: language models, kinds of edits, empty transcripts, speakers, languages."""
    languages, lines = results["languages"], []
    if (lm := results.get("lm")) is not None:
        lines.append(f"beam search with language models of {', '.join(lm['files'])}, {weights_of_search(lm)}")
    for unit in ("characters", "words"):
        kinds = {kind: sum(scores["edits"][unit][kind] for scores in languages.values()) for kind in EDITS}
        total = sum(scores[unit] for scores in languages.values())
        counts = ", ".join(f"{kind} {count:,}" for kind, count in kinds.items())
        lines.append(f"edits of {total:,} {unit}: {counts}")
    lost = f"; {results['unreadable']:,} could not be read" if results["unreadable"] else ""
    share = results["empty"] / results["utterances"]
    lines.append(f"empty transcripts: {results['empty']:,} of {results['utterances']:,} ({share:.1%}){lost}")
    spreads = [(each["cer"], language) for language, s in languages.items() if (each := s["speakers"])]
    if spreads:
        widest = sorted(spreads, key=lambda spread: spread[0]["lowest"] - spread[0]["highest"])[:MOST_NAMED]
        named = ", ".join(
            f"{language} {_in_percent(cer['lowest'])}-{_in_percent(cer['highest'])}" for cer, language in widest
        )
        lines.append(f"CER % of the best and the worst speaker, most different first: {named}")
    confused = [
        (count, language, predicted)
        for language, row in results["language_confusions"].items()
        for predicted, count in row.items()
        if language != predicted
    ]
    if confused:
        most = sorted(confused, key=lambda entry: (-entry[0], entry[1:]))[:MOST_NAMED]
        named = ", ".join(f"{language} for {predicted} ({count:,})" for count, language, predicted in most)
        lines.append(f"languages taken for others: {named}")
    if unspaced := [language for language in languages if leads_with_cer(language)]:
        lines.append(f"written without spaces, so that the WER says little: {', '.join(unspaced)}")
    return lines


def results_csv(results: dict) -> str:
    """Returns results of `score` as a CSV with a row for each language, rates as fractions, empty where not known."""
    rows = []
    for language, scores in sorted(results["languages"].items()):
        row: dict[str, object] = {"language": language, "utterances": scores["utterances"], "hours": scores["hours"]}
        for metric in METRICS:
            low, high = interval_of(scores, metric) or (None, None)
            row |= {metric: rate_of(scores, metric), f"{metric}_low": low, f"{metric}_high": high}
        for unit in ("characters", "words"):
            row |= {unit: scores[unit]} | {f"{unit}_{kind}": scores["edits"][unit][kind] for kind in EDITS}
        speakers = scores["speakers"] or {"count": None, "cer": dict.fromkeys(("lowest", "median", "highest"))}
        row |= {"language_accuracy": scores["language_accuracy"], "empty": scores["empty"]}
        row |= {"speakers": speakers["count"]} | {f"speaker_cer_{k}": rate for k, rate in speakers["cer"].items()}
        rows.append(row)
    with io.StringIO(newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return file.getvalue()


def comparison_table(
    results: Mapping[str, Sequence[dict]],
    languages: Sequence[str] = (),
    metric: str = "cer",
    differences: Mapping[str, Difference | str] | None = None,
) -> str:
    """Returns error rates in percent as a table: a column for each of `results`, a row for each language, means below.

    A cell for several runs has their mean and, in brackets, the lowest and highest. The last column is the change from
    the first to the last entry, relative to the first.

    Args:
        results: name -> results of `score`, one per run; all of the same languages, with as many runs for each.
        languages: languages with a mean of their own, beside that of the other languages.
        metric: one of the `METRICS`.
        differences: between the first and the last entry, by row, for two more columns: the difference in percentage
            points with its 95 % interval, and whether it is real.

    Raises:
        ValueError: where entries have different languages or numbers of runs, or lack one of `languages`.
    """
    differences = {} if differences is None or not verdict(differences) else differences
    more = ("difference, 95 %", "real") if differences else ()
    table = [("language", *(f"{name}, {TITLES[metric]} %" for name in results), "change", *more)]
    for row, members in members_of_rows(results, languages).items():
        rates = [[_rate(run, members, metric) for run in runs] for runs in results.values()]
        change = _ratio(fmean(rates[-1]), fmean(rates[0])) - 1
        cells = _difference_cells(differences[row]) if differences else ()
        table.append((row, *map(_spread, rates), _percent(change, "+.0f", " %"), *cells))
    return aligned(table)


def _difference_cells(difference: Difference | str) -> tuple[str, str]:
    if isinstance(difference, str):
        return "-", "?"
    change, low, high = (f"{100 * value:+.1f}" for value in (difference.change, difference.low, difference.high))
    return f"{change} ({low} to {high})", _certainty(difference)


def _certainty(difference: Difference) -> str:
    if difference.is_real:
        return "yes"
    return "perhaps" if difference.leaves_out_zero else "no"


def verdict(differences: Mapping[str, Difference | str]) -> list[str]:
    """Returns lines that name the rows whose differences are real, those whose are not, and those that are not known.

    Returns none if no difference is known.
    """
    known = {row: _certainty(each) for row, each in differences.items() if isinstance(each, Difference)}
    if not known:
        return []
    titles = {"yes": "real", "perhaps": PERHAPS, "no": "may be chance"}
    groups = {title: [row for row, each in known.items() if each == answer] for answer, title in titles.items()}
    for row, each in differences.items():
        if isinstance(each, str):
            groups.setdefault(f"not known, {each}", []).append(row)
    return [f"{group}: {', '.join(rows)}" for group, rows in groups.items() if rows]


def gap_table(
    results: Mapping[str, Sequence[dict]],
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
    check_names(results, oracle, control)
    members = languages or members_of_rows(results, languages)["macro average"]
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


def check_names(results: Mapping[str, object], *names: str | None) -> None:
    """Raises a ValueError if one of the names is not None and no entry of `results`."""
    if unknown := [name for name in names if name is not None and name not in results]:
        raise ValueError(f"no results are called {', '.join(unknown)}; there are {', '.join(results)}")


def members_of_rows(results: Mapping[str, Sequence[dict]], languages: Sequence[str]) -> dict[str, list[str]]:
    """Returns the rows of a comparison: name -> the languages it averages; raises as `comparison_table` does."""
    base, first = next(iter(results.items()))
    scored = sorted(first[0]["languages"])
    for name, runs in results.items():
        if len(runs) != len(first):
            raise ValueError(f"{name} has {len(runs)} runs, but others {len(first)}")
        for run in runs:
            if differing := sorted(run["languages"].keys() ^ set(scored)):
                raise ValueError(
                    f"only one of {base} and {name} has results of {', '.join(differing)}; `hf-mlpl evaluate "
                    "--hypotheses FILE --languages ...` scores the others alone"
                )
    if missing := sorted(set(languages) - set(scored)):
        raise ValueError(f"no results of {', '.join(missing)}; there are {', '.join(scored)}")
    rows = {language: [language] for language in scored}
    if languages := list(dict.fromkeys(languages)):
        rows[f"mean of {' '.join(languages)}"] = languages
        if others := [language for language in scored if language not in languages]:
            rows["mean of the others"] = others
    return rows | {"macro average": scored}


def _rate(result: dict, languages: Sequence[str], metric: str) -> float:
    """Returns the mean of the languages' rates, NaN where none is known."""
    rate = mean_rate(rate_of(result["languages"][language], metric) for language in languages)
    return math.nan if rate is None else rate


def _ratio(part: float, total: float) -> float:
    return part / total if total else math.nan


def _percent(fraction: float, number_format: str, unit: str = "") -> str:
    return "-" if math.isnan(fraction) else f"{100 * fraction:{number_format}}{unit}"


def _spread(rates: Sequence[float]) -> str:
    """Returns the mean of the runs in percent, with the lowest and the highest where there are several."""
    mean, lowest, highest = (_percent(rate, ".1f") for rate in (fmean(rates), min(rates), max(rates)))
    return mean if len(rates) == 1 or mean == "-" else f"{mean} ({lowest}-{highest})"
