"""Learns which character error rate (CER) to expect of a label, by its scores, from labels whose texts are known.

The dev set of an evaluation is enough: its transcripts lie beside the results, with the scores that labels have.

    hf-mlpl evaluate --model runs/teacher/model --data data/dev.parquet --output dev.json
    hf-mlpl calibrate dev.json --output calibration.json

Labels that have been made of transcribed speech do, too:

    hf-mlpl calibrate labels/dev/labels.parquet --references data/dev.parquet --output calibration.json

Then filters know the score `expected_cer`, for labels of the same teacher:

    hf-mlpl filter-labels labels/sl/labels.parquet --calibration calibration.json \\
        --filters filters.yaml --output kept.parquet

    filter:
      - expected_cer <= 50%

The table says how well labels are judged that were left out when it was learned: the rank correlation (Spearman's)
with the true CER, of `expected_cer` and of each score alone, and the CER of the half of the labels, by hours, that a
filter on it would keep. Where a score alone is as good, use that one. Speech of many speakers teaches more than much
speech of one; do not use speakers on whom you test.
"""

from __future__ import annotations

import argparse
from pathlib import Path

LITTLE = 0.2  # correlation below which a filter chooses nearly at random


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files",
        nargs="+",
        help="results or transcripts of `hf-mlpl evaluate`, or labels.parquet of `hf-mlpl pseudo-label`",
    )
    parser.add_argument(
        "--references", nargs="+", type=Path, help="utterance files with the true texts of labels, by the same ids"
    )
    parser.add_argument("--output", type=Path, required=True, help="file to write, such as calibration.json")


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    from ..data.utterances import read_utterances
    from ..labels.calibrating import calibrate, read_judged_labels
    from ..text_table import aligned

    references = read_utterances(options.references) if options.references else None
    calibration, report = calibrate(read_judged_labels(options.files, references))
    calibration.write(options.output)
    speakers = "" if report.speakers is None else f" of {report.speakers} speaker{'s' * (report.speakers != 1)}"
    print(f"{report.labels} labels{speakers}, {report.hours:.2f} h; judged without {report.left_out}")
    rows = [(each.condition, f"{each.correlation:.2f}", f"{100 * each.cer:.1f}") for each in report.rankings]
    print(aligned([("better half", "correlation", "CER, %"), *rows, ("all", "", f"{100 * report.cer:.1f}")]))
    print(f"mean CER: expected {100 * report.expected_cer:.1f} %, true {100 * report.cer:.1f} %")
    own, *others = report.rankings
    if own.correlation < LITTLE:
        print("these scores say little of errors: a filter by expected_cer would choose nearly at random")
    elif others and others[0].correlation >= own.correlation:
        print(f"{others[0].condition.split()[0]} alone orders these labels as well")
    print(f"calibration: {options.output}; next: hf-mlpl filter-labels LABELS --calibration {options.output} ...")
