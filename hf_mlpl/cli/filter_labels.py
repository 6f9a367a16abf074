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
"""

import argparse
from pathlib import Path

from .pseudo_label import add_allow_collapsed_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("labels", nargs="+", type=Path, help="labels.parquet files of `hf-mlpl pseudo-label`")
    parser.add_argument("--filters", type=Path, help="YAML file of conditions; default: characters > 0")
    parser.add_argument("--output", type=Path, required=True, help="utterance file to write, for training")
    add_allow_collapsed_argument(parser)


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    from ..labels.filters import DEFAULT_FILTERS, filter_labels, read_filters
    from ..text_table import aligned

    filters = read_filters(options.filters) if options.filters else DEFAULT_FILTERS
    hours = filter_labels(options.labels, filters, options.output, options.allow_collapsed)
    rows = [(language, *(f"{value:.2f}" for value in kept.values())) for language, kept in hours.items()]
    print(aligned([("hours", *next(iter(hours.values()), ())), *rows]))
    print(f"labels: {options.output}; next: name it in `train` of a training run")
