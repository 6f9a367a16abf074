"""Prepares test sets by name: data sets of the Hub, published corpora on the disk, and any other data set.

A prepared set is kept in a folder, and read again by the next evaluation, unless its source has changed since. Nothing
is copied into it but recordings that are in no file.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled

from ..atomic import read_json, write_json
from ..corpora.listing import state_of
from ..corpora.locales import to_locale
from ..corpora.metadata import refuse_spreadsheet
from ..corpora.preparation.parts import QUARANTINE, Part, fingerprints
from ..corpora.preparation.prepare import MAX_UNUSABLE, REPORT, Preprocessing, prepare, read_quarantine
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
from ..corpora.readers.published import LIBRISPEECH_ON_HUB, PUBLISHED, SOURCES, locale_of_config
from ..corpora.readers.releases import ARCHIVES, find_releases
from ..corpora.readers.voxpopuli_asr import voxpopuli_asr_locales
from ..corpora.reading import drop_reasons
from ..corpora.sources import NAMED_RELEASE
from ..error_line import error_line
from ..folder_lock import InUseError, claimed_file

logger = logging.getLogger(__name__)

RECORD = "test-set.json"  # what a folder was made of, which is written last
NOTICED_WAITS = 60  # for another process, of about a second each
ANNOUNCED_BYTES = 10**8  # of a download
PREPROCESSING = Preprocessing(labelled=True)
VOXPOPULI_ON_HUB, ACCENTED = "facebook/voxpopuli", "_accented"
COMMON_VOICE_SPLITS = (*LABELLED, "validated", "other")  # whose clips have sentences
# Releases of Common Voice up to 17.0 had a data set on the Hub, under whose name results are still known.
RELEASE, LAST_ON_HUB = re.compile(r"cv-corpus-(\d+)\.(\d+)(?!-delta)"), 17
GONE = re.compile(r"mozilla-foundation/common_voice_\d+_\d+")
SNAPSHOT = re.compile(r"/snapshots/(?P<commit>[0-9a-f]{40})/")  # in the path of a file in the Hub's cache


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
class PreparedSet:
    """Holds a test set that is ready to be read.

    Args:
        files: utterance files.
        languages: their locales that were asked for.
        description: `{"id", "name", "configs", "split", "revision", "license", "left_out"}` for `results.json`: the
            name on the Hub, or None; the name of the corpus; the configuration of each language; the commit of the
            files that were read, or None; the licence; and how many utterances were left out, by reason.
        lines: about the set, and what is missing of it.
    """

    files: list[str]
    languages: list[str]
    description: dict[str, Any]
    lines: list[str]


@dataclass(frozen=True)
class _Corpus:
    """Holds the parts of a data set, its name on the Hub, or None, and how the Hub calls the rest.

    Args:
        configs: configuration of each language; that of None is for all languages that are not named.
    """

    parts: list[Part]
    id: str | None
    configs: Mapping[str | None, str | None]
    split: str


def prepare_test_set(request: SetRequest, cache: Path) -> PreparedSet:
    """Prepares a test set in a folder below `cache`, unless an earlier call has done so and nothing has changed.

    Several processes may call it at once: one of them prepares, and the others wait for it.

    Raises:
        ValueError: for a data set, split, configuration or language that does not exist, for one whose language is not
            known, for several configurations of one language, if there is nothing to evaluate, and if a part cannot be
            read for a reason that may pass.
    """
    folder = cache / request.folder_name
    with _alone(folder / RECORD) as waited:
        record, lines = _finished(folder), []
        try:
            commit = _commit(request)
        except ConnectionError as error:
            if record is None:
                raise ValueError(f"{request.dataset}: no such path, and {error}") from error
            return _prepared(folder, record, [f"{error}, so {folder} is used as it is"])
        try:
            corpus = _open(request, folder)
            made_of = {"parts": fingerprints(corpus.parts, folder, PREPROCESSING), "commit": commit}
            if record and record["made_of"] == made_of and record["unusable"] == _states(record["unusable"]):
                return _prepared(folder, record, [] if waited else [f"it was prepared before, in {folder}"])
            if record:
                lines = [f"{request.dataset}: has changed since it was prepared in {folder}, and has been read again"]
            if commit and (num_bytes := _bytes_to_download(request, corpus, commit)) >= ANNOUNCED_BYTES:
                logger.warning("%s: about %.1f GB to download, once", request.dataset, num_bytes / 1e9)
            record = _prepare(request, corpus, folder) | {"made_of": made_of}
        except ValueError as error:
            raise ValueError(f"{str(error).rstrip('.')}{_advice(request, commit)}") from error
        write_json(folder / RECORD, record)
        return _prepared(folder, record, lines)


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Keeps other processes from a file while the block runs, after waiting for those that have it; yields whether."""
    with ExitStack() as claim:
        claim.callback(_remove_empty, path.parent)
        waits = 0
        while True:
            try:
                claim.enter_context(claimed_file(path))  # waits for a second
                break
            except InUseError:
                waits += 1
                if waits == NOTICED_WAITS:
                    logger.warning("%s: another job prepares this test set; waiting for it", path.parent)
        yield waits > 0


def _remove_empty(folder: Path) -> None:
    """Removes the folder of a set, and the one around it, if a data set that does not exist has left them empty."""
    with suppress(OSError):
        folder.rmdir()
        folder.parent.rmdir()


def _commit(request: SetRequest) -> str | None:
    """Returns the commit of a data set on the Hub; None for one on the disk, and for one that the Hub does not show.

    Raises:
        ConnectionError: in one line, where the Hub does not answer.
        ValueError: for what can be neither a path nor a name.
    """
    if request.path is None:
        try:
            return HfApi().dataset_info(request.dataset.removeprefix(HUB)).sha
        except HFValidationError as error:
            place = "no such file or folder, and not the name of a data set on the Hub, such as google/fleurs"
            raise ValueError(f"{request.dataset}: {place}") from error
        except HfHubHTTPError:
            pass  # reading tells why
        except (HTTPError, OfflineModeIsEnabled) as error:
            raise ConnectionError(f"{constants.ENDPOINT} cannot be reached ({error_line(error)})") from error
    return None


def _bytes_to_download(request: SetRequest, corpus: _Corpus, commit: str) -> int:
    """Returns the size of the files of a set that are not in the Hub's cache, as far as their names show it.

    Such names are `sl_si/test-00000-of-00001.parquet` and `data/sl_si/audio/test.tar.gz`.
    """
    name, splits = request.dataset.removeprefix(HUB), {part.partition("[")[0] for part in corpus.split.split("+")}
    configs = {*corpus.configs.values()} - {"default", None}
    try:
        files = HfApi().dataset_info(name, revision=commit, files_metadata=True).siblings or ()
    except (HfHubHTTPError, HTTPError):
        return 0  # reading tells why
    wanted = {}
    for file in files:
        words = set(re.split(r"/|-\d+|mls_|\.(?:parquet|tar|tsv)", file.rfilename))
        if splits & words and (not configs or configs & words):
            wanted[file.rfilename] = file.size or 0
    if tables := {path: size for path, size in wanted.items() if path.endswith(".parquet")}:
        wanted = tables  # rather than the files of which they were made
    cached = partial(try_to_load_from_cache, name, revision=commit, repo_type="dataset")
    return sum(size for path, size in wanted.items() if not cached(path))


def _finished(folder: Path) -> dict | None:
    """Returns the record of a set that was prepared before, if its recordings are still there."""
    try:
        record = read_json(folder / RECORD)
        containers, _ = record["containers"], record["unusable"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if _file(folder).is_file() and all(Path(path).exists() for path in containers) else None


def _states(recordings: Iterable[str]) -> dict[str, str]:
    """Returns texts that change when recordings that could not be used are repaired."""
    return {name: state_of(Path(name)) for name in islice(recordings, MAX_UNUSABLE)}


def _file(folder: Path) -> Path:
    return folder / "test.parquet"


def _prepare(request: SetRequest, corpus: _Corpus, folder: Path) -> dict:
    """Reads the parts of a set into a folder; returns its record."""
    (folder / RECORD).unlink(missing_ok=True)
    report = prepare(corpus.parts, folder, PREPROCESSING)
    if report.failed:
        raise ValueError(
            f"{report.failed[0].rstrip('.')}; {len(report.failed)} of {len(corpus.parts)} parts of {request.dataset} "
            "are missing: the same command tries them again, and keeps the others"
        )
    if not report.kept:
        raise ValueError(report.why_nothing())
    found = report.splits["test"].utterances
    counts = {name: count for name, count in sorted(found.items()) if not request.languages or name in request.locales}
    if not counts:
        wanted, known = ", ".join(request.locales), ", ".join(sorted(found))
        raise ValueError(f"{request.dataset}: no utterances of {wanted}; there are those of {known}")
    paths = pc.unique(pc.struct_field(pq.read_table(_file(folder), columns=["audio"])["audio"], "path")).to_pylist()
    commits = {match["commit"] for path in paths if (match := SNAPSHOT.search(Path(path).as_posix()))}
    sources = dict.fromkeys(part.source for part in corpus.parts if part.source)
    configs = {language: corpus.configs.get(language, corpus.configs.get(None)) for language in counts}
    description = {
        "id": corpus.id,
        "name": " and ".join(dict.fromkeys(source.name for source in sources)),
        "configs": {language: config for language, config in configs.items() if config},
        "split": corpus.split,
        "revision": commits.pop() if len(commits) == 1 else None,
        "license": " and ".join(dict.fromkeys(source.license for source in sources)),
        "left_out": dict(report.dropped.most_common()),
    }
    missing = sorted({*(request.locales or filter(None, corpus.configs))} - {*counts})
    if request.path is None and report.notes and not corpus.configs.keys().isdisjoint(missing):
        # A connection may have been lost: a set without these languages would be kept as if it were whole.
        raise ValueError(
            f"{request.dataset}: nothing of {', '.join(missing)} can be read: {report.notes[0]}; the same command "
            "tries again, and --languages leaves some out"
        )
    lines = [f"no utterances of {', '.join(missing)}"] if missing else []
    record = {"description": description, "lines": lines + report.notes, "languages": counts}
    unusable = _states(read_quarantine(folder / QUARANTINE))
    return record | {"containers": [] if request.path else paths, "unusable": unusable}


def _prepared(folder: Path, record: Mapping, lines: Sequence[str]) -> PreparedSet:
    description, counts = record["description"], record["languages"]
    name, left_out = description["name"], Counter(description["left_out"])
    configs = {*description["configs"].values()} - {"default"}
    places = [description["id"] if description["id"] != name else None, *(configs if len(configs) == 1 else ())]
    if any(places):  # such as google/fleurs, sl_si
        name += f" ({', '.join(filter(None, places))})"
    line = (
        f"test set: {name}, split {description['split']}, licence {description['license']}: {sum(counts.values())} "
        f"utterances of {len(counts)} {'language' if len(counts) == 1 else 'languages'}"
    )
    dropped = [f"left out: {drop_reasons(left_out)}; see {folder / REPORT}"] if left_out else []
    return PreparedSet([str(_file(folder))], list(counts), description, [line, *lines, *dropped, *record["lines"]])


def _open(request: SetRequest, folder: Path) -> _Corpus:
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


def _common_voice(request: SetRequest) -> _Corpus:
    _refuse_columns(request)
    split = _split_of_tables(request, COMMON_VOICE_SPLITS)
    parts = list(common_voice_parts(request.dataset, request.configs or request.locales, splits=[split]))
    name = request.dataset.removeprefix(HUB) if request.path is None else None
    releases = {match.groups() for part in parts if part.source and (match := RELEASE.search(part.source.name))}
    if name is None and len(releases) == 1:
        major, minor = releases.pop()
        name = f"mozilla-foundation/common_voice_{major}_{minor}" if int(major) <= LAST_ON_HUB else None
    locales = [part.read.keywords["locales"][0] for part in parts]
    return _Corpus(parts, name, dict(zip(locales, locales, strict=True)), _split_on_hub(split))


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


def _librispeech(request: SetRequest, path: Path) -> _Corpus:
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
    return _Corpus(list(librispeech_parts(root, wanted)), LIBRISPEECH_ON_HUB, {"en": config}, split)


def _librispeech_on_hub(split: str) -> str:
    """Returns how the Hub calls a split of LibriSpeech, such as `validation.clean` for `dev-clean`."""
    name, *parts = re.split("[-.]", split)
    return ".".join([_split_on_hub(name), *parts])


def _voxpopuli_splits(root: Path) -> list[str]:
    return [split for split in LABELLED if voxpopuli_asr_locales(root, split)]


def _voxpopuli(request: SetRequest, root: Path, splits: Sequence[str]) -> _Corpus:
    _refuse_columns(request, "text")
    text, split = request.columns.get("text", "raw_text"), _split_of_tables(request, splits)
    configs = request.configs or request.locales or _without_accents(voxpopuli_asr_locales(root, split))
    parts = list(voxpopuli_asr_parts(root, configs, [split], text=text))
    of_language = _by_language(request, [(locale_of_config(config), config.split("-")[0]) for config in configs])
    return _Corpus(parts, VOXPOPULI_ON_HUB, of_language, _split_on_hub(split))


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


def _dataset(request: SetRequest, folder: Path) -> _Corpus:
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
        return _Corpus(parts, known[0], of_language, split)
    if request.path is None and split in DEVELOPMENT:
        split = name_of_split(request.dataset, configs[0], split)
    return _Corpus(parts, None if request.path else request.dataset, of_language, split)


def _advice(request: SetRequest, commit: str | None) -> str:
    """Returns what else to try where a data set is not found."""
    if request.path:
        return ""
    if GONE.fullmatch(request.dataset):
        return (
            "; releases of Common Voice are no longer on the Hub: download one from "
            "https://datacollective.mozillafoundation.org, and give the path of its archive or folder"
        )
    if commit:
        return ""
    return f"; known by name are {', '.join(SOURCES)}; any other data set of the Hub, and its path, are read, too"


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode(errors="surrogatepass")).hexdigest()[:8]
