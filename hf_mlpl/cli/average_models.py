"""Averages the weights of models that were trained from the same model, such as runs with different seeds.

    hf-mlpl train final.yaml output_dir=runs/final-1 seed=1
    hf-mlpl train final.yaml output_dir=runs/final-2 seed=2
    hf-mlpl train final.yaml output_dir=runs/final-3 seed=3
    hf-mlpl average-models runs/final-1/model runs/final-2/model runs/final-3/model --output runs/final-mean

The mean is one model, as large and as quick as each of them, and often better than each: it makes fewer of the errors
that chance makes in one run. recipes/README.md says what it is worth for weak teachers. See it on dev speakers:

    hf-mlpl evaluate --model runs/final-mean --data data/dev.parquet

All models must have the same architecture, tokens and features, and must have begun with the same weights, because the
mean of models that began with others recognises nothing. Models that differ are refused.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", metavar="MODEL", help="folders or Hub names of two or more CTC models")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to create")


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    if len(options.models) < 2:
        parser.error(f"{options.models[0]} is a single model, and its own mean; name two or more")
    if options.output.exists():
        parser.error(f"--output {options.output} exists already; name a new folder, or delete it")
    from transformers.utils import logging

    from ..training.averaging import average_models

    logging.disable_progress_bar()
    average_models(options.models, options.output)
    print(
        f"{options.output}: the mean of {len(options.models)} models\n"
        f"next: hf-mlpl evaluate --model {options.output} --data data/dev.parquet"
    )
