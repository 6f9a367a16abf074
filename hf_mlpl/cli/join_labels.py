"""Combines the labels of a data set with your own copy of the audio, by id, into an utterance file for training.

    hf-mlpl join-labels --labels user/voxpopuli-pl --languages sl --audio data/unlabelled.parquet \\
        --output labels.parquet

Labels come from the Hub, from a folder with files such as sl/train-00000-of-00001.parquet, or from any table with the
columns `id` and `text`, as Parquet, csv, tsv or JSON lines; other columns may be missing. The audio comes from
utterance files, which `hf-mlpl prepare-data` writes. Labels without audio, utterances without a label, and utterances
whose duration differs from that of their label are counted, and listed in labels.unmatched.tsv. Labels that the data
set's filters reject are left out, and so are empty ones of a table that says nothing of filters. Labels that have
collapsed (nearly all of a language are empty or the same text) are refused.

A label set may contain audio, which is used if you do not give --audio:

    hf-mlpl join-labels --labels user/voxpopuli-pl --languages sl --output labels.parquet
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .pseudo_label import add_allow_collapsed_argument

if TYPE_CHECKING:
    from ..labels.join import JoinReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--labels", required=True, help="data set on the Hub, folder, or file with id and text")
    parser.add_argument("--revision", help="branch, tag or commit of a data set on the Hub; default: main")
    parser.add_argument("--languages", nargs="+", help="default: all that have both labels and audio")
    parser.add_argument("--audio", nargs="+", help="utterance files; default: the audio in the label set")
    parser.add_argument(
        "--all", action="store_true", help="take labels that their filters reject, and empty ones, too"
    )
    parser.add_argument("--output", type=Path, required=True, help="utterance file to write, for training")
    add_allow_collapsed_argument(parser)


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    from ..data.utterances import read_utterances
    from ..labels.join import find_label_set, join_labels, join_own_audio

    files = find_label_set(options.labels, options.languages, options.revision)
    if options.audio is None:
        report = join_own_audio(files, options.output, options.all, options.allow_collapsed)
    else:
        if options.languages is None and None not in files:
            files = _with_audio(files, options.audio)
        utterances = read_utterances(options.audio, options.languages if None in files else None)
        report = join_labels(files, utterances, options.output, options.all, options.allow_collapsed)
    _print_report(report, options.output)


def _with_audio(files: dict, audio: list[str]) -> dict:
    """Returns the label files of the languages that have audio; prints the languages that lack labels or audio."""
    from ..data.utterances import languages_of

    labelled, recorded = list(files), languages_of(audio)
    if not set(labelled) & set(recorded):
        raise ValueError(
            f"labels are of {', '.join(labelled)}, the audio is of {', '.join(recorded) or 'no language'}"
        )
    for name, languages, others in (("audio", labelled, recorded), ("labels", recorded, labelled)):
        if missing := [language for language in languages if language not in others]:
            print(f"skipped, because there is no such {name}: {', '.join(missing)}")
    return {language: paths for language, paths in files.items() if language in recorded}


def _print_report(report: JoinReport, output: Path) -> None:
    from ..labels.join import DURATION_TOLERANCE

    print(f"{report.joined} labels with audio, {report.hours:.2f} h, in {', '.join(sorted(report.languages))}")
    if report.empty:
        print(f"{report.empty} of them are empty: their teacher heard nothing")
    if report.left_out:
        print(f"{report.left_out} labels are not kept by their filters, or empty, and left out; --all takes them")
    if report.no_audio or report.no_label or report.other_duration or report.unreadable:
        unreadable = f"{report.unreadable} rows cannot be read, " if report.unreadable else ""
        print(
            f"{unreadable}{report.no_audio} labels have no audio, {report.no_label} utterances no label, "
            f"{report.other_duration} another duration (by more than {DURATION_TOLERANCE} s): see "
            f"{output.with_suffix('.unmatched.tsv')}"
        )
    print(f"labels: {output}; next: name it in `train` of a training run")
