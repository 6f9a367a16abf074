"""Scores transcripts: error rates of each language with their intervals, and the means over languages.

An utterance of 70 characters takes 0.1 ms of one core, an English one 0.5 ms, most of it to normalise texts, which
each process does for its own share. The intervals take 16 s for a million utterances.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from operator import itemgetter
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset
from torch import nn
from tqdm import tqdm
from transformers import ProcessorMixin

from ..data.drops import DropFile, blame_disk, describe_unusable
from ..data.utterances import write_utterances
from ..hardware import reset_peak_memory
from ..inference.clock import Clock
from ..inference.recognition import Transcribe, transcriber
from ..inference.unsharded import unsharded
from ..main_process import meet
from .error_rate import EDITS, fraction, mean_rate
from .hypotheses import COUNTS, HYPOTHESIS_FEATURES, SCORES, with_counts
from .intervals import FEWEST_SAMPLED, interval, macro_rates, rates_of_sums, resampled_sums
from .normalization import NORMALIZATION
from .results import METRICS, NORMALIZED, rate_of
from .speed import measured_speed

logger = logging.getLogger(__name__)

FEWEST_JUDGED = 10  # utterances of a language: without them all its audio is missing rather than damaged
COLUMNS = [column for metric in METRICS for column in COUNTS[metric]]


def score(rows: Iterable[dict]) -> dict:
    """Computes error rates per language and their means over languages, as `evaluation.results` describes them.

    A row has `language`, `text` (the reference), `hypothesis`, `duration_seconds` and `predicted_language`, and
    perhaps `speaker` and `error`, the reason why its audio could not be read. Rates are fractions: within a language,
    all edits divided by all reference characters (CER) or words (WER), as `ErrorRate` counts them. The language
    accuracy counts rows whose `predicted_language` is not None, and is None without such rows.

    Only the intervals depend on the order of the rows. Raises `ValueError` without rows.
    """
    return score_counted([with_counts(row) for row in rows])


def score_counted(rows: Sequence[dict]) -> dict:
    """Computes as `score` does the results of rows that have the counts of `with_counts`."""
    rows_of_language = defaultdict(list)
    for row in rows:
        rows_of_language[row["language"]].append(row)
    if not rows_of_language:
        raise ValueError("there are no utterances to score; is the test split empty, or did a filter drop all of it?")
    languages, samples = {}, {}
    for language in sorted(rows_of_language):
        languages[language], samples[language] = _score_language(rows_of_language[language])
    return {
        "normalization": NORMALIZATION,
        "languages": languages,
        "macro": _mean_scores(languages, samples, [1.0] * len(languages)),
        "by_hours": _mean_scores(languages, samples, [scores["hours"] for scores in languages.values()]),
        "utterances": len(rows),
        "hours": math.fsum(scores["hours"] for scores in languages.values()),
        "unreadable": sum(row.get("error") is not None for row in rows),
        "empty": sum(scores["empty"] for scores in languages.values()),
        "language_confusions": _language_confusions(rows),
    }


def _score_language(rows: list[dict]) -> tuple[dict, np.ndarray | None]:
    """Returns the scores of a language, and (1000, 4) of its `METRICS` in samples of 10 or more utterances."""
    counts = np.array([[row[column] for column in COLUMNS] for row in rows], dtype=np.int64)
    edits, lengths = counts.sum(0)[::2].tolist(), counts.sum(0)[1::2].tolist()
    samples = None
    if len(rows) >= FEWEST_SAMPLED:
        samples = rates_of_sums(resampled_sums(counts, rows[0]["language"]))
    kinds = np.array([row["kinds"] for row in rows]).sum(0).tolist()
    predicted = [row["predicted_language"] for row in rows if row["predicted_language"] is not None]
    scores = {
        **_grouped(list(map(fraction, edits, lengths))),
        "intervals": _intervals(samples),
        "edits": {
            "characters": dict(zip(EDITS, kinds[:3], strict=True)),
            "words": dict(zip(EDITS, kinds[3:], strict=True)),
        },
        "characters": lengths[0],
        "words": lengths[1],
        "language_accuracy": mean_rate(language == rows[0]["language"] for language in predicted),
        "utterances": len(rows),
        "hours": math.fsum(row["duration_seconds"] for row in rows) / 3600,
        "empty": sum(not row["hypothesis"] and row.get("error") is None for row in rows),
        "speakers": _speakers(rows),
    }
    return scores, samples


def _grouped(rates: Sequence[float | None]) -> dict:
    """Returns values of the `METRICS` as in results: those of normalised texts in an object of their own."""
    named = dict(zip(METRICS, rates, strict=True))
    normalized = {metric.removeprefix(NORMALIZED): named.pop(metric) for metric in METRICS if NORMALIZED in metric}
    return {**named, "normalized": normalized}


def _intervals(samples: np.ndarray | None) -> dict:
    """Returns the bounds of the middle 95 % of the samples of each of the `METRICS`; None where all are the same."""
    if samples is None:
        return dict.fromkeys(METRICS)
    bounds = (interval(each) for each in samples.T)
    return {metric: [low, high] if low < high else None for metric, (low, high) in zip(METRICS, bounds, strict=True)}


def _speakers(rows: Sequence[dict]) -> dict | None:
    """Returns the spread of the CER over speakers, each with all that they say; None where no speaker is known."""
    counts: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    for row in rows:
        if (speaker := row.get("speaker")) is not None:
            for place, column in enumerate(COUNTS["cer"]):
                counts[speaker][place] += row[column]
    if not counts:
        return None
    rates = [fraction(*each) for each in counts.values()]
    return {
        "count": len(rates),
        "cer": {"lowest": min(rates), "median": float(np.median(rates)), "highest": max(rates)},
    }


def _language_confusions(rows: Sequence[dict]) -> dict[str, dict[str, int]]:
    counts = Counter(
        (row["language"], row["predicted_language"]) for row in rows if row["predicted_language"] is not None
    )
    confusions: dict[str, dict[str, int]] = defaultdict(dict)
    for (language, predicted), count in sorted(counts.items()):
        confusions[language][predicted] = count
    return dict(confusions)


def _mean_scores(languages: dict[str, dict], samples: dict[str, np.ndarray | None], weights: Sequence[float]) -> dict:
    """Returns the weighted means of the languages' rates; those that are not known have no weight."""

    def mean(rates: Sequence[float | None]) -> float | None:
        known = [(rate, weight) for rate, weight in zip(rates, weights, strict=True) if rate is not None and weight]
        total = math.fsum(weight for _, weight in known)
        return math.fsum(rate * weight for rate, weight in known) / total if known else None

    rates = [mean([rate_of(scores, metric) for scores in languages.values()]) for metric in METRICS]
    sampled = {language: each for language, each in samples.items() if each is not None}
    is_sampled = len(sampled) == len(languages) and any(weights)
    return {
        **_grouped(rates),
        "language_accuracy": mean([scores["language_accuracy"] for scores in languages.values()]),
        "intervals": _intervals(macro_rates(sampled, weights) if is_sampled else None),
    }


def evaluate_model(
    accelerator: Accelerator,
    model: nn.Module,
    processor: ProcessorMixin,
    dataset: Dataset,
    max_batch_seconds: float | None,
    num_workers: int | None = 0,
    progress: tqdm | None = None,
    hypotheses_file: Path | None = None,
    with_speed: bool = False,
    transcribe: Transcribe | None = None,
) -> dict | None:
    """Scores greedy transcripts of labelled utterances on all processes, and returns the results on the main one.

    An utterance whose audio cannot be read counts with an empty hypothesis, and in `results["unreadable"]`; the log
    has lines about the first few. `results["empty"]` counts empty transcripts of those that can be read.

    Args:
        hypotheses_file: Parquet file to write, with a row of `HYPOTHESIS_FEATURES` for each utterance, in the order
            of the data set.
        with_speed: `results["speed"]` holds the speed and the memory, as `speed` describes them. That costs nothing,
            but says something only where nothing else, such as training, goes on in the process.
        transcribe: how the model transcribes parts of the data set; by default that of `transcriber`.

    Raises:
        ValueError: for utterances without text, and if most utterances, or all of ten or more of a language, cannot
            be read; all processes raise it.
    """
    if missing := sum(text is None for text in dataset["text"][:]):
        raise ValueError(f"{missing} of {len(dataset)} utterances have no text to compare with")
    numbers = range(accelerator.process_index, len(dataset), accelerator.num_processes)
    share = dataset.select(numbers)
    model = accelerator.unwrap_model(model)
    decode = transcribe or transcriber(model, processor, dataset)
    clock = Clock()
    if with_speed:
        reset_peak_memory(accelerator.device)
    with unsharded(model), clock.wall:
        hypotheses = list(decode(share, max_batch_seconds, num_workers, progress, clock))
    rows, errors = [], DropFile(None, ())
    for hypothesis in hypotheses:
        utterance = share[hypothesis.row]
        if hypothesis.error and errors.add("cannot be read"):
            logger.warning("%s; counted as an empty hypothesis", hypothesis.error)
        rows.append(
            with_counts(
                {
                    "number": numbers[hypothesis.row],
                    **{name: utterance[name] for name in ("id", "audio", "language", "speaker", "text")},
                    **{name: None if hypothesis.error else getattr(hypothesis, name) for name in SCORES},
                    "hypothesis": hypothesis.text,
                    "predicted_language": hypothesis.language,
                    "duration_seconds": utterance["duration_seconds"] if hypothesis.error else hypothesis.seconds,
                    "error": hypothesis.error,
                }
            )
        )
    errors.log_rest(logger, "utterances count as empty hypotheses")
    meet()  # their shares may take them different times
    rows = sorted(gather_object(rows), key=itemgetter("number"))
    speed = {"speed": measured_speed(accelerator, model, clock)} if with_speed else {}
    _check_readable(rows)
    if not accelerator.is_main_process:
        return None
    if hypotheses_file is not None:
        write_utterances(rows, hypotheses_file, HYPOTHESIS_FEATURES)
    return score_counted(rows) | speed


def _check_readable(rows: list[dict]) -> None:
    """Raises a ValueError if most utterances, or all of `FEWEST_JUDGED` or more of a language, cannot be read."""
    errors = [(row["language"], row["error"]) for row in rows if row["error"]]
    count, lost = Counter(row["language"] for row in rows), Counter(language for language, _ in errors)
    if problem := describe_unusable(len(errors), len(rows)):
        raise ValueError(blame_disk(problem, errors[0][1]))
    for language, error in errors:
        if FEWEST_JUDGED <= count[language] == lost[language]:
            raise ValueError(blame_disk(f"none of {lost[language]} utterances of {language} could be used", error))
