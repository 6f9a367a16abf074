"""The command `hf-mlpl`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

DESCRIPTION = """Multilingual speech recognition with models of hf_mlpl.

    hf-mlpl transcribe --model runs/demo/final/model recording.mp3 another.ogg
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, or 1 when the model or a file could not be read."""
    parser = argparse.ArgumentParser(
        prog="hf-mlpl", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    transcribe = commands.add_parser(
        "transcribe",
        help="print what is said in audio files, and in which language",
        description="Prints a line per file: its name, the language, and what is said.",
    )
    transcribe.add_argument("files", nargs="+", help="wav, flac, mp3 or ogg, at any sampling rate")
    transcribe.add_argument("--model", required=True, help="folder or Hub name of a model")
    options = parser.parse_args(arguments)
    return _transcribe(options.files, options.model)


def _transcribe(files: Sequence[str], model: str) -> int:
    from transformers import pipeline  # takes seconds, and --help need not wait
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        recognize = pipeline("automatic-speech-recognition", model=model)
    except (OSError, ValueError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 1
    failed = 0
    for file in files:
        try:
            answer = recognize(file)
        except ValueError as error:
            failed += 1
            print(f"error: {error}", file=sys.stderr)
        else:
            print(f"{file}\t{answer.get('language', '-')}\t{answer['text']}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
