"""Runs stages 2 and 3 for every language with unlabelled speech: slimIPL on that language, then its pseudo-labels.

    hf-mlpl language-finetune recipes/demo/language_finetune.yaml --labels runs/demo/labels

trains one model per language (`hf-mlpl train SETTINGS language=sl`) and labels that language's unlabelled speech with
it (`hf-mlpl pseudo-label`, in bfloat16 if the settings have `bf16`) into LABELS/sl/labels.parquet. The same command
again skips what is complete and continues what was interrupted. If a language fails, or its labels have collapsed
(nearly all are empty or the same text), one line says so, the others still run, and the exit status is 1. --list runs
nothing: it prints a line of commands per language, for a scheduler. SIGTERM ends it with exit status 75 when the
language in work is saved.

slimIPL does not help every language. With `slimipl.auto_stop: true` it ends where its own labels say so. And where
there is dev speech of the language, the model that stage 2 began from is evaluated on it too (OUTPUT_DIR/start.json),
and the better of both models labels; without dev, the one that stage 2 began from labels if the labels have become
worse, and auto_stop is not set. A line for each language says what was done:

    sl: slimIPL made all of 250 updates; labels by slimIPL update 250

--list cannot compare before there is a model: for a language that is not trained yet, it lets slimIPL's model label.
Give "LABELS/*/labels.parquet" to the final training; LABELS/complete.json holds the counts of all languages, and what
chose their teachers.

Where the model that labels has learned none of slimIPL's labels, and `slimipl.choose_hearing` is set, it chooses how
it hears the speech, as with `hf-mlpl pseudo-label --labelled`.

With --lm the labels are found by beam search, with a language model of the transcripts (`hf-mlpl build-lm`), as
`hf-mlpl pseudo-label --lm` does, which also chooses --blank-penalty; slimIPL itself decodes greedily:

    hf-mlpl build-lm runs/demo/data/train.parquet --output runs/demo/lm
    hf-mlpl language-finetune recipes/demo/language_finetune.yaml --labels runs/demo/labels --lm runs/demo/lm

With --push-to-hub user/voxpopuli-pl the labels of each language are pushed to that data set as soon as they are made
(`hf-mlpl publish-labels`); it is created as private if the settings have `hub_private_repo`.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from ..stop_signal import STOPPED, StoppedError, StopSignal
from .numbers import finite
from .pseudo_label import add_allow_collapsed_argument

if TYPE_CHECKING:
    from ..remote_path import AnyPath
    from ..training.teacher_choice import TeacherChoice
    from ..training_config import TrainingConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="YAML file with `unlabelled` and `slimipl`, and {language} in its output_dir")
    parser.add_argument("overrides", nargs="*", metavar="name=value", help="settings that override the file's")
    parser.add_argument(
        "--labels", required=True, help="folder for a folder of pseudo-labels per language, also s3://BUCKET/FOLDER"
    )
    parser.add_argument("--languages", nargs="+", help="default: all that have unlabelled and labelled speech")
    parser.add_argument(
        "--launch",
        default="accelerate launch",
        help='command that starts the training and labelling of a language, such as "accelerate launch --config_file '
        'FILE", or python for one process; default: %(default)s',
    )
    parser.add_argument(
        "--lm", metavar="PATH", help="language model from `hf-mlpl build-lm`, or a folder of them, for the labels"
    )
    parser.add_argument("--lm-weight", type=finite, metavar="W", help="its weight; default: that of `pseudo-label`")
    parser.add_argument("--blank-penalty", type=finite, metavar="NATS", help="cost of each blank; default: the same")
    parser.add_argument("--push-to-hub", metavar="REPO", help="data set for the labels, such as user/voxpopuli-pl")
    add_allow_collapsed_argument(parser)
    parser.add_argument("--list", action="store_true", help="print the commands instead of running them")


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    from ..atomic import write_json
    from ..remote_path import output_path

    if not options.lm and (options.lm_weight, options.blank_penalty) != (None, None):
        parser.error("--lm-weight and --blank-penalty are for --lm")
    options.labels = output_path(options.labels)
    failed, complete, choices = [], {}, {}
    for language in _trainable_languages(options):
        try:
            training, labelling = _training(language, options), _labelling(language, options)
            if options.list:
                commands = [*training, *labelling]
                print(" && ".join(shlex.join(command) for command in commands) or f"# {language}: complete")
                continue
            print(f"== {language}: {'stages 2 and 3' if training or labelling else 'complete'}", flush=True)
            counts, choices[language] = _run_language(language, options, training)
            complete |= {name: count | {"teacher": choices[language].record()} for name, count in counts.items()}
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
        for language, choice in choices.items():
            print(f"{language}: {choice.describe()}")
        print(f"labels: {options.labels}/*/labels.parquet; next: name that in `train` of the final training")


def _settings(options: argparse.Namespace, language: str) -> TrainingConfig:
    from ..training_config import language_setting, load_config

    return load_config(options.config, [*options.overrides, language_setting(language)])


def _trainable_languages(options: argparse.Namespace) -> list[str]:
    """Returns the requested languages, or all with unlabelled speech, without those that lack labelled speech."""
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
    if not (trainable := [language for language in languages if language in labelled]):
        speech = (
            f"unlabelled speech in {', '.join(languages) or 'no language'}, labelled speech in {', '.join(labelled)}"
        )
        raise ValueError(f"{options.config}: no language to train, there is {speech}")
    return trainable


def _choice(language: str, options: argparse.Namespace) -> TeacherChoice:
    from ..training.teacher_choice import choose_teacher

    return choose_teacher(_settings(options, language))


def _run_language(language: str, options: argparse.Namespace, training: list[list[str]]) -> tuple[dict, TeacherChoice]:
    """Trains and labels a language, as far as it is not done; returns the counts of its labels, and who made them.

    Raises:
        ValueError: where a command fails, and for labels that have collapsed.
    """
    from ..atomic import read_json
    from ..data.collapse import NOT_LEARNED, collapse_line
    from ..labels.folder import collapse_of, read_complete

    labels = options.labels / language
    for command in training:
        _run_or_fail(command, language)
    if not _is_labelled(labels):
        _compare(language, options)
    for command in _labelling(language, options):
        _run_or_fail(command, language)
    try:
        read_json(labels / "complete.json", languages=dict)
    except ValueError as error:
        raise ValueError(f"{error}; remove it, and the same command labels {language} again") from error
    summary = read_complete(labels)
    if (problems := collapse_of(summary)) and not options.allow_collapsed:
        raise ValueError(f"{collapse_line(problems)}: {NOT_LEARNED}; --allow-collapsed takes them all the same")
    return summary["languages"], _choice(language, options).of_labels(summary["teacher"])


def _compare(language: str, options: argparse.Namespace) -> None:
    """Evaluates on dev the model that stage 2 began from, if dev has the language; once for each run."""
    from ..training.teacher_choice import START_RESULTS, is_comparable

    config = _settings(options, language)
    results = Path(config.output_dir) / START_RESULTS
    if results.exists() or not is_comparable(config):
        return
    data = ["--data", *config.dev, "--languages", language, "--output", str(results)]
    command = [*_launch(options), "evaluate", "--model", config.model, *data, *_dtype(config)]
    if status := _run_command(command, language):
        problem = f"{config.model} could not be evaluated on dev (exit status {status}), see above"
        print(f"{language}: {problem}; it is not compared with slimIPL's model", file=sys.stderr, flush=True)


def _run_or_fail(command: list[str], language: str) -> None:
    if status := _run_command(command, language):
        reason = f"was ended by signal {-status}" if status < 0 else f"ended with exit status {status}"
        raise ValueError(f"{shlex.join(command)} {reason}")


def _run_command(command: list[str], language: str) -> int:
    """Runs a command, which gets a scheduler's signals too; returns its exit status.

    A launcher of one process, such as `accelerate launch`, dies of SIGTERM without passing it on. So those that it
    has started get the signal as well, and are waited for.

    Raises:
        StoppedError: where the command or this process was told to stop.
    """
    with StopSignal() as stop, subprocess.Popen(command) as process:
        started, is_told = [], False
        while (status := _wait_a_second(process)) is None:
            with suppress(psutil.Error):
                started = psutil.Process(process.pid).children(recursive=True)
            if stop.name and not is_told:
                for each in (process, *started):
                    with suppress(psutil.Error):
                        each.terminate()
                is_told = True
        while stop.name and any(map(_is_running, started)):
            time.sleep(0.1)
    if stop.name or status == STOPPED:
        raise StoppedError(f"stopped while {language} was in work; the same command goes on from there")
    return status


def _wait_a_second(process: subprocess.Popen) -> int | None:
    with suppress(subprocess.TimeoutExpired):
        return process.wait(timeout=1)
    return None


def _is_running(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    return False


def _is_labelled(labels: AnyPath) -> bool:
    """Returns whether a folder of labels is complete; not if most of its utterances could not be read."""
    from ..labels.folder import read_complete, unreadable_of

    if not (labels / "complete.json").exists():
        return False
    try:
        return not unreadable_of(read_complete(labels))
    except ValueError:  # damaged, as `_run_language` reports
        return True


def _launch(options: argparse.Namespace) -> list[str]:
    return [*shlex.split(options.launch), "-m", "hf_mlpl"]


def _dtype(config: TrainingConfig) -> list[str]:
    return ["--dtype", "bfloat16"] if config.bf16 else []


def _training(language: str, options: argparse.Namespace) -> list[list[str]]:
    """Returns the command that trains a language, if it has not been completed."""
    from ..training.run_pusher import pushed_mark
    from ..training_config import language_setting

    config = _settings(options, language)
    is_trained = (Path(config.output_dir) / "model").exists()
    if is_trained and not (config.push_to_hub and not pushed_mark(config).exists()):
        return []
    settings = [*options.overrides, language_setting(language), *["allow_collapsed=true"] * options.allow_collapsed]
    return [[*_launch(options), "train", options.config, *settings]]


def _search(options: argparse.Namespace) -> list[str]:
    """Returns the options of `pseudo-label` for beam search."""
    search = ["--lm", options.lm] if options.lm else []
    for name, value in {"--lm-weight": options.lm_weight, "--blank-penalty": options.blank_penalty}.items():
        search += [] if value is None else [name, f"{value:g}"]
    return search


def _labelling(language: str, options: argparse.Namespace) -> list[list[str]]:
    """Returns the commands that label and publish a language, as far as they have not been completed."""
    from ..training.teacher_choice import is_before_slimipl

    config, labels = _settings(options, language), options.labels / language
    allow_collapsed = ["--allow-collapsed"] if options.allow_collapsed else []
    commands = []
    if not _is_labelled(labels):
        data = ["--data", *config.unlabelled, "--languages", language, "--output", str(labels)]
        choice = _choice(language, options)
        chooses = config.slimipl.choose_hearing and is_before_slimipl(choice, config)
        model = ["--model", choice.model, *(["--labelled", *config.train] if chooses else [])]
        label = ["pseudo-label", *model, *data, *_dtype(config), *_search(options), *allow_collapsed]
        commands.append([*_launch(options), *label])
    if options.push_to_hub:
        private = ["--private"] if config.hub_private_repo else []
        publish = ["publish-labels", str(labels), "--repo", options.push_to_hub, *private, *allow_collapsed]
        commands.append([sys.executable, "-m", "hf_mlpl", *publish])
    return commands
