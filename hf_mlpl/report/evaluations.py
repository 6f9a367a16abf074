"""Reads evaluations with their transcripts, and finds in them what a report shows."""

from __future__ import annotations

import os
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, zip_longest
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa

from ..evaluation.confusions import MOST_COUNTED, character_confusions, language_confusions
from ..evaluation.differences import ScoredRun
from ..evaluation.hypotheses import COUNTS, hypotheses_path, of_language, read_hypotheses
from ..evaluation.intervals import FEWEST_SAMPLED, interval, macro_rates, resampled_rates
from ..evaluation.results import interval_of, rate_of, read_results
from ..evaluation.tables import weights_of_search
from ..sharing.run_files import data_title

WORST = 20  # utterances of a language
RATES = ("cer", "wer")  # of results of older versions
MACRO = None  # in place of a language: the macro average, which no name of a language can stand for
Key = TypeVar("Key", str, tuple[str, str])


@dataclass(frozen=True)
class Rate:
    """Holds an error rate with the bounds of its 95 % interval, which are None where it is not known."""

    value: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, scores: Mapping, metric: str) -> Rate | None:
        """Returns a rate of scores in results, with the interval that they have; None where it is not known."""
        value = rate_of(scores, metric)
        return None if value is None else cls(value, *(interval_of(scores, metric) or ()))


@dataclass(frozen=True)
class Evaluation(ScoredRun):
    """Holds the results of a model on a data set, and its transcripts.

    Args:
        command: makes the transcripts, where they are missing because of the `problem`.
    """

    command: str | None = None

    @property
    def title(self) -> str:
        title = data_title(self.results) or self.path.name  # results of `score` alone do not name their data
        return title + (", the development set" if "update" in self.results else "")

    @property
    def search(self) -> str:
        """Says how the transcripts were found, where that is not greedily."""
        lm = self.results.get("lm")
        return "" if lm is None else f"beam search with language models, {weights_of_search(lm)}"

    @cached_property
    def samples(self) -> dict[str, dict[str, np.ndarray]]:
        """Returns (1000,) error rates of resampled utterances, for each of `RATES` and each language.

        Languages with fewer than 10 utterances have none, and those whose rate is null, which no average counts.
        """
        samples: dict[str, dict[str, np.ndarray]] = {rate: {} for rate in RATES}
        for language in self.languages if self.hypotheses is not None else ():
            if len(table := of_language(self.hypotheses, language)) < FEWEST_SAMPLED:
                continue
            for rate in RATES:
                if self.results["languages"][language][rate] is not None:
                    edits, lengths = (table[column].to_numpy() for column in COUNTS[rate])
                    samples[rate][language] = resampled_rates(edits, lengths, language)
        return samples

    @property
    def languages(self) -> list[str]:
        return sorted(self.results["languages"])

    def rate(self, language: str | None, name: str) -> Rate | None:
        """Returns a rate of a language, or of the macro average; None where it is not known.

        Args:
            name: one of `METRICS`, or `language_accuracy`.
        """
        scores = self.results.get("macro", {}) if language is MACRO else self.results["languages"].get(language, {})
        rate = Rate.of(scores, name)
        if rate is not None and "intervals" not in scores:  # results of an older version
            samples = self.samples_of(language, name)
            if samples is not None and len(set(bounds := interval(samples))) == 2:
                return Rate(rate.value, *bounds)
        return rate

    def samples_of(self, language: str | None, name: str) -> np.ndarray | None:
        """Returns (1000,) error rates of a language, or of the macro average; None where a language lacks them."""
        samples = self.samples.get(name, {})
        if language is not MACRO:
            return samples.get(language)
        known = [language for language, scores in self.results["languages"].items() if scores.get(name) is not None]
        return macro_rates(samples) if known and samples.keys() == set(known) else None

    def worst(self, count: int = WORST) -> dict[str, list[dict]]:
        """Returns of each language the utterances with the highest CER, the longer ones first among equals."""
        worst = {}
        for language in self.languages if self.hypotheses is not None else ():
            table = of_language(self.hypotheses, language)
            edits, characters = (table[name].to_numpy() for name in COUNTS["cer"])
            rates = np.where(characters > 0, edits / np.maximum(characters, 1), edits > 0)
            order = [row for row in np.lexsort([-edits, -rates]) if edits[row]][:count]
            rows = table.take(pa.array(order, pa.int64())).to_pylist()
            worst[language] = [row | {"cer": float(rates[number])} for row, number in zip(rows, order, strict=True)]
        return worst

    def character_confusions(self, language: str | None = None) -> Counter[tuple[str, str]]:
        """Counts characters that were taken for others, of a language or of all, in 20,000 utterances at most."""
        table = self.hypotheses if language is None else of_language(self.hypotheses, language)
        table = table.slice(0, MOST_COUNTED)
        return character_confusions(zip(table["text"].to_pylist(), table["hypothesis"].to_pylist(), strict=True))

    def language_confusions(self) -> Counter[tuple[str, str]]:
        if self.hypotheses is not None:
            return language_confusions(self.hypotheses)
        rows = self.results.get("language_confusions", {}).items()
        return Counter({(language, named): count for language, row in rows for named, count in row.items()})


def read_evaluation(path: Path, model: str | os.PathLike | None = None) -> Evaluation:
    """Reads a file of results, and the transcripts beside it.

    Args:
        model: that was evaluated, for the command that makes the transcripts; by default that of the results.

    Raises:
        ValueError: for a file that is missing or has no results. For transcripts that are missing or damaged there
            is the `problem`.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file of results; `hf-mlpl evaluate` writes them")
    results = read_results(path)
    try:
        return Evaluation(path, results, read_hypotheses(hypotheses_path(path), results))
    except FileNotFoundError:
        problem = "Its transcripts were not kept"
    except ValueError as error:
        problem = f"Its transcripts cannot be used: {error}"
    output = path.with_name(f"{Path(results['data'][0]).stem}.json") if results.get("data") else path
    command = ["hf-mlpl", "evaluate", "--model", os.fspath(model or results.get("model", "MODEL"))]
    command += ["--data", *results.get("data", ["DATA"]), *_search_options(results), "--output", os.fspath(output)]
    return Evaluation(path, results, None, problem, shlex.join(command))


def _search_options(results: dict) -> list[str]:
    """Returns the options with which `hf-mlpl evaluate` searches with the same language models; none if greedy."""
    if not (files := results.get("lm", {}).get("files")):
        return []
    (language, name), *_ = files.items()
    of_folder = Path(name).stem == language  # as in a folder with one for each language
    lm, settings = os.fspath(Path(name).parent) if of_folder else name, results["lm"]
    options = ["--lm", lm, "--lm-weight", f"{settings['lm_weight']:g}", "--beam-size", str(settings["beam_size"])]
    for name in ("word_score", "blank_penalty"):
        if value := settings.get(name):
            options += [f"--{name.replace('_', '-')}", f"{value:g}"]
    return options


def by_turns(rows: Sequence[Sequence]) -> Iterator:
    """Yields the first of each sequence, then the second of each, and so on."""
    missing = object()
    for turn in zip_longest(*rows, fillvalue=missing):
        yield from (row for row in turn if row is not missing)


def commonest(counts: Counter[Key], count: int) -> list[tuple[Key, int]]:
    """Returns the largest counts, equal ones in the order of their keys."""
    return list(islice(sorted(counts.items(), key=lambda item: (-item[1], item[0])), count))


def per_row(counts: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """Returns counts of pairs as the counts of second parts for each first part."""
    rows: dict[str, dict[str, int]] = defaultdict(dict)
    for (first, second), number in sorted(counts.items()):
        rows[first][second] = number
    return dict(rows)
