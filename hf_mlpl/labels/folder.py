"""Keeps the output folder of a labelling job, which any number of processes may share, and go on with later.

job.json                      the teacher, and the utterances that it labels
shards/00000.arrow, ...       labels; each shard is written atomically, and its first writer's stays
shards/.00001.arrow.claim-0   says who makes a shard; see `labels.claims`
labels.parquet                the labels of all shards, written when they are complete
unreadable.tsv                the utterances without a label, if any, with the reason
complete.json                 the summary of the labels, written last
"""

from __future__ import annotations

import logging
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset

from ..atomic import check_fields, read_json, write_json
from ..corpora.sources import Source
from ..data.collapse import FEWEST_LABELS, describe_collapse
from ..data.conventions import KINDS
from ..data.drops import DropFile, audio_problem, describe_unusable
from ..data.rows import blocks, row_groups
from ..data.utterances import write_tables
from ..error_line import error_line
from ..remote_path import AnyPath, RemotePath, as_path, parquet_source
from ..storage import StorageError
from .claims import is_claim
from .disk import disk_of
from .shards import SCHEMA, Facts, ShardCounts, counts_of, made_labels, read_shard

logger = logging.getLogger(__name__)

Types = dict[str, type | tuple[type, ...]]  # of the fields of a JSON object
COUNTS: Types = {
    **{"labels": int, "empty": int, "errors": int},
    **{"hours": float, "mean_log_prob": (float, type(None)), "cer": (float, type(None))},
}
# What older versions did not count.
LATER: Types = {"commonest": float, "length_ratio": (float, type(None)), "convention": dict}
CONVENTION: Types = dict.fromkeys(("texts", *KINDS), int)
UNREADABLE = "unreadable.tsv"
OLDER_JOB = {"dtype": "float32", "order": "duration"}  # what older versions had only one of, and did not write
SHARD_NAME = re.compile(r"(\d{5,})\.(?:arrow|parquet)")  # the latter of older versions
READERS = 1  # threads that read shards for the join: one reads twice as fast as it writes, and more slow it down
REMOTE_READERS = 16  # of object storage, where each waits most of the time
READ_AHEAD = 32  # shards: those of the next row group are read while one is written
SOURCE: Types = {"name": str, "license": str, "url": (str, type(None))}
Result = TypeVar("Result")


def begin(folder: AnyPath, job: dict, log_level: int) -> dict | None:
    """Writes `job.json` unless it exists; returns the summary of a folder that is complete.

    Args:
        log_level: of `complete_summary`.

    Raises:
        ValueError: as `complete_summary` does; of several jobs that begin at once in one folder, for all but one.
    """
    summary = complete_summary(folder, job, log_level)
    if summary is None:
        if not (folder / "job.json").exists():
            write_json(folder / "job.json", job, keep=True)
        check_same_job(folder / "job.json", job)
    return summary


def complete_summary(folder: AnyPath, job: dict, log_level: int = logging.DEBUG) -> dict | None:
    """Returns the summary of a complete folder, and None for any other.

    Args:
        log_level: of the line about a damaged `complete.json` or `labels.parquet`.

    Raises:
        ValueError: for a folder of another job, and for a damaged `job.json`.
    """
    if (folder / "job.json").exists():
        check_same_job(folder / "job.json", job)
    if not (folder / "complete.json").exists():
        return None
    path = folder / "labels.parquet"
    try:
        summary = _read_summary(folder)
        try:
            num_labels = pq.read_metadata(parquet_source(path)).num_rows
        except StorageError as error:
            if not isinstance(error, FileNotFoundError):
                raise
            raise ValueError(f"{path}: is not there") from error
        except Exception as error:  # a damaged file makes readers raise nearly anything
            raise ValueError(f"{path}: damaged ({error})") from error
        if num_labels != summary["labels"]:
            raise ValueError(f"{path}: has {num_labels} labels of {summary['labels']}")
        return summary
    except ValueError as error:
        logger.log(log_level, "%s; it is made anew of the shards", error_line(error))
        return None


def check_same_job(path: AnyPath, job: dict) -> None:
    """Raises a ValueError if the `job.json` at `path` is of another job, or damaged."""
    begun = _read_job(path)
    if differing := [name for name in job if begun[name] != job[name]]:
        changes = "; ".join(f"{name} was {begun[name]!r}, is {job[name]!r}" for name in differing)
        if differing == ["ids_sha256"]:
            changes += " (other ids, or other durations of the utterances or places in recordings, which order them)"
        raise ValueError(f"{path.parent} holds another job's labels: {changes}. Choose another folder, or remove it")


def begun_job(folder: AnyPath) -> dict:
    """Returns the content of `job.json`, with what older versions did not write; nothing if it is not there.

    Raises:
        ValueError: for one that is damaged.
    """
    path = folder / "job.json"
    return _read_job(path) if path.exists() else {}


def _read_job(path: AnyPath) -> dict:
    try:
        return OLDER_JOB | read_json(path, teacher=str, utterances=int, ids_sha256=str)
    except ValueError as error:
        raise ValueError(
            f"{error}; delete it if the labels beside it are of this job, or choose another folder"
        ) from None


def shard_path(folder: AnyPath, number: int) -> AnyPath:
    """Returns where a shard is written."""
    return folder / "shards" / f"{number:05d}.arrow"


def shards_there(folder: AnyPath) -> dict[int, AnyPath]:
    """Returns the shards that have been made, by their numbers."""
    shards = folder / "shards"
    names = sorted(disk_of(folder).names(shards), reverse=True)  # of two with one number, that of this version is last
    return {int(match[1]): shards / name for name in names if (match := SHARD_NAME.fullmatch(name))}


def remove_claims(folder: AnyPath) -> None:
    """Removes what killed processes have left beside shards, once all of these are there."""
    disk, shards = disk_of(folder), folder / "shards"
    disk.remove_left(shards)
    for name in filter(is_claim, disk.names(shards)):
        (shards / name).unlink(missing_ok=True)


def is_labelled(path: AnyPath, utterances: Dataset, teacher: str) -> bool:
    """Returns whether a shard exists, is undamaged, and holds labels of these utterances by this teacher.

    A shard with an utterance that could not be labelled, and whose audio can be read now, is not labelled. A text that
    was cut off is a label in this sense.
    """
    if not path.exists():
        return False
    try:
        table = read_shard(path)
        table.validate(full=True)
        ids = [name for block in blocks(utterances, ["id"]) for name in block["id"].to_pylist()]
        if sorted(table["id"].to_pylist()) != sorted(ids) or set(table["source"].to_pylist()) != {teacher}:
            raise ValueError("it holds other labels")
    except StorageError:  # says nothing about the shard
        raise
    except Exception as error:  # a damaged file makes readers raise nearly anything
        logger.warning("%s: damaged (%s); it is labelled again", path, error_line(error))
        return False
    # A text that was cut off has scores, and would be cut off again.
    is_unlabelled = pc.and_(table["error"].is_valid(), table["mean_log_prob"].is_null())
    unlabelled = table.filter(is_unlabelled).select(["id", "audio"]).to_pylist()
    if name := next((row["id"] for row in unlabelled if audio_problem(row["audio"]) is None), None):
        logger.warning("%s: %s can be read now; it is labelled again", path, name)
        return False
    return True


def join_shards(
    folder: AnyPath,
    job: dict,
    num_shards: int,
    transcripts: Callable[[int], pa.Table] | None,
    sources: Sequence[Source],
    finish: Callable[[], None] = lambda: None,
) -> dict:
    """Joins the shards into `labels.parquet`; writes their summary to `complete.json`, and returns it.

    The files depend on the shards alone: if two processes join them at once, both write the same.

    Args:
        transcripts: returns `id` and `text` of the utterances of a shard that have a transcript, given its number; it
            is called from several threads. The labels of these are compared with them. None if there are no
            transcripts.
        finish: is called when all shards have been read; it raises an error if this process must not write the files
            any more.

    Raises:
        ValueError: for a damaged shard.
    """
    counts, errors, paths = ShardCounts(Facts()), Counter[str](), shards_there(folder)

    def read(number: int) -> tuple[pa.Table, list[dict], ShardCounts]:
        shard = _read_sound_shard(paths.get(number, shard_path(folder, number)))
        made, shard_counts = made_labels(shard), counts_of(shard, transcripts and transcripts(number))
        failed = shard.filter(shard["error"].is_valid()) if len(made) < len(shard) else shard.slice(0, 0)
        return made, failed.select(["id", "language", "error"]).to_pylist(), shard_counts

    def labels() -> Iterator[pa.Table]:
        readers = REMOTE_READERS if isinstance(folder, RemotePath) else READERS
        for made, failed, shard_counts in _ahead(read, range(num_shards), readers):
            counts.merge(shard_counts)
            for row in failed:
                errors[row["language"]] += 1
                unreadable.add("error", row["id"], row["language"], row["error"])
            yield made

    def checked() -> Iterator[pa.Table]:
        yield from row_groups(labels())
        finish()

    with DropFile(folder / UNREADABLE, ("id", "language", "reason")) as unreadable:
        num_labels = write_tables(checked(), folder / "labels.parquet", SCHEMA, summary=counts.summary)
    languages = counts.report(errors)
    summary = {
        **job,
        "labels": num_labels,
        "errors": errors.total(),
        "languages": languages,
        "sources": [asdict(source) for source in sources],
    }
    write_json(folder / "complete.json", summary)
    return summary


def _ahead(function: Callable[[int], Result], numbers: Iterable[int], num_threads: int) -> Iterator[Result]:
    """Yields what a function returns for numbers, in their order; threads call it for the next ones meanwhile."""
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        for number in numbers:
            waiting.append(pool.submit(function, number))
            if len(waiting) > READ_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _read_sound_shard(path: AnyPath) -> pa.Table:
    try:
        return read_shard(path)
    except Exception as error:
        # Of damaged files an OSError has no number.
        if isinstance(error, StorageError) or isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{path}: damaged ({error_line(error)}); the same command labels it again") from error


def read_complete(folder: str | AnyPath) -> dict:
    """Reads the summary of a complete folder of labels.

    Raises:
        ValueError: for a folder that is not complete, or whose summary is damaged or of an older hf_mlpl.
    """
    folder = as_path(folder)
    if not (folder / "complete.json").is_file() or not (folder / "labels.parquet").is_file():
        raise ValueError(
            f"{folder}: no complete pseudo-labels; `hf-mlpl pseudo-label --output {folder}` makes them, or goes on "
            "where it stopped"
        )
    try:
        return _read_summary(folder)
    except ValueError as error:
        raise ValueError(
            f"{error}; delete it and give `hf-mlpl pseudo-label` its command again, which labels nothing anew"
        ) from None


def _read_summary(folder: AnyPath) -> dict:
    """Reads and checks `complete.json`; raises a ValueError for one that is damaged, or of an older version."""
    path = folder / "complete.json"
    summary = read_json(path, teacher=str, utterances=int, labels=int, errors=int, languages=dict, sources=list)
    try:
        check_fields(summary["languages"], dict.fromkeys(summary["languages"], dict))
        for counts in summary["languages"].values():
            check_fields(counts, COUNTS | {name: kind for name, kind in LATER.items() if name in counts})
            check_convention(counts.get("convention"))
        check_sources(summary["sources"])
    except ValueError as error:
        raise ValueError(f"{path}: damaged, or of an older hf_mlpl ({error})") from error
    return summary


def check_convention(convention: dict | None) -> None:
    """Raises a ValueError for what is neither None nor counts of `Conventions`."""
    if convention is not None:
        check_fields(convention, CONVENTION)


def check_sources(sources: list) -> None:
    """Raises a ValueError for a list that is not the JSON of `Source`s."""
    for source in sources:
        check_fields({"source": source}, {"source": dict})
        check_fields(source, SOURCE)


def collapse_of(summary: dict) -> dict[str, str]:
    """Returns for each language of a complete folder whose labels have collapsed a clause that says how."""
    clauses = {
        language: describe_collapse({"commonest": 0.0, **counts, "empty": counts["empty"] / max(counts["labels"], 1)})
        for language, counts in summary["languages"].items()
    }
    return {language: clause for language, clause in clauses.items() if clause}


def unreadable_of(summary: dict) -> dict[str, str]:
    """Returns for each language of a complete folder of which most utterances could not be read a clause about it.

    A language of fewer than ten utterances is judged only if there is no other.
    """
    totals = {language: counts["labels"] + counts["errors"] for language, counts in summary["languages"].items()}
    clauses = {
        language: describe_unusable(summary["languages"][language]["errors"], total)
        for language, total in totals.items()
        if total >= FEWEST_LABELS or len(totals) == 1
    }
    return {language: clause for language, clause in clauses.items() if clause}
