"""Runs `hf-mlpl COMMAND ...`: imports the module of that command, and no other."""

from __future__ import annotations

import argparse
import atexit
import gc
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from .. import __version__
from .errors import exit_status
from .paths import keep_local

COMMANDS = {  # as `hf-mlpl --help` lists them
    "transcribe and evaluate": {
        "transcribe": "transcribe audio and identify its language",
        "align": "find when each word of a known text is spoken",
        "app": "show a model in a browser: record or drop speech, and hear its transcript",
        "serve": "answer HTTP requests for transcripts, as OpenAI's API does",
        "evaluate": "measure a model's CER and WER for each language",
        "compare": "show the results of several models side by side",
        "report": "write a page on a run, on several side by side, or on a set of labels",
        "test": "transcribe flashlight's list files, with the options and the output of fl_asr_test",
    },
    "prepare data": {
        "demo": "make a small synthetic corpus to try everything on",
        "prepare-data": "turn corpora into utterance files, which all other commands read",
        "build-tokenizer": "write the tokens file of a new model",
        "build-lm": "estimate n-gram language models for beam search from texts",
    },
    "train": {
        "estimate": "estimate the GPU-hours and disk space of a training, and find what is missing",
        "train": "train a model, or continue an interrupted run",
        "language-finetune": "train a model for each language with slimIPL, and make pseudo-labels with it",
        "average-models": "average the weights of models that were trained from the same model",
    },
    "label": {
        "pseudo-label": "label unlabelled speech with a trained model",
        "calibrate": "learn which error rate to expect of a label, by its scores",
        "vote-labels": "keep of the labels of several teachers those that are nearest to all others",
        "filter-labels": "keep the pseudo-labels whose scores fulfil conditions",
        "join-labels": "combine a data set of labels with your own copy of the audio",
    },
    "share": {
        "publish": "push a trained model to the Hub, with its results in its card",
        "publish-labels": "push pseudo-labels to a data set on the Hub",
        "render-card": "write the model card of a run to a file, and push nothing",
    },
    "convert": {
        "convert": "convert a checkpoint of flashlight or mctct to a model folder, or a model to flashlight or ONNX",
        "name-languages": "find the names of a model's numbered languages from labelled clips",
        "export-manifest": "write utterance files as a manifest of NeMo or lhotse",
    },
}
NAMES = [name for commands in COMMANDS.values() for name in commands]
DESCRIPTION = """Recognises speech in many languages with models of hf_mlpl, and trains them.

    hf-mlpl transcribe recording.mp3    # with the released model of 60 languages; it downloads 4.2 GB, once
    hf-mlpl transcribe --model runs/demo/final/model recording.mp3    # with a model of your own

`hf-mlpl COMMAND --help` shows examples of each command. The commands train, pseudo-label and evaluate run on several
GPUs or machines when you start them with `accelerate launch -m hf_mlpl COMMAND ...`.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status, as `exit_status` does."""
    # Imports make a million objects that stay; looking through them for garbage would take a sixth of the start, and
    # once more at the end, where the process gives all of its memory back anyway.
    gc.set_threshold(10_000)
    atexit.register(gc.freeze)
    return exit_status(lambda: _run(sys.argv[1:] if arguments is None else list(arguments)))


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in NAMES:
        _parser().parse_args(arguments[:1])  # exits with the help, the versions or an error
    name, *rest = arguments
    parser = command_parser(name)
    # Intermixed: files and settings may stand before and after options, but then argparse does not accept `--`, which
    # stands before a file name such as -a.wav
    parse = parser.parse_args if "--" in rest else parser.parse_intermixed_args
    return command_module(name).run(parse(rest), parser) or 0


def command_module(name: str) -> ModuleType:
    """Imports the module of a command, such as `cli/prepare_data.py` for prepare-data."""
    return import_module(f".{name.replace('-', '_')}", __package__)


def command_parser(name: str) -> argparse.ArgumentParser:
    """Returns the parser of a command's own arguments."""
    command = command_module(name)
    parser = argparse.ArgumentParser(
        prog=f"hf-mlpl {name}",
        description=command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    keep_local(parser)
    return parser


def _parser() -> argparse.ArgumentParser:
    """Returns the parser of `hf-mlpl` without a command, whose `--help` lists all commands in groups."""
    groups = (
        f"{title}:\n" + "\n".join(f"  {name:<18} {summary}" for name, summary in commands.items())
        for title, commands in COMMANDS.items()
    )
    parser = argparse.ArgumentParser(
        prog="hf-mlpl",
        usage="%(prog)s COMMAND ...",
        description=DESCRIPTION,
        epilog="\n\n".join(groups),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=_versions())
    parser.add_argument("command", choices=NAMES, metavar="COMMAND", help=argparse.SUPPRESS)
    return parser


def _versions() -> str:
    """Returns the versions of this package, of torch and of transformers, without importing them."""
    return "\n".join([f"hf_mlpl {__version__}", *(f"{name} {_version(name)}" for name in ("torch", "transformers"))])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "is not installed"


if __name__ == "__main__":
    sys.exit(main())
