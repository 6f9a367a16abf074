"""Transcribes audio and identifies its language.

    # print a line for each recording: its name, the language, the transcript
    hf-mlpl transcribe recording.mp3 another.ogg

    # use a model of your own, or another of the Hub
    hf-mlpl transcribe --model runs/demo/final/model recording.mp3

    # transcribe all recordings in a folder and its subfolders to text files: talks/a/b.flac to out/a/b.txt
    hf-mlpl transcribe --model runs/demo/final/model talks --output out

    # print JSON lines, with the language's probability and the start and end of each word in seconds
    hf-mlpl transcribe --model runs/demo/final/model talks --format json --timestamps word

    # write the subtitles film.srt
    hf-mlpl transcribe --model runs/demo/final/model film.wav --format srt --output .

    # write the page talk.html: the recording with its words, coloured by confidence; click one to hear it
    hf-mlpl transcribe --model runs/demo/final/model talk.mp3 --format html --output .

    # write a TextGrid with the times of words for Praat or ELAN, and a CTM file for sclite
    hf-mlpl transcribe --model runs/demo/final/model talks --format textgrid --output out
    hf-mlpl transcribe --model runs/demo/final/model talks --format ctm > talks.ctm

    # use beam search with an n-gram language model of one language (needs the extra lm)
    hf-mlpl transcribe --model runs/demo/final/model --lm swedish.arpa --lm-weight 0.8 recording.mp3

Recordings may have any sampling rate and length. Those of more than 35 s are transcribed in overlapping pieces, so
that memory does not grow with them. (Beam search searches the whole recording, and needs about 40 kB per second for
each 100 classes of the model.) If a recording cannot be read, a line `error: FILE: reason` is printed to standard
error, the others are transcribed, and the exit status is 1. In folders, audio files are recognised by their content
and their suffix, and a line counts the other files.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from ..model.missing_model import check_model
from .inference import (
    SEARCH_SETTINGS,
    add_dtype_argument,
    add_model_argument,
    deliver,
    leave_out_finished,
    line_on_files,
    load_pipeline,
)
from .numbers import finite

# The times that a format needs
TIMES = {"srt": "char", "vtt": "char", "textgrid": "word", "ctm": "word", "html": "char"}
OF_ONE_RECORDING = ("srt", "vtt", "textgrid", "html")  # each line of a CTM file names its recording


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", help="audio files, folders of them, or URLs; - reads standard input")
    add_model_argument(parser, "a CTC model")
    parser.add_argument(
        "--format", choices=["text", "json", *TIMES], default="text", help="output format; default: text"
    )
    parser.add_argument(
        "--timestamps", choices=["word"], help="add the times of words; with --format text, one line per word"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder for one file per recording; a recording whose file exists is skipped, so that an interrupted run "
        "can be repeated",
    )
    parser.add_argument(
        "--language",
        help="use only the characters of this language, such as sl; with an MMS model, its adapter for the language",
    )
    add_dtype_argument(parser)
    parser.add_argument("--batch-size", type=int, default=8, help="recordings in one forward pass; default: 8")
    group = parser.add_argument_group("beam search (needs the extra lm)")
    group.add_argument("--lm", metavar="FILE", help="n-gram language model, in ARPA or KenLM's binary format")
    group.add_argument(
        "--lexicon",
        metavar="FILE",
        type=Path,
        help="words that can be written, one per line; default: the words of the ARPA file. A binary language model "
        "of words needs it",
    )
    group.add_argument("--lm-weight", type=finite, help="weight of the language model; default: 0.5")
    group.add_argument("--word-score", type=finite, help="reward for each word; default: 0")
    group.add_argument("--beam-size", type=int, help="hypotheses kept after each frame; default: 50")
    group.add_argument(
        "--blank-penalty",
        type=finite,
        metavar="NATS",
        help="cost of each blank, against missing letters, such as 1 or 2; default: 0",
    )


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Returns 1 if a recording could not be read, else 0."""
    from transformers.utils import logging

    from ..inference.transcription import ctm_name, find_recordings, refuse_same_names

    if options.batch_size < 1:
        parser.error(f"--batch-size is {options.batch_size}; it must be at least 1")
    if options.lm is None and (options.lm_weight is not None or options.lexicon is None and _search_settings(options)):
        parser.error(
            "--lm-weight is for --lm; --word-score, --beam-size and --blank-penalty are for --lm and --lexicon"
        )
    recordings, other_files = find_recordings(options.paths)
    if other_files:
        print(line_on_files(other_files, "not audio"), file=sys.stderr)
    if options.output is None and options.format in OF_ONE_RECORDING and len(recordings) > 1:
        parser.error(f"{len(recordings)} {options.format} files need a folder: --output DIR")
    if options.output is None and options.format == "ctm":
        refuse_same_names(recordings, ctm_name)
    if options.output is not None:
        recordings = leave_out_finished(recordings, options)
    if not recordings:
        return 0
    logging.disable_progress_bar()
    return _transcribe(_load(options), recordings, options)


def _load(options: argparse.Namespace):
    check_model(options.model)  # before the decoder, which may take minutes
    arguments = {} if options.language is None else {"language": options.language}
    if options.lm is not None or options.lexicon is not None:
        arguments["decoder"] = _make_decoder(options)
    return load_pipeline(options, **arguments)


def _make_decoder(options: argparse.Namespace):
    """Returns a `BeamSearchDecoder`; called before the model is loaded, so that its errors do not take minutes."""
    from transformers import AutoTokenizer

    from ..inference.beam_search import BeamSearchDecoder
    from ..model.tokenization_mlpl import MlplTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    if not isinstance(tokenizer, MlplTokenizer):
        raise ValueError(f"{options.model}: --lm and --lexicon are for models of hf_mlpl; this one is another")
    try:
        lexicon = None if options.lexicon is None else options.lexicon.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{options.lexicon}: is not UTF-8; a lexicon has one word a line") from error
    return BeamSearchDecoder(tokenizer, options.lm, lexicon, **_search_settings(options))


def _search_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the options of beam search that the user has given."""
    settings = {name: getattr(options, name) for name in SEARCH_SETTINGS}
    return {name: value for name, value in settings.items() if value is not None}


def _transcribe(recognize, recordings: list, options: argparse.Namespace) -> int:
    """Prints or writes the transcripts; returns the exit status."""
    from tqdm import tqdm

    from ..inference.transcription import transcribe_recordings

    timestamps = TIMES.get(options.format, options.timestamps)
    arguments = {} if timestamps is None else {"return_timestamps": timestamps}
    if options.format == "html":
        from ..inference.transcript_page import view_arguments  # which imports matplotlib

        arguments = view_arguments(recognize)
    languages, failed = Counter(), 0
    with tqdm(total=len(recordings), unit="file", disable=None) as progress:  # None disables it without a terminal
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


def _deliver(recording, options: argparse.Namespace, progress) -> str | None:
    """Prints or writes a transcript; returns the reason if it cannot be written."""
    to_stdout = options.output is None

    def make() -> str:
        if options.format == "html":
            from ..inference.transcript_page import transcript_page

            return transcript_page(recording, options.output)
        from ..inference.transcription import format_transcript

        return format_transcript(recording, options.format, options.timestamps is not None, with_name=to_stdout)

    return deliver(
        make,
        f"{recording.name}: its transcript",
        None if to_stdout else recording.output_path(options.output, options.format),
        progress,
    )
