"""`hf-mlpl language-finetune`: stages 2 and 3, slimIPL and pseudo-labels for one language after another."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..training_config import TrainingConfig

HELP = "train a model per language with slimIPL, and label with it"
DESCRIPTION = """Runs stages 2 and 3 for every language with unlabelled speech: slimIPL on it alone, then its labels.

    hf-mlpl language-finetune recipes/demo/language_finetune.yaml --labels runs/demo/labels

trains one model per language (`hf-mlpl train SETTINGS language=sl`) and labels that language's unlabelled speech with
it (`hf-mlpl pseudo-label`, in bfloat16 if the settings have `bf16`) into LABELS/sl/labels.parquet. What is complete is
skipped, what was interrupted goes on, and a language that fails costs one line and does not stop the others; the exit
status is then 1. With --list nothing runs: a line of commands per language is printed, for a scheduler. Final training
takes "LABELS/*/labels.parquet"; LABELS/complete.json says of all languages what they hold.

With --push-to-hub user/voxpopuli-pl each language's labels go to that data set as soon as they are there
(`hf-mlpl publish-labels`), private if the settings have `hub_private_repo`.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="YAML file with `unlabelled` and `slimipl`, and {language} in its output_dir")
    parser.add_argument("overrides", nargs="*", metavar="name=value", help="settings that override the file's")
    parser.add_argument("--labels", type=Path, required=True, help="folder for a folder of pseudo-labels per language")
    parser.add_argument("--languages", nargs="+", help="by default all that have unlabelled and labelled speech")
    parser.add_argument(
        "--launch",
        default="accelerate launch",
        help='what starts the training and labelling of a language, such as "accelerate launch --config_file FILE", '
        "or python for one process (default: %(default)s)",
    )
    parser.add_argument("--push-to-hub", metavar="REPO", help="data set for the labels, such as user/voxpopuli-pl")
    parser.add_argument("--list", action="store_true", help="print the commands instead of running them")


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Returns 0; raises `ValueError` where a language failed, and for settings or data that cannot be used."""
    from ..atomic import write_json

    failed, complete = [], {}
    for language in _trainable_languages(options):
        try:
            commands = _commands(language, options)
            if options.list:
                print(" && ".join(shlex.join(command) for command in commands) or f"# {language}: complete")
                continue
            print(f"== {language}: {'complete' if not commands else 'stages 2 and 3'}", flush=True)
            complete |= _run_language(language, options.labels, commands)
        except (ValueError, OSError) as error:
            print(f"{language}: failed: {error}", file=sys.stderr, flush=True)
            failed.append(language)
    if failed:
        done = f" ({len(complete)} complete)" if complete else ""
        raise ValueError(
            f"{', '.join(failed)} failed, see above{done}; the same command tries again and skips the others"
        )
    if not options.list:
        write_json(options.labels / "complete.json", {"languages": complete})
        print(f"labels: {options.labels}/*/labels.parquet; next: name that in `train` of the final training")
    return 0


def _settings(options: argparse.Namespace, language: str) -> TrainingConfig:
    from ..training_config import load_config

    return load_config(options.config, [*options.overrides, f"language={language}"])


def _trainable_languages(options: argparse.Namespace) -> list[str]:
    """Returns the languages asked for, or all with unlabelled speech; prints those that lack labelled speech."""
    from ..data.utterances import languages_of

    config = _settings(options, "any")
    if config.unlabelled is None:
        raise ValueError(f"{options.config}: sets no `unlabelled` speech, so there is nothing to label")
    unlabelled, labelled = languages_of(config.unlabelled), languages_of(config.train)
    languages = list(dict.fromkeys(options.languages or unlabelled))
    for language in languages:
        if language not in unlabelled:
            raise ValueError(f"no unlabelled speech in {language}; there is some in {', '.join(unlabelled)}")
    for language in languages:
        if language not in labelled:
            print(f"{language}: skipped, slimIPL needs labelled speech of the language too, and there is none")
    return [language for language in languages if language in labelled]


def _run_language(language: str, labels: Path, commands: list[list[str]]) -> dict:
    """Returns the summary of a language's labels; raises `ValueError` where a command fails or there is no summary."""
    from ..atomic import read_json

    for command in commands:
        if status := subprocess.run(command).returncode:
            reason = f"was ended by signal {-status}" if status < 0 else f"ended with exit status {status}"
            raise ValueError(f"{shlex.join(command)} {reason}")
    try:
        return read_json(labels / language / "complete.json", languages=dict)["languages"]
    except ValueError as error:
        raise ValueError(f"{error}; remove it, and the same command labels {language} again") from error


def _commands(language: str, options: argparse.Namespace) -> list[list[str]]:
    """Returns the commands that a language still needs."""
    from ..training.run_pusher import pushed_mark

    config = _settings(options, language)
    launch = [*shlex.split(options.launch), "-m", "hf_mlpl"]
    model, labels = Path(config.output_dir) / "model", options.labels / language
    commands = []
    if not model.exists() or config.push_to_hub and not pushed_mark(config).exists():
        commands.append([*launch, "train", options.config, *options.overrides, f"language={language}"])
    if not (labels / "complete.json").exists():
        data = ["--data", *config.unlabelled, "--languages", language, "--output", str(labels)]
        dtype = ["--dtype", "bfloat16"] if config.bf16 else []
        commands.append([*launch, "pseudo-label", "--model", str(model), *data, *dtype])
    if options.push_to_hub:
        private = ["--private"] if config.hub_private_repo else []
        publish = ["publish-labels", str(labels), "--repo", options.push_to_hub, *private]
        commands.append([sys.executable, "-m", "hf_mlpl", *publish])
    return commands
