"""Transcribes list files as flashlight's `fl_asr_test` does, with the same options and output lines.

A list has a line for each recording: id, path, milliseconds, and optionally a transcript.

    # a released model: its checkpoint and its tokens file
    hf-mlpl test --am checkpoint.bin --tokens tokens-all.lst --test dev.lst,test.lst --show

    # a model of hf_mlpl, which has its own tokens; write logits to out/test.lst/ID.npz, and files for sclite
    hf-mlpl test --am runs/demo/final/model --test test.lst --emission_dir out --sclite out

    import numpy as np
    np.load("out/test.lst/ID.npz")["emissions"]  # (output frames, classes), before any softmax

`--show` prints to standard output in the original's format; the total and all messages go to standard error. WER and
TER of a recording without a transcript are `inf%`, as in the original. Decoding is greedy: there is no language model
and no beam search, and a lexicon has no effect.

If a line of a list cannot be used, or its duration differs from the recording's by more than 1 s, a message with file
and line number is printed to standard error; the other lines are transcribed, and the exit status is 1. If the model,
the tokens or a list cannot be read, or tokens and model do not match, nothing is transcribed, and it is 2.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

from .download import announced
from .errors import describe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--test", required=True, metavar="LISTS", help="list files, separated by commas")
    parser.add_argument("--am", required=True, help="flashlight checkpoint, or folder or Hub name of a model")
    parser.add_argument("--tokens", default="", help="tokens file; a checkpoint needs one")
    parser.add_argument(
        "--datadir",
        default="",
        help="folder of the list files, and of recordings that are not found in the working directory",
    )
    parser.add_argument(
        "--surround", choices=["", "|"], help="word boundary around utterances; default: as the model was trained"
    )
    parser.add_argument(
        "--show", nargs="?", const=True, default=False, type=_boolean, help="print three lines for each sample"
    )
    parser.add_argument("--emission_dir", type=_folder, metavar="DIR", help="folder for logits, DIR/LISTS/ID.npz")
    parser.add_argument("--sclite", type=_folder, metavar="DIR", help="folder for LISTS.hyp and LISTS.viterbi.ref")
    parser.add_argument(
        "--pieces",
        action="store_true",
        help="split recordings of more than 35 s into overlapping pieces, as `hf-mlpl transcribe` does; by default "
        "each is recognised at once, as in the original, and memory grows with the square of its length",
    )
    for option in ("--lexicon", "--arch", "--logtostderr", "--minloglevel"):
        parser.add_argument(option, nargs="?", help="accepted so that old commands run; has no effect")


def _boolean(text: str) -> bool:
    """Parses a boolean option as gflags does."""
    if text.lower() in ("1", "t", "true", "y", "yes"):
        return True
    if text.lower() in ("0", "f", "false", "n", "no"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def _folder(text: str) -> Path | None:
    """Returns a folder, or None for an empty option such as `--emission_dir=`, as in the original."""
    return Path(text) if text else None


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Returns 1 if a line could not be used or has a wrong duration, 2 if nothing could be transcribed, else 0."""
    import torch
    from transformers.utils import logging

    from ..corpora.flashlight_lists import read_lists
    from ..interop.flashlight_report import EmissionFiles, file_name, load_acoustic_model, sclite_files

    lists = [name.strip() for name in options.test.split(",") if name.strip()]
    if not lists:
        parser.error("--test names no list")
    if Path(options.am).is_file() and not options.tokens:
        parser.error("--am is a checkpoint, which needs --tokens")
    logging.disable_progress_bar()
    files = options.emission_dir and EmissionFiles(options.emission_dir / file_name(options.test))
    try:
        entries, problems = read_lists(lists, options.datadir)
        for folder in filter(None, (files and files.folder, options.sclite)):
            folder.mkdir(parents=True, exist_ok=True)
        is_file = options.am.endswith(".bin") or os.path.isfile(options.am)
        with nullcontext() if is_file else announced(options.am):
            model, processor = load_acoustic_model(options.am, options.tokens, options.surround)
    except Exception as error:
        if isinstance(error, OSError) and error.filename:
            problem = f"{error.filename}: {error.strerror}"
        elif (problem := describe(error)) is None:
            raise
        print("error:", problem, file=sys.stderr)
        return 2
    if torch.accelerator.is_available():
        model = model.to(torch.accelerator.current_accelerator())
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    try:
        with sclite_files(options.sclite, options.test) if options.sclite is not None else nullcontext() as sclite:
            return _test(options, model, processor, entries, len(problems), files, sclite)
    except BrokenPipeError:
        raise
    except OSError as error:  # the files for sclite cannot be written
        print("error:", error, file=sys.stderr)
        return 1


def _test(options: argparse.Namespace, model, processor, entries: list, failed: int, files, sclite) -> int:
    """Recognises the entries, prints and writes their results, and returns the exit status."""
    from tqdm import tqdm

    from ..interop.flashlight_report import Report, recognize

    report, wrong_durations, remarks = Report(processor.tokenizer, len(entries)), 0, Counter()
    started = time.monotonic()
    with tqdm(total=len(entries), unit="file", disable=None) as progress:  # None disables it without a terminal

        def print_line(level: str, text: str) -> None:
            line = os.fsencode(f"{level}: {sample.entry.where}: {text}").decode(errors="backslashreplace")
            progress.write(line, file=sys.stderr)

        samples = recognize(model, processor.feature_extractor, entries, options.pieces, with_logits=files is not None)
        for sample in samples:
            progress.update()
            if sample.problem is not None:
                failed += 1
                report.skip()
                print_line("error", sample.problem)
                continue
            if (problem := sample.duration_problem()) is not None:
                wrong_durations += 1
                print_line("warning", problem)
            lines, words, reference_words = report.add(sample)
            if options.show:
                progress.write(lines, file=sys.stdout, end="")
                sys.stdout.flush()
            if sclite is not None:
                sclite(" ".join(words), " ".join(reference_words), sample.entry.id)
            emissions = None
            try:
                emissions = files and files.write(sample)
            except OSError as error:
                failed += 1
                print_line("error", f"its emissions cannot be written: {error}")
            for kind, text in _remarks(sample, processor.feature_extractor, emissions).items():
                remarks[kind] += 1
                if remarks[kind] == 1:  # the others are only counted, in `_notes`
                    print_line("note", f"{sample.entry.path} {text}")
    for note in _notes(report, remarks):
        print(f"note: {note}", file=sys.stderr)
    print(report.total(options.test, time.monotonic() - started), file=sys.stderr)
    if failed or wrong_durations:
        print(f"error: lines that failed: {failed}; with a wrong duration: {wrong_durations}", file=sys.stderr)
    return 1 if failed or wrong_durations else 0


def _remarks(sample, extractor, emissions: Path | None) -> dict[str, str]:
    """Returns the reasons why the original would misread a recording, each with a remark on what happens here."""
    from ..interop.flashlight_report import file_name

    remarks = {}
    if sample.sampling_rate != extractor.sampling_rate:
        remarks["resampled"] = f"is at {sample.sampling_rate} Hz and is resampled"
    if sample.channels > 1:
        remarks["down-mixed to mono"] = f"has {sample.channels} channels, which are averaged"
    if sample.seconds * extractor.sampling_rate < extractor.win_length:
        remarks["padded to one frame"] = "is shorter than a frame and gets silence behind it"
    if sample.duration_is_in_seconds():
        remarks["with durations in seconds"] = "has its duration in seconds rather than milliseconds, which is as good"
    if emissions is not None and emissions.stem != file_name(sample.entry.id):
        remarks["with the id of another one"] = f"has the id of another one; its emissions are in {emissions}"
    return remarks


def _notes(report, remarks: Counter) -> list[str]:
    """Returns notes about all recordings together."""
    from ..model.text import unknown_character_report

    notes = []
    if remarks:
        counts = ", ".join(f"{count} {kind}" for kind, count in remarks.items())
        notes.append(f"of {report.num_scored} recordings {counts}")
    if report.unknown:
        characters = unknown_character_report(report.unknown)
        notes.append(f"the tokens lack characters of transcripts, which TER leaves out and WER does not: {characters}")
    if 0 < report.without_transcript < report.num_scored:
        notes.append(
            f"{report.without_transcript} of {report.num_scored} recordings have no transcript: all that is "
            "recognised there counts as errors"
        )
    return notes
