"""Lays out results for the cards of models: a table of error rates, and what is known of the test set."""

from __future__ import annotations

from collections.abc import Mapping

from ..corpora.locales import iso_code
from ..evaluation.results import METRICS, NORMALIZED, TITLES, interval_of, rate_of
from ..evaluation.speed_line import describe_speed, is_speed
from .run_files import data_line, data_title, format_hours


def shown_result(result: dict, has_languages: bool) -> dict:
    """Returns what the template shows of the results on a test set: its `title`, `lines` about it, and a `table`."""
    speed = f"Speed: {describe_speed(result['speed'])}." if is_speed(result.get("speed")) else ""
    return {
        "title": data_title(result) or "Transcripts",
        "lines": [line for line in (data_line(result), speed) if line],
        "table": score_table(result, has_languages),
    }


def score_table(result: dict, has_languages: bool) -> list[list[str]]:
    """Returns the cells of a table in Markdown: a head, a row for each language, and means, rates in percent.

    A rate has its 95 % interval in brackets, where it is known.

    Args:
        has_languages: the model predicts the language of an utterance.
    """
    metrics = [metric for metric in METRICS if not metric.startswith(NORMALIZED) or has_normalized(result)]
    head = ["language", "ISO 639", "utterances", "hours", *(f"{TITLES[metric]} %" for metric in metrics)]
    table = [head + ["language %"] * has_languages]
    totals = {"utterances": result["utterances"], "hours": result["hours"]}
    rows = [(name, iso_code(name), scores) for name, scores in sorted(result["languages"].items())]
    rows.append(("macro average", "-", result["macro"] | totals))
    if result.get("by_hours"):
        rows.append(("weighted by hours", "-", result["by_hours"] | totals))
    for name, code, scores in rows:
        cells = [escaped(name), code, f"{scores['utterances']:,}", format_hours(scores["hours"])]
        cells += [_percent(scores, metric) for metric in metrics]
        table.append(cells + [_percent(scores, "language_accuracy")] * has_languages)
    return table


def escaped(text: str) -> str:
    """Returns a text that does not end a cell of a table in Markdown."""
    return text.replace("|", "\\|")


def has_normalized(result: dict) -> bool:
    return any(rate_of(scores, f"{NORMALIZED}cer") is not None for scores in result["languages"].values())


def has_intervals(result: dict) -> bool:
    return any(interval_of(scores, "cer") for scores in result["languages"].values())


def _percent(scores: Mapping, metric: str) -> str:
    if (rate := rate_of(scores, metric)) is None:
        return "-"
    bounds = interval_of(scores, metric)
    return f"{100 * rate:.1f}" + (f" ({100 * bounds[0]:.1f}–{100 * bounds[1]:.1f})" if bounds else "")
