"""Finds when each word of a known text is spoken in a recording of any length.

    # print a line for each segment, which is a line of the text: path, start and end in seconds, score, text
    hf-mlpl align lecture.ogg lecture.txt

    # write the subtitles film.srt; the text comes from another program
    hf-mlpl align --model runs/demo/final/model film.wav - --format srt --output . < script.txt

    # align all recordings of a folder that have a text beside them: talks/a/b.flac with talks/a/b.txt
    hf-mlpl align --model runs/demo/final/model talks --format textgrid --output tiers

    # make an utterance file of the segments, for training; leave out segments that do not fit what is said
    hf-mlpl align --model runs/demo/final/model talks --utterances data/talks.parquet --min-score 0.5

A text is a file in UTF-8. A recording without one after it has the text of the file beside it with its name and the
suffix .txt. Recordings may last hours: the model reads them in overlapping pieces, and one search aligns the whole
text. Between words there may be silence and noise, and before, between and after segments also music and speech that
the text lacks. Characters that the model does not know are skipped and counted, but stay in the text; words of such
characters alone stand between their neighbours.

The score of a word or segment, from 0 to 1, is the geometric mean of the probabilities that the model gives to its
letters where it has found them. It is much lower where the text is not what is said. If a recording or its text cannot
be read, or the text is too long for it, a line `error: FILE: reason` is printed to standard error, the others are
aligned, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from ..inference.precision import convert
from .download import announced
from .inference import (
    add_batch_seconds_argument,
    add_dtype_argument,
    add_model_argument,
    deliver,
    leave_out_finished,
    line_on_files,
)
from .numbers import finite
from .paths import local_text

if TYPE_CHECKING:
    from ..inference.alignment import Alignment
    from ..inference.transcription import Recording

OF_ONE_RECORDING = ("srt", "vtt", "textgrid")  # files of these formats; lines of the others name their recording


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths",
        nargs="+",
        type=local_text,
        help="recordings, each followed by its text, or folders of recordings with texts; - reads standard input",
    )
    add_model_argument(parser)
    parser.add_argument(
        "--format",
        choices=["tsv", "json", *OF_ONE_RECORDING, "ctm"],
        default="tsv",
        help="output format: segments as a table, or segments and words; default: tsv",
    )
    parser.add_argument(
        "--segments",
        choices=["line", "paragraph"],
        default="line",
        help="parts of the text that become segments: lines, or paragraphs between empty lines; default: line",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder for one file per recording; without --utterances, a recording whose file exists is skipped, so "
        "that an interrupted run can be repeated",
    )
    add_dtype_argument(parser)
    add_batch_seconds_argument(parser)
    group = parser.add_argument_group("utterances for training")
    group.add_argument(
        "--utterances",
        type=Path,
        metavar="FILE",
        help="utterance file (.parquet) of the segments, which is written instead of printing",
    )
    group.add_argument("--min-score", type=finite, default=0.0, help="leave out utterances with a lower score")
    group.add_argument(
        "--max-seconds",
        type=finite,
        default=30.0,
        help="cut longer segments where the pauses between words are widest; default: 30",
    )
    group.add_argument("--language", help="language of the utterances; default: the one that the model recognises")


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Returns 1 if a recording could not be aligned, else 0."""
    from ..inference.aligned_texts import pair_texts
    from ..inference.transcription import ctm_name, refuse_same_names

    if not 0 <= options.min_score <= 1:
        parser.error(f"--min-score is {options.min_score:g}; it must be between 0 and 1")
    if not options.max_seconds > 0:
        parser.error(f"--max-seconds is {options.max_seconds:g}; it must be more than 0")
    if options.utterances is not None and options.utterances.is_dir():
        parser.error(
            f"--utterances is {options.utterances}, a folder; name a file, such as {options.utterances / 'a.parquet'}"
        )
    recordings, without_text, others = pair_texts(options.paths)
    for files, what in (
        (without_text, "without a text beside it"),
        (others, "neither audio nor the text of a recording"),
    ):
        if files:
            print(line_on_files(files, what), file=sys.stderr)
    if not recordings:
        raise ValueError(f"{' '.join(options.paths)}: no recording has a text; a/b.wav has that of a/b.txt")
    if options.utterances is not None and any(recording.source is not None for recording in recordings):
        parser.error("--utterances needs recordings in files, and - is standard input")
    is_printed = options.output is None and options.utterances is None
    if is_printed and options.format in OF_ONE_RECORDING and len(recordings) > 1:
        parser.error(f"{len(recordings)} {options.format} files need a folder: --output DIR")
    refuse_same_names(recordings, ctm_name if is_printed and options.format == "ctm" else attrgetter("output"))
    if options.output is not None and options.utterances is None:
        recordings = leave_out_finished(recordings, options)
    if not recordings:
        return 0
    if options.utterances is None:
        num_aligned = sum(1 for _ in _align(recordings, options))
    else:
        num_aligned = _write_utterances(recordings, options)
    if options.output is not None:
        print(f"{num_aligned} written to {options.output}, {len(recordings) - num_aligned} failed", file=sys.stderr)
    return 0 if num_aligned == len(recordings) else 1


def _align(recordings: list[Recording], options: argparse.Namespace) -> Iterator[tuple[Recording, Alignment]]:
    """Yields recordings with their alignments, which are printed or written; prints a line for each that has none."""
    import torch
    from tqdm import tqdm
    from transformers.utils import logging

    from ..audio.reading import audio_duration
    from ..inference.aligned_texts import format_alignment, read_segments
    from ..inference.alignment import align
    from ..inference.loading import load_mlpl_model
    from ..inference.transcription import problem_of
    from ..model.text import unknown_character_report

    logging.disable_progress_bar()
    with announced(options.model):
        model, processor = load_mlpl_model(options.model)
    if options.utterances is not None and options.language is None and not model.config.languages:
        raise ValueError(f"{options.model}: the model has no languages, so --utterances needs --language")
    has_accelerator = options.dtype != "int8" and torch.accelerator.is_available()
    model = convert(model.to(torch.accelerator.current_accelerator() if has_accelerator else "cpu"), options.dtype)
    with_header = True
    with tqdm(unit="s", disable=None) as progress:  # None disables it without a terminal
        for recording in recordings:
            try:
                if recording.problem is None:
                    segments = read_segments(recording.text, by_paragraph=options.segments == "paragraph")
                    audio = recording.source or str(recording.path)
                    if not progress.disable and recording.path.is_file():
                        progress.reset(round(audio_duration(audio)))
                    alignment = align(model, processor, audio, segments, options.batch_seconds, progress.update)
            except Exception as error:  # decoders raise any type, and the other recordings still follow
                recording.problem = problem_of(recording, error)
            if recording.problem is None and (options.output is not None or options.utterances is None):
                recording.problem = deliver(
                    partial(format_alignment, recording, alignment, options.format, with_header),
                    f"{recording.name}: its alignment",
                    None if options.output is None else recording.output_path(options.output, options.format),
                    progress,
                )
            if recording.problem is not None:
                progress.write(f"error: {recording.problem}", file=sys.stderr)
                continue
            with_header = options.output is not None  # of each file, or once
            if unknown := alignment.unknown_characters:
                characters = "1 character" if unknown.total() == 1 else f"{unknown.total()} characters"
                line = f"{recording.name}: skipped {characters} that the model lacks"
                progress.write(f"{line}: {unknown_character_report(unknown)}", file=sys.stderr)
            yield recording, alignment


def _write_utterances(recordings: list[Recording], options: argparse.Namespace) -> int:
    """Writes the utterance file; returns the number of recordings that are aligned."""
    from ..corpora.locales import to_locale
    from ..data.utterances import write_utterances
    from ..inference.aligned_texts import SCORED_FEATURES, UtteranceReport, aligned_utterances

    report, num_aligned = UtteranceReport(), 0

    def rows() -> Iterator[dict]:
        nonlocal num_aligned
        for recording, alignment in _align(recordings, options):
            num_aligned += 1
            language = to_locale(options.language) if options.language else alignment.language
            yield from aligned_utterances(
                recording, alignment, report, language, options.max_seconds, options.min_score
            )
        if not report.utterances:
            raise ValueError(f"{options.utterances}: is not written, it would have {report}")

    write_utterances(rows(), options.utterances, SCORED_FEATURES)
    print(f"{options.utterances}: {report}")
    print(f"next: hf-mlpl train SETTINGS.yaml 'train=[{options.utterances}]'")
    return num_aligned
