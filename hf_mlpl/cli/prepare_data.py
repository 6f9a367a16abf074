"""Turns corpora, as they were downloaded, into the utterance files that every other command reads.

Nothing is copied: an utterance is a path (or a part of a long recording) with its duration, language and text.

    hf-mlpl prepare-data --common-voice cv-corpus-6.1-2020-12-11 --voxpopuli voxpopuli --output data
    hf-mlpl prepare-data --common-voice downloads/cv-corpus-6.1-sl.tar.gz --workers 8 --output data
    hf-mlpl prepare-data --list my-speech/manifest.tsv --test-speakers anna ben --output data
    hf-mlpl prepare-data --folder my-speech/sl --language sl --output data
    hf-mlpl prepare-data --dataset someone/talks --split train validation test --text-column words --output data
    hf-mlpl prepare-data --manifests train_manifest.json dev_manifest.json --language sl --output data
    hf-mlpl prepare-data --folder field-recordings --language sl --segment vad --workers 8 --output data
    hf-mlpl prepare-data --flashlight-lists train.lst dev.lst test.lst --language sl --output data

    # download a release from Mozilla Data Collective into a folder, and prepare everything in that folder
    hf-mlpl prepare-data --download cminc35no007no707hql26lzk --common-voice downloads --output data

You may combine corpora; docs/corpora.md lists the forms that are read. Archives are read without extracting them.

The command writes train.parquet, dev.parquet, test.parquet (labelled) and unlabelled.parquet, as far as there is such
speech, and describes them in these files:

    report.txt, report.json   rows read, kept and dropped by reason, hours of each language, and characters that train
                              lacks; report.txt also has a line with file and row for everything that was left out
    durations.png             a histogram
    segments.png              an hour of the longest recording that --segment has cut
    quarantine.tsv            audio that cannot be used, and why

Recordings of more than 35 s are too long for training, and are named in report.txt. --segment vad cuts those without a
text at their pauses into utterances (pip install "hf-mlpl[vad]"); --segment model finds the pauses with a model.

Every run tries all audio again, unless --skip quarantine.tsv leaves out the audio in that list, to which you may add
lines. If a table or an archive is missing or damaged, a line says so, and everything else is prepared.

If the command is killed, the same command continues its work, and reads again what has changed since.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..corpora.preparation.long_recordings import Segmentation
    from ..corpora.preparation.report import PreparationReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _add_corpora(parser)
    _add_own_speech(parser)
    _add_segmentation(parser)
    parser.add_argument("--languages", nargs="+", help="locales to keep, such as sl sv-SE; default: all")
    parser.add_argument("--output", type=Path, required=True, help="folder for the utterance files")
    parser.add_argument("--workers", type=int, default=1, help="processes that read; default: 1")
    parser.add_argument(
        "--decode", action="store_true", help="decode all audio, to find damage that headers do not show"
    )
    parser.add_argument("--skip", type=Path, help="a quarantine.tsv: leave out the audio in it without trying it")
    parser.add_argument(
        "--normalize",
        type=Path,
        help="YAML file of changes to texts, per language or '*': lowercase, strip_punctuation, ...",
    )
    parser.add_argument(
        "--tokens",
        type=Path,
        help="tokens file of a model: report the characters that it lacks, instead of those that train lacks",
    )


def _add_corpora(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("published corpora and data sets")
    group.add_argument(
        "--common-voice",
        metavar="PATH",
        help="release: archive, folder of archives, extracted, or Parquet files; hf://datasets/NAME for a mirror",
    )
    group.add_argument(
        "--download",
        nargs="+",
        metavar="ID",
        help="releases to download from Mozilla Data Collective into the folder of --common-voice; ID is the end of "
        "the address of a release's page; needs the extra datacollective, and the key of your account in MDC_API_KEY",
    )
    group.add_argument(
        "--voxpopuli", type=Path, help="unlabelled speech: recordings or archives of them, and their table"
    )
    group.add_argument(
        "--voxpopuli-subset", metavar="SUBSET", help="part of --voxpopuli, such as 10k, 100k, sl or sl_v2"
    )
    group.add_argument(
        "--voxpopuli-asr",
        type=Path,
        help="transcribed speech: cut recordings, archives, long recordings with a table, or Parquet",
    )
    group.add_argument("--librispeech", type=Path, help="folder of its splits, extracted or as archives")
    group.add_argument(
        "--dataset",
        metavar="NAME_OR_FOLDER",
        help="data set of the Hub, or a folder or file that the library datasets reads. Rows without a text are "
        "unlabelled speech; audio that is not in a file is written to the folder recordings of --output",
    )
    group.add_argument("--config", metavar="NAME", help="configuration of --dataset, if it has several")
    group.add_argument(
        "--split",
        nargs="+",
        default=["train"],
        metavar="NAME",
        help="splits of --dataset to read: validation becomes dev, test becomes test, others become train; "
        "default: train",
    )
    for option in ("--audio-column", "--text-column", "--language-column", "--speaker-column"):
        group.add_argument(option, metavar="NAME", help="column of --dataset; default: the first with a usual name")


def _add_own_speech(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("your own speech")
    group.add_argument("--list", type=Path, help="table (tsv, csv) with the columns path, sentence, language, speaker")
    group.add_argument("--train-speakers", nargs="+", help="speakers of --list for train; default: all others")
    group.add_argument("--dev-speakers", nargs="+", default=[], help="speakers of --list for dev")
    group.add_argument("--test-speakers", nargs="+", default=[], help="speakers of --list for test")
    group.add_argument("--folder", type=Path, help="recordings, with or without texts beside them (a.txt)")
    group.add_argument(
        "--manifests",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="manifests of NeMo, or cuts or supervisions of lhotse (cuts.jsonl.gz): names with dev become dev, names "
        "with test become test, others become train; rows without a text are unlabelled speech",
    )
    group.add_argument(
        "--flashlight-lists",
        nargs="+",
        metavar="FILE",
        help="lists of flashlight, `id path milliseconds transcript`: names with dev (sl-dev.lst) become dev, names "
        "with test become test, others become train",
    )
    group.add_argument(
        "--datadir", default="", help="folder of --flashlight-lists, and of their recordings that are not found"
    )
    group.add_argument(
        "--language",
        help="language of all recordings of --folder (default: the names of its subfolders), of --flashlight-lists, "
        "and of --manifests and --dataset (default: a field or column)",
    )


def _add_segmentation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("long recordings")
    group.add_argument(
        "--segment",
        choices=("vad", "model"),
        help="cut recordings without a text into utterances at pauses, which a voice-activity detector or the blanks "
        "of --model find; default: keep them whole",
    )
    group.add_argument(
        "--segment-seconds",
        type=float,
        metavar="N",
        help="utterances of at most N seconds, of recordings that are longer; default: 25",
    )
    group.add_argument("--model", help="folder or Hub name of the model for --segment model")


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    from ..corpora.preparation.prepare import Preprocessing, prepare, read_normalizers, read_quarantine
    from ..corpora.preparation.report import plot_durations, plot_recording
    from ..corpora.readers.downloads import download_release
    from ..model.text import read_tokens
    from .corpus_parts import HUB, corpus_parts

    if options.download and (options.common_voice or HUB).startswith(HUB):
        parser.error("--download needs --common-voice FOLDER, the folder to download into")
    if options.flashlight_lists and not options.language:
        parser.error("--flashlight-lists needs --language, the language of all their recordings, such as sl")
    if (options.segment == "model") != (options.model is not None):
        parser.error("--segment model and --model MODEL, a folder or a name on the Hub, need each other")
    if options.segment_seconds is not None and not options.segment:
        parser.error("--segment-seconds needs --segment vad or --segment model")
    segmentation = _segmentation(options)
    for dataset_id in options.download or ():
        print(f"downloaded: {download_release(dataset_id, options.common_voice)}")
    parts = list(corpus_parts(options))
    if not parts:
        parser.error(
            "name a corpus: --common-voice, --voxpopuli, --voxpopuli-asr, --librispeech, --dataset, --list, --folder, "
            "--manifests or --flashlight-lists"
        )
    preprocessing = Preprocessing(
        quarantine=read_quarantine(options.skip) if options.skip else {},
        decode=options.decode,
        normalizers=read_normalizers(options.normalize) if options.normalize else {},
    )
    tokens = [entry for line in read_tokens(options.tokens) for entry in line] if options.tokens else None
    report = prepare(parts, options.output, preprocessing, options.workers, tokens, segmentation)
    if not report.kept:
        raise ValueError(report.why_nothing() + (f"; see {options.output / 'report.txt'}" if report.read else ""))
    plot_durations(report, options.output / "durations.png")
    if report.plotted is not None:
        plot_recording(report.plotted, options.output / "segments.png")
    _print_report(report, options.output, len(report.lines(tokens)))
    if report.failed:
        raise ValueError(
            f"{len(report.failed)} parts or recordings are missing, such as {report.failed[0]}; the same command "
            "tries them again, and keeps the others"
        )
    if "train" in report.splits and report.splits["train"].utterances:
        print(f"next: hf-mlpl build-tokenizer {options.output / 'train.parquet'} --output tokens-all.lst")


def _segmentation(options: argparse.Namespace) -> Segmentation | None:
    from ..corpora.preparation.long_recordings import UTTERANCE_SECONDS, Segmentation

    seconds = UTTERANCE_SECONDS if options.segment_seconds is None else options.segment_seconds
    if options.segment == "vad":
        from ..corpora.preparation.voice_activity import SileroDetector

        return Segmentation(SileroDetector(), seconds)
    if options.segment == "model":
        from ..inference.blank_detector import BlankDetector

        detector = BlankDetector(options.model)
        return Segmentation(detector, seconds, detector.files)
    return None


def _print_report(report: PreparationReport, output: Path, num_lines: int) -> None:
    for split, statistics in report.splits.items():
        print(f"{output / split}.parquet: {statistics.utterances.total()} utterances")
    with open(output / "report.txt", encoding="utf-8") as file:
        print(*islice(file, num_lines + 10), sep="", end="")
    print(f"all of it: {output / 'report.txt'}")
