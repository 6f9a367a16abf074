"""Writes error rates as the `model-index` of a card, with the Hub's names of data sets and of their configurations."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from huggingface_hub import EvalResult

from ..corpora.locales import iso_code
from .run_files import WITHOUT_SPACES, data_name, data_title, split_of

TASK = "automatic-speech-recognition"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def model_index(results: Sequence[dict]) -> list[EvalResult]:
    """Returns the error rates of results in percent, for the metadata of a card.

    A data set of the Hub has there the id, configurations, split and revision that `load_dataset` takes. Others have a
    name made of their sources, and languages for configurations. Languages written without spaces have no WER here,
    because leaderboards would count whole sentences as words.

    Raises:
        ValueError: for two results of one data set and language.
    """
    rates: list[EvalResult] = []
    for result in results:
        known = {rate.unique_identifier for rate in rates}
        for language, scored in _rates_of_languages(result):
            if any(rate.unique_identifier in known for rate in scored):
                raise ValueError(f"two of the results are of {data_title(result)}, {language}; give one of them")
            rates += scored
    return rates


def _rates_of_languages(result: dict) -> Iterator[tuple[str, list[EvalResult]]]:
    name, dataset = data_name(result), result.get("dataset") or {}
    slug = name if HUB_NAME.fullmatch(name) else re.sub(r"[^\w.]+", "-", name.lower()).strip("-")
    configs = {language: (dataset.get("configs") or {}).get(language, language) for language in result["languages"]}
    languages_of_config = Counter(configs.values())
    for language, scores in result["languages"].items():
        is_alone = languages_of_config[configs[language]] == 1  # else the Hub has one list of metrics for several
        place = {
            "task_type": TASK,
            "task_name": "Speech Recognition",
            "dataset_type": dataset.get("id") or slug,
            "dataset_name": f"{name} ({language})" if is_alone else name,
            "dataset_config": configs[language],
            "dataset_split": split_of(result),
            "dataset_revision": dataset.get("revision"),
            "dataset_args": {"language": iso_code(language)} if is_alone else None,
        }
        rates = []
        for kind, values in (("", scores), ("normalised ", scores.get("normalized") or {})):
            for metric in ("cer",) if iso_code(language) in WITHOUT_SPACES else ("wer", "cer"):
                if values.get(metric) is not None:
                    suffix = "" if is_alone else f" of {language}"
                    rates.append(
                        EvalResult(
                            **place,
                            metric_type=metric,
                            metric_value=round(100 * values[metric], 2),
                            metric_name=f"{split_of(result)} {kind}{metric.upper()}{suffix}, %",
                            metric_args={"normalization": result.get("normalization")} if kind else None,
                        )
                    )
        yield language, rates
