"""Combines the labels of a data set with your own copy of the audio, by id, into an utterance file for training.

    hf-mlpl join-labels --labels user/voxpopuli-pl --languages sl --audio data/unlabelled.parquet \\
        --output labels.parquet

Labels come from the Hub, from a folder with files such as sl/train-00000-of-00001.parquet, or from any tables with an
id or the path of a recording, and a text, as Parquet, csv, tsv or JSON lines, plain or gzipped; other columns may be
missing, and are null. The audio comes from utterance files, which `hf-mlpl prepare-data` writes.

    hf-mlpl join-labels --labels FBK-MT/mosel --languages sl --audio data/unlabelled.parquet --output labels.parquet
    hf-mlpl join-labels --labels nvidia/Granary --config sl_voxpopuli --split asr \\
        --audio data/unlabelled.parquet --output labels.parquet
    hf-mlpl join-labels --labels whisper.csv --id-column utt --text-column prediction \\
        --audio data/unlabelled.parquet --output labels.parquet

A label is of the utterance with its id. Otherwise it is of the only one whose id or path ends in the same way, folder
by folder, without the suffix of the file and without the language's code before the name. The command counts, and
lists in labels.unmatched.tsv, labels without audio or with a doubtful name, utterances without a label, and utterances
whose duration differs from that of their label. Two different texts of one id are an error. Labels that the data set's
filters reject are left out, and so are empty ones of a table that says nothing of filters. Labels that have collapsed
(nearly all of a language are empty or the same text) are refused.

A label set may contain audio, which is used if you do not give --audio:

    hf-mlpl join-labels --labels user/voxpopuli-pl --languages sl --output labels.parquet
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .columns import FOUND_OR_NAMED, add_column_arguments, add_form_arguments, given_columns
from .pseudo_label import add_allow_collapsed_argument

if TYPE_CHECKING:
    from ..labels.join import JoinReport
    from ..remote_path import AnyPath


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--labels", nargs="+", required=True, help="data set on the Hub, folder, or files with id or path, and text"
    )
    parser.add_argument(
        "--config", metavar="NAME", help="configuration of a data set on the Hub that is not by languages"
    )
    parser.add_argument(
        "--split", metavar="NAME", help="split of a data set on the Hub; default: train, with --config"
    )
    parser.add_argument("--revision", help="branch, tag or commit of a data set on the Hub; default: main")
    parser.add_argument("--languages", nargs="+", help="default: all that have both labels and audio")
    parser.add_argument("--audio", nargs="+", help="utterance files; default: the audio in the label set")
    parser.add_argument(
        "--all", action="store_true", help="take labels that their filters reject, and empty ones, too"
    )
    parser.add_argument("--output", required=True, help="utterance file to write, for training, also s3://...")
    add_allow_collapsed_argument(parser)
    columns = parser.add_argument_group("columns of tables", FOUND_OR_NAMED)
    add_column_arguments(columns, ("ids", "recordings", "texts", "languages"))
    add_form_arguments(columns, "csv files", "csv, tsv and JSON files")


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    from ..data.utterances import read_utterances
    from ..labels.files import TableSettings
    from ..labels.join import find_label_set, join_labels, join_own_audio
    from ..remote_path import output_path

    options.output = output_path(options.output)
    if options.revision and (options.config or options.split):
        parser.error("--revision does not go together with --config and --split")
    settings = TableSettings(given_columns(options), options.delimiter, options.encoding)
    files = find_label_set(options.labels, options.languages, options.revision, options.config, options.split)
    if options.audio is None:
        if settings != TableSettings():
            parser.error("columns, --delimiter and --encoding of a table need --audio, the utterances that it labels")
        report = join_own_audio(files, options.output, options.all, options.allow_collapsed)
    else:
        if options.languages is None and None not in files:
            files = _with_audio(files, options.audio)
        utterances = read_utterances(options.audio, options.languages if None in files else None)
        report = join_labels(files, utterances, options.output, options.all, options.allow_collapsed, settings)
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


def _print_report(report: JoinReport, output: AnyPath) -> None:
    from ..labels.join import DURATION_TOLERANCE, NONE, UNMATCHED

    print(f"{report.joined} labels with audio, {report.hours:.2f} h, in {', '.join(sorted(report.languages))}")
    if report.empty:
        print(f"{report.empty} of them are empty: their teacher heard nothing")
    if report.left_out:
        print(f"{report.left_out} labels are not kept by their filters, or empty, and left out; --all takes them")
    if report.by_name:
        print(f"{report.by_name} of the labels have another spelling of their utterance's id, or its path")
    if report.absent:
        print(f"null, because the labels have no such score: {', '.join(report.absent)}")
    if report.unmatched or report.no_label or report.other_duration or report.unreadable:
        unreadable = f"{report.unreadable} rows cannot be read, " if report.unreadable else ""
        doubtful = "".join(
            f"{report.unmatched[kind]} labels are left out: {reason}; "
            for kind, reason in UNMATCHED.items()
            if kind != NONE and report.unmatched[kind]
        )
        print(
            f"{unreadable}{doubtful}{report.no_audio} labels have no audio, {report.no_label} utterances no label, "
            f"{report.other_duration} another duration (by more than {DURATION_TOLERANCE} s): see "
            f"{output.with_suffix('.unmatched.tsv')}"
        )
    print(f"labels: {output}; next: name it in `train` of a training run")
