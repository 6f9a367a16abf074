"""`hf-mlpl train`: one stage of training."""

from __future__ import annotations

import argparse
import logging
import os

HELP = "train a model, or go on with an interrupted run"
DESCRIPTION = """Trains a model, or goes on where an interrupted run stopped: the same command again is all it takes.

    hf-mlpl train recipes/demo/supervised.yaml
    hf-mlpl train recipes/demo/supervised.yaml output_dir=elsewhere max_updates=100

    # on several GPUs, or machines: what `accelerate config` or --config_file says
    accelerate launch -m hf_mlpl train recipes/demo/supervised.yaml

    # pushed to the Hub whenever it saves, with the token of HF_TOKEN or `hf auth login`; and then on another machine
    hf-mlpl train recipes/demo/supervised.yaml push_to_hub=me/demo license=cc0-1.0
    hf-mlpl train recipes/demo/supervised.yaml --resume-from-hub me/demo

A stage of the recipe is a YAML file; `name=value` overrides its settings. The settings, with their defaults, are the
fields of `hf_mlpl.training_config.TrainingConfig`, printed by --settings. Watch OUTPUT_DIR/metrics.jsonl and
curves.png.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", nargs="?", help="YAML file of a stage")
    parser.add_argument("overrides", nargs="*", metavar="name=value", help="settings that override the file's")
    parser.add_argument(
        "--resume-from-hub",
        metavar="REPO",
        help="go on from what a run with these settings pushed there, if it is newer than what output_dir has",
    )
    parser.add_argument("--settings", action="store_true", help="explain every setting and stop")


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Returns 0; raises `OSError`, `ValueError` and `TrainingError` for a run that cannot start or go on."""
    from ..training_config import TrainingConfig, load_config

    if options.settings:
        print(TrainingConfig.__doc__)
        return 0
    if not options.config:
        parser.error("name the YAML file of a stage, such as recipes/demo/supervised.yaml")
    logging.basicConfig(format="%(message)s")
    config = load_config(options.config, options.overrides)
    from ..training.loop import train
    from ..training.resume import resume_from_hub  # takes seconds to import, and wrong settings need not wait

    is_main_process = os.environ.get("RANK", "0") == "0"  # which speaks for all
    if options.resume_from_hub and (message := resume_from_hub(config, options.resume_from_hub)):
        if is_main_process:
            print(message)
        return 0
    folder = train(config)
    if is_main_process:
        results = {"model": folder, "curves": folder.parent / "curves.png", "numbers": folder.parent / "metrics.jsonl"}
        print("; ".join(f"{name}: {path}" for name, path in results.items() if path.exists()))
    return 0
