"""Reads files of results, which `hf-mlpl evaluate` writes, for tables, comparisons and cards.

A file of results is a JSON object:

    model, revision, dtype, data, sources, unseen_in   what was evaluated, as `hf-mlpl evaluate` was told
    dataset         {"id", "name", "configs": {language: config}, "split", "revision", "license", "left_out"} of a
                    test set; "id" is its name on the Hub, or null, "name" that of the corpus, and "left_out" counts
                    utterances without text or readable audio, by reason; null for other utterances
    unknown_languages     that the model does not know, which are scored all the same
    languages_left_out    that the model cannot transcribe, which are not scored
    normalization   name and version of the normalised form of texts; normalised rates of others cannot be compared
    languages       {language: scores}
    macro           mean rates over languages: {"cer", "wer", "language_accuracy", "normalized", "intervals"}
    by_hours        means of the languages' rates, weighted by their hours; as `macro`
    utterances, hours
    unreadable      utterances whose audio could not be read, which count as empty transcripts
    empty           empty transcripts of the others
    language_confusions   {language: {predicted language: utterances}}; {} for a model that predicts none
    speed           how fast, and with what hardware; null where it was not measured
    lm              {"name", "files": {language: path}, "lm_weight", "word_score", "beam_size", "blank_penalty"} of
                    beam search with language models; missing for greedy transcripts
    lm_trials       [{"lm_weight", "blank_penalty", "cer", "wer"}, ...], macro means of the searches that were tried,
                    with nulls for greedy

The scores of a language are

    cer, wer        all edits divided by all characters, or words, of the references; null where it is not known
    normalized      {"cer", "wer"} of the texts in the form of `normalization`
    intervals       {"cer", "wer", "normalized_cer", "normalized_wer"}: [low, high] of the 95 % intervals; null for
                    less than 10 utterances, and where all samples have the same rate
    edits           {"characters": {"substitutions", "deletions", "insertions"}, "words": the same}, not normalised
    characters, words   of the references, not normalised
    language_accuracy   share of utterances whose language was predicted rightly: 0 of a language that the model does
                    not know, so that the mean is over the same languages for all models; null for a model that
                    predicts none
    utterances, hours
    empty           empty transcripts of utterances that could be read
    speakers        {"count", "cer": {"lowest", "median", "highest"}} over speakers; null where no speaker is known

Rates are fractions. Files of older versions have cer, wer, language_accuracy, utterances and hours alone: readers take
all else by `get`, and rates by `rate_of`. A run's `results.json` has `update`, and neither `dataset` nor `speed`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence

from ..model.model_files import check_settings, list_of_texts, number, read_settings, short_repr, text, whole
from .error_rate import RATES
from .speed_line import is_speed

NORMALIZED = "normalized_"
METRICS = ("cer", "wer", f"{NORMALIZED}cer", f"{NORMALIZED}wer")  # error rates, and their names in `intervals`
TITLES = dict(zip(METRICS, ("CER", "WER", "norm. CER", "norm. WER"), strict=True))
# What `_misfits` accepts: an object with at least these names, or one of the tests below with its description
Form = Mapping[str, "Form"] | tuple[Callable[[object], bool], str]


def rate_of(scores: Mapping, metric: str) -> float | None:
    """Returns one of the `METRICS` of a language, or of a mean; None where it is not known, as in older files."""
    group = (scores.get("normalized") or {}) if metric.startswith(NORMALIZED) else scores
    return group.get(metric.removeprefix(NORMALIZED))


def interval_of(scores: Mapping, metric: str) -> tuple[float, float] | None:
    """Returns the bounds of the 95 % interval of one of the `METRICS`; None where it is not known."""
    bounds = (scores.get("intervals") or {}).get(metric)
    return None if bounds is None else (bounds[0], bounds[1])


def rates_alone(results: Mapping) -> dict:
    """Returns the fields that the rows of `metrics.jsonl` have: error rates as they are written, and amounts."""

    def some(values: Mapping, *names: str) -> dict:
        return {name: values[name] for name in names if name in values}

    scores = {language: some(each, *RATES, "utterances", "hours") for language, each in results["languages"].items()}
    amounts = some(results, "utterances", "hours", "unreadable", "empty")
    return {"languages": scores, "macro": some(results["macro"], *RATES), **amounts}


def read_results(path: str | os.PathLike, metrics: Sequence[str] = ("cer", "wer")) -> dict:
    """Reads a file of results, or the `complete.json` of labels, which has a CER alone.

    Args:
        metrics: those of `METRICS` that each language must have.

    Raises:
        ValueError: for anything else, in one line with file and field.
    """
    try:
        results = read_settings(path)
    except ValueError as error:
        raise ValueError(f"{error}; `hf-mlpl evaluate` writes results") from error
    if "languages" not in results:
        raise ValueError(f"{path}: holds no results of `hf-mlpl evaluate`")
    raw = [metric for metric in metrics if not metric.startswith(NORMALIZED)]
    form = f"{' and '.join(raw)}, each a number or null" if raw else "error rates"
    fields = {
        "languages": (
            lambda value: isinstance(value, dict) and bool(value) and all(_has_rates(raw, v) for v in value.values()),
            f"an object that has for each language {form}",
        ),
        "macro": (lambda value: _has_rates(raw, value), f"an object with {form}"),
        "utterances": whole(0, 10**12),
        "hours": number(0, 1e12),
        "update": whole(0, 10**12),
        "data": list_of_texts(),
        "revision": text(),
        "sources": (_has_names, "a list of objects, each with a name"),
        "normalization": text(),
    }
    check_settings(path, results, fields)
    for name, value, accepted in _misfits(results, ALL, ""):
        raise ValueError(f"{path}: {name} is {short_repr(value)}; it must be {accepted}")
    if len(raw) < len(metrics) and not all(scores.get("normalized") for scores in results["languages"].values()):
        raise ValueError(
            f"{path}: has no normalised error rates, it is of an older version; `hf-mlpl evaluate --hypotheses` "
            "computes them from its transcripts"
        )
    return results


def check_normalization(results: Sequence[dict], metric: str) -> None:
    """Raises a ValueError if one of the `METRICS` is of texts that were normalised in different ways."""
    names = sorted({str(each.get("normalization")) for each in results})
    if metric.startswith(NORMALIZED) and len(names) > 1:
        raise ValueError(
            f"texts were normalised in different ways, {' and '.join(names)}, so their {metric} cannot be compared; "
            "`hf-mlpl evaluate --hypotheses` scores the transcripts again"
        )


def _has_rates(names: Sequence[str], value: object) -> bool:
    if not isinstance(value, dict) or not set(names) <= value.keys():
        return False
    return all(_is_known(value[name], _is_number) for name in (*RATES, "utterances", "hours") if name in value)


def _has_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(s, dict) and isinstance(s.get("name"), str) for s in value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf


def _is_known(value: object, is_accepted: Callable[[object], bool]) -> bool:
    return value is None or is_accepted(value)


def _is_interval(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))


RATE: Form = (lambda value: _is_known(value, _is_number), "a number or null")
COUNT: Form = (lambda value: isinstance(value, int) and _is_number(value), "a whole number")
INTERVAL: Form = (lambda value: _is_known(value, _is_interval), "[low, high] or null")
TEXT: Form = (lambda value: isinstance(value, str) and value != "", "text")
EDITS: Form = dict.fromkeys(("substitutions", "deletions", "insertions"), COUNT)
MEANS: dict[str, Form] = {"normalized": {"cer": RATE, "wer": RATE}, "intervals": dict.fromkeys(METRICS, INTERVAL)}
SCORES: dict[str, Form] = {
    **MEANS,
    "edits": {"characters": EDITS, "words": EDITS},
    "characters": COUNT,
    "words": COUNT,
    "empty": COUNT,
    "speakers": {"count": COUNT, "cer": dict.fromkeys(("lowest", "median", "highest"), RATE)},
}
EVERY = "*"  # in a form: all names of an object
ALL: dict[str, Form] = {
    "languages": {EVERY: SCORES},
    "macro": MEANS,
    "by_hours": {**MEANS, "cer": RATE, "wer": RATE},
    "unreadable": COUNT,
    "empty": COUNT,
    "language_confusions": {EVERY: {EVERY: COUNT}},
    "dataset": {"id": TEXT, "split": TEXT, "configs": {EVERY: TEXT}},
    "speed": (is_speed, "what `hf-mlpl evaluate` measures"),
}
OPTIONAL = {*ALL, *SCORES}  # which older files lack
NULLABLE = {"speakers", "dataset", "id", "speed"}


def _misfits(value: object, form: Form, name: str) -> Iterator[tuple[str, object, str]]:
    """Yields the dotted names of what does not have its form, with the value and a description of what is accepted."""
    if not isinstance(form, Mapping):
        if not form[0](value):
            yield name, value, form[1]
        return
    if not isinstance(value, dict):
        yield name, value, "an object"
        return
    for key, each in form.items():
        for part in value if key == EVERY else [key]:
            if part not in value and key in OPTIONAL or value.get(part) is None and key in NULLABLE:
                continue
            yield from _misfits(value.get(part), each, f"{name}.{part}" if name else part)
