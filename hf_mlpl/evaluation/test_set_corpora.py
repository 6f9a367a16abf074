"""Finds out what a test set is that is named or lies on the disk: its parts, and how the Hub calls it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..corpora.locales import to_locale
from ..corpora.metadata import refuse_spreadsheet
from ..corpora.preparation.parts import Part
from ..corpora.preparation.published_parts import (
    HUB,
    LABELLED,
    common_voice_parts,
    dataset_parts,
    librispeech_parts,
    voxpopuli_asr_parts,
)
from ..corpora.readers.dataset_files import DEVELOPMENT, name_of_split
from ..corpora.readers.dataset_forms import known_corpus, language_configs
from ..corpora.readers.librispeech import SPLITS as LIBRISPEECH_SPLITS
from ..corpora.readers.librispeech import librispeech_splits
from ..corpora.readers.published import LIBRISPEECH_ON_HUB, PUBLISHED, locale_of_config
from ..corpora.readers.releases import ARCHIVES, find_releases
from ..corpora.readers.voxpopuli_asr import voxpopuli_asr_locales
from ..corpora.sources import NAMED_RELEASE

VOXPOPULI_ON_HUB, ACCENTED = "facebook/voxpopuli", "_accented"
COMMON_VOICE_SPLITS = (*LABELLED, "validated", "other")  # whose clips have sentences
# Releases of Common Voice up to 17.0 had a data set on the Hub, under whose name results are still known.
RELEASE, LAST_ON_HUB = re.compile(r"cv-corpus-(\d+)\.(\d+)(?!-delta)"), 17


@dataclass(frozen=True)
class SetRequest:
    """Says which utterances of a data set are a test set.

    Args:
        dataset: name on the Hub, path of a data set or of a published corpus, or `hf://datasets/NAME` for a mirror of
            Common Voice.
        split: as the data set calls it.
        languages: locales, or names of configurations; all if there are none.
        configs: configurations; by default those that are named after the languages.
        language: of all utterances; by default the data set says it.
        columns: field of an utterance -> column, as in `read_dataset`.
    """

    dataset: str
    split: str = "test"
    languages: Sequence[str] = ()
    configs: Sequence[str] = ()
    language: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> Path | None:
        """Returns the path of a data set on the disk, None for one on the Hub."""
        return Path(self.dataset) if Path(self.dataset).exists() else None

    @property
    def locales(self) -> list[str]:
        return list(dict.fromkeys(locale_of_config(name) or to_locale(name) for name in self.languages))

    @property
    def folder_name(self) -> str:
        """Returns the name of the folder in which the set is kept, which differs from those of others."""
        dataset = self.dataset.removeprefix(HUB).replace("/", "--")
        if self.path:
            dataset = f"{self.path.absolute().name}-{_digest(self.path.absolute())}"
        chosen = "+".join([*self.configs, *self.locales]) or "all"
        if len(chosen) > 40 or self.language or self.columns:
            chosen = _digest((self.configs, self.locales, self.language, sorted(self.columns.items())))
        return re.sub(r"[^\w.+-]", "_", f"{dataset}-{self.split}-{chosen}")


@dataclass(frozen=True)
class TestSetCorpus:
    """Holds the parts of a data set, its name on the Hub, or None, and how the Hub calls the rest.

    Args:
        configs: configuration of each language; that of None is for all languages that are not named.
    """

    parts: list[Part]
    id: str | None
    configs: Mapping[str | None, str | None]
    split: str


def open_corpus(request: SetRequest, folder: Path) -> TestSetCorpus:
    """Finds out what a data set is, and lists its parts, whose utterances are all in the split `test`."""
    path, name = request.path, request.dataset.removeprefix(HUB)
    if name != request.dataset and not known_corpus(name) or path and _has_release(path):
        corpus = _common_voice(request)
    elif path and (path.is_dir() and librispeech_splits(path) or _librispeech_split(path)):
        corpus = _librispeech(request, path)
    elif path and not known_corpus(path) and (splits := _voxpopuli_splits(path)):
        corpus = _voxpopuli(request, path, splits)
    else:
        corpus = _dataset(replace(request, dataset=name), folder)
    return replace(corpus, parts=[replace(part, split="test") for part in corpus.parts])


def _has_release(path: Path) -> bool:
    """Returns whether a path is Common Voice, with or without problems that its reader explains."""
    try:
        return (path.is_dir() or path.name.endswith(ARCHIVES)) and bool(find_releases(path, []))
    except ValueError:
        return any(NAMED_RELEASE.match(each.name) for each in (path, *path.glob("*")))


def _common_voice(request: SetRequest) -> TestSetCorpus:
    _refuse_columns(request)
    split = _split_of_tables(request, COMMON_VOICE_SPLITS)
    parts = list(common_voice_parts(request.dataset, request.configs or request.locales, splits=[split]))
    name = request.dataset.removeprefix(HUB) if request.path is None else None
    releases = {match.groups() for part in parts if part.source and (match := RELEASE.search(part.source.name))}
    if name is None and len(releases) == 1:
        major, minor = releases.pop()
        name = f"mozilla-foundation/common_voice_{major}_{minor}" if int(major) <= LAST_ON_HUB else None
    locales = [part.read.keywords["locales"][0] for part in parts]
    return TestSetCorpus(parts, name, dict(zip(locales, locales, strict=True)), _split_on_hub(split))


def _split_of_tables(request: SetRequest, known: Sequence[str]) -> str:
    """Returns the split that a corpus calls `dev`, whatever its name is; raises ValueError for others than these."""
    split = "dev" if request.split in DEVELOPMENT else request.split
    if split not in known:
        raise ValueError(f"{request.dataset}: no split {request.split}; there are {', '.join(known)}")
    return split


def _split_on_hub(split: str, development: str = "validation") -> str:
    return development if split in DEVELOPMENT else split


def _refuse_columns(request: SetRequest, *accepted: str) -> None:
    """Raises ValueError for columns and a language of a corpus whose reader knows them."""
    given = [f"the column {name}" for column, name in request.columns.items() if column not in accepted]
    if given or request.language:
        wrong = ", ".join([*given, *([f"the language {request.language}"] if request.language else [])])
        raise ValueError(f"{request.dataset}: its columns and languages are known, so {wrong} cannot be chosen")


def _librispeech_split(path: Path) -> str | None:
    """Returns the split of LibriSpeech that a path is, such as `test-clean.tar.gz`; None for another path."""
    name = path.name.removesuffix(".gz").removesuffix(".tar")
    return name if name in LIBRISPEECH_SPLITS and name in librispeech_splits(path.absolute().parent) else None


def _librispeech(request: SetRequest, path: Path) -> TestSetCorpus:
    _refuse_columns(request)
    chosen, split = _librispeech_split(path), _librispeech_on_hub(request.split).replace(".", "-")
    split = split.replace("validation", "dev")
    root = path.absolute().parent if chosen else path
    found = [chosen] if chosen else librispeech_splits(root)
    wanted = [f"{split}-{config}" for config in request.configs]
    wanted = wanted or [name for name in found if name.partition("-")[0] == split] or [split]
    if len(wanted) > 1 or wanted[0] not in found:
        raise ValueError(f"{path}: --split {request.split} is not one of its splits, {', '.join(found)}")
    split, _, part = wanted[0].partition("-")
    config, _, hours = part.partition("-")  # of train-clean-100
    split = _split_on_hub(split) + (f".{hours}" if hours else "")
    return TestSetCorpus(list(librispeech_parts(root, wanted)), LIBRISPEECH_ON_HUB, {"en": config}, split)


def _librispeech_on_hub(split: str) -> str:
    """Returns how the Hub calls a split of LibriSpeech, such as `validation.clean` for `dev-clean`."""
    name, *parts = re.split("[-.]", split)
    return ".".join([_split_on_hub(name), *parts])


def _voxpopuli_splits(root: Path) -> list[str]:
    return [split for split in LABELLED if voxpopuli_asr_locales(root, split)]


def _voxpopuli(request: SetRequest, root: Path, splits: Sequence[str]) -> TestSetCorpus:
    _refuse_columns(request, "text")
    text, split = request.columns.get("text", "raw_text"), _split_of_tables(request, splits)
    configs = request.configs or request.locales or _without_accents(voxpopuli_asr_locales(root, split))
    parts = list(voxpopuli_asr_parts(root, configs, [split], text=text))
    of_language = _by_language(request, [(locale_of_config(config), config.split("-")[0]) for config in configs])
    return TestSetCorpus(parts, VOXPOPULI_ON_HUB, of_language, _split_on_hub(split))


def _by_language(
    request: SetRequest, configs: Iterable[tuple[str | None, str | None]]
) -> dict[str | None, str | None]:
    """Maps languages to configurations; raises ValueError for two of one language, whose rates would be mixed."""
    of_language: dict[str | None, str | None] = {}
    for language, config in configs:
        if language in of_language:
            raise ValueError(
                f"{request.dataset}: the configurations {of_language[language]} and {config} are of one language, "
                f"{language or 'or do not say it'}; evaluate them one by one, with --config"
            )
        of_language[language] = config
    return of_language


def _without_accents(configs: Sequence[str | None]) -> list[str | None]:
    """Returns configurations without `en_accented` of VoxPopuli, where that would be a second one of a language."""
    repeated = {f"{config}{ACCENTED}" for config in configs}
    return [config for config in configs if config not in repeated]


def _dataset(request: SetRequest, folder: Path) -> TestSetCorpus:
    name = request.path or request.dataset
    refuse_spreadsheet(Path(name))
    known, split, configs = known_corpus(name), request.split, list(request.configs)
    if known and known[0] == LIBRISPEECH_ON_HUB:
        split = _librispeech_on_hub(split)
        configs = configs or (["all"] if "." in split else [])
    if not configs:
        languages = [request.language] if request.language else request.locales
        configs = _without_accents(language_configs(name, languages, all_languages=True))
    settings = {"columns": dict(request.columns), "language": request.language, "copies": folder / "recordings"}
    parts = list(dataset_parts(name, [split], configs, None, **settings))
    spoken = (part.read.keywords["language"] or locale_of_config(part.read.keywords["config"] or "") for part in parts)
    of_language = _by_language(request, zip(spoken, configs, strict=True))
    if request.path is None:  # so the Hub calls the only configuration of a data set
        of_language = {language: config or "default" for language, config in of_language.items()}
    if known:
        corpus = PUBLISHED.get(known[0])
        split = _split_on_hub(split, corpus.development) if corpus else split
        return TestSetCorpus(parts, known[0], of_language, split)
    if request.path is None and split in DEVELOPMENT:
        split = name_of_split(request.dataset, configs[0], split)
    return TestSetCorpus(parts, None if request.path else request.dataset, of_language, split)


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode(errors="surrogatepass")).hexdigest()[:8]
