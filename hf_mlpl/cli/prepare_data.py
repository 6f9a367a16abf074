"""`hf-mlpl prepare-data`: turns corpora into utterance files."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..corpora.preparation.prepare import Part
    from ..corpora.preparation.report import PreparationReport
    from ..corpora.reading import ReadingReport

HELP = "turn corpora into utterance files, which all other commands read"
DESCRIPTION = """Turns corpora, as they were downloaded, into the utterance files that every other command reads.
Nothing is copied: an utterance is a path (or a part of a long recording) with its duration, language and text.

    hf-mlpl prepare-data --common-voice cv-corpus-6.1-2020-12-11 --voxpopuli voxpopuli --output data
    hf-mlpl prepare-data --common-voice downloads/cv-corpus-6.1-sl.tar.gz --workers 8 --output data
    hf-mlpl prepare-data --list my-speech/manifest.tsv --test-speakers anna ben --output data
    hf-mlpl prepare-data --folder my-speech/sl --language sl --output data
    hf-mlpl prepare-data --dataset someone/talks --split train validation test --text-column words --output data
    hf-mlpl prepare-data --flashlight-lists train.lst dev.lst test.lst --language sl --output data

    # downloads a release from Mozilla Data Collective into a folder, and prepares what is in that folder
    hf-mlpl prepare-data --download cminc35no007no707hql26lzk --common-voice downloads --output data

Corpora may be combined; docs/corpora.md lists the forms that are read. Archives are read in place.

The command writes data/train.parquet, dev.parquet, test.parquet (labelled) and unlabelled.parquet, as far as there is
such speech, and describes them: report.txt and report.json (rows read, kept and dropped by reason, hours per
language, characters that train lacks, and in report.txt a line with file and row for everything that was left out),
durations.png, and quarantine.tsv, the audio that cannot be used. A run tries all audio anew, unless
--skip quarantine.tsv leaves out what is in that list, to which you may add what training found. A table or an archive
that is missing or damaged costs what is in it, and a line.

When the command is killed, the same command goes on where it was, and reads again what has changed since.
"""

HUB = "hf://datasets/"
HUB_PAGE = "https://huggingface.co/datasets/"
LABELLED = ("train", "dev", "test")
SPLIT_WORDS = {  # in names of splits and lists; the words are those of the library datasets
    "train": ("train", "training"),
    "dev": ("dev", "val", "valid", "validation"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _add_corpora(parser)
    _add_own_speech(parser)
    parser.add_argument("--languages", nargs="+", help="locales to keep, such as sl sv-SE; default: all")
    parser.add_argument("--output", type=Path, required=True, help="folder for the utterance files")
    parser.add_argument("--workers", type=int, default=1, help="processes that read; default: 1")
    parser.add_argument("--decode", action="store_true", help="decode all audio, to find damage behind good headers")
    parser.add_argument("--skip", type=Path, help="a quarantine.tsv: audio that is left out untried")
    parser.add_argument("--normalize", type=Path, help="YAML, per language or '*': lowercase, strip_punctuation, ...")
    parser.add_argument(
        "--tokens", type=Path, help="tokens file of a model: report the characters that it lacks, not those of train"
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
        help="releases on Mozilla Data Collective, each the end of its page's address, to download first into the "
        "folder of --common-voice; needs the extra datacollective, and the key of your account in MDC_API_KEY",
    )
    group.add_argument("--voxpopuli", type=Path, help="unlabelled: recordings or archives of them, and their table")
    group.add_argument("--voxpopuli-subset", metavar="SUBSET", help="of --voxpopuli, such as 10k, 100k, sl or sl_v2")
    group.add_argument("--voxpopuli-asr", type=Path, help="transcribed: cut, in archives, annotated, or Parquet")
    group.add_argument("--librispeech", type=Path, help="all its splits in this folder, extracted or as archives")
    group.add_argument(
        "--dataset",
        metavar="NAME_OR_FOLDER",
        help="data set of the Hub, or a folder or file that the library datasets reads. Rows without a text are "
        "unlabelled; audio that is in no file is copied into the folder recordings of --output",
    )
    group.add_argument("--config", metavar="NAME", help="of --dataset, where it has several")
    group.add_argument(
        "--split",
        nargs="+",
        default=["train"],
        metavar="NAME",
        help="of --dataset: those named validation become dev, those named test become test, others train; "
        "default: train",
    )
    for option in ("--audio-column", "--text-column", "--language-column", "--speaker-column"):
        group.add_argument(option, metavar="NAME", help="of --dataset; default: the first one with a usual name")


def _add_own_speech(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("your own speech")
    group.add_argument("--list", type=Path, help="table (tsv, csv) with the columns path, sentence, language, speaker")
    group.add_argument("--train-speakers", nargs="+", help="of --list, labelled training; default: all the others")
    group.add_argument("--dev-speakers", nargs="+", default=[], help="of --list, labelled")
    group.add_argument("--test-speakers", nargs="+", default=[], help="of --list, labelled")
    group.add_argument("--folder", type=Path, help="recordings, with texts beside them (a.txt) or without")
    group.add_argument(
        "--flashlight-lists",
        nargs="+",
        metavar="FILE",
        help="lists of flashlight, `id path milliseconds transcript`: those named dev (sl-dev.lst) become dev, those "
        "named test become test, others train",
    )
    group.add_argument(
        "--datadir", default="", help="folder of --flashlight-lists, and of their recordings that are not found"
    )
    group.add_argument(
        "--language",
        help="of all recordings of --folder (default: the names of its sub-folders), of --flashlight-lists, and of "
        "--dataset (default: a column)",
    )


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Returns 0; raises `ValueError` where nothing can be kept, and where parts of the corpora are missing."""
    # imported here: it takes seconds, and --help need not wait
    from ..corpora.preparation.prepare import Preprocessing, prepare, read_normalizers, read_quarantine
    from ..corpora.preparation.report import plot_durations
    from ..corpora.readers.downloads import download_release
    from ..model.text import read_tokens

    if options.download and (options.common_voice or HUB).startswith(HUB):
        parser.error("--download needs --common-voice FOLDER, the folder to download into")
    if options.flashlight_lists and not options.language:
        parser.error("--flashlight-lists needs --language, the language of all their recordings, such as sl")
    for dataset_id in options.download or ():
        print(f"downloaded: {download_release(dataset_id, options.common_voice)}")
    parts = list(corpus_parts(options))
    if not parts:
        parser.error(
            "name a corpus: --common-voice, --voxpopuli, --voxpopuli-asr, --librispeech, --dataset, --list, --folder "
            "or --flashlight-lists"
        )
    preprocessing = Preprocessing(
        quarantine=read_quarantine(options.skip) if options.skip else {},
        decode=options.decode,
        normalizers=read_normalizers(options.normalize) if options.normalize else {},
    )
    known = [entry for line in read_tokens(options.tokens) for entry in line] if options.tokens else None
    report = prepare(parts, options.output, preprocessing, options.workers, known)
    if not report.kept:
        raise ValueError(report.why_nothing() + (f"; see {options.output / 'report.txt'}" if report.read else ""))
    plot_durations(report, options.output / "durations.png")
    _print_report(report, options.output, len(report.lines(known)))
    if report.failed:
        raise ValueError(
            f"{len(report.failed)} of {len(parts)} parts are missing, such as {report.failed[0]}; the same command "
            "tries them again, and keeps the others"
        )
    if "train" in report.splits and report.splits["train"].utterances:
        print(f"next: hf-mlpl build-tokenizer {options.output / 'train.parquet'} --output tokens-all.lst")
    return 0


def _print_report(report: PreparationReport, output: Path, num_lines: int) -> None:
    for split, statistics in report.splits.items():
        print(f"{output / split}.parquet: {statistics.utterances.total()} utterances")
    with open(output / "report.txt", encoding="utf-8") as file:
        print(*islice(file, num_lines + 10), sep="", end="")
    print(f"all of it: {output / 'report.txt'}")


def corpus_parts(options: argparse.Namespace) -> Iterator[Part]:
    """Yields the corpora in the pieces in which they are read, and kept when a run is killed."""
    if options.common_voice:
        yield from _common_voice_parts(options.common_voice, options.languages)
    if options.voxpopuli or options.voxpopuli_asr:
        yield from _voxpopuli_parts(options)
    if options.librispeech:
        yield from _librispeech_parts(options.librispeech)
    if options.dataset:
        yield from _dataset_parts(options)
    yield from _own_speech_parts(options)


def _common_voice_parts(root: str, languages: list[str] | None) -> Iterator[Part]:
    from ..corpora.preparation.prepare import Part
    from ..corpora.readers.common_voice import (
        common_voice_inputs,
        find_locales,
        read_common_voice,
        report_speaker_leaks,
    )
    from ..corpora.readers.downloads import download_mirror
    from ..corpora.sources import Source, common_voice_sources

    mirror = None
    if root.startswith(HUB):
        name = root.removeprefix(HUB)
        mirror = Source(name, url=HUB_PAGE + name)
        root = download_mirror(name, locales=languages)
    sources = common_voice_sources(root)
    for locale in find_locales(root, languages):
        source = mirror or sources(locale)
        for split in LABELLED:
            read = partial(read_common_voice, root, split, locales=[locale])
            inputs = common_voice_inputs(root, locale, [split])
            yield Part(f"common-voice {split} {locale}", read, split, source, inputs)
        read = partial(report_speaker_leaks, root, locales=[locale])
        yield Part(f"common-voice speakers {locale}", read, inputs=common_voice_inputs(root, locale, LABELLED))


def _voxpopuli_parts(options: argparse.Namespace) -> Iterator[Part]:
    from ..corpora.preparation.prepare import Part
    from ..corpora.readers.voxpopuli import read_voxpopuli
    from ..corpora.readers.voxpopuli_asr import read_voxpopuli_asr, voxpopuli_asr_folders, voxpopuli_asr_locales
    from ..corpora.sources import VOXPOPULI, source_of_corpus

    languages = options.languages
    if root := options.voxpopuli:
        read = partial(read_voxpopuli, root, locales=languages, subset=options.voxpopuli_subset)
        yield Part("voxpopuli", read, "unlabelled", source_of_corpus(root, VOXPOPULI), (root,))
    if root := options.voxpopuli_asr:
        found = {locale for split in LABELLED for locale in voxpopuli_asr_locales(root, split)}
        if not found:
            raise ValueError(f"{root}: no transcribed VoxPopuli, such as {root / 'transcribed_data/sl/asr_train.tsv'}")
        source = source_of_corpus(root, VOXPOPULI)
        for split in LABELLED:
            for locale in languages or sorted(found | set(voxpopuli_asr_folders(root))):
                read = partial(read_voxpopuli_asr, root, split, locales=[locale])
                yield Part(f"voxpopuli-asr {split} {locale}", read, split, source, (root,))


def _librispeech_parts(root: Path) -> Iterator[Part]:
    from ..corpora.preparation.prepare import Part
    from ..corpora.readers.librispeech import librispeech_splits, read_librispeech
    from ..corpora.sources import LIBRISPEECH, source_of_corpus

    names = librispeech_splits(root)
    if not names:
        raise ValueError(f"{root}: no split of LibriSpeech, such as {root / 'test-clean'} or its .tar.gz")
    source = source_of_corpus(root, LIBRISPEECH)
    for name in names:
        read = partial(read_librispeech, root, name)
        yield Part(f"librispeech {name}", read, name.partition("-")[0], source, (root,))


def _dataset_parts(options: argparse.Namespace) -> Iterator[Part]:
    from ..corpora.preparation.prepare import Part
    from ..corpora.sources import Source, source_of_corpus

    path = Path(options.dataset)
    if path.exists():
        name, source, inputs = path, source_of_corpus(path), (path,)
    else:
        name, source, inputs = options.dataset, Source(options.dataset, url=HUB_PAGE + options.dataset), ()
    columns = {field: getattr(options, f"{field}_column") for field in ("audio", "text", "language", "speaker")}
    how = {
        "columns": {field: column for field, column in columns.items() if column is not None},
        "language": options.language,
        "config": options.config,
        "copies": options.output / "recordings",
    }
    for split in options.split:
        read = partial(read_dataset_split, name, split, options.languages, **how)
        yield Part(f"dataset {split}", read, source=source, inputs=inputs)


def _own_speech_parts(options: argparse.Namespace) -> Iterator[Part]:
    from ..corpora.preparation.prepare import Part
    from ..corpora.readers.lists import read_list
    from ..corpora.sources import source_of_corpus

    if table := options.list:
        speakers = {name: getattr(options, name) for name in ("train_speakers", "dev_speakers", "test_speakers")}
        read = partial(read_list, table, languages=options.languages, **speakers)
        yield Part("list", read, source=source_of_corpus(table), inputs=(table,))
    if root := options.folder:
        read = partial(read_whole_folder, root, options.language, options.languages)
        yield Part("folder", read, source=source_of_corpus(root), inputs=(root,))
    for number, name in enumerate(options.flashlight_lists or ()):
        path = Path(options.datadir, name)
        read = partial(read_flashlight_list, name, options.language, options.datadir)
        yield Part(f"flashlight-list {number} {path.name}", read, source=source_of_corpus(path), inputs=(path,))


# ------------------------------------------------------------------------ readers that sort utterances into splits


def read_whole_folder(root: Path, language: str | None, locales: list[str] | None, report: ReadingReport) -> dict:
    """Returns the utterances below a folder by split, `train` and `unlabelled`."""
    from ..corpora.readers.folders import read_folder

    return _by_split(read_folder(root, report, language, locales), "train", report)


def read_flashlight_list(name: str, language: str, datadir: str, report: ReadingReport) -> dict:
    """Returns the utterances of a list file by split."""
    from ..corpora.readers.lists import read_fl_lists

    return _by_split(read_fl_lists([name], language, report, datadir), _split_of(Path(name).name), report)


def read_dataset_split(name: str | Path, split: str, locales: list[str] | None, report: ReadingReport, **how) -> dict:
    """Returns the utterances of a data set's split by our split; rows of languages besides `locales` do not count."""
    from ..corpora.locales import to_locale
    from ..corpora.readers.hf_datasets import read_dataset

    utterances, wanted = [], {*map(to_locale, locales or ())}
    for utterance in read_dataset(name, report, split=split, **how):
        if wanted and utterance["language"] not in wanted:
            report.read -= 1
        else:
            utterances.append(utterance)
    return _by_split(utterances, _split_of(split), report)


def _split_of(name: str) -> str:
    """Returns the split that a word in a name means, such as dev for `sl-dev.lst`; train where there is none."""
    split_of = {word: split for split, words in SPLIT_WORDS.items() for word in words}
    return next((split_of[word] for word in re.split("[^a-z]+", name.lower()) if word in split_of), "train")


def _by_split(utterances: Iterable[dict], split: str, report: ReadingReport) -> dict[str, list[dict]]:
    """Returns utterances of `split`; those without a text are unlabelled, and dropped where they are held out."""
    splits = {split: [], "unlabelled": []}
    for utterance in utterances:
        if not utterance["text"] and split != "train":
            report.drop("empty sentence", utterance["id"])
        else:
            splits[split if utterance["text"] else "unlabelled"].append(utterance)
    return {name: rows for name, rows in splits.items() if rows}
