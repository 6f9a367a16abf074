"""`hf-mlpl estimate`: hours, updates, disk and GPU-hours of stages of training, before any of them begins."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = "estimate GPU-hours and disk of a training, and find what is missing"
DESCRIPTION = """Says what stages of training need, and what is missing, before any of them begins; nothing is trained.

    hf-mlpl estimate --stage recipes/demo/supervised.yaml max_updates=1000 \\
        --stage recipes/demo/language_finetune.yaml --stage recipes/demo/mixed.yaml --labels runs/demo/labels

Each --stage has what `hf-mlpl train` gets: a YAML file, and settings that override it; one with {language} in its
settings is a run of `hf-mlpl language-finetune`, so slimIPL and pseudo-labels for each language. The table has the
hours of speech from the utterance files, updates, disk and GPU-hours of each stage, of all its languages together.

GPU-hours = floating point operations of the model's products / (TFLOPS x utilisation of a GPU). The module
`hf_mlpl.training.estimate` says what is counted. The number that matters is the utilisation: measure a few hundred
updates, and set it so that the estimate fits them.

Exit status 1, and a line for each problem, where files, languages, unlabelled speech or room on the disk are missing,
or settings are wrong. A language without development speech is a warning: training goes on without its error rates.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--stage",
        nargs="+",
        action="append",
        required=True,
        metavar=("YAML", "name=value"),
        help="in order; may be given many times",
    )
    parser.add_argument("--labels", type=Path, required=True, help="folder for a folder of pseudo-labels per language")
    parser.add_argument("--languages", nargs="+", help="that must have unlabelled speech; by default all that have it")
    parser.add_argument("--tflops", type=float, default=312, help="of a GPU (default: 312, an A100 in bfloat16)")
    parser.add_argument("--utilisation", type=float, default=0.35, help="share of it that is had (default: 0.35)")


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Returns 1 where something is missing or wrong, else 0."""
    for name in ("tflops", "utilisation"):
        if not getattr(options, name) > 0:
            parser.error(f"--{name} is {getattr(options, name)}; it must be above 0")
    from ..training.estimate import estimate_stages  # takes seconds to import, and --help need not wait

    estimate = estimate_stages(options.stage, options.labels, options.languages)
    print(estimate.table(options.tflops * 1e12 * options.utilisation))
    print(f"GPU-hours: {options.tflops:g} TFLOPS x {options.utilisation:g}; - is not known or does not apply")
    for line in estimate.warnings:
        print(f"warning: {line}")
    for line in estimate.problems:
        print(f"error: {line}", file=sys.stderr)
    return 1 if estimate.problems else 0
