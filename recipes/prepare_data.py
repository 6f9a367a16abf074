"""Turns corpora, as they were downloaded, into the utterance files that every other script reads.

Nothing is copied: an utterance is a path (or a part of a long recording) with its duration, language and text.

    python recipes/prepare_data.py --common-voice cv-corpus-6.1-2020-12-11 --voxpopuli voxpopuli --output data
    python recipes/prepare_data.py --common-voice downloads/cv-corpus-6.1-sl.tar.gz --workers 8 --output data
    python recipes/prepare_data.py --list my-speech/manifest.tsv --test-speakers anna ben --output data
    python recipes/prepare_data.py --folder my-speech/sl --language sl --output data

Archives are read in place. Corpora may be combined; docs/corpora.md says in which forms they may be.

writes data/train.parquet, dev.parquet, test.parquet (labelled) and unlabelled.parquet, as far as there is such speech,
and what there is to know of them: report.txt and report.json (rows read, kept and dropped by reason, hours per
language, characters that train lacks, and in report.txt a line with file and row for everything that was left out),
durations.png, and quarantine.tsv, the audio that cannot be used. A run tries all audio anew, unless
--skip quarantine.tsv leaves out what is in that list, to which you may add what training found. A table or an archive
that is missing or damaged costs what is in it, and a line.

When it is killed, the same command goes on where it was, and reads again what has changed since.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from hf_mlpl.one_line_errors import one_line_errors

if TYPE_CHECKING:
    from hf_mlpl.corpora.preparation import Part
    from hf_mlpl.corpora.reading import ReadingReport

HUB = "hf://datasets/"
LABELLED = ("train", "dev", "test")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--common-voice",
        metavar="PATH",
        help="release: archive, folder of archives, extracted, or Parquet files; hf://datasets/NAME for a mirror",
    )
    parser.add_argument("--voxpopuli", type=Path, help="unlabelled: recordings or archives of them, and their table")
    parser.add_argument("--voxpopuli-subset", metavar="SUBSET", help="of --voxpopuli, such as 10k, 100k, sl or sl_v2")
    parser.add_argument("--voxpopuli-asr", type=Path, help="transcribed: cut, in archives, annotated, or Parquet")
    parser.add_argument("--librispeech", type=Path, help="all its splits that are there, extracted or as archives")
    parser.add_argument(
        "--list", type=Path, help="table (tsv, csv) with the columns path, sentence, language, speaker"
    )
    parser.add_argument("--folder", type=Path, help="recordings, with texts beside them (a.txt) or without")
    parser.add_argument("--language", help="of --folder; by default the names of its sub-folders")
    parser.add_argument("--languages", nargs="+", help="locales, such as sl sv-SE; by default all that are there")
    parser.add_argument("--train-speakers", nargs="+", help="of --list, labelled training; by default all the others")
    parser.add_argument("--dev-speakers", nargs="+", default=[], help="of --list, labelled")
    parser.add_argument("--test-speakers", nargs="+", default=[], help="of --list, labelled")
    parser.add_argument("--output", type=Path, required=True, help="folder for the utterance files")
    parser.add_argument("--workers", type=int, default=1, help="processes that read")
    parser.add_argument("--decode", action="store_true", help="decode all audio, to find damage behind good headers")
    parser.add_argument("--skip", type=Path, help="a quarantine.tsv: audio that is not even tried")
    parser.add_argument("--normalize", type=Path, help="YAML, per language or '*': lowercase, strip_punctuation, ...")
    parser.add_argument("--tokens", type=Path, help="of a model: report characters that it lacks, not those of train")
    arguments = parser.parse_args()
    # imported here: it takes seconds, and --help need not wait
    from hf_mlpl.corpora.preparation import Preprocessing, prepare, read_normalizers, read_quarantine
    from hf_mlpl.corpora.preparation_report import plot_durations
    from hf_mlpl.text import read_tokens

    parts = list(corpus_parts(arguments))
    if not parts:
        parser.error("name a corpus: --common-voice, --voxpopuli, --voxpopuli-asr, --librispeech, --list or --folder")

    preprocessing = Preprocessing(
        quarantine=read_quarantine(arguments.skip) if arguments.skip else {},
        decode=arguments.decode,
        normalizers=read_normalizers(arguments.normalize) if arguments.normalize else {},
    )
    known = [entry for line in read_tokens(arguments.tokens) for entry in line] if arguments.tokens else None
    report = prepare(parts, arguments.output, preprocessing, arguments.workers, known)
    if not report.kept:
        raise ValueError(report.why_nothing() + (f"; see {arguments.output / 'report.txt'}" if report.read else ""))
    plot_durations(report, arguments.output / "durations.png")
    for split, of in report.splits.items():
        print(f"{arguments.output / split}.parquet: {of.utterances.total()} utterances")
    with open(arguments.output / "report.txt", encoding="utf-8") as file:
        print(*islice(file, len(report.lines(known)) + 10), sep="", end="")
    print(f"all of it: {arguments.output / 'report.txt'}")
    if report.failed:
        raise ValueError(
            f"{len(report.failed)} of {len(parts)} parts are missing, such as {report.failed[0]}; the same command "
            "tries them again, and keeps the others"
        )
    if "train" in report.splits and report.splits["train"].utterances:
        print(f"next: python recipes/build_tokenizer.py {arguments.output / 'train.parquet'} --output tokens-all.lst")


def corpus_parts(arguments: argparse.Namespace) -> Iterator[Part]:
    """The corpora in the pieces in which they are read, and kept when a run is killed."""
    from hf_mlpl.corpora.common_voice import (
        common_voice_inputs,
        find_locales,
        read_common_voice,
        report_speaker_leaks,
    )
    from hf_mlpl.corpora.downloads import download_mirror
    from hf_mlpl.corpora.librispeech import librispeech_splits, read_librispeech
    from hf_mlpl.corpora.lists import read_list
    from hf_mlpl.corpora.preparation import Part
    from hf_mlpl.corpora.sources import LIBRISPEECH, VOXPOPULI, Source, common_voice_sources, source_of_corpus
    from hf_mlpl.corpora.voxpopuli import read_voxpopuli
    from hf_mlpl.corpora.voxpopuli_asr import read_voxpopuli_asr, voxpopuli_asr_folders, voxpopuli_asr_locales

    languages = arguments.languages
    if root := arguments.common_voice:
        mirror = None
        if root.startswith(HUB):
            name = root.removeprefix(HUB)
            mirror = Source(name, url=f"https://huggingface.co/datasets/{name}")
            root = download_mirror(name, locales=languages)
        sources = common_voice_sources(root)
        for locale in find_locales(root, languages):
            source = mirror or sources(locale)
            for split in LABELLED:
                read = partial(read_common_voice, root, split, locales=[locale])
                inputs = common_voice_inputs(root, locale, [split])
                yield Part(f"common-voice {split} {locale}", read, split, source, inputs)
            read = partial(report_speaker_leaks, root, locales=[locale])
            inputs = common_voice_inputs(root, locale, LABELLED)
            yield Part(f"common-voice speakers {locale}", read, inputs=inputs)
    if root := arguments.voxpopuli:
        read = partial(read_voxpopuli, root, locales=languages, subset=arguments.voxpopuli_subset)
        yield Part("voxpopuli", read, "unlabelled", source_of_corpus(root, VOXPOPULI), (root,))
    if root := arguments.voxpopuli_asr:
        there = {locale for split in LABELLED for locale in voxpopuli_asr_locales(root, split)}
        if not there:
            raise ValueError(f"{root}: no transcribed VoxPopuli, such as {root / 'transcribed_data/sl/asr_train.tsv'}")
        for split in LABELLED:
            for locale in languages or sorted(there | set(voxpopuli_asr_folders(root))):
                read = partial(read_voxpopuli_asr, root, split, locales=[locale])
                source = source_of_corpus(root, VOXPOPULI)
                yield Part(f"voxpopuli-asr {split} {locale}", read, split, source, (root,))
    if root := arguments.librispeech:
        there = librispeech_splits(root)
        if not there:
            raise ValueError(f"{root}: no split of LibriSpeech, such as {root / 'test-clean'} or its .tar.gz")
        for part in there:
            source = source_of_corpus(root, LIBRISPEECH)
            read = partial(read_librispeech, root, part)
            yield Part(f"librispeech {part}", read, part.partition("-")[0], source, (root,))
    if table := arguments.list:
        speakers = {name: getattr(arguments, name) for name in ("train_speakers", "dev_speakers", "test_speakers")}
        read = partial(read_list, table, languages=languages, **speakers)
        yield Part("list", read, source=source_of_corpus(table), inputs=(table,))
    if root := arguments.folder:
        read = partial(labelled_and_unlabelled, root, arguments.language, languages)
        yield Part("folder", read, source=source_of_corpus(root), inputs=(root,))


def labelled_and_unlabelled(root: Path, language: str | None, locales: list | None, report: ReadingReport) -> dict:
    from hf_mlpl.corpora.folders import read_folder

    splits = {"train": [], "unlabelled": []}
    for utterance in read_folder(root, report, language, locales):
        splits["train" if utterance["text"] else "unlabelled"].append(utterance)
    return {split: rows for split, rows in splits.items() if rows}


if __name__ == "__main__":
    with one_line_errors():
        main()
