"""Lists the corpora that the options of `hf-mlpl prepare-data` name, in parts that can be read one by one."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..corpora.metadata import refuse_spreadsheet
from ..corpora.preparation.parts import PARTS, Part
from ..corpora.preparation.published_parts import (
    HUB,
    common_voice_parts,
    dataset_parts,
    librispeech_parts,
    voxpopuli_asr_parts,
    voxpopuli_parts,
)
from ..corpora.readers.dataset_forms import has_one_split
from ..corpora.readers.downloads import download_published, download_release, published_files
from ..corpora.readers.folders import read_folder
from ..corpora.readers.lists import list_utterances, read_fl_lists
from ..corpora.readers.manifests import partner_of, read_manifest
from ..corpora.reading import ReadingReport
from ..corpora.sources import Source, source_of_corpus
from ..corpora.splits import Corpus, Splits, of_languages, split_of_name
from ..error_line import error_line
from .columns import given_columns


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
        yield from common_voice_parts(options.common_voice, options.languages, options.common_voice_also)
    if root := options.voxpopuli:
        yield from voxpopuli_parts(root, options.output / PARTS, options.languages, options.voxpopuli_subset)
    if options.voxpopuli_asr:
        yield from voxpopuli_asr_parts(options.voxpopuli_asr, options.languages)
    if options.librispeech:
        yield from librispeech_parts(options.librispeech)
    yield from _own_parts(options)


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
    if path.exists() and len({split.partition("[")[0] for split in splits}) > 1 and has_one_split(path):
        raise ValueError(f"{path}: is one split, which cannot be {' and '.join(splits)}; give one --split")
    settings = {"columns": columns, "language": options.language, "encoding": options.encoding}
    settings["copies"] = options.output / "recordings"
    languages = [options.language] if options.language else options.languages
    name = path if path.exists() else options.dataset
    for part in dataset_parts(name, splits, options.config, languages, **settings):
        yield OwnCorpus(part.name, part.read, path, part.split, part.source, part.inputs)


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
