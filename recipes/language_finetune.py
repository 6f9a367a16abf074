"""Stages 2 and 3 for every language that has unlabelled speech: slimIPL on it alone, then its pseudo-labels.

    python recipes/language_finetune.py recipes/demo/language_finetune.yaml --labels runs/demo/labels

trains one model per language (`recipes/train.py SETTINGS language=sl`) and labels that language's unlabelled speech
with it (`recipes/pseudo_label.py`, in bfloat16 if the settings have `bf16`) into LABELS/sl/labels.parquet. What is
complete is skipped, what was interrupted goes on, and a language that fails costs one line and does not stop the
others; the exit status is then 1. With --list nothing runs: a line of commands per language is printed, for a
scheduler. Final training takes "LABELS/*/labels.parquet"; LABELS/complete.json says of all languages what they hold.

With --push-to-hub user/voxpopuli-pl each language's labels go to that data set as soon as they are there
(`recipes/publish_labels.py`), private if the settings have `hub_private_repo`.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub.errors import StrictDataclassError

from hf_mlpl.atomic import read_json, write_json
from hf_mlpl.one_line_errors import one_line_errors

if TYPE_CHECKING:
    from hf_mlpl.training_config import TrainingConfig

RECIPES = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="YAML file with `unlabelled` and `slimipl`, and {language} in its output_dir")
    parser.add_argument("overrides", nargs="*", metavar="name=value", help="settings that go over the file's")
    parser.add_argument("--labels", type=Path, required=True, help="folder for a folder of pseudo-labels per language")
    parser.add_argument("--languages", nargs="+", help="by default all that have unlabelled and labelled speech")
    parser.add_argument("--launch", default="accelerate launch", help="what starts a script (default: %(default)s)")
    parser.add_argument("--push-to-hub", metavar="REPO", help="data set for the labels, such as user/voxpopuli-pl")
    parser.add_argument("--list", action="store_true", help="print the commands instead of running them")
    arguments = parser.parse_intermixed_args()
    # imported here: it takes seconds, and --help need not wait
    from hf_mlpl.corpora.utterances import languages_of
    from hf_mlpl.training_config import load_config

    config = load_config(arguments.config, [*arguments.overrides, "language=any"])
    if config.unlabelled is None:
        raise ValueError(f"{arguments.config}: sets no `unlabelled` speech, so there is nothing to label")
    unlabelled, labelled = languages_of(config.unlabelled), languages_of(config.train)
    for language in [language for language in arguments.languages or unlabelled if language not in unlabelled]:
        raise ValueError(f"no unlabelled speech in {language}; there is some in {', '.join(unlabelled)}")
    failed, complete = [], {}
    for language in dict.fromkeys(arguments.languages or unlabelled):
        if language not in labelled:
            print(f"{language}: skipped, slimIPL needs labelled speech of the language too, and there is none")
            continue
        try:
            config = load_config(arguments.config, [*arguments.overrides, f"language={language}"])
            commands = _commands(language, arguments, config)
            if arguments.list:
                print(" && ".join(shlex.join(command) for command in commands) or f"# {language}: complete")
                continue
            print(f"== {language}: {'complete' if not commands else 'stages 2 and 3'}", flush=True)
            complete |= _run(language, arguments, commands)
        except (ValueError, OSError) as error:
            print(f"{language}: failed: {error}", file=sys.stderr, flush=True)
            failed.append(language)
    if failed:
        done = f" ({len(complete)} complete)" if complete else ""
        raise ValueError(
            f"{', '.join(failed)} failed, see above{done}; the same command tries again and skips the others"
        )
    if not arguments.list:
        write_json(arguments.labels / "complete.json", {"languages": complete})
        print(f"labels: {arguments.labels}/*/labels.parquet; next: name that in `train` of the final training")


def _run(language: str, arguments: argparse.Namespace, commands: list[list[str]]) -> dict:
    """What the labels of a language hold; raises a ValueError where a command fails, or they do not say it."""
    for command in commands:
        if status := subprocess.run(command).returncode:
            reason = f"was ended by signal {-status}" if status < 0 else f"ended with exit status {status}"
            raise ValueError(f"{shlex.join(command)} {reason}")
    path = arguments.labels / language / "complete.json"
    try:
        return read_json(path, languages=dict)["languages"]
    except ValueError as error:
        raise ValueError(f"{error}; remove it, and the same command labels {language} again") from error


def _commands(language: str, arguments: argparse.Namespace, config: TrainingConfig) -> list[list[str]]:
    """What is still to be done for a language."""
    from hf_mlpl.run_pusher import pushed_mark

    launch, model = shlex.split(arguments.launch), Path(config.output_dir) / "model"
    labels = arguments.labels / language
    commands = []
    if not model.exists() or config.push_to_hub and not pushed_mark(config).exists():
        train = [str(RECIPES / "train.py"), arguments.config, *arguments.overrides, f"language={language}"]
        commands.append([*launch, *train])
    if not (labels / "complete.json").exists():
        data = ["--data", *config.unlabelled, "--languages", language, "--output", str(labels)]
        dtype = ["--dtype", "bfloat16"] if config.bf16 else []
        label = [str(RECIPES / "pseudo_label.py"), "--model", str(model), *data, *dtype]
        commands.append([*launch, *label])
    if arguments.push_to_hub:
        private = ["--private"] if config.hub_private_repo else []
        publish = [str(RECIPES / "publish_labels.py"), str(labels), "--repo", arguments.push_to_hub, *private]
        commands.append([sys.executable, *publish])
    return commands


if __name__ == "__main__":
    with one_line_errors(StrictDataclassError):
        main()
