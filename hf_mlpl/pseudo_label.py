"""Pseudo-labels: greedy texts with scores for unlabelled utterances, in shards that survive an interruption.

`output_dir` gets `shards/00000.parquet`, ..., then `labels.parquet`, utterances with their pseudo-labels that training
reads like any others, and last `complete.json`. What is cut into which shard depends on the utterances alone, so a
job may be continued by any number of processes, and every utterance is labelled exactly once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from datasets import Dataset, Features, Value
from rapidfuzz.distance import Levenshtein
from tqdm import tqdm

from .atomic import write_json
from .corpora.sources import Source
from .corpora.utterances import FEATURES, blocks, durations_of, write_utterances
from .decoding import Hypothesis, transcribe
from .inference_dtype import dtype_of
from .modeling_mlpl import MlplForCTC
from .processing_mlpl import MlplProcessor
from .text import normalize_text

logger = logging.getLogger(__name__)

# What `filter_labels` can choose by; null where there is nothing to measure.
SCORES = {
    "mean_log_prob": "mean log-probability of the best class per output frame; 0 is certain",
    "lowest_word_confidence": "the same of the least certain word, as a probability; null without words",
    "blank_ratio": "share of the output frames that say blank",
    "characters_per_second": "length of the text per second of audio",
    "compression_ratio": "bytes of the text divided by those that zlib makes of it; a repetitive text has a high one",
    "language_probability": "of the utterance's own language, by the teacher's language-ID head",
}
LABEL_FEATURES = Features(
    {
        **FEATURES,
        **dict.fromkeys(SCORES, Value("float64")),
        "predicted_language": Value("string"),  # by the teacher's language-ID head
        "error": Value("string"),  # why there is no label; null otherwise
    }
)
ROUNDED_SECONDS = 0.1  # by which a table's duration may be off without being wrong
SHARD_SIZE = 1000  # utterances: what an interruption costs at most, per process
# A job too small for so many shards of that size has smaller ones, which processes can share out evenly.
SHARDS, SMALL_SHARD_SIZE = 32, 200


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

    Where utterances have a text, that is how wrong their labels are, too; texts are used for nothing else.

    Args:
        teacher: revision of the model, as `teacher_revision` gives it; it becomes the labels' `source`.
        max_batch_seconds, num_workers: of `transcribe`; they change the speed, not the labels.
        sources: where the speech is from, which is noted in `complete.json`.

    Raises:
        ValueError: where `output_dir` holds labels of other utterances, of another teacher, or of one that computes
            in another dtype.
    """
    ids = hashlib.sha256()
    for number, block in enumerate(blocks(dataset, ["id"])):
        ids.update(("\n" * (number > 0) + "\n".join(block["id"].to_pylist())).encode())
    job = {"teacher": teacher, "utterances": len(dataset), "ids_sha256": ids.hexdigest()}
    job["dtype"] = dtype_of(accelerator.unwrap_model(model))
    if accelerator.is_main_process:
        _check_same_job(output_dir, job)
    accelerator.wait_for_everyone()
    complete = output_dir / "complete.json"
    if complete.exists():
        return json.loads(complete.read_text(encoding="utf-8"))

    # Neighbours in length share a shard: its batches need less padding.
    order = np.argsort(-durations_of(dataset), kind="stable")
    num_shards = max(math.ceil(len(order) / SHARD_SIZE), min(math.ceil(len(order) / SMALL_SHARD_SIZE), SHARDS))
    shards = np.array_split(order, num_shards) if num_shards else []
    mine = [
        (number, rows)
        for number, rows in list(enumerate(shards))[accelerator.process_index :: accelerator.num_processes]
        if not _shard_path(output_dir, number).exists()
    ]
    total = sum(len(rows) for _, rows in mine)
    with tqdm(total=total, unit=" utterances", desc="labelled", disable=not accelerator.is_main_process) as progress:
        for number, rows in mine:
            shard = dataset.select(rows)
            labels = _label(
                accelerator.unwrap_model(model), processor, shard, teacher, max_batch_seconds, num_workers, progress
            )
            write_utterances(labels, _shard_path(output_dir, number), LABEL_FEATURES)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        references = {
            name: text
            for block in blocks(dataset, ["id", "text"])
            for name, text in zip(block["id"].to_pylist(), block["text"].to_pylist(), strict=True)
            if text
        }
        _complete(output_dir, job, len(shards), references, sources)
    accelerator.wait_for_everyone()
    return json.loads(complete.read_text(encoding="utf-8"))


def _label(model, processor, shard, teacher, max_batch_seconds, num_workers, progress) -> Iterator[dict]:
    for hypothesis in transcribe(model, processor, shard, max_batch_seconds, num_workers, progress):
        if hypothesis.error:
            logger.warning("%s; it gets no label", hypothesis.error)
        utterance = shard[hypothesis.row]
        if abs(hypothesis.seconds - utterance["duration_seconds"]) > ROUNDED_SECONDS and not hypothesis.error:
            utterance["duration_seconds"] = hypothesis.seconds  # else training would believe what is not so
        yield utterance | {
            "text": hypothesis.text,
            "source": teacher,
            **(dict.fromkeys(SCORES) if hypothesis.error else scores(hypothesis, utterance["duration_seconds"])),
            "predicted_language": hypothesis.language,
            "error": hypothesis.error,
        }


def scores(hypothesis: Hypothesis, duration_seconds: float) -> dict[str, float | None]:
    """What `SCORES` explains, of one label."""
    text = hypothesis.text.encode()
    return {
        "mean_log_prob": hypothesis.mean_log_prob,
        "lowest_word_confidence": hypothesis.lowest_word_confidence,
        "blank_ratio": hypothesis.blank_ratio,
        "characters_per_second": len(hypothesis.text) / duration_seconds,
        "compression_ratio": len(text) / len(zlib.compress(text)),
        "language_probability": hypothesis.language_probability,
    }


def _complete(
    output_dir: Path, job: dict, num_shards: int, references: dict[str, str], sources: Sequence[Source]
) -> None:
    """Joins the shards into `labels.parquet` and says in `complete.json` what is in it."""
    languages = defaultdict(lambda: {"labels": 0, "empty": 0, "errors": 0, "hours": 0.0, "mean_log_prob": 0.0})
    edits, characters = Counter(), Counter()  # of the labels that have a reference

    def labels() -> Iterator[dict]:
        for number in range(num_shards):
            for row in pq.read_table(_shard_path(output_dir, number)).to_pylist():
                counts = languages[row["language"]]
                if row["error"]:
                    counts["errors"] += 1
                    continue
                counts["labels"] += 1
                counts["empty"] += not row["text"]
                counts["hours"] += row["duration_seconds"] / 3600
                counts["mean_log_prob"] += row["mean_log_prob"]
                if reference := normalize_text(references.get(row["id"], "")):
                    edits[row["language"]] += Levenshtein.distance(reference, row["text"])
                    characters[row["language"]] += len(reference)
                yield row

    written = write_utterances(labels(), output_dir / "labels.parquet", LABEL_FEATURES)
    errors = sum(counts["errors"] for counts in languages.values())
    if written + errors != job["utterances"]:
        raise RuntimeError(
            f"{output_dir}/shards hold {written + errors} of {job['utterances']} utterances; remove the folder and "
            "label again"
        )
    for language, counts in languages.items():
        counts["mean_log_prob"] /= max(counts["labels"], 1)
        counts["cer"] = edits[language] / characters[language] if characters[language] else None
    summary = {
        **job,
        "labels": written,
        "errors": errors,
        "languages": dict(sorted(languages.items())),
        "sources": [asdict(source) for source in sources],
    }
    write_json(output_dir / "complete.json", summary)


def _check_same_job(output_dir: Path, job: dict) -> None:
    """Notes what is labelled by whom in `job.json`, or compares it with what the folder was begun with."""
    path = output_dir / "job.json"
    if not path.exists():
        output_dir.mkdir(parents=True, exist_ok=True)
        write_json(path, job)
        return
    begun = {"dtype": "float32"} | json.loads(path.read_text(encoding="utf-8"))  # all that older versions had
    differing = [name for name in job if begun.get(name) != job[name]]
    if differing:
        changes = "; ".join(f"{name} was {begun.get(name)!r}, is {job[name]!r}" for name in differing)
        raise ValueError(f"{output_dir} holds another job's labels: {changes}. Choose another folder, or remove it")


def _shard_path(output_dir: Path, number: int) -> Path:
    return output_dir / "shards" / f"{number:05d}.parquet"


def teacher_revision(model: MlplForCTC, name: str) -> str:
    """`user/name@commit` of a model from the Hub; else the end of its path @ 12 digits of its weights' SHA-256."""
    commit = getattr(model.config, "_commit_hash", None)
    if commit:
        return f"{name}@{commit}"
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return f"{'/'.join(Path(name).resolve().parts[-2:])}@{digest.hexdigest()[:12]}"
