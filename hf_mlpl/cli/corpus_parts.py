"""Lists the corpora that the options of `hf-mlpl prepare-data` name, in parts that can be read one by one."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from ..corpora.locales import to_locale
from ..corpora.preparation.prepare import Part
from ..corpora.readers.common_voice import common_voice_inputs, find_locales, read_common_voice, report_speaker_leaks
from ..corpora.readers.dataset_forms import has_one_split, known_source, language_configs
from ..corpora.readers.downloads import download_mirror
from ..corpora.readers.folders import read_folder
from ..corpora.readers.hf_datasets import read_dataset
from ..corpora.readers.librispeech import librispeech_splits, read_librispeech
from ..corpora.readers.lists import read_fl_lists, read_list
from ..corpora.readers.manifests import partner_of, read_manifest
from ..corpora.readers.voxpopuli import read_voxpopuli
from ..corpora.readers.voxpopuli_asr import read_voxpopuli_asr, voxpopuli_asr_folders, voxpopuli_asr_locales
from ..corpora.reading import ReadingReport
from ..corpora.sources import LIBRISPEECH, VOXPOPULI, Source, common_voice_sources, source_of_corpus

HUB = "hf://datasets/"
HUB_PAGE = "https://huggingface.co/datasets/"
LABELLED = ("train", "dev", "test")
SPLIT_WORDS = {  # in names of splits and lists; the words are those of the library datasets
    "train": ("train", "training"),
    "dev": ("dev", "val", "valid", "validation"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def corpus_parts(options: argparse.Namespace) -> Iterator[Part]:
    """Yields the parts of all corpora; a preparation that is killed keeps those that are finished."""
    if options.common_voice:
        yield from _common_voice_parts(options.common_voice, options.languages)
    if root := options.voxpopuli:
        read = partial(read_voxpopuli, root, locales=options.languages, subset=options.voxpopuli_subset)
        yield Part("voxpopuli", read, "unlabelled", source_of_corpus(root, VOXPOPULI), (root,))
    if options.voxpopuli_asr:
        yield from _voxpopuli_asr_parts(options.voxpopuli_asr, options.languages)
    if options.librispeech:
        yield from _librispeech_parts(options.librispeech)
    if options.dataset:
        yield from _dataset_parts(options)
    if table := options.list:
        speakers = {name: getattr(options, name) for name in ("train_speakers", "dev_speakers", "test_speakers")}
        read = partial(read_list, table, languages=options.languages, **speakers)
        yield Part("list", read, source=source_of_corpus(table), inputs=(table,))
    if root := options.folder:
        read = partial(read_whole_folder, root, options.language, options.languages)
        yield Part("folder", read, source=source_of_corpus(root), inputs=(root,))
    for number, manifest in enumerate(options.manifests or ()):
        read = partial(read_manifest_split, manifest, options.language, options.languages)
        inputs = (manifest, *filter(None, [partner_of(manifest)]))
        yield Part(f"manifest {number} {manifest.name}", read, source=source_of_corpus(manifest), inputs=inputs)
    for number, name in enumerate(options.flashlight_lists or ()):
        path = Path(options.datadir, name)
        read = partial(read_flashlight_list, name, options.language, options.datadir)
        yield Part(f"flashlight-list {number} {path.name}", read, source=source_of_corpus(path), inputs=(path,))


def _common_voice_parts(root: str, languages: list[str] | None) -> Iterator[Part]:
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


def _voxpopuli_asr_parts(root: Path, languages: list[str] | None) -> Iterator[Part]:
    found = {locale for split in LABELLED for locale in voxpopuli_asr_locales(root, split)}
    if not found:
        raise ValueError(f"{root}: no transcribed VoxPopuli, such as {root / 'transcribed_data/sl/asr_train.tsv'}")
    source = source_of_corpus(root, VOXPOPULI)
    for split in LABELLED:
        for locale in languages or sorted(found | set(voxpopuli_asr_folders(root))):
            read = partial(read_voxpopuli_asr, root, split, locales=[locale])
            yield Part(f"voxpopuli-asr {split} {locale}", read, split, source, (root,))


def _librispeech_parts(root: Path) -> Iterator[Part]:
    names = librispeech_splits(root)
    if not names:
        raise ValueError(f"{root}: no split of LibriSpeech, such as {root / 'test-clean'} or its .tar.gz")
    source = source_of_corpus(root, LIBRISPEECH)
    for name in names:
        yield Part(
            f"librispeech {name}", partial(read_librispeech, root, name), name.partition("-")[0], source, (root,)
        )


def _dataset_parts(options: argparse.Namespace) -> Iterator[Part]:
    path = Path(options.dataset)
    if path.exists():
        name, source, inputs = path, source_of_corpus(path, known_source(path)), (path,)
        if len({split.partition("[")[0] for split in options.split}) > 1 and has_one_split(path):
            raise ValueError(f"{path}: is one split, which cannot be {' and '.join(options.split)}; give one --split")
    else:
        name, inputs = options.dataset, ()
        source = known_source(name) or Source(name, url=HUB_PAGE + name)
    columns = {field: getattr(options, f"{field}_column") for field in ("audio", "text", "language", "speaker")}
    settings = {
        "columns": {field: column for field, column in columns.items() if column is not None},
        "language": options.language,
        "copies": options.output / "recordings",
    }
    languages = [options.language] if options.language else options.languages
    for config in options.config or language_configs(name, languages):
        for split in options.split:
            read = partial(read_dataset_split, name, split, options.languages, config=config, **settings)
            yield Part(" ".join(filter(None, ("dataset", config, split))), read, source=source, inputs=inputs)


# -------------------------------------------------------------------------- readers that sort utterances into splits


def read_whole_folder(root: Path, language: str | None, locales: list[str] | None, report: ReadingReport) -> dict:
    """Returns the utterances below a folder by split, `train` and `unlabelled`."""
    return _by_split(read_folder(root, report, language, locales), "train", report)


def read_flashlight_list(name: str, language: str, datadir: str, report: ReadingReport) -> dict:
    """Returns the utterances of a list file by split."""
    return _by_split(read_fl_lists([name], language, report, datadir), _split_of(Path(name).name), report)


def read_dataset_split(
    name: str | Path, split: str, locales: list[str] | None, report: ReadingReport, **settings
) -> dict:
    """Returns the utterances of a data set's split by our split; rows of languages outside `locales` do not count."""
    utterances = _of_languages(read_dataset(name, report, split=split, **settings), locales, report)
    return _by_split(utterances, _split_of(split), report)


def read_manifest_split(
    manifest: Path, language: str | None, locales: list[str] | None, report: ReadingReport
) -> dict:
    """Returns the utterances of a manifest by split; rows of languages outside `locales` do not count."""
    utterances = _of_languages(read_manifest(manifest, report, language), locales, report)
    return _by_split(utterances, _split_of(manifest.name), report)


def _of_languages(utterances: Iterable[dict], locales: list[str] | None, report: ReadingReport) -> Iterator[dict]:
    accepted = {*map(to_locale, locales or ())}
    for utterance in utterances:
        if accepted and utterance["language"] not in accepted:
            report.read -= 1
        else:
            yield utterance


def _split_of(name: str) -> str:
    """Returns the split that a word in a name means, such as dev for `sl-dev.lst`, or train if there is none."""
    split_of = {word: split for split, words in SPLIT_WORDS.items() for word in words}
    return next((split_of[word] for word in re.split("[^a-z]+", name.lower()) if word in split_of), "train")


def _by_split(utterances: Iterable[dict], split: str, report: ReadingReport) -> dict[str, list[dict]]:
    """Returns utterances with a text as `split`; others are unlabelled speech, or dropped from dev and test.

    Texts that are references of unlabelled speech stay so.
    """
    splits = {split: [], "unlabelled": []}
    for utterance in utterances:
        if utterance["source"] == "reference":
            splits["unlabelled"].append(utterance)
        elif not utterance["text"] and split != "train":
            report.drop("empty sentence", utterance["id"])
        else:
            splits[split if utterance["text"] else "unlabelled"].append(utterance)
    return {name: rows for name, rows in splits.items() if rows}
