"""Keeps the pseudo-labels whose scores fulfil a list of conditions; nothing is labelled again.

    python recipes/filter_labels.py labels/*/labels.parquet --filters filters.yaml --output kept.parquet

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

import argparse
from pathlib import Path

from hf_mlpl.one_line_errors import one_line_errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", nargs="+", type=Path, help="labels.parquet files of recipes/pseudo_label.py")
    parser.add_argument("--filters", type=Path, required=True, help="YAML file")
    parser.add_argument("--output", type=Path, required=True, help="utterance file for training")
    parser.add_argument("--allow-empty", action="store_true", help="write labels none of which has a text, too")
    arguments = parser.parse_args()
    # imported here: it takes seconds, and --help need not wait
    from hf_mlpl.label_filters import filter_labels, read_filters
    from hf_mlpl.text_table import aligned

    filters = read_filters(arguments.filters)
    hours = filter_labels(arguments.labels, filters, arguments.output, arguments.allow_empty)
    rows = [(language, *(f"{value:.2f}" for value in kept.values())) for language, kept in hours.items()]
    print(aligned([("hours", *next(iter(hours.values()), ())), *rows]))
    print(f"labels: {arguments.output}; next: name it in `train` of a training run")


if __name__ == "__main__":
    with one_line_errors():
        main()
