"""CER and WER per language and their macro average, as numbers, as a results file and as a table."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset
from torch import nn
from tqdm import tqdm

from .decoding import transcribe
from .processing_mlpl import MlplProcessor
from .unsharded import unsharded

logger = logging.getLogger(__name__)

METRICS = Path(__file__).parent / "metrics"
RATES = ("cer", "wer", "language_accuracy")


@lru_cache
def _metric(name: str):
    """Loads the `evaluate` module of a name in `metrics/`."""
    from evaluate import load  # takes seconds to import, and only scoring needs it

    # Kept in memory, else processes that score at the same time wait for each other's lock on one cache file
    return load(str(METRICS / name), keep_in_memory=True)


def score(rows: Iterable[dict]) -> dict:
    """
    Error rates per language and their unweighted mean over languages.

    A row has `language`, `text` (the reference), `hypothesis`, `duration_seconds` and `predicted_language`. Rates are
    fractions: within a language, all edits divided by all reference characters (CER) or words (WER), as
    `ErrorRate` counts them. The language accuracy counts rows whose `predicted_language` is not None, and is None
    where there is no such row.

    Returns `{"languages": {language: {"cer", "wer", "language_accuracy", "utterances", "hours"}},
    "macro": {"cer", "wer", "language_accuracy"}, "utterances", "hours"}`, independent of the order of the rows.
    Raises `ValueError` without rows.
    """
    rows_of_language = defaultdict(list)
    for row in rows:
        rows_of_language[row["language"]].append(row)
    if not rows_of_language:
        raise ValueError("there are no utterances to score; is the test split empty, or did a filter drop all of it?")
    languages = {language: _score_language(rows_of_language[language]) for language in sorted(rows_of_language)}
    return {
        "languages": languages,
        "macro": {rate: _mean(scores[rate] for scores in languages.values()) for rate in RATES},
        "utterances": sum(scores["utterances"] for scores in languages.values()),
        "hours": math.fsum(scores["hours"] for scores in languages.values()),
    }


def _score_language(rows: list[dict]) -> dict:
    texts = {"predictions": [row["hypothesis"] for row in rows], "references": [row["text"] for row in rows]}
    predicted = [row["predicted_language"] for row in rows if row["predicted_language"] is not None]
    return {
        "cer": _metric("cer").compute(**texts)["cer"],
        "wer": _metric("wer").compute(**texts)["wer"],
        "language_accuracy": _mean(language == rows[0]["language"] for language in predicted),
        "utterances": len(rows),
        "hours": math.fsum(row["duration_seconds"] for row in rows) / 3600,
    }


def _mean(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are known, None if none is."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def evaluate_model(
    accelerator: Accelerator,
    model: nn.Module,
    processor: MlplProcessor,
    dataset: Dataset,
    max_batch_seconds: float | None,
    num_workers: int | None = 0,
    progress: tqdm | None = None,
) -> dict | None:
    """
    Scores greedy transcripts of labelled utterances, on all processes together; the main process gets the results.

    An utterance whose audio cannot be read counts with an empty hypothesis, one line in the log, and in
    `results["unreadable"]`. Raises `ValueError` for utterances without text.
    """
    if missing := sum(text is None for text in dataset["text"][:]):
        raise ValueError(f"{missing} of {len(dataset)} utterances have no text to compare with")
    share = dataset.select(range(accelerator.process_index, len(dataset), accelerator.num_processes))
    rows = []
    model = accelerator.unwrap_model(model)
    with unsharded(model):
        hypotheses = list(transcribe(model, processor, share, max_batch_seconds, num_workers, progress))
    for hypothesis in hypotheses:
        utterance = share[hypothesis.row]
        if hypothesis.error:
            logger.warning("%s; counted as an empty hypothesis", hypothesis.error)
        rows.append(
            {name: utterance[name] for name in ("id", "language", "text", "duration_seconds")}
            | ({} if hypothesis.error else {"duration_seconds": hypothesis.seconds})
            | {
                "hypothesis": hypothesis.text,
                "predicted_language": hypothesis.language,
                "unreadable": bool(hypothesis.error),
            }
        )
    rows = gather_object(rows)
    if not accelerator.is_main_process:
        return None
    return {**score(rows), "unreadable": sum(row["unreadable"] for row in rows)}


def results_table(results: dict) -> str:
    """Results of `score` as a plain text table, rates in percent: a row per language, then the macro average."""
    totals = {"utterances": results["utterances"], "hours": results["hours"]}
    scores_of_row = {**dict(sorted(results["languages"].items())), "macro": {**results["macro"], **totals}}
    table = [("language", "utterances", "hours", "CER %", "WER %", "language %")]
    for name, scores in scores_of_row.items():
        rates = ("-" if scores[rate] is None else f"{100 * scores[rate]:.1f}" for rate in RATES)
        table.append((name, str(scores["utterances"]), f"{scores['hours']:.2f}", *rates))
    return aligned(table)


def comparison_table(results: dict[str, Sequence[dict]], languages: Sequence[str] = (), metric: str = "cer") -> str:
    """Error rates in percent as a plain text table: a column per entry of `results`, a row per language, means below.

    Of several runs a cell gives the mean and, in brackets, the lowest and highest. The last column is the change from
    the first to the last entry, relative to the first.

    Args:
        results: name -> results of `score`, one per run; all of the same languages, as many runs for each.
        languages: Get a mean of their own, beside the one of the remaining languages.

    Raises:
        ValueError: where entries have different languages or numbers of runs, or lack one of `languages`.
    """
    groups = _groups(results, languages)
    table = [("language", *(f"{name}, {metric.upper()} %" for name in results), "change")]
    for name, members in groups.items():
        rates = [[_rate(run, members, metric) for run in runs] for runs in results.values()]
        first, last = _mean(rates[0]), _mean(rates[-1])
        table.append((name, *map(_spread, rates), f"{100 * (last / first - 1):+.0f} %" if first else "-"))
    return aligned(table)


def gap_table(
    results: dict[str, Sequence[dict]],
    languages: Sequence[str],
    oracle: str,
    control: str | None = None,
    metric: str = "cer",
) -> str:
    """How much each entry gains, a row per run: for the mean of `languages`, or of all where none are named.

    The first entry is where all began, `oracle` what can be hoped for. A column says which share of the gap between
    the two an entry closes and, where there is a `control`, its change against that, relative to it.

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
    table.append(("mean", *(_gain(_mean(shares), _mean(changes), control) for shares, changes in cells.values())))
    return aligned(table)


def _gain(share: float, change: float, control: str | None) -> str:
    return f"{100 * share:.0f}" + (f", {100 * change:+.1f} %" if control else "")


def _groups(results: dict[str, Sequence[dict]], languages: Sequence[str]) -> dict[str, list[str]]:
    """Rows of a comparison: name -> the languages that it is the mean of. Raises what `comparison_table` says."""
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
    return _mean(result["languages"][language][metric] for language in languages)


def _spread(rates: Sequence[float | None]) -> str:
    """Mean of the runs in percent, and between which numbers they lie."""
    if any(rate is None for rate in rates):  # the mean of no languages
        return "-"
    mean = f"{100 * math.fsum(rates) / len(rates):.1f}"
    return mean if len(rates) == 1 else f"{mean} ({100 * min(rates):.1f}-{100 * max(rates):.1f})"


def aligned(table: list[tuple[str, ...]]) -> str:
    """First column to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in table
    )
