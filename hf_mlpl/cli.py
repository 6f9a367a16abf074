"""The command `hf-mlpl`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from .commands import convert, test, transcribe

DESCRIPTION = """Multilingual speech recognition with models of hf_mlpl.

    hf-mlpl transcribe --model runs/demo/final/model recording.mp3

`hf-mlpl COMMAND --help` has the examples of each command.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status, 130 for ^C."""
    parser = argparse.ArgumentParser(
        prog="hf-mlpl", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, command in (("transcribe", transcribe), ("test", test), ("convert", convert)):
        subparser = commands.add_parser(
            name,
            help=command.HELP,
            description=command.DESCRIPTION,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run, parser=subparser)
    options = parser.parse_args(arguments)
    try:
        return options.run(options, options.parser)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output, such as `head`, has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at exit
        return 1


if __name__ == "__main__":
    sys.exit(main())
