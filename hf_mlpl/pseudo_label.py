"""Pseudo-labels: greedy texts with scores for unlabelled utterances, in shards that survive an interruption.

`output_dir` gets `shards/00000.parquet`, ..., then `labels.parquet`, utterances with their pseudo-labels that training
reads like any others, and last `complete.json`. What is cut into which shard depends on the utterances alone, so a
job may be continued by any number of processes, and every utterance is labelled exactly once.
"""

from __future__ import annotations

import hashlib
import logging
import math
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from accelerate import Accelerator
from datasets import Dataset
from tqdm import tqdm

from .atomic import check_field, read_json, write_json
from .corpora.sources import Source
from .corpora.utterances import write_utterances
from .decoding import Hypothesis, transcribe
from .error_line import error_line
from .error_rate import ErrorRate
from .label_schema import LABEL_FEATURES, SCORES
from .main_process import claimed_by_job, on_main_process
from .modeling_mlpl import MlplForCTC
from .precision import dtype_of
from .processing_mlpl import MlplProcessor
from .rows import blocks, durations_of, select_rows

logger = logging.getLogger(__name__)

OPTIONAL = (float, type(None))  # types of a field
ROUNDED_SECONDS = 0.1  # by which a table's duration may be off without being wrong
SHARD_SIZE = 1000  # utterances: what an interruption costs at most, per process
# A job too small for so many shards of that size has smaller ones, which processes can share out evenly.
MIN_SHARDS, SMALL_SHARD_SIZE = 32, 200


def pseudo_label(
    accelerator: Accelerator,
    model: MlplForCTC,
    processor: MlplProcessor,
    dataset: Dataset,
    output_dir: Path,
    teacher: str,
    max_batch_seconds: float | None = None,
    num_workers: int | None = None,
    sources: Sequence[Source] = (),
) -> dict:
    """Labels all utterances of `dataset`, going on where an earlier call stopped; returns what `complete.json` holds.

    Where utterances have a text, that is how wrong their labels are, too; texts are used for nothing else. Shards that
    are damaged are noticed, and made anew. The folder is claimed meanwhile, unless it is complete: that is only read.

    Args:
        teacher: revision of the model, as `model_card.teacher_revision` gives it; it becomes the labels' `source`.
        max_batch_seconds, num_workers: of `transcribe`; they change the speed, not the labels.
        sources: where the speech is from, which is noted in `complete.json`.

    Raises:
        ValueError: where `output_dir` holds labels of other utterances, of another teacher, or of one that computes
            in another dtype; and where its `job.json` is damaged, so that nobody knows.
        InUseError: where another job is labelling there.
    """
    ids = hashlib.sha256()
    for number, block in enumerate(blocks(dataset, ["id"])):
        ids.update(("\n" * (number > 0) + "\n".join(block["id"].to_pylist())).encode())
    job = {"teacher": teacher, "utterances": len(dataset), "ids_sha256": ids.hexdigest()}
    job["dtype"] = dtype_of(accelerator.unwrap_model(model))
    if summary := on_main_process(accelerator, lambda: _complete_summary(output_dir, job)):
        return summary
    with claimed_by_job(accelerator, output_dir):
        if summary := on_main_process(accelerator, lambda: _begin(output_dir, job)):
            return summary
        # Neighbours in length share a shard: its batches need less padding.
        order = np.argsort(-durations_of(dataset), kind="stable")
        num_shards = max(math.ceil(len(order) / SHARD_SIZE), min(math.ceil(len(order) / SMALL_SHARD_SIZE), MIN_SHARDS))
        shards = np.array_split(order, num_shards) if num_shards else []
        mine = [
            (number, rows)
            for number, rows in list(enumerate(shards))[accelerator.process_index :: accelerator.num_processes]
            if not _is_labelled(_shard_path(output_dir, number), select_rows(dataset, rows), teacher)
        ]
        total = sum(len(rows) for _, rows in mine)
        with tqdm(total=total, unit=" utterances", desc="labelled", disable=not accelerator.is_main_process) as bar:
            for number, rows in mine:
                shard, unwrapped = dataset.select(rows), accelerator.unwrap_model(model)
                labels = _label(unwrapped, processor, shard, teacher, max_batch_seconds, num_workers, bar)
                write_utterances(labels, _shard_path(output_dir, number), LABEL_FEATURES)
        accelerator.wait_for_everyone()
        return on_main_process(
            accelerator, lambda: _complete(output_dir, job, len(shards), _references(dataset), sources)
        )


def _references(dataset: Dataset) -> dict[str, str]:
    """Returns id -> text of the utterances that somebody has transcribed."""
    return {
        name: text
        for block in blocks(dataset, ["id", "text"])
        for name, text in zip(block["id"].to_pylist(), block["text"].to_pylist(), strict=True)
        if text is not None
    }


def _label(model, processor, shard, teacher, max_batch_seconds, num_workers, progress) -> Iterator[dict]:
    for hypothesis in _hypotheses(model, processor, shard, max_batch_seconds, num_workers, progress):
        utterance, error = shard[hypothesis.row], hypothesis.error
        if not error and not math.isfinite(hypothesis.mean_log_prob):
            error = f"{utterance['id']}: what the model computes of it are no numbers"
        if error:
            logger.warning("%s; it gets no label", error)
        elif abs(hypothesis.seconds - utterance["duration_seconds"]) > ROUNDED_SECONDS:
            utterance["duration_seconds"] = hypothesis.seconds  # else training would believe what is not so
        yield utterance | {
            "text": "" if error else hypothesis.text,
            "source": teacher,
            **(dict.fromkeys(SCORES) if error else scores(hypothesis, utterance["duration_seconds"])),
            "predicted_language": hypothesis.language,
            "error": error,
        }


def _hypotheses(model, processor, shard, max_batch_seconds, num_workers, progress) -> Iterator[Hypothesis]:
    """Transcribes a shard; where that fails, each utterance that is left alone, with an error for those that fail.

    Raises:
        Exception: as it was raised first, where no utterance succeeds.
    """
    left = dict.fromkeys(range(len(shard)))
    try:
        for hypothesis in transcribe(model, processor, shard, max_batch_seconds, num_workers, progress):
            left.pop(hypothesis.row)
            yield hypothesis
        return
    except Exception as error:  # such as too little memory for one batch
        if len(shard) == 1:
            raise
        first, succeeded = error, len(left) < len(shard)
    logger.warning("%s; %d utterances are labelled one by one", error_line(first), len(left))
    for row in left:
        try:
            [hypothesis] = transcribe(model, processor, shard.select([row]), max_batch_seconds, num_workers=0)
            yield replace(hypothesis, row=row)
            succeeded = True
        except Exception as error:
            yield Hypothesis(row=row, error=f"utterance {shard[row]['id']}: {error_line(error)}")
        progress.update()
    if not succeeded:
        raise first


def scores(hypothesis: Hypothesis, duration_seconds: float) -> dict[str, float | None]:
    """What `SCORES` explains, of one label."""
    text = hypothesis.text.encode()
    return {
        "mean_log_prob": hypothesis.mean_log_prob,
        "lowest_word_confidence": hypothesis.lowest_word_confidence,
        "blank_ratio": hypothesis.blank_ratio,
        "characters_per_second": len(hypothesis.text) / duration_seconds if duration_seconds > 0 else None,
        "compression_ratio": len(text) / len(zlib.compress(text)),
        "language_probability": hypothesis.language_probability,
    }


def _complete(
    output_dir: Path, job: dict, num_shards: int, references: dict[str, str], sources: Sequence[Source]
) -> dict:
    """Joins the shards into `labels.parquet`; says in `complete.json` what is in it, and returns that."""
    languages = defaultdict(lambda: {"labels": 0, "empty": 0, "errors": 0, "hours": 0.0, "mean_log_prob": 0.0})
    error_rates = defaultdict(ErrorRate)  # by language, of the labels that have a reference

    def labels() -> Iterator[dict]:
        for number in range(num_shards):
            for row in _read_shard(_shard_path(output_dir, number)).to_pylist():
                counts = languages[row["language"]]
                if row["error"]:
                    counts["errors"] += 1
                    continue
                counts["labels"] += 1
                counts["empty"] += not row["text"]
                counts["hours"] += row["duration_seconds"] / 3600
                counts["mean_log_prob"] += row["mean_log_prob"]
                if (reference := references.get(row["id"])) is not None:
                    error_rates[row["language"]].add(row["text"], reference)
                yield row

    written = write_utterances(labels(), output_dir / "labels.parquet", LABEL_FEATURES)
    errors = sum(counts["errors"] for counts in languages.values())
    for language, counts in languages.items():
        counts["mean_log_prob"] /= max(counts["labels"], 1)
        counts["cer"] = error_rates[language].rate if language in error_rates else None
    summary = {
        **job,
        "labels": written,
        "errors": errors,
        "languages": dict(sorted(languages.items())),
        "sources": [asdict(source) for source in sources],
    }
    write_json(output_dir / "complete.json", summary)
    return summary


def read_summary(labels: Path) -> dict:
    """Reads what `complete.json` says of a folder of labels.

    Raises:
        OSError: for a folder that is not complete.
        ValueError: for a `complete.json` that is damaged, or of a version that noted less.
    """
    path = labels / "complete.json"
    summary = read_json(path, teacher=str, utterances=int, labels=int, errors=int, languages=dict, sources=list)
    try:
        for language in summary["languages"]:
            check_field(summary["languages"], language, dict)
            counts = summary["languages"][language]
            for name, kind in {"labels": int, "empty": int, "errors": int, "hours": float, "cer": OPTIONAL}.items():
                check_field(counts, name, kind)
            check_field(counts, "mean_log_prob", float)
        for source in summary["sources"]:
            check_source(source)
    except ValueError as error:
        raise ValueError(f"{path}: damaged, or of an older hf_mlpl ({error})") from error
    return summary


def check_source(source: dict) -> None:
    """Raises a ValueError for what is not the JSON of a `Source`."""
    check_field({"source": source}, "source", dict)
    for name, kind in {"name": str, "license": str, "url": (str, type(None))}.items():
        check_field(source, name, kind)


def all_empty(counts: dict) -> bool:
    """Tells, by a summary's counts of a language, whether there are labels and none has a text."""
    return 0 < counts["labels"] == counts["empty"]


def _complete_summary(output_dir: Path, job: dict) -> dict | None:
    """Returns the summary of a folder in which nothing is left to do, and None for any other.

    Raises:
        ValueError: for a folder of another job, and one of which that cannot be said.
    """
    if (output_dir / "job.json").exists():
        _check_same_job(output_dir / "job.json", job)
    try:
        return _whole_summary(output_dir) if (output_dir / "complete.json").exists() else None
    except ValueError:
        return None


def _whole_summary(output_dir: Path) -> dict:
    """Returns the summary of a complete folder; raises a ValueError where it, or `labels.parquet`, is damaged."""
    summary, path = read_summary(output_dir), output_dir / "labels.parquet"
    try:
        rows = pq.read_metadata(path).num_rows
    except Exception as error:  # whatever a damaged file makes of a reader
        raise ValueError(f"{path}: damaged ({error})") from error
    if rows != summary["labels"]:
        raise ValueError(f"{path}: has {rows} labels of {summary['labels']}")
    return summary


def _begin(output_dir: Path, job: dict) -> dict | None:
    """Notes what is labelled by whom in `job.json`; returns a summary where another job has just done it all."""
    if summary := _complete_summary(output_dir, job):
        return summary
    if (output_dir / "complete.json").exists():
        try:
            _whole_summary(output_dir)
        except ValueError as error:
            logger.warning("%s; it is made anew of the shards", error_line(error))
    if not (output_dir / "job.json").exists():
        write_json(output_dir / "job.json", job)
    return None


def _check_same_job(path: Path, job: dict) -> None:
    """Compares a job with what the folder was begun with."""
    try:
        begun = read_json(path, teacher=str, utterances=int, ids_sha256=str)
    except ValueError as error:
        raise ValueError(
            f"{error}; delete it if the labels beside it are of this job, or choose another folder"
        ) from None
    begun = {"dtype": "float32"} | begun  # all that older versions had
    differing = [name for name in job if begun[name] != job[name]]
    if differing:
        changes = "; ".join(f"{name} was {begun[name]!r}, is {job[name]!r}" for name in differing)
        raise ValueError(f"{path.parent} holds another job's labels: {changes}. Choose another folder, or remove it")


def _is_labelled(path: Path, utterances: Dataset, teacher: str) -> bool:
    """Tells whether a shard is there and whole: it holds labels of these utterances, by this teacher."""
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


def _shard_path(output_dir: Path, number: int) -> Path:
    return output_dir / "shards" / f"{number:05d}.parquet"
