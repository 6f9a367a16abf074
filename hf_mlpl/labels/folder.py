"""The folder of a labelling job, which an interrupted job goes on with.

job.json                      whose labels of which utterances are in it
shards/00000.parquet, ...     labels, a shard written as a whole or not at all
labels.parquet                the labels of all shards, written when they are complete
complete.json                 the summary of the labels, written last
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from ..atomic import check_fields, read_json, write_json
from ..corpora.sources import Source
from ..data.rows import blocks
from ..data.utterances import write_utterances
from ..error_line import error_line
from ..evaluation.error_rate import ErrorRate
from .schema import LABEL_FEATURES

logger = logging.getLogger(__name__)

OPTIONAL = (float, type(None))  # types of a field
COUNTS = {"labels": int, "empty": int, "errors": int, "hours": float, "cer": OPTIONAL, "mean_log_prob": float}
SOURCE = {"name": str, "license": str, "url": (str, type(None))}


def begin(folder: Path, job: dict) -> dict | None:
    """Notes a job in `job.json`, unless it is there; returns the summary where nothing is left to do.

    Raises:
        ValueError: as `complete_summary` does.
    """
    if summary := complete_summary(folder, job):
        return summary
    if (folder / "complete.json").exists():
        try:
            _check_complete(folder)
        except ValueError as error:
            logger.warning("%s; it is made anew of the shards", error_line(error))
    if not (folder / "job.json").exists():
        write_json(folder / "job.json", job)
    return None


def complete_summary(folder: Path, job: dict) -> dict | None:
    """Returns the summary of a folder in which nothing is left to do, and None for any other.

    Raises:
        ValueError: for a folder of another job, and one whose `job.json` is damaged.
    """
    if (folder / "job.json").exists():
        check_same_job(folder / "job.json", job)
    try:
        return _check_complete(folder) if (folder / "complete.json").exists() else None
    except ValueError:
        return None


def check_same_job(path: Path, job: dict) -> None:
    """Raises a ValueError where a folder was begun with another job."""
    try:
        begun = read_json(path, teacher=str, utterances=int, ids_sha256=str)
    except ValueError as error:
        raise ValueError(
            f"{error}; delete it if the labels beside it are of this job, or choose another folder"
        ) from None
    begun = {"dtype": "float32"} | begun  # the only one of older versions
    if differing := [name for name in job if begun[name] != job[name]]:
        changes = "; ".join(f"{name} was {begun[name]!r}, is {job[name]!r}" for name in differing)
        raise ValueError(f"{path.parent} holds another job's labels: {changes}. Choose another folder, or remove it")


def _check_complete(folder: Path) -> dict:
    """Returns the summary of a complete folder; raises a ValueError where it, or `labels.parquet`, is damaged."""
    summary, path = read_summary(folder), folder / "labels.parquet"
    try:
        rows = pq.read_metadata(path).num_rows
    except Exception as error:  # whatever a damaged file makes of a reader
        raise ValueError(f"{path}: damaged ({error})") from error
    if rows != summary["labels"]:
        raise ValueError(f"{path}: has {rows} labels of {summary['labels']}")
    return summary


def shard_path(folder: Path, number: int) -> Path:
    return folder / "shards" / f"{number:05d}.parquet"


def is_labelled(path: Path, utterances: Dataset, teacher: str) -> bool:
    """Tells whether a shard exists, is undamaged, and holds labels of these utterances by this teacher."""
    if not path.exists():
        return False
    try:
        table = _read_shard(path)
        table.validate(full=True)
        ids = [name for block in blocks(utterances, ["id"]) for name in block["id"].to_pylist()]
        if sorted(table["id"].to_pylist()) != sorted(ids) or set(table["source"].to_pylist()) != {teacher}:
            raise ValueError("it holds other labels")
    except Exception as error:  # whatever a damaged file makes of a reader
        logger.warning("%s: damaged (%s); it is labelled again", path, error_line(error))
        return False
    return True


def _read_shard(path: Path) -> pa.Table:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        if not file.schema_arrow.equals(LABEL_FEATURES.arrow_schema):
            raise ValueError(f"{path}: has other columns than labels")
        return file.read()


def join_shards(
    folder: Path, job: dict, num_shards: int, references: Mapping[str, str], sources: Sequence[Source]
) -> dict:
    """Joins the shards into `labels.parquet`; summarises them in `complete.json`, and returns the summary.

    Args:
        references: id -> text, with which the label of that utterance is compared.
    """
    languages = defaultdict(lambda: {"labels": 0, "empty": 0, "errors": 0, "hours": 0.0, "mean_log_prob": 0.0})
    error_rates = defaultdict(ErrorRate)  # by language

    def labels() -> Iterator[dict]:
        for number in range(num_shards):
            for row in _read_shard(shard_path(folder, number)).to_pylist():
                counts = languages[row["language"]]
                if row["error"]:
                    counts["errors"] += 1
                    continue
                counts["labels"] += 1
                counts["empty"] += not row["text"]
                counts["hours"] += row["duration_seconds"] / 3600
                counts["mean_log_prob"] += row["mean_log_prob"]
                if row["id"] in references:
                    error_rates[row["language"]].add(row["text"], references[row["id"]])
                yield row

    written = write_utterances(labels(), folder / "labels.parquet", LABEL_FEATURES)
    for language, counts in languages.items():
        counts["mean_log_prob"] /= max(counts["labels"], 1)
        counts["cer"] = error_rates[language].rate if language in error_rates else None
    summary = {
        **job,
        "labels": written,
        "errors": sum(counts["errors"] for counts in languages.values()),
        "languages": dict(sorted(languages.items())),
        "sources": [asdict(source) for source in sources],
    }
    write_json(folder / "complete.json", summary)
    return summary


def read_complete(folder: Path) -> dict:
    """Reads the summary of a folder whose labels are used.

    Raises:
        ValueError: for a folder that is not complete, or whose summary is damaged or of an older hf_mlpl.
    """
    if not (folder / "complete.json").is_file() or not (folder / "labels.parquet").is_file():
        raise ValueError(
            f"{folder}: no complete pseudo-labels; `hf-mlpl pseudo-label --output {folder}` makes them, or goes on "
            "where it stopped"
        )
    try:
        return read_summary(folder)
    except ValueError as error:
        raise ValueError(
            f"{error}; delete it and give `hf-mlpl pseudo-label` its command again, which labels nothing anew"
        ) from None


def read_summary(folder: Path) -> dict:
    """Reads `complete.json`, and checks its fields.

    Raises:
        OSError: for a folder that is not complete.
        ValueError: for a `complete.json` that is damaged, or of a version that noted less.
    """
    path = folder / "complete.json"
    summary = read_json(path, teacher=str, utterances=int, labels=int, errors=int, languages=dict, sources=list)
    try:
        check_fields(summary["languages"], dict.fromkeys(summary["languages"], dict))
        for counts in summary["languages"].values():
            check_fields(counts, COUNTS)
        check_sources(summary["sources"])
    except ValueError as error:
        raise ValueError(f"{path}: damaged, or of an older hf_mlpl ({error})") from error
    return summary


def check_sources(sources: list) -> None:
    """Raises a ValueError for what is not the JSON of `Source`s."""
    for source in sources:
        check_fields({"source": source}, {"source": dict})
        check_fields(source, SOURCE)


def all_empty(counts: dict) -> bool:
    """Tells, by a summary's counts of a language, whether there are labels and none has a text."""
    return 0 < counts["labels"] == counts["empty"]
