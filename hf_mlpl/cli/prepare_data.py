"""Turns corpora, as they were downloaded, into the utterance files that every other command reads.

Nothing is copied: an utterance is a path (or a part of a long recording) with its duration, language and text.

    hf-mlpl prepare-data --list my-speech/clips.csv --dev-share 5% --test-speakers anna ben --output data
    hf-mlpl prepare-data --list clips.csv --path-column Datei --text-column Satz --language de --output data
    hf-mlpl prepare-data --folder my-speech/sl --language sl --output data
    hf-mlpl prepare-data --folder interviews --segmentations annotated --tier utterance --language sl --output data
    hf-mlpl prepare-data --folder field-recordings --language sl --segment vad --workers 8 --output data
    hf-mlpl prepare-data --manifests train_manifest.json dev_manifest.json --language sl --output data
    hf-mlpl prepare-data --flashlight-lists train.lst dev.lst test.lst --language sl --output data
    hf-mlpl prepare-data --dataset someone/talks --split train validation test --text-column words --output data

    # published corpora: what is on the disk, data sets of the Hub, and downloads into the folders that are read
    hf-mlpl prepare-data --common-voice cv-corpus-6.1-2020-12-11 --voxpopuli voxpopuli --workers 8 --output data
    hf-mlpl prepare-data --dataset google/fleurs --languages sl sv-SE --split validation test --output fleurs
    hf-mlpl prepare-data --download cminc35no007no707hql26lzk --common-voice downloads --output data
    hf-mlpl prepare-data --download voxpopuli/sl/2019 --voxpopuli voxpopuli --output data
    hf-mlpl prepare-data --download librispeech/test-clean --librispeech librispeech --output data

You may combine corpora; docs/corpora.md lists the forms that are read. Archives are read without extracting them.

The command writes train.parquet, dev.parquet, test.parquet (labelled) and unlabelled.parquet, as far as there is such
speech, and describes them in these files:

    report.txt, report.json   rows read, kept and dropped by reason, hours of each language, and characters that train
                              lacks; report.txt also has a line with file and row for everything that was left out
    durations.png             a histogram
    segments.png              an hour of the longest recording that --segment has cut
    quarantine.tsv            audio that cannot be used, and why

Recordings of more than 35 s are too long for training, and are named in report.txt. --segment vad cuts those without a
text at their pauses into utterances (needs the extra vad); --segment model finds the pauses with a model.

Every run tries all audio again, unless --skip quarantine.tsv leaves out the audio in that list, to which you may add
lines. If a table or an archive is missing or damaged, a line says so, and everything else is prepared.

If the command is killed, the same command continues its work, and reads again what has changed since.
"""

from __future__ import annotations

import argparse
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from .columns import FOUND_OR_NAMED, add_column_arguments, add_form_arguments
from .numbers import finite

FIRST_LINES = 10  # about rows that were left out; the report has all of them

if TYPE_CHECKING:
    from ..corpora.preparation.long_recordings import Segmentation
    from ..corpora.preparation.report import PreparationReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "hf-mlpl prepare-data CORPUS [CORPUS ...] --output FOLDER [OPTION ...]"
    parser.add_argument("--output", type=Path, required=True, help="folder for the utterance files")
    parser.add_argument(
        "--languages", nargs="+", action="extend", help="locales to keep, such as sl sv-SE; default: all"
    )
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
    _add_own_speech(parser.add_argument_group("your own speech"))
    _add_dataset(parser.add_argument_group("data sets of the library datasets"))
    columns = parser.add_argument_group("columns of --list and --dataset", FOUND_OR_NAMED)
    add_column_arguments(columns, ("recordings", "texts", "languages", "speakers"))
    add_form_arguments(
        columns, "--list", "--list, --manifests, tables of --dataset, and texts and segmentations of --folder"
    )
    _add_splits(
        parser.add_argument_group("dev and test", "From your own speech and data sets, all of which is together here.")
    )
    _add_recordings(parser.add_argument_group("long recordings"))
    _add_published(parser.add_argument_group("published corpora"))


def _add_own_speech(group: argparse._ArgumentGroup) -> None:
    add_several = partial(group.add_argument, nargs="+", action="extend")
    add_several(
        "--list",
        type=Path,
        metavar="TABLE",
        help="tables (csv, tsv, jsonl) with a row for each recording, or part of one: columns path, sentence, "
        "language, speaker, start, end, or other usual names; a name with dev or test (dev.csv) means that split",
    )
    add_several(
        "--folder",
        type=Path,
        help="folders of recordings, with or without texts (a.txt) or segmentations beside them: ELAN's a.eaf, "
        "Praat's a.TextGrid, subtitles (a.vtt, a.srt; need the extra annotations), or RTTM of one or all recordings. "
        "Each interval becomes an utterance, and is unlabelled speech if it has no text",
    )
    add_several(
        "--manifests",
        type=Path,
        metavar="FILE",
        help="manifests of NeMo, cuts or supervisions of lhotse (cuts.jsonl.gz), or data directories of Kaldi: names "
        "with dev become dev, names with test become test, others become train; rows without a text are unlabelled "
        "speech",
    )
    add_several(
        "--flashlight-lists",
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
        "of --manifests and --dataset (default: a field or column), and of a --list without a column of languages",
    )


def _add_dataset(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--dataset",
        action=_Once,
        metavar="NAME_OR_FOLDER",
        help="data set of the Hub, or a folder or file that the library datasets reads; also google/fleurs, "
        "facebook/multilingual_librispeech, facebook/voxpopuli and openslr/librispeech_asr, or folders of their "
        "files. Rows without a text are unlabelled speech; audio that is not in a file is written to the folder "
        "recordings of --output",
    )
    group.add_argument(
        "--config",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="configurations of --dataset, if it has several; default: those of --languages, if their names are those "
        "of languages (sl, sl_si, polish), which become the language of their rows",
    )
    group.add_argument(
        "--split",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="splits of --dataset to read, or parts of them (train[:10%%]): validation becomes dev, test becomes "
        "test, others become train; default: train",
    )


def _add_splits(group: argparse._ArgumentGroup) -> None:
    add_several = partial(group.add_argument, nargs="+", action="extend")
    group.add_argument(
        "--dev-share",
        type=_share,
        default=0.0,
        metavar="SHARE",
        help="part of each language for dev, as 5%%: whole speakers, or whole recordings where speakers are unknown; "
        "the same ones every time, also if others are added",
    )
    group.add_argument("--test-share", type=_share, default=0.0, metavar="SHARE", help="the same for test")
    add_several(
        "--train-speakers",
        metavar="NAME",
        help="speakers for train; all others who are not named are unlabelled speech then; default: all who are not "
        "named",
    )
    add_several("--dev-speakers", metavar="NAME", default=[], help="speakers for dev")
    add_several("--test-speakers", metavar="NAME", default=[], help="speakers for test")


def _add_recordings(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--segment",
        choices=("vad", "model"),
        help="cut recordings without a text into utterances at pauses, which a voice-activity detector or the blanks "
        "of --model find; default: keep them whole",
    )
    group.add_argument(
        "--segment-seconds",
        type=finite,
        metavar="N",
        help="utterances of at most N seconds, of recordings that are longer; default: 25",
    )
    group.add_argument("--model", help="folder or Hub name of the model for --segment model")
    add_several = partial(group.add_argument, nargs="+", action="extend")
    add_several(
        "--segmentations",
        type=Path,
        default=[],
        metavar="PATH",
        help="files, or folders of files, that segment the recordings of --folder; default: those beside them",
    )
    add_several(
        "--tier",
        default=[],
        metavar="NAME",
        help="tiers of TextGrid and eaf files to read, or types of tiers of eaf files; default: the only interval "
        "tier of a TextGrid that has texts, and the only top tier of an eaf, or all if each is of another participant",
    )


def _add_published(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--common-voice",
        action=_Once,
        metavar="PATH",
        help="release: archive, folder of archives, extracted, or Parquet files; hf://datasets/NAME for a mirror",
    )
    group.add_argument(
        "--common-voice-also",
        nargs="+",
        default=[],
        choices=["validated", "other"],
        help="clips of --common-voice that are not in train, dev or test: validated ones become training data, except "
        "those with a speaker or a sentence of dev or test; other ones, which nobody has confirmed, unlabelled speech",
    )
    group.add_argument(
        "--download",
        nargs="+",
        action="extend",
        metavar="ID",
        help="downloads what is not there yet into the folders of the other options: librispeech/dev-clean; "
        "voxpopuli/sl or another subset, of one year with voxpopuli/sl/2019; voxpopuli/asr/sl for --voxpopuli-asr; "
        "and releases of Mozilla Data Collective for --common-voice, by the end of the address of a release's page, "
        "which needs the extra datacollective, and the key of your account in MDC_API_KEY",
    )
    group.add_argument(
        "--voxpopuli",
        action=_Once,
        type=Path,
        help="unlabelled speech: recordings or archives of them, and their table",
    )
    group.add_argument(
        "--voxpopuli-subset", metavar="SUBSET", help="part of --voxpopuli, such as 10k, 100k, sl or sl_v2"
    )
    group.add_argument(
        "--voxpopuli-asr",
        action=_Once,
        type=Path,
        help="transcribed speech: cut recordings, archives, long recordings with a table, or Parquet",
    )
    group.add_argument("--librispeech", action=_Once, type=Path, help="folder of its splits, extracted or as archives")


class _Once(argparse.Action):
    """Stores an option, and refuses it a second time, where the first would be lost."""

    def __call__(self, parser, namespace, values, option_string=None):
        if getattr(namespace, self.dest) is not None:
            parser.error(f"{option_string} is given twice; prepare {getattr(namespace, self.dest)} on its own")
        setattr(namespace, self.dest, values)


def _share(value: str) -> float:
    number = value.strip().removesuffix("%")
    try:
        share = float(number) / (1 if number == value.strip() else 100)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"{value!r} is no share; 5% and 0.05 are accepted")
    return share


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    from ..corpora.preparation.prepare import Preprocessing, prepare, read_normalizers, read_quarantine
    from ..corpora.preparation.report import plot_durations, plot_recording
    from ..model.text import read_tokens
    from .corpus_parts import corpus_parts, download

    if (options.segmentations or options.tier) and not options.folder:
        parser.error("--segmentations and --tier need --folder, the folder of the recordings")
    if options.flashlight_lists and not options.language:
        parser.error("--flashlight-lists needs --language, the language of all their recordings, such as sl")
    if (options.segment == "model") != (options.model is not None):
        parser.error("--segment model and --model MODEL, a folder or a name on the Hub, need each other")
    if options.workers < 1:
        parser.error(f"--workers is {options.workers}; 1 or more is accepted")
    if options.segment_seconds is not None and not options.segment:
        parser.error("--segment-seconds needs --segment vad or --segment model")
    segmentation = _segmentation(options)
    if options.common_voice_also and not options.common_voice:
        parser.error("--common-voice-also needs --common-voice")
    for path in download(options, parser):
        print(f"downloaded: {path}")
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
        if report.dropped:
            notes = len(report.notes)
            _print_lines(options.output, len(report.lines(tokens)) - notes, FIRST_LINES + notes)
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
    _print_lines(output, 0, num_lines + FIRST_LINES)
    print(f"all of it: {output / 'report.txt'}")


def _print_lines(output: Path, first: int, count: int) -> None:
    with open(output / "report.txt", encoding="utf-8") as file:
        print(*islice(file, first, first + count), sep="", end="")
