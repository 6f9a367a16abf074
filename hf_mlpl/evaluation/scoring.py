"""Scores transcripts with CER and WER per language, and their macro average."""

from __future__ import annotations

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import lru_cache
from operator import itemgetter
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset
from torch import nn
from tqdm import tqdm
from transformers import ProcessorMixin

from ..data.drops import DropFile, blame_disk, describe_unusable
from ..inference.recognition import transcriber
from ..inference.unsharded import unsharded
from ..main_process import meet
from .error_rate import RATES, mean_rate
from .hypotheses import SCORES, write_hypotheses

logger = logging.getLogger(__name__)

FEWEST_JUDGED = 10  # utterances of a language: without them all its audio is missing rather than damaged
METRICS = Path(__file__).parent / "metrics"


@lru_cache
def _metric(name: str):
    """Loads the `evaluate` module of a name in `metrics/`."""
    from evaluate import load  # takes seconds to import, and only scoring needs it

    # Kept in memory, else processes that score at the same time wait for each other's lock on one cache file
    return load(str(METRICS / name), keep_in_memory=True)


def score(rows: Iterable[dict]) -> dict:
    """Computes error rates per language and their unweighted mean over languages.

    A row has `language`, `text` (the reference), `hypothesis`, `duration_seconds` and `predicted_language`. Rates are
    fractions: within a language, all edits divided by all reference characters (CER) or words (WER), as `ErrorRate`
    counts them. The language accuracy counts rows whose `predicted_language` is not None, and is None without such
    rows.

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
        "macro": {rate: mean_rate(scores[rate] for scores in languages.values()) for rate in RATES},
        "utterances": sum(scores["utterances"] for scores in languages.values()),
        "hours": math.fsum(scores["hours"] for scores in languages.values()),
    }


def _score_language(rows: list[dict]) -> dict:
    texts = {"predictions": [row["hypothesis"] for row in rows], "references": [row["text"] for row in rows]}
    predicted = [row["predicted_language"] for row in rows if row["predicted_language"] is not None]
    return {
        "cer": _metric("cer").compute(**texts)["cer"],
        "wer": _metric("wer").compute(**texts)["wer"],
        "language_accuracy": mean_rate(language == rows[0]["language"] for language in predicted),
        "utterances": len(rows),
        "hours": math.fsum(row["duration_seconds"] for row in rows) / 3600,
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
) -> dict | None:
    """Scores greedy transcripts of labelled utterances on all processes, and returns the results on the main one.

    An utterance whose audio cannot be read counts with an empty hypothesis, and in `results["unreadable"]`; the log
    has lines about the first few. `results["empty"]` counts empty transcripts of those that can be read.

    Args:
        hypotheses_file: Parquet file to write, with a row of `HYPOTHESIS_FEATURES` for each utterance, in the order
            of the data set.

    Raises:
        ValueError: for utterances without text, and if most utterances, or all of ten or more of a language, cannot
            be read; all processes raise it.
    """
    if missing := sum(text is None for text in dataset["text"][:]):
        raise ValueError(f"{missing} of {len(dataset)} utterances have no text to compare with")
    numbers = range(accelerator.process_index, len(dataset), accelerator.num_processes)
    share = dataset.select(numbers)
    model = accelerator.unwrap_model(model)
    decode = transcriber(model, processor, dataset)
    with unsharded(model):
        hypotheses = list(decode(share, max_batch_seconds, num_workers, progress))
    rows, errors = [], DropFile(None, ())
    for hypothesis in hypotheses:
        utterance = share[hypothesis.row]
        if hypothesis.error and errors.add("cannot be read"):
            logger.warning("%s; counted as an empty hypothesis", hypothesis.error)
        rows.append(
            {
                "number": numbers[hypothesis.row],
                **{name: utterance[name] for name in ("id", "audio", "language", "text")},
                **{name: None if hypothesis.error else getattr(hypothesis, name) for name in SCORES},
                "hypothesis": hypothesis.text,
                "predicted_language": hypothesis.language,
                "duration_seconds": utterance["duration_seconds"] if hypothesis.error else hypothesis.seconds,
                "error": hypothesis.error,
            }
        )
    errors.log_rest(logger, "utterances count as empty hypotheses")
    meet()  # their shares may take them different times
    rows = gather_object(rows)
    _check_readable(rows)
    if not accelerator.is_main_process:
        return None
    if hypotheses_file is not None:
        write_hypotheses(sorted(rows, key=itemgetter("number")), hypotheses_file)
    unreadable = sum(row["error"] is not None for row in rows)
    return {**score(rows), "unreadable": unreadable, "empty": sum(not row["hypothesis"] for row in rows) - unreadable}


def _check_readable(rows: list[dict]) -> None:
    """Raises a ValueError if most utterances, or all of `FEWEST_JUDGED` or more of a language, cannot be read."""
    errors = [(row["language"], row["error"]) for row in rows if row["error"]]
    count, lost = Counter(row["language"] for row in rows), Counter(language for language, _ in errors)
    if problem := describe_unusable(len(errors), len(rows)):
        raise ValueError(blame_disk(problem, errors[0][1]))
    for language, error in errors:
        if FEWEST_JUDGED <= count[language] == lost[language]:
            raise ValueError(blame_disk(f"none of {lost[language]} utterances of {language} could be used", error))
