"""Writes error rates as the `model-index` of a card, with the Hub's names of data sets and of their configurations."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from huggingface_hub import EvalResult

from ..corpora.locales import iso_code
from ..evaluation.normalization import leads_with_cer
from ..evaluation.results import NORMALIZED, rate_of
from .run_files import data_name, data_title, split_of

TASK = "automatic-speech-recognition"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def model_index(results: Sequence[dict]) -> list[EvalResult]:
    """Returns the error rates of results in percent, for the metadata of a card.

    A data set of the Hub has there the id, configuration, split and revision that `load_dataset` takes. Others have a
    name made of their sources, and the language in place of a configuration. Languages written without spaces have no
    WER here, because leaderboards would count their sentences as words.

    Raises:
        ValueError: for two results of one data set and language.
    """
    scored = [(result, language) for result in results for language in result["languages"]]
    places = [_place(*each) for each in scored]
    languages_of = Counter(tuple(place.values()) for place in places)
    rates: list[EvalResult] = []
    known = set()
    for (result, language), place in zip(scored, places, strict=True):
        identity = (*place.values(), language)
        if identity in known:
            raise ValueError(f"two of the results are of {data_title(result)}, {language}; give one of them")
        known.add(identity)
        # The Hub has one list of rates for all languages of a configuration, so these name their language themselves
        is_alone = languages_of[tuple(place.values())] == 1
        suffix = "" if is_alone else f" of {language}"
        for metric in ("cer",) if leads_with_cer(language) else ("cer", "wer"):
            for form in ("", NORMALIZED):
                if (rate := rate_of(result["languages"][language], form + metric)) is not None:
                    kind = "normalised " if form else ""
                    rates.append(
                        EvalResult(
                            task_type=TASK,
                            task_name="Speech Recognition",
                            dataset_name=_title(result, place["dataset_config"]),
                            dataset_args={"language": iso_code(language)} if is_alone else None,
                            metric_type=metric,
                            metric_value=round(100 * rate, 2),
                            metric_name=f"{place['dataset_split']} {kind}{metric.upper()}{suffix}, %",
                            metric_args={"normalization": result.get("normalization")} if form else None,
                            **place,
                        )
                    )
    return rates


def _name(result: dict) -> str:
    return data_name(result) or "unnamed"  # transcripts of another program


def _title(result: dict, config: str) -> str:
    return _name(result) if config == "default" else f"{_name(result)} ({config})"


def _place(result: dict, language: str) -> dict[str, str | None]:
    """Returns what identifies the data of a language on the Hub."""
    name, dataset = _name(result), result.get("dataset") or {}
    slug = name if HUB_NAME.fullmatch(name) else re.sub(r"[^\w.]+", "-", name.lower()).strip("-")
    return {
        "dataset_type": dataset.get("id") or slug,
        "dataset_config": (dataset.get("configs") or {}).get(language, language) if dataset.get("id") else language,
        "dataset_split": split_of(result),
        "dataset_revision": dataset.get("revision"),
    }
