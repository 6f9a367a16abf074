"""`hf-mlpl filter-labels`: the pseudo-labels whose scores fulfil conditions."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "keep the pseudo-labels whose scores fulfil conditions"
DESCRIPTION = """Keeps the pseudo-labels whose scores fulfil a list of conditions; nothing is labelled again.

    hf-mlpl filter-labels labels/*/labels.parquet --filters filters.yaml --output kept.parquet

filters.yaml holds `filter: none`, which keeps all as the paper did, or

    filter:
      - mean_log_prob >= -0.3
      - lowest_word_confidence >= 0.2
      - characters_per_second <= 25
      - compression_ratio <= 2.4
      - blank_ratio <= 0.98
      - language_probability >= 0.5
      - language agrees

The table says how many hours of each language every filter keeps on its own, and all of them together. Where no label
that is kept has a text, as of a teacher that has collapsed, that is an error.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("labels", nargs="+", type=Path, help="labels.parquet files of hf-mlpl pseudo-label")
    parser.add_argument("--filters", type=Path, required=True, help="YAML file")
    parser.add_argument("--output", type=Path, required=True, help="utterance file for training")
    parser.add_argument("--allow-empty", action="store_true", help="write labels none of which has a text, too")


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Returns 0; raises `OSError` and `ValueError` for what cannot be read, and where nothing with a text is kept."""
    # imported here: it takes seconds, and --help need not wait
    from ..labels.filters import filter_labels, read_filters
    from ..text_table import aligned

    filters = read_filters(options.filters)
    hours = filter_labels(options.labels, filters, options.output, options.allow_empty)
    rows = [(language, *(f"{value:.2f}" for value in kept.values())) for language, kept in hours.items()]
    print(aligned([("hours", *next(iter(hours.values()), ())), *rows]))
    print(f"labels: {options.output}; next: name it in `train` of a training run")
    return 0
