"""Keeps the output folder of a labelling job, so that an interrupted job can go on.

job.json                      the teacher, and the utterances that it labels
shards/00000.parquet, ...     labels; each shard is written atomically
labels.parquet                the labels of all shards, written when they are complete
unreadable.tsv                the utterances without a label, if any, with the reason
complete.json                 the summary of the labels, written last
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset

from ..atomic import check_fields, read_json, write_json
from ..corpora.sources import Source
from ..data.collapse import FEWEST_LABELS, LabelTexts, describe_collapse
from ..data.conventions import KINDS, Conventions
from ..data.drops import DropFile, audio_problem, describe_unusable
from ..data.rows import blocks
from ..data.utterances import write_utterances
from ..error_line import error_line
from ..evaluation.error_rate import ErrorRate
from .files import with_null_scores
from .schema import LABEL_FEATURES

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
SOURCE: Types = {"name": str, "license": str, "url": (str, type(None))}


def begin(folder: Path, job: dict) -> dict | None:
    """Writes `job.json` unless it exists; returns the summary of a folder that is complete.

    Raises:
        ValueError: as `complete_summary` does.
    """
    summary = complete_summary(folder, job, logging.WARNING)
    if summary is None and not (folder / "job.json").exists():
        write_json(folder / "job.json", job)
    return summary


def complete_summary(folder: Path, job: dict, log_level: int = logging.DEBUG) -> dict | None:
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
            num_labels = pq.read_metadata(path).num_rows
        except Exception as error:  # a damaged file makes readers raise nearly anything
            raise ValueError(f"{path}: damaged ({error})") from error
        if num_labels != summary["labels"]:
            raise ValueError(f"{path}: has {num_labels} labels of {summary['labels']}")
        return summary
    except ValueError as error:
        logger.log(log_level, "%s; it is made anew of the shards", error_line(error))
        return None


def check_same_job(path: Path, job: dict) -> None:
    """Raises a ValueError if the `job.json` at `path` is of another job, or damaged."""
    try:
        begun = read_json(path, teacher=str, utterances=int, ids_sha256=str)
    except ValueError as error:
        raise ValueError(
            f"{error}; delete it if the labels beside it are of this job, or choose another folder"
        ) from None
    begun = {"dtype": "float32"} | begun  # the only dtype of older versions
    if differing := [name for name in job if begun[name] != job[name]]:
        changes = "; ".join(f"{name} was {begun[name]!r}, is {job[name]!r}" for name in differing)
        raise ValueError(f"{path.parent} holds another job's labels: {changes}. Choose another folder, or remove it")


def shard_path(folder: Path, number: int) -> Path:
    return folder / "shards" / f"{number:05d}.parquet"


def is_labelled(path: Path, utterances: Dataset, teacher: str) -> bool:
    """Returns whether a shard exists, is undamaged, and holds labels of these utterances by this teacher.

    A shard with an utterance that could not be labelled, and whose audio can be read now, is not labelled. A text that
    was cut off is a label in this sense.
    """
    if not path.exists():
        return False
    try:
        table = _read_shard(path)
        table.validate(full=True)
        ids = [name for block in blocks(utterances, ["id"]) for name in block["id"].to_pylist()]
        if sorted(table["id"].to_pylist()) != sorted(ids) or set(table["source"].to_pylist()) != {teacher}:
            raise ValueError("it holds other labels")
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


def _read_shard(path: Path) -> pa.Table:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        shard = with_null_scores(file.read(), path)
        if not shard.schema.equals(LABEL_FEATURES.arrow_schema):
            raise ValueError(f"{path}: has other columns than labels")
        return shard


def join_shards(
    folder: Path, job: dict, num_shards: int, references: Mapping[str, str], sources: Sequence[Source]
) -> dict:
    """Joins the shards into `labels.parquet`; writes their summary to `complete.json`, and returns it.

    Args:
        references: id -> transcript, with which the label of that utterance is compared.
    """
    languages: dict[str, dict] = defaultdict(
        lambda: {"labels": 0, "empty": 0, "errors": 0, "hours": 0.0, "mean_log_prob": None}
    )
    error_rates: dict[str, ErrorRate] = defaultdict(ErrorRate)  # by language
    # By language: labels with a reference, their characters, and those of the references.
    compared, written, expected = Counter[str](), Counter[str](), Counter[str]()
    log_probs: dict[str, list[float]] = defaultdict(list)  # by language, of the labels that have one
    texts, conventions = LabelTexts(), Conventions()

    def labels() -> Iterator[dict]:
        for number in range(num_shards):
            shard = _read_shard(shard_path(folder, number))
            made = shard.filter(shard["error"].is_null())
            texts.add(made)
            conventions.add_by("language", made)
            for row in shard.to_pylist():
                counts = languages[row["language"]]
                if row["error"]:
                    counts["errors"] += 1
                    unreadable.add("error", row["id"], row["language"], row["error"])
                    continue
                counts["labels"] += 1
                counts["empty"] += not row["text"]
                counts["hours"] += row["duration_seconds"] / 3600
                if row["mean_log_prob"] is not None:
                    log_probs[row["language"]].append(row["mean_log_prob"])
                if row["id"] in references:
                    error_rates[row["language"]].add(row["text"], references[row["id"]])
                    compared[row["language"]] += 1
                    written[row["language"]] += len(row["text"])
                    expected[row["language"]] += len(references[row["id"]])
                yield row

    with DropFile(folder / UNREADABLE, ("id", "language", "reason")) as unreadable:
        num_labels = write_utterances(labels(), folder / "labels.parquet", LABEL_FEATURES)
    for language, counts in languages.items():
        if log_probs[language]:
            counts["mean_log_prob"] = sum(log_probs[language]) / len(log_probs[language])
        counts["convention"] = conventions.report(language)
        counts["cer"] = error_rates[language].rate if language in error_rates else None
        counts["commonest"] = texts.report(language)["commonest"] if counts["labels"] else 0.0
        is_enough = compared[language] >= FEWEST_LABELS and expected[language]
        counts["length_ratio"] = written[language] / expected[language] if is_enough else None
    summary = {
        **job,
        "labels": num_labels,
        "errors": sum(counts["errors"] for counts in languages.values()),
        "languages": dict(sorted(languages.items())),
        "sources": [asdict(source) for source in sources],
    }
    write_json(folder / "complete.json", summary)
    return summary


def read_complete(folder: Path) -> dict:
    """Reads the summary of a complete folder of labels.

    Raises:
        ValueError: for a folder that is not complete, or whose summary is damaged or of an older hf_mlpl.
    """
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


def _read_summary(folder: Path) -> dict:
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
