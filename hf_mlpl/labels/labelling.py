"""Labels unlabelled speech with decoded texts and their scores, in shards that survive an interruption.

The assignment of utterances to shards depends on the utterances alone, and the labels of a shard on the shard alone.
Any number of processes, of one launch or of many, on any machines that share the folder, work on one job: each claims
a shard at a time, and one of them joins the shards. No process waits for another one but by looking at files.
`labels.folder` describes the files, and `labels.claims` the claims.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import accumulate, repeat
from operator import mul
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from accelerate import Accelerator
from datasets import Dataset
from tqdm import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from ..corpora.sources import Source
from ..data.drops import DropFile, blame_disk
from ..data.heard_speech import HeardSpeech
from ..data.rows import blocks, durations_of, recording_order, select_rows
from ..data.summary import ids_sha256
from ..error_line import error_line
from ..evaluation.hypotheses import SCORES as HYPOTHESIS_SCORES
from ..folder_lock import LOCK, claimed
from ..inference.decoding import Hypothesis
from ..inference.precision import dtype_of
from ..inference.recognition import Transcribe, shard_stream, transcriber
from ..inference.shard_stream import ShardStream
from ..remote_path import AnyPath, output_path
from .folder import OLDER_JOB, begun_job, complete_summary
from .schema import SCORES
from .shared_job import SharedJob
from .source_name import source_name
from .text_scores import text_scores

if TYPE_CHECKING:
    from ..inference.label_search import LabelSearch

logger = logging.getLogger(__name__)

ROUNDED_SECONDS = 0.1  # a table's duration may differ that much from the recording's by rounding
SHARD_SIZE = 1000  # utterances; an interruption loses at most a shard per process
# A job too small for that many shards of `SHARD_SIZE` gets smaller ones, which processes can share evenly.
MIN_SHARDS, SMALL_SHARD_SIZE = 32, 200
# Utterances of a bucket differ by up to a half in length: in a recording of hours each bucket has a hundred parts.
SHORTEST_SECONDS, BUCKET_RATIO, NUM_EDGES = 1.0, 1.5, 32  # the last bucket begins at five days


def pseudo_label(
    accelerator: Accelerator,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    dataset: Dataset,
    output_dir: str | AnyPath,
    teacher: str,
    max_batch_seconds: float | None = None,
    num_workers: int | None = None,
    sources: Sequence[Source] = (),
    search: LabelSearch | None = None,
    heard: HeardSpeech | None = None,
) -> dict:
    """Labels all utterances of `dataset`, going on where an earlier call stopped; returns their summary.

    Texts of the utterances are only compared with their labels, for the error rate in the summary. Damaged shards are
    labelled again, and so are those with utterances that could not be read and now can. Other processes that are given
    the same utterances, teacher and folder work on the same job, and each call returns when the job is complete. A
    folder that is complete, and in which no utterance lacks a label, is only read.

    Args:
        output_dir: a folder, or the URL of one in object storage.
        model, processor: from `load_recognizer`: a CTC model, or one that generates text.
        teacher: revision of the model, from `model_card.teacher_revision`; it becomes the labels' `source`, to which
            the names of `heard` and `search` are added, because others make other labels.
        max_batch_seconds, num_workers: of `transcribe`; they change the speed, not the labels.
        sources: of the speech, for `complete.json`.
        search: finds the texts of a CTC model, from `load_search`; by default they are greedy.
        heard: how a CTC model hears the speech, from `with_chosen_hearing`; by default as it is.

    Raises:
        ValueError: if `output_dir` holds labels of other utterances, of another teacher or search, or of one that
            computes in another dtype; if its `job.json` is damaged; if no utterance of a shard can be read; and for a
            language that a generating model does not know.
        InUseError: if a job that is no labelling is working there, or one of an older version.
    """
    output_dir = output_path(output_dir)
    model = accelerator.unwrap_model(model)
    teacher = source_name(teacher, heard, search)
    order = begun_job(output_dir).get("order", list(ORDERS)[-1])
    if order not in ORDERS:
        raise ValueError(
            f"{output_dir}: holds labels in the order {order!r}, which a newer hf_mlpl has begun; update this one, or "
            "choose another folder"
        )
    rows = ORDERS[order](dataset)
    job = _job(dataset, teacher, dtype_of(model), order, rows)
    summary = complete_summary(output_dir, job)
    if summary and not summary["errors"]:
        return summary
    # Before the folder is begun, because it checks the languages
    transcribe = transcriber(model, processor, dataset, search, heard)
    if (output_dir / LOCK).exists():
        with claimed(output_dir):
            pass
    decode = partial(transcribe, max_batch_seconds=max_batch_seconds)
    with SharedJob(output_dir, job, dataset, _shards(rows), sources, accelerator) as shared:
        if shared.has_lost_shards():
            return shared.summary
        stream = shard_stream(transcribe, model, processor, dataset, max_batch_seconds, num_workers, search, heard)

        def label(rows: np.ndarray, write: Callable[[Iterator[dict]], None]) -> None:
            shard = select_rows(dataset, rows)
            hypotheses = _hypotheses(decode, shard, num_workers, shared.bar)
            write(_labels(hypotheses, shard, range(len(shard)), teacher))

        while True:
            while stream is not None and _label_ahead(stream, shared, label, teacher):
                pass
            for rows, write in shared.claimed_shards():
                label(rows, write)
            if summary := shared.join():
                return summary


def _job(dataset: Dataset, teacher: str, dtype: str, order: str, rows: np.ndarray) -> dict:
    """Returns the content of `job.json`, which must be equal in all calls that write into one folder.

    Its `ids_sha256` depends on the order of the rows, too. A process whose utterances have other durations, or lie
    differently in recordings, would divide them into other shards, and so would an older version: both are refused.
    """
    sha256 = ids_sha256(dataset)
    if order != OLDER_JOB["order"]:
        sha256 = hashlib.sha256(sha256.encode() + rows.astype("<i8").tobytes()).hexdigest()
    return {"teacher": teacher, "utterances": len(rows), "ids_sha256": sha256, "dtype": dtype, "order": order}


def _shards(rows: np.ndarray) -> list[np.ndarray]:
    """Returns the rows of each shard; utterances of similar length share one, so that batches need less padding."""
    num_shards = max(math.ceil(len(rows) / SHARD_SIZE), min(math.ceil(len(rows) / SMALL_SHARD_SIZE), MIN_SHARDS))
    return np.array_split(rows, num_shards) if num_shards else []


def _by_duration(dataset: Dataset) -> np.ndarray:
    return np.argsort(-durations_of(dataset), kind="stable")


def _by_recording(dataset: Dataset) -> np.ndarray:
    """Returns rows in buckets of durations, longest first, and in each the parts of a recording one after another."""
    durations, places = durations_of(dataset), recording_order(dataset)
    # Products are the same on every processor, but logarithms are not, and 1.5 s or 2.25 s lie on an edge.
    edges = list(accumulate(repeat(BUCKET_RATIO, NUM_EDGES), mul, initial=SHORTEST_SECONDS))[1:]
    buckets = -np.searchsorted(edges, durations, "right").astype(np.int8)
    return np.argsort(buckets, kind="stable") if places is None else np.lexsort((places, buckets))


# What may stand in `job.json` as the order in which utterances are divided into shards: other versions knew the first.
ORDERS = {"duration": _by_duration, "duration bucket, recording": _by_recording}


def _label_ahead(stream: ShardStream, shared: SharedJob, label: Callable, teacher: str) -> bool:
    """Labels shards, whose rows and files a thread writes beside, until no other is free; returns whether any was.

    Args:
        label: labels a shard by itself; the shards in work are given to it after an error, such as too little memory
            for one batch.
    """
    free = shared.claimed_shards()
    if (first := next(free, None)) is None:
        return False
    claimed, writing, failure = deque([first]), deque[Future](), None

    def shards() -> Iterator[np.ndarray]:
        yield first[0]
        for shard in free:
            claimed.append(shard)
            yield shard[0]

    with ThreadPoolExecutor(1, thread_name_prefix="labels") as pool:
        decoded = stream(shards(), shared.bar)
        while True:
            try:
                hypotheses = next(decoded, None)
            except Exception as error:
                hypotheses, failure = None, error
            if hypotheses is None:
                break
            rows, write = claimed.popleft()
            labels = _labels(hypotheses, select_rows(shared.dataset, rows), rows.tolist(), teacher)
            writing.append(pool.submit(write, labels))
            if len(writing) > 1:
                writing.popleft().result()
        for each in writing:
            each.result()
    if failure is not None:
        logger.warning("%s; the shards in work are labelled again, one after another", error_line(failure))
    for rows, write in claimed:
        label(rows, write)
    return True


def _labels(hypotheses: Iterable[Hypothesis], shard: Dataset, numbers: Sequence[int], teacher: str) -> Iterator[dict]:
    """Yields a row of `LABEL_FEATURES` for each utterance of a shard, in order; those without a label have an error.

    Args:
        numbers: of the utterances, by which hypotheses name their rows.

    Raises:
        ValueError: at the end, if no utterance could be read.
    """
    columns = pa.concat_tables(blocks(shard, shard.column_names))  # of Arrow: single rows take 0.1 ms each
    errors, of_row = DropFile(None, ()), {hypothesis.row: hypothesis for hypothesis in hypotheses}
    for number, utterance in zip(numbers, columns.to_pylist(), strict=True):
        hypothesis = of_row[number]
        error = hypothesis.error
        kind = "could not be read" if error else "have outputs that are not finite"
        if not error and not math.isfinite(hypothesis.mean_log_prob):
            error = f"{utterance['id']}: the model's outputs are not finite"
        is_cut_off = not error and not hypothesis.is_complete
        if is_cut_off:
            kind = "have a text that did not end"
            error = f"{utterance['id']}: its text was cut off at the model's longest length, and may be a loop"
        if error:
            if errors.add(kind):
                logger.warning("%s; it gets no label", error)
        elif abs(hypothesis.seconds - utterance["duration_seconds"]) > ROUNDED_SECONDS:
            utterance["duration_seconds"] = hypothesis.seconds  # else training would plan batches with a wrong one
        # A text that was cut off stays in its shard, so that it is not made again, and comes no further.
        has_text = is_cut_off or not error
        yield utterance | {
            "text": hypothesis.text if has_text else "",
            "source": teacher,
            **(scores(hypothesis, utterance["duration_seconds"]) if has_text else dict.fromkeys(SCORES)),
            "predicted_language": hypothesis.language,
            "error": error,
        }
    if errors.counts["could not be read"] == len(shard) > 0:
        raise ValueError(blame_disk(f"none of the last {len(shard)} utterances could be used", error))
    errors.log_rest(logger, "utterances of a shard get no label")


def _hypotheses(
    decode: Transcribe, shard: Dataset, num_workers: int | None, progress_bar: tqdm
) -> Iterator[Hypothesis]:
    """Decodes a shard; if that fails, goes on utterance by utterance, and yields an error for each one that fails.

    Raises:
        Exception: the first one, if no utterance succeeds.
    """
    remaining = set(range(len(shard)))
    try:
        for hypothesis in decode(shard, num_workers=num_workers, progress=progress_bar):
            remaining.remove(hypothesis.row)
            yield hypothesis
        return
    except Exception as error:  # such as too little memory for one batch
        if len(shard) == 1:
            raise
        first_error, succeeded = error, len(remaining) < len(shard)
    logger.warning("%s; %d utterances are labelled one by one", error_line(first_error), len(remaining))
    for row in sorted(remaining):
        try:
            [hypothesis] = decode(shard.select([row]), num_workers=0)
            yield replace(hypothesis, row=row)
            succeeded = True
        except Exception as error:
            yield Hypothesis(row=row, error=f"utterance {shard[row]['id']}: {error_line(error)}")
        progress_bar.update()
    if not succeeded:
        raise first_error


def scores(hypothesis: Hypothesis, duration_seconds: float) -> dict[str, float | None]:
    """Returns the `SCORES` of a label."""
    of_teacher = {name: getattr(hypothesis, name) for name in HYPOTHESIS_SCORES}
    return of_teacher | text_scores(hypothesis.text, duration_seconds)
