"""Lists the parts of published corpora and of data sets, for preparations and test sets alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from ..locales import to_locale
from ..readers.common_voice import (
    common_voice_inputs,
    find_locales,
    has_spontaneous_speech,
    read_common_voice,
    report_speaker_leaks,
)
from ..readers.dataset_files import source_on_hub
from ..readers.dataset_forms import known_corpus, language_configs
from ..readers.downloads import download_mirror
from ..readers.hf_datasets import read_dataset
from ..readers.librispeech import librispeech_splits, read_librispeech
from ..readers.published import LIBRISPEECH_COLUMNS, LIBRISPEECH_LANGUAGE, LIBRISPEECH_ON_HUB
from ..readers.voxpopuli import read_voxpopuli, voxpopuli_pieces
from ..readers.voxpopuli_asr import read_voxpopuli_asr, voxpopuli_asr_folders, voxpopuli_asr_locales
from ..sources import LIBRISPEECH, VOXPOPULI, common_voice_sources, source_of_corpus
from ..splits import split_of_name
from .parts import Part

HUB = "hf://datasets/"
LABELLED = ("train", "dev", "test")


def common_voice_parts(
    root: str, languages: Sequence[str] | None, also: Sequence[str] = (), splits: Sequence[str] | None = None
) -> Iterator[Part]:
    """Yields the parts of a release of Common Voice, or of a mirror on the Hub, which is downloaded.

    Args:
        root: as `read_common_voice` has it, or `hf://datasets/NAME`.
        also: `validated` or `other`, for clips that are in none of train, dev and test.
        splits: by default train, dev, test and the speech without a text, and a part that reports speakers of several.

    Raises:
        ValueError: for a root without a release, and where it has none of the languages.
    """
    mirror = None
    if root.startswith(HUB):
        name = root.removeprefix(HUB)
        mirror = source_on_hub(name)
        root = str(download_mirror(name, locales=languages))
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
        spontaneous = ["unlabelled"] if splits is None and has_spontaneous_speech(root, locale) else []
        for split in (*(splits or LABELLED), *spontaneous):
            read = partial(read_common_voice, root, split, locales=[locale])
            inputs = common_voice_inputs(root, locale, [split])
            yield Part(f"common-voice {split} {locale}", read, split, source, inputs)
        for table in dict.fromkeys(also):
            read = partial(read_common_voice, root, table, locales=[locale], beyond_splits=True)
            inputs = common_voice_inputs(root, locale, [*LABELLED, table])
            split = {"validated": "train", "other": "unlabelled"}[table]
            yield Part(f"common-voice {table} {locale}", read, split, source, inputs)
        if splits is None:
            read = partial(report_speaker_leaks, root, locales=[locale])
            yield Part(f"common-voice speakers {locale}", read, inputs=common_voice_inputs(root, locale, LABELLED))


def voxpopuli_parts(root: Path, folder: Path, languages: Sequence[str] | None, subset: str | None) -> Iterator[Part]:
    """Yields the parts of VoxPopuli's unlabelled speech, of about 400 hours each.

    Args:
        folder: of the preparation's parts, for the rows of the table that each of them reads.
        subset: of `read_voxpopuli`.
    """
    source, pieces = source_of_corpus(root, VOXPOPULI), []
    with suppress(ValueError):  # the reader of all of it says so in the report
        pieces = voxpopuli_pieces(root, folder / ".voxpopuli", languages, subset)
    if not pieces:
        read = partial(read_voxpopuli, root, locales=languages, subset=subset)
        yield Part("voxpopuli", read, "unlabelled", source, (root,))
    for number, piece in enumerate(pieces, start=1):
        yield Part(f"voxpopuli {number} of {len(pieces)}", piece, "unlabelled", source, (root,))


def voxpopuli_asr_parts(
    root: Path, languages: Sequence[str] | None, splits: Sequence[str] = LABELLED, **settings
) -> Iterator[Part]:
    """Yields the parts of transcribed VoxPopuli; raises ValueError for a folder without any.

    Args:
        settings: of `read_voxpopuli_asr`.
    """
    found = {locale for split in splits for locale in voxpopuli_asr_locales(root, split)}
    if not found:
        raise ValueError(f"{root}: no transcribed VoxPopuli, such as {root / 'transcribed_data/sl/asr_train.tsv'}")
    source = source_of_corpus(root, VOXPOPULI)
    wanted = [name if name in found else to_locale(name) for name in languages or ()]  # `en_accented` is one of theirs
    for split in splits:
        for locale in wanted or sorted(found | set(voxpopuli_asr_folders(root))):
            read = partial(read_voxpopuli_asr, root, split, locales=[locale], **settings)
            yield Part(f"voxpopuli-asr {split} {locale}", read, split, source, (root,))


def librispeech_parts(root: Path, splits: Sequence[str] | None = None) -> Iterator[Part]:
    """Yields the parts of LibriSpeech, such as `test-clean`; raises ValueError for a folder without any."""
    names = librispeech_splits(root)
    if not names:
        raise ValueError(f"{root}: no split of LibriSpeech, such as {root / 'test-clean'} or its .tar.gz")
    source = source_of_corpus(root, LIBRISPEECH)
    for name in splits or names:
        yield Part(
            f"librispeech {name}", partial(read_librispeech, root, name), name.partition("-")[0], source, (root,)
        )


def dataset_parts(
    name: str | Path,
    splits: Sequence[str] = ("train",),
    configs: Sequence[str] | None = None,
    languages: Sequence[str] | None = None,
    **settings,
) -> Iterator[Part]:
    """Yields the parts of a data set, one for each configuration and split.

    Args:
        name: of a data set on the Hub, or its path.
        configs: by default those of `language_configs`.
        languages: locales of which configurations are chosen.
        settings: of `read_dataset`; those of LibriSpeech are known.

    Raises:
        ValueError: as `language_configs` does.
    """
    corpus = known_corpus(name)
    if isinstance(name, Path):
        source, inputs = source_of_corpus(name, corpus and corpus[1]), (name,)
    else:
        source, inputs = corpus[1] if corpus else source_on_hub(name), ()
    if corpus and corpus[0] == LIBRISPEECH_ON_HUB:
        settings["language"] = settings.get("language") or LIBRISPEECH_LANGUAGE
        settings["columns"] = {**LIBRISPEECH_COLUMNS, **(settings.get("columns") or {})}
    for config in configs or language_configs(name, languages):
        for split in splits:
            read = partial(read_dataset, name, split=split, config=config, **settings)
            part = " ".join(filter(None, ("dataset", config, split)))
            yield Part(part, read, split_of_name(split), source, inputs)
