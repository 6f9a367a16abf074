"""Keeps the pseudo-labels whose scores fulfil a list of conditions; labels nothing again.

    hf-mlpl filter-labels labels/*/labels.parquet --filters filters.yaml --output kept.parquet

filters.yaml holds `filter: none`, which keeps all as the paper did, or a list that adds to the default:

    filter:
      - mean_log_prob >= -0.3
      - lowest_word_confidence >= 0.2
      - characters_per_second <= 25
      - compression_ratio <= 2.4
      - blank_ratio <= 0.98
      - language_probability >= 0.5
      - language agrees

`characters > 0`, which drops empty labels, is a filter by default, also without --filters; a condition on `characters`
in the file takes its place, and `filter: none` keeps empty labels. The table shows how many hours of each language
every filter keeps on its own, and all of them together. It is an error if labels have collapsed (nearly all of a
language are empty or the same text), or if none is kept.

Teachers have different scores; a filter on one that no label has is an error, and labels that lack it are dropped.

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
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .pseudo_label import add_allow_collapsed_argument

if TYPE_CHECKING:
    import pyarrow as pa


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("labels", nargs="+", help="labels.parquet files of `hf-mlpl pseudo-label`, also s3://...")
    parser.add_argument("--filters", type=Path, help="YAML file of conditions; default: characters > 0")
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
    from ..labels.filters import DEFAULT_FILTERS, filter_labels, read_filters
    from ..remote_path import matching_paths, output_path
    from ..text_table import aligned

    options.output = output_path(options.output)
    options.labels = [str(path) for name in options.labels for path in matching_paths(name)]
    filters = read_filters(options.filters) if options.filters else DEFAULT_FILTERS
    normalizers = read_normalizers(options.normalize) if options.normalize else {}
    others = list(_texts_of_others(options.labels, options.agreement_with or []))
    hours = filter_labels(options.labels, filters, options.output, options.allow_collapsed, others, normalizers)
    rows = [(language, *(f"{value:.2f}" for value in kept.values())) for language, kept in hours.items()]
    print(aligned([("hours", *next(iter(hours.values()), ())), *rows]))
    print(f"labels: {options.output}; next: name it in `train` of a training run")


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
