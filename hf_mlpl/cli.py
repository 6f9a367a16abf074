"""The command `hf-mlpl`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from . import __version__
from .commands import convert, prepare_data, test, transcribe
from .one_line_errors import describe, flushed_output, is_end_of_reading

DESCRIPTION = """Multilingual speech recognition with models of hf_mlpl.

    hf-mlpl transcribe --model runs/demo/final/model recording.mp3

`hf-mlpl COMMAND --help` has the examples of each command.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 1 on an error that users can mend, 130 for ^C."""
    parser = argparse.ArgumentParser(
        prog="hf-mlpl", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=_versions())
    commands = parser.add_subparsers(dest="command", required=True)
    modules = {"transcribe": transcribe, "test": test, "convert": convert, "prepare-data": prepare_data}
    for name, command in modules.items():
        subparser = commands.add_parser(
            name,
            help=command.HELP,
            description=command.DESCRIPTION,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run, parser=subparser)
    try:
        with flushed_output():
            options = parser.parse_args(arguments)
            return options.run(options, options.parser)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if is_end_of_reading(error):  # whoever read our output, such as `head`, has enough of it
            return 1
        told = describe(error)
        if told is None:
            raise
        print("error:", told, file=sys.stderr)
        return 1


def _versions() -> str:
    """Of this package, and of what its answers depend on, which is not imported for that."""
    return "\n".join([f"hf_mlpl {__version__}", *(f"{name} {_version(name)}" for name in ("torch", "transformers"))])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "is not installed"


if __name__ == "__main__":
    sys.exit(main())
