"""Prepares test sets by name: data sets of the Hub, published corpora on the disk, and any other data set.

A prepared set is kept in a folder, and read again by the next evaluation, unless its source has changed since. Nothing
is copied into it but recordings that are in no file.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled

from ..atomic import read_json, write_json
from ..corpora.listing import recording_state
from ..corpora.preparation.parts import QUARANTINE, fingerprints
from ..corpora.preparation.prepare import MAX_UNUSABLE, REPORT, Preprocessing, prepare, read_quarantine
from ..corpora.preparation.published_parts import (
    HUB,
)
from ..corpora.readers.published import SOURCES
from ..corpora.reading import drop_reasons
from ..error_line import error_line
from ..folder_lock import InUseError, claimed_file
from .test_set_corpora import SetRequest, TestSetCorpus, open_corpus

logger = logging.getLogger(__name__)

RECORD = "test-set.json"  # what a folder was made of, which is written last
NOTICED_WAITS = 60  # for another process, of about a second each
ANNOUNCED_BYTES = 10**8  # of a download
PREPROCESSING = Preprocessing(labelled=True)
GONE = re.compile(r"mozilla-foundation/common_voice_\d+_\d+")
SNAPSHOT = re.compile(r"/snapshots/(?P<commit>[0-9a-f]{40})/")  # in the path of a file in the Hub's cache


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
            corpus = open_corpus(request, folder)
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


def _bytes_to_download(request: SetRequest, corpus: TestSetCorpus, commit: str) -> int:
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
    return {name: recording_state(name) for name in islice(recordings, MAX_UNUSABLE)}


def _file(folder: Path) -> Path:
    return folder / "test.parquet"


def _prepare(request: SetRequest, corpus: TestSetCorpus, folder: Path) -> dict:
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
