"""`hf-mlpl join-labels`: labels of a data set, and your audio, as a file for training."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..labels.join import JoinReport

HELP = "put labels of a data set together with your audio"
DESCRIPTION = """Puts the labels of a data set together with your audio, by id: a file that training takes.

    hf-mlpl join-labels --labels user/voxpopuli-pl --languages sl --audio data/unlabelled.parquet \\
        --output labels.parquet

Labels come from the Hub, from a folder with files such as sl/train-00000-of-00001.parquet, or from anyone's table with
the columns `id` and `text`, as Parquet, csv, tsv or JSON lines; other columns may be missing. The audio is that of the
utterance files that `hf-mlpl prepare-data` writes. Ids that are on one side alone, and utterances whose duration is
not that of their label, are counted, and listed in labels.unmatched.tsv. Labels that their filters do not keep are
left out.

A label set may have audio of its own, which is taken where --audio is not given:

    hf-mlpl join-labels --labels user/voxpopuli-pl --languages sl --output labels.parquet
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--labels", required=True, help="data set on the Hub, folder, or file with id and text")
    parser.add_argument("--revision", help="of a data set on the Hub: branch, tag or commit (default: main)")
    parser.add_argument("--languages", nargs="+", help="by default all that are on both sides")
    parser.add_argument("--audio", nargs="+", help="utterance files; by default the audio in the label set")
    parser.add_argument("--all", action="store_true", help="also labels that their filters do not keep")
    parser.add_argument("--output", type=Path, required=True, help="utterance file for training")


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Returns 0; raises `OSError` and `ValueError` for labels or audio that cannot be read or joined."""
    from ..data.utterances import read_utterances  # what is imported here takes seconds, and --help need not wait
    from ..labels.join import find_label_set, join_labels, join_own_audio

    files = find_label_set(options.labels, options.languages, options.revision)
    if options.audio is None:
        report = join_own_audio(files, options.output, options.all)
    else:
        if options.languages is None and None not in files:
            files = _of_both_sides(files, options.audio)
        utterances = read_utterances(options.audio, options.languages if None in files else None)
        report = join_labels(files, utterances, options.output, options.all)
    _print_report(report, options.output)
    return 0


def _of_both_sides(files: dict, audio: list[str]) -> dict:
    """Returns the label files of the languages that have audio; prints the languages that are on one side alone."""
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
        print(f"{report.left_out} labels are not kept by their filters, and left out; --all takes them")
    if report.no_audio or report.no_label or report.other_duration or report.unreadable:
        unreadable = f"{report.unreadable} rows cannot be read, " if report.unreadable else ""
        print(
            f"{unreadable}{report.no_audio} labels have no audio, {report.no_label} utterances no label, "
            f"{report.other_duration} another duration (by more than {DURATION_TOLERANCE} s): see "
            f"{output.with_suffix('.unmatched.tsv')}"
        )
    print(f"labels: {output}; next: name it in `train` of a training run")
