"""Keeps the pseudo-labels whose scores fulfil a list of conditions; labels nothing again.

    hf-mlpl filter-labels labels/*/labels.parquet --filters filters.yaml --output kept.parquet

filters.yaml holds `filter: none`, which keeps all as the paper did, or a list that adds to the default:

    filter:
      - letter_log_prob >= 50%
      - length_ratio >= 0.8
      - characters_per_second <= 25
      - compression_ratio <= 2.4
      - language_probability >= 0.5
      - language agrees

A percentage keeps that share of the hours of each language, the best by the score: `letter_log_prob >= 50%` the half
with the highest ones, `blank_ratio <= 50%` the half with the lowest. The table says which bound that is. Scores of two
teachers cannot be compared, so that a bound which suits one keeps all of another's labels, or none.

`characters > 0`, which drops empty labels, is a filter by default, also without --filters; a condition on `characters`
in the file takes its place, and `filter: none` keeps empty labels. The table shows how many hours of each language
every filter keeps on its own, and all of them together; a line says how many words no kept label has any more. It is
an error if labels have collapsed (nearly all of a language are empty or the same text), or if none is kept.

Teachers have different scores; a filter on one that no label has is an error, and labels that lack it are dropped.

--references names utterances whose texts are known; the table then has the error rates of what is kept, too. They
change nothing else. --calibration takes a file of `hf-mlpl calibrate` and writes the score `expected_cer`, the
character error rate to expect of a label:

    hf-mlpl filter-labels labels/sl/labels.parquet --calibration calibration.json \\
        --filters filters.yaml --output kept.parquet

    filter:
      - expected_cer <= 0.3
      - expected_cer <= 50%

--agreement-with compares the labels with those of others for the same utterances, which needs no reference, and writes
the score `agreement`: 1 - edit distance / length of the longer text, mean over all pairs of label sets, in lower case
and without punctuation. It is null for labels that nobody else has. Others are named as `hf-mlpl join-labels` names
them: files, folders, or data sets on the Hub.

    hf-mlpl filter-labels labels/sl/labels.parquet --agreement-with FBK-MT/mosel other-teacher.csv \\
        --filters filters.yaml --output kept.parquet

    filter:
      - agreement >= 0.9

--normalize writes the texts in another convention, such as that of the transcripts, by a file of the form that
`hf-mlpl prepare-data` takes:

    sl: {lowercase: true, strip_punctuation: true}
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .pseudo_label import add_allow_collapsed_argument

if TYPE_CHECKING:
    import pyarrow as pa

    from ..labels.filtering import FilterReport

MOST_WORDS = 5  # that are named of those that filters lose


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("labels", nargs="+", help="labels.parquet files of `hf-mlpl pseudo-label`, also s3://...")
    parser.add_argument("--filters", type=Path, help="YAML file of conditions; default: characters > 0")
    parser.add_argument("--calibration", type=Path, help="file of `hf-mlpl calibrate`, for the score expected_cer")
    parser.add_argument(
        "--references", nargs="+", type=Path, help="utterance files with true texts, to show the error rates of labels"
    )
    parser.add_argument(
        "--agreement-with", nargs="+", metavar="LABELS", help="label sets of others, for the score agreement"
    )
    parser.add_argument(
        "--normalize",
        type=Path,
        help="YAML file of changes to texts, per language or '*': lowercase, strip_punctuation, ...",
    )
    parser.add_argument("--output", required=True, help="utterance file to write, for training, also s3://...")
    add_allow_collapsed_argument(parser)


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    from ..corpora.preparation.prepare import read_normalizers
    from ..data.utterances import read_utterances
    from ..labels.calibration import Calibration
    from ..labels.filtering import filter_labels
    from ..labels.filters import DEFAULT_FILTERS, read_filters
    from ..remote_path import matching_paths, output_path

    options.output = output_path(options.output)
    options.labels = [str(path) for name in options.labels for path in matching_paths(name)]
    report = filter_labels(
        options.labels,
        read_filters(options.filters) if options.filters else DEFAULT_FILTERS,
        options.output,
        options.allow_collapsed,
        list(_texts_of_others(options.labels, options.agreement_with or [])),
        read_normalizers(options.normalize) if options.normalize else {},
        Calibration.read(options.calibration) if options.calibration else None,
        read_utterances(options.references) if options.references else None,
    )
    for line in _lines(report):
        print(line)
    print(f"labels: {options.output}; next: name it in `train` of a training run")


def _lines(report: FilterReport) -> Iterator[str]:
    """Yields tables of what filters keep, and lines about the words that are lost."""
    from ..text_table import aligned

    names = list(next(iter(report.hours.values()), ()))
    rows = [
        (language, *(f"{hours:.2f}{_bound(report, name, language)}" for name, hours in kept.items()))
        for language, kept in report.hours.items()
    ]
    yield aligned([("hours", *names), *rows])
    rates = {
        language: [each.cer(name) for name in names] for language, each in report.languages.items() if each.compared
    }
    if rates:
        rows = [
            (language, *("-" if rate is None else f"{100 * rate:.1f}" for rate in each))
            for language, each in rates.items()
        ]
        yield aligned([("CER, %", *names), *rows])
    for language, each in report.languages.items():
        yield from _lost_words(language, "labels", each.lost_words(), each.words)
        yield from _lost_words(language, "references", each.lost_words(of_references=True), each.true_words)


def _lost_words(language: str, whose: str, lost: Counter[str], words: Counter[str]) -> Iterator[str]:
    """Yields a line about words that no kept label has, if there are any."""
    if lost:
        share, commonest = lost.total() / words.total(), lost.most_common(MOST_WORDS)
        named = ", ".join(f"{word} ({count})" for word, count in commonest)
        more = ", ..." if len(lost) > len(commonest) else ""
        yield (
            f"{language}: no kept label has {len(lost)} of the {len(words)} words of {whose}, which are {share:.1%} "
            f"of what these say: {named}{more}"
        )


def _bound(report: FilterReport, name: str, language: str) -> str:
    """Returns the bound that the share of a filter has become, in brackets; nothing for other conditions."""
    from ..labels.filters import LabelFilter

    if name not in report.bounds:
        return ""
    bound = report.bounds[name].get(language)
    return " (no score)" if bound is None else f" ({LabelFilter(name).operator} {bound:.4g})"


def _texts_of_others(labels: list[str], names: list[str]) -> Iterator[pa.Array]:
    """Yields the texts of other label sets for the utterances of `labels`; prints how many there are."""
    if not names:
        return
    from ..data.utterances import languages_of, read_utterances
    from ..labels.agreement import other_labels
    from ..labels.join import UNMATCHED, find_label_set
    from ..storage import is_remote

    utterances, languages = read_utterances(labels), languages_of(labels)
    for name in names:
        is_here = is_remote(name) or Path(name).exists()
        files = find_label_set(name, None if is_here else languages)  # to download no others
        if None not in files:
            files = {language: paths for language, paths in files.items() if language in languages}
        found = other_labels(files, utterances)
        num_found = len(found.texts) - found.texts.null_count
        others = "".join(f", {count} of theirs: {UNMATCHED[kind]}" for kind, count in sorted(found.unmatched.items()))
        print(f"{name}: labels {num_found} of {len(utterances)} utterances{others}")
        if not num_found:
            raise ValueError(f"{name}: has no label of these utterances, so that nothing can be compared")
        yield found.texts
