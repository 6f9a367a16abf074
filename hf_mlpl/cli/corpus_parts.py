"""Lists the corpora that the options of `hf-mlpl prepare-data` name, in parts that can be read one by one."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..corpora.locales import to_locale
from ..corpora.metadata import refuse_spreadsheet
from ..corpora.preparation.prepare import Part
from ..corpora.readers.common_voice import (
    common_voice_inputs,
    find_locales,
    has_spontaneous_speech,
    read_common_voice,
    report_speaker_leaks,
)
from ..corpora.readers.dataset_forms import has_one_split, known_source, language_configs
from ..corpora.readers.downloads import download_mirror, download_published, download_release, published_files
from ..corpora.readers.folders import read_folder
from ..corpora.readers.hf_datasets import read_dataset
from ..corpora.readers.librispeech import librispeech_splits, read_librispeech
from ..corpora.readers.lists import list_utterances, read_fl_lists
from ..corpora.readers.manifests import partner_of, read_manifest
from ..corpora.readers.voxpopuli import read_voxpopuli
from ..corpora.readers.voxpopuli_asr import read_voxpopuli_asr, voxpopuli_asr_folders, voxpopuli_asr_locales
from ..corpora.reading import ReadingReport
from ..corpora.sources import LIBRISPEECH, VOXPOPULI, Source, common_voice_sources, source_of_corpus
from ..corpora.splits import Corpus, Splits, of_languages, split_of_name
from ..error_line import error_line
from .columns import given_columns

HUB = "hf://datasets/"
HUB_PAGE = "https://huggingface.co/datasets/"
LABELLED = ("train", "dev", "test")


def download(options: argparse.Namespace, parser: argparse.ArgumentParser) -> Iterator[Path]:
    """Downloads what `--download` names into the folders of the corpora, and yields the paths of files."""
    folders = {}
    for name in options.download or ():
        option = "common_voice"
        if "/" in name:
            published_files(name)  # raises, before anything is downloaded, if there are none
            option = name.split("/")[0] + ("_asr" if name.startswith("voxpopuli/asr/") else "")
        folders[name] = getattr(options, option)
        if not folders[name] or str(folders[name]).startswith(HUB):
            option = option.replace("_", "-")
            parser.error(f"--download needs --{option} FOLDER, the folder to download into")
    for name, folder in folders.items():
        yield from download_published(name, folder) if "/" in name else [download_release(name, folder)]


def corpus_parts(options: argparse.Namespace) -> Iterator[Part]:
    """Yields the parts of all corpora; a preparation that is killed keeps those that are finished."""
    if options.common_voice:
        yield from _common_voice_parts(options.common_voice, options.languages, options.common_voice_also)
    if root := options.voxpopuli:
        read = partial(read_voxpopuli, root, locales=options.languages, subset=options.voxpopuli_subset)
        yield Part("voxpopuli", read, "unlabelled", source_of_corpus(root, VOXPOPULI), (root,))
    if options.voxpopuli_asr:
        yield from _voxpopuli_asr_parts(options.voxpopuli_asr, options.languages)
    if options.librispeech:
        yield from _librispeech_parts(options.librispeech)
    yield from _own_parts(options)


def _common_voice_parts(root: str, languages: list[str] | None, also: list[str]) -> Iterator[Part]:
    mirror = None
    if root.startswith(HUB):
        name = root.removeprefix(HUB)
        mirror = Source(name, url=HUB_PAGE + name)
        root = download_mirror(name, locales=languages)
    sources = common_voice_sources(root)
    found = find_locales(root)
    wanted = list(dict.fromkeys(map(to_locale, languages or found)))
    if set(wanted).isdisjoint(found):
        find_locales(root, languages)  # raises, and names those that are there
    for locale in wanted:
        if locale not in found:  # it may be in another corpus
            yield Part(f"common-voice {locale}", partial(read_common_voice, root, "train", locales=[locale]), "train")
            continue
        source = mirror or sources(locale)
        for split in (*LABELLED, *(["unlabelled"] if has_spontaneous_speech(root, locale) else [])):
            read = partial(read_common_voice, root, split, locales=[locale])
            inputs = common_voice_inputs(root, locale, [split])
            yield Part(f"common-voice {split} {locale}", read, split, source, inputs)
        for table in dict.fromkeys(also):
            read = partial(read_common_voice, root, table, locales=[locale], beyond_splits=True)
            inputs = common_voice_inputs(root, locale, [*LABELLED, table])
            split = {"validated": "train", "other": "unlabelled"}[table]
            yield Part(f"common-voice {table} {locale}", read, split, source, inputs)
        read = partial(report_speaker_leaks, root, locales=[locale])
        yield Part(f"common-voice speakers {locale}", read, inputs=common_voice_inputs(root, locale, LABELLED))


def _voxpopuli_asr_parts(root: Path, languages: list[str] | None) -> Iterator[Part]:
    found = {locale for split in LABELLED for locale in voxpopuli_asr_locales(root, split)}
    if not found:
        raise ValueError(f"{root}: no transcribed VoxPopuli, such as {root / 'transcribed_data/sl/asr_train.tsv'}")
    source = source_of_corpus(root, VOXPOPULI)
    wanted = [name if name in found else to_locale(name) for name in languages or ()]  # `en_accented` is one of theirs
    for split in LABELLED:
        for locale in wanted or sorted(found | set(voxpopuli_asr_folders(root))):
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


# ------------------------------------------------------------------- one's own speech, which is sorted into splits


@dataclass(frozen=True, repr=False)
class OwnCorpus:
    """Describes a corpus of one's own speech as `Part` does; `root` and `split` are those of `Corpus`."""

    name: str
    read: partial
    root: Path
    split: str
    source: Source
    inputs: tuple[Path, ...] = ()

    def __repr__(self) -> str:
        """Returns what decides on the utterances, the same in each process, so that an interrupted part goes on."""
        return repr((self.read.func.__qualname__, self.read.args, self.read.keywords, self.root, self.split))


def _own_parts(options: argparse.Namespace) -> Iterator[Part]:
    """Yields a part for each corpus of one's own speech, or one for all if their speakers are to be sorted."""
    splits = Splits(
        options.train_speakers, options.dev_speakers, options.test_speakers, options.dev_share, options.test_share
    )
    corpora = list(_own_corpora(options))
    is_one_part = any(vars(splits).values()) and len(corpora) > 1
    for group in [corpora] if is_one_part else [[corpus] for corpus in corpora]:
        sources = dict.fromkeys(corpus.source for corpus in group)
        source = next(iter(sources)) if len(sources) == 1 else _joined(sources)
        inputs = tuple(path for corpus in group for path in corpus.inputs)
        read = partial(read_own_speech, group, splits, options.languages)
        yield Part("own speech" if is_one_part else group[0].name, read, source=source, inputs=inputs)


def _joined(sources: Collection[Source]) -> Source:
    names, licenses = ({getattr(source, name): None for source in sources} for name in ("name", "license"))
    return Source(", ".join(names), " and ".join(licenses))


def _own_corpora(options: argparse.Namespace) -> Iterator[OwnCorpus]:
    languages, language = options.languages, options.language
    columns = given_columns(options)
    if options.dataset:
        yield from _dataset_corpora(options, columns)
    settings = {"columns": columns, "language": language, "delimiter": options.delimiter, "encoding": options.encoding}
    for number, table in enumerate(options.list or ()):
        read = partial(list_utterances, table, languages=languages, **settings)
        inputs, name = (table, *filter(None, [partner_of(table)])), f"list {number} {table.name}"
        yield OwnCorpus(name, read, table.parent, split_of_name(table.name), source_of_corpus(table), inputs)
    for number, root in enumerate(options.folder or ()):
        given, tiers = tuple(options.segmentations), tuple(options.tier)
        folder = {"segmentations": given, "tiers": tiers, "encoding": options.encoding}
        read = partial(read_folder, root, language=language, locales=languages, **folder)
        yield OwnCorpus(f"folder {number}", read, root, "train", source_of_corpus(root), (root, *given))
    for number, manifest in enumerate(options.manifests or ()):
        read = partial(read_manifest, manifest, language=language, encoding=options.encoding)
        inputs, name = (manifest, *filter(None, [partner_of(manifest)])), f"manifest {number} {manifest.name}"
        split = split_of_name(manifest.name)
        yield OwnCorpus(name, read, manifest.parent, split, source_of_corpus(manifest), inputs)
    for number, list_name in enumerate(options.flashlight_lists or ()):
        path = Path(options.datadir, list_name)
        read = partial(read_fl_lists, [list_name], language, datadir=options.datadir)
        name, split = f"flashlight-list {number} {path.name}", split_of_name(path.name)
        yield OwnCorpus(name, read, path.parent, split, source_of_corpus(path), (path,))


def _dataset_corpora(options: argparse.Namespace, columns: dict[str, str]) -> Iterator[OwnCorpus]:
    path, splits = Path(options.dataset), options.split or ["train"]
    refuse_spreadsheet(path)
    if path.exists():
        name, source, inputs = path, source_of_corpus(path, known_source(path)), (path,)
        if len({split.partition("[")[0] for split in splits}) > 1 and has_one_split(path):
            raise ValueError(f"{path}: is one split, which cannot be {' and '.join(splits)}; give one --split")
    else:
        name, inputs = options.dataset, ()
        source = known_source(name) or Source(name, url=HUB_PAGE + name)
    settings = {"columns": columns, "language": options.language, "encoding": options.encoding}
    settings["copies"] = options.output / "recordings"
    languages = [options.language] if options.language else options.languages
    for config in options.config or language_configs(name, languages):
        for split in splits:
            read = partial(read_dataset, name, split=split, config=config, **settings)
            part = " ".join(filter(None, ("dataset", config, split)))
            yield OwnCorpus(part, read, path, split_of_name(split), source, inputs)


def read_own_speech(
    corpora: Sequence[OwnCorpus], splits: Splits, locales: list[str] | None, report: ReadingReport
) -> dict[str, list[dict]]:
    """Returns the utterances of corpora by split; a corpus that cannot be read, or only in part, is noted."""
    failed = []

    def utterances(corpus: OwnCorpus) -> Iterator[dict]:
        try:
            yield from of_languages(corpus.read(report=report), locales, report)
        except ValueError as error:
            report.note_first(error_line(error))
            failed.append(corpus)

    read = [Corpus(list(utterances(corpus)), corpus.root, corpus.split) for corpus in corpora]
    return splits.sort(read, report, None if failed else ", ".join(corpus.name for corpus in corpora))
