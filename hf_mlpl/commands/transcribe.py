"""`hf-mlpl transcribe`: recordings to text, on the screen or in files."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from ..missing_model import check_model
from ..precision import add_dtype_argument, convert

HELP = "say what is said in recordings, and in which language"
DESCRIPTION = """Says what is said in recordings, and in which language.

    # a line for each recording on standard output: its name, the language, what is said
    hf-mlpl transcribe --model runs/demo/final/model recording.mp3 another.ogg

    # all recordings in a folder, at any depth, to as many text files: talks/a/b.flac to out/a/b.txt
    hf-mlpl transcribe --model runs/demo/final/model talks --output out

    # a JSON object a line, with the language's probability and the times of each word in seconds
    hf-mlpl transcribe --model runs/demo/final/model talks --format json --timestamps word

    # film.srt, beside the film's sound
    hf-mlpl transcribe --model runs/demo/final/model film.wav --format srt --output .

Any sampling rate and length will do: recordings of more than 35 s are transcribed in pieces
that overlap, so memory does not grow with them. A recording that cannot be read costs a line
on standard error, `error: FILE: why`, and exit status 1 when all the others are done. In folders,
audio is known by its content and its suffix; a line says how many files are no audio.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", help="audio files, or folders of them; - is standard input")
    parser.add_argument("--model", required=True, help="folder or Hub name of a model")
    parser.add_argument("--format", choices=["text", "json", "srt", "vtt"], default="text", help="default: text")
    parser.add_argument(
        "--timestamps", choices=["word"], help="in json, each word with its times; in text, a line for each"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder for one file per recording. What is there already is kept, and its recording skipped: a run that "
        "was interrupted can be repeated",
    )
    parser.add_argument("--language", help="write with the characters of this language only, such as sl")
    add_dtype_argument(parser)
    parser.add_argument("--batch-size", type=int, default=8, help="recordings in one forward; default: 8")


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Returns 1 when a recording could not be read, else 0; raises `OSError` or `ValueError` for the model."""
    from tqdm import tqdm  # what is imported here takes seconds, and --help need not wait
    from transformers import pipeline
    from transformers.utils import logging

    from ..transcription import find_recordings, pending_recordings, transcribe_recordings

    if options.batch_size < 1:
        parser.error(f"--batch-size is {options.batch_size}; it must be at least 1")
    recordings, others = find_recordings(options.paths)
    if others:
        print(_passed_over(others), file=sys.stderr)
    if options.output is None and options.format in ("srt", "vtt") and len(recordings) > 1:
        parser.error(f"{len(recordings)} files of subtitles need a folder: --output DIR")
    if options.output is not None:
        pending = pending_recordings(recordings, options.output, options.format)
        if len(pending) < len(recordings):
            print(f"{len(recordings) - len(pending)} skipped: already in {options.output}", file=sys.stderr)
        recordings = pending
    if not recordings:
        return 0

    logging.disable_progress_bar()
    on_cpu = {"device": "cpu"} if options.dtype == "int8" else {}
    language = {} if options.language is None else {"language": options.language}
    check_model(options.model)
    recognize = pipeline("automatic-speech-recognition", model=options.model, **language, **on_cpu)
    convert(recognize.model, options.dtype)
    timestamps = "char" if options.format in ("srt", "vtt") else options.timestamps
    arguments = {} if timestamps is None else {"return_timestamps": timestamps}
    languages, failed = Counter(), 0
    with tqdm(total=len(recordings), unit="file", disable=None) as progress:  # None: unless stderr is a terminal
        for recording in transcribe_recordings(recognize, recordings, options.batch_size, progress, **arguments):
            problem = recording.problem or _deliver(recording, options, progress)
            if problem is None:
                languages[recording.result.get("language", "-")] += 1
            else:
                failed += 1
                progress.write(f"error: {problem}", file=sys.stderr)
    if options.output is not None:
        counts = ", ".join(f"{count} {language}" for language, count in languages.most_common())
        print(f"{languages.total()} written to {options.output} ({counts}), {failed} failed", file=sys.stderr)
    return 1 if failed else 0


def _passed_over(files: list[Path]) -> str:
    from ..transcription import printable

    names = ", ".join(map(printable, files[:3]))
    more = f" and {len(files) - 3} more" if len(files) > 3 else ""
    return f"{len(files)} {'file is' if len(files) == 1 else 'files are'} not audio: {names}{more}"


def _deliver(recording, options: argparse.Namespace, progress) -> str | None:
    """Prints or writes a transcript; returns the problem, if it cannot be written."""
    from ..atomic import write_text
    from ..transcription import format_transcript

    with_words, to_stdout = options.timestamps is not None, options.output is None
    try:
        transcript = format_transcript(recording, options.format, with_words=with_words, with_name=to_stdout)
        if to_stdout:
            progress.write(transcript, file=sys.stdout, end="")
            sys.stdout.flush()
        else:
            write_text(recording.output_path(options.output, options.format), transcript)
    except BrokenPipeError:  # nobody reads on
        raise
    except (OSError, ValueError) as error:  # ValueError: characters that the terminal's encoding lacks
        return f"{recording.name}: its transcript cannot be written: {error}"
    return None
