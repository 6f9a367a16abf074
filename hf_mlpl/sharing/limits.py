"""Derives the limits of a model, for its card, from what it was trained on and from its results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..corpora.sources import SYNTHETIC
from ..evaluation.normalization import leads_with_cer
from .run_files import has_pseudo_labels, is_ours, sources_of_run

MANY_ERRORS = 0.5  # CER
FEW_HOURS = 10  # of human transcripts


def limits(run: dict, results: Sequence[dict], data: dict, languages: Sequence[str]) -> Iterator[str]:
    """Yields sentences about the weaknesses that the numbers show, and about missing information.

    Args:
        run: content of `run.json`.
        results: contents of files of results.
        data: of `data_of_all_stages`.
        languages: that the model was trained on.
    """
    if SYNTHETIC.name in {name for name, *_ in sources_of_run(run)}:
        yield "It has learned from synthetic speech; do not expect that it understands people."
    scored = [(language, scores["cer"]) for result in results for language, scores in result["languages"].items()]
    bad = sorted({language for language, cer in scored if cer is not None and cer > MANY_ERRORS})
    if bad:
        yield f"More than half of the characters are wrong (CER above {MANY_ERRORS:.0%}) in {', '.join(bad)}."
    if missing := [language for language in languages if language not in dict(scored)]:
        yield f"Nothing here says how good it is in {_names(missing, languages)}: there are no results."
    if without := [language for language in languages if not data[language]["human"]]:
        yield f"It has seen no human transcript of {_names(without, languages)}, only pseudo-labels."
    if few := [language for language in languages if 0 < data[language]["human"] < FEW_HOURS]:
        yield f"Human transcripts are few, less than {FEW_HOURS} hours, in {_names(few, languages)}."
    if unspaced := [language for language in dict.fromkeys([*languages, *dict(scored)]) if leads_with_cer(language)]:
        yield f"The WER says little about {', '.join(unspaced)}, written without spaces: look at the CER."
    if unreadable := sum(result.get("unreadable", 0) for result in results):
        yield f"Recordings that could not be read count as empty texts in the results; there are {unreadable:,}."
    if unknown := [name for name, license, _ in sources_of_run(run) if license == "unknown"]:
        yield f"The licence of the speech it has learned from is not known: {', '.join(unknown)}."
    if any("lm" in result for result in results):
        yield "The results are those of beam search with n-gram language models, which do not come with it."
    if has_pseudo_labels(run):
        yield "Pseudo-labels repeat the mistakes of their teachers, most of all in names, numbers and foreign words."
    letters = ", letter by letter" if is_ours(run) else ""
    yield f"It writes what it hears{letters}, without a language model: words may come out that do not exist."
    yield "In noise, in music and in languages that it does not know, it may write words that nobody has said."


def _names(some: Sequence[str], languages: Sequence[str]) -> str:
    return "all languages" if len(some) == len(languages) > 1 else ", ".join(some)
