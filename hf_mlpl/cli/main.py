"""Runs the command `hf-mlpl`: finds the module of `commands/` with the name given, and imports no other."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from .. import __version__
from .errors import exit_status

COMMANDS = {
    "transcribe and evaluate": ("transcribe", "evaluate", "compare", "test"),
    "prepare data": ("demo", "prepare-data", "build-tokenizer"),
    "train": ("estimate", "train", "language-finetune"),
    "label": ("pseudo-label", "filter-labels", "join-labels"),
    "share": ("publish", "publish-labels", "render-card"),
    "convert": ("convert",),
}
NAMES = [name for names in COMMANDS.values() for name in names]
DESCRIPTION = """Multilingual speech recognition with models of hf_mlpl.

    hf-mlpl transcribe --model runs/demo/final/model recording.mp3

`hf-mlpl COMMAND --help` has the examples of each command. With `accelerate launch -m hf_mlpl COMMAND ...`
train, pseudo-label and evaluate run on several GPUs or machines.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 1 on an error that users can mend, 130 for ^C."""
    return exit_status(lambda: _run(sys.argv[1:] if arguments is None else list(arguments)))


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in NAMES:
        _parser().parse_args(arguments[:1])  # ends with the help, the versions or an error
    name, *rest = arguments
    parser = command_parser(name)
    # Files and settings may stand before and after options; argparse then takes no `--` before a name such as -a.wav
    parse = parser.parse_args if "--" in rest else parser.parse_intermixed_args
    return command_module(name).run(parse(rest), parser)


def command_module(name: str) -> ModuleType:
    """Imports the module of a command, such as `commands/train.py`."""
    return import_module(f".{name.replace('-', '_')}", __package__)


def command_parser(name: str) -> argparse.ArgumentParser:
    """Returns the parser of a command's own arguments."""
    command = command_module(name)
    parser = argparse.ArgumentParser(
        prog=f"hf-mlpl {name}",
        description=command.DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    return parser


def _parser() -> argparse.ArgumentParser:
    """Returns the parser of `--help`, which lists all commands in groups, `--version`, and names that are unknown."""
    groups = (
        f"{title}:\n" + "\n".join(f"  {name:<18} {command_module(name).HELP}" for name in names)
        for title, names in COMMANDS.items()
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
    """Returns the versions of this package and of what its answers depend on, which is not imported for that."""
    return "\n".join([f"hf_mlpl {__version__}", *(f"{name} {_version(name)}" for name in ("torch", "transformers"))])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "is not installed"


if __name__ == "__main__":
    sys.exit(main())
