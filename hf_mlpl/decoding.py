"""Greedy CTC decoding of a data set, with scores that say how sure the model is of each text."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm import tqdm

from .corpora.utterances import durations_of
from .data import SpeechBatch, SpeechBatches, plan_batches
from .modeling_mlpl import MlplForCTC
from .processing_mlpl import MlplProcessor

MAX_FORWARDS = 4  # that a CPU does at a time: each needs memory
BLOCK_SCORES = 2**20  # logits that are turned into probabilities at a time, 4 MB


@dataclass(frozen=True)
class Hypothesis:
    """What the model says of one utterance.

    Args:
        row: of the data set.
        text: greedy, without a language model.
        language: the likeliest, None for a model without languages.
        num_frames: output frames, of 30 ms.
        mean_log_prob: mean, over output frames, of the best class's log-probability; its exponential is the geometric
            mean of the probabilities.
        lowest_word_confidence: the same exponential over the frames of a word, for the word where it is lowest; None
            without words.
        blank_ratio: share of the output frames that say blank.
        language_probability: of the utterance's own language; None where the model does not know it.
        error: one line, where the audio could not be read; the rest is then empty.
    """

    row: int
    text: str = ""
    language: str | None = None
    num_frames: int = 0
    mean_log_prob: float = 0.0
    lowest_word_confidence: float | None = None
    blank_ratio: float = 0.0
    language_probability: float | None = None
    error: str | None = None


def transcribe(
    model: MlplForCTC,
    processor: MlplProcessor,
    dataset: Dataset,
    max_batch_seconds: float | None = None,
    num_workers: int | None = None,
    progress: tqdm | None = None,
) -> Iterator[Hypothesis]:
    """Transcribes every utterance of a data set exactly once, longest first, in evaluation mode.

    Without workers, a model on a CPU does several batches at a time, each from the files to the texts in a thread of
    its own, and meanwhile torch's number of threads is smaller: threads that share one forward wait for each other.

    Args:
        max_batch_seconds: audio of one forward, padding counted. It changes the speed, not the texts. By default 50
            on a CPU, whose cache is small, and else 200.
        num_workers: processes that decode audio; by default none for a CPU, and else up to 8.
        progress: a bar that counts utterances.
    """
    on_cpu = model.device.type == "cpu"
    if max_batch_seconds is None:
        max_batch_seconds = 50.0 if on_cpu else 200.0
    if num_workers is None:
        num_workers = 0 if on_cpu else min(8, os.cpu_count() or 1)
    plan = plan_batches(durations_of(dataset), max_batch_seconds)
    batches = SpeechBatches(dataset, plan, processor, model.config, with_labels=False)
    # What FSDP or torch.compile have made of a model is of another class, and does one forward at a time.
    in_threads = type(model) is MlplForCTC and on_cpu and not num_workers
    was_training = model.training
    model.eval()
    try:
        with closing(_in_threads(model, batches) if in_threads else _in_turn(model, batches, num_workers)) as parts:
            for hypotheses in parts:
                yield from hypotheses
                if progress is not None:
                    progress.update(len(hypotheses))
    finally:
        model.train(was_training)


def _in_turn(model: MlplForCTC, batches: SpeechBatches, num_workers: int) -> Iterator[list[Hypothesis]]:
    loader = DataLoader(batches, batch_size=None, sampler=range(len(batches.plan)), num_workers=num_workers)
    return (_hypotheses(model, batches.processor, batch) for batch in loader)


def _in_threads(model: MlplForCTC, batches: SpeechBatches) -> Iterator[list[Hypothesis]]:
    num_threads, num_batches = torch.get_num_threads(), len(batches.plan)
    at_a_time = max(1, min(num_threads, num_batches, MAX_FORWARDS))
    torch.set_num_threads(num_threads // at_a_time)  # of each thread that begins from now on
    pool = ThreadPoolExecutor(at_a_time)
    try:
        yield from pool.map(lambda n: _hypotheses(model, batches.processor, batches[n]), range(num_batches))
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(num_threads)


def _hypotheses(model: MlplForCTC, processor: MlplProcessor, batch: SpeechBatch) -> list[Hypothesis]:
    unreadable = [Hypothesis(row=row, error=problem) for row, problem in batch.problems.items()]
    return unreadable + (decode_batch(model, processor, batch) if batch.indices else [])


@torch.inference_mode()
def decode_batch(model: MlplForCTC, processor: MlplProcessor, batch: SpeechBatch) -> list[Hypothesis]:
    """What a model in evaluation mode says of the utterances of one batch."""
    output = model(**batch.inputs(model.device))
    best_log_probs, best = (tensor.cpu().numpy() for tensor in best_classes(output.logits))  # (B, S)
    language_log_probs = None if output.language_log_probs is None else output.language_log_probs.cpu()
    num_frames = model.config.num_output_frames(batch.attention_mask.sum(1)).tolist()
    hypotheses = []
    for i, row in enumerate(batch.indices):  # none where a batch of nothing has become one silent frame
        log_probs, path = best_log_probs[i, : num_frames[i]], best[i, : num_frames[i]]
        decoded = processor.tokenizer.decode(path.tolist(), output_word_offsets=True)
        words = [log_probs[word["start_offset"] : word["end_offset"]].mean() for word in decoded.word_offsets]
        language, language_probability = None, None
        if language_log_probs is not None:
            languages, own = language_log_probs[i], int(batch.language_ids[i])
            language = model.config.languages[int(languages.argmax())]
            language_probability = float(languages[own].exp()) if own >= 0 else None
        hypotheses.append(
            Hypothesis(
                row=row,
                text=decoded.text,
                language=language,
                num_frames=num_frames[i],
                mean_log_prob=float(log_probs.mean()),
                lowest_word_confidence=float(np.exp(min(words))) if words else None,
                blank_ratio=float((path == model.config.blank_token_id).mean()),
                language_probability=language_probability,
            )
        )
    return hypotheses


def best_classes(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The best class of each frame (B, S, V), its log-probability first: two (B, S)."""
    # Of some frames at a time, which stay in a processor's cache: the log-probabilities of all are never there.
    frames = logits.flatten(0, 1).split(max(1, BLOCK_SCORES // logits.shape[2]))
    blocks = [block.float().log_softmax(-1).max(-1) for block in frames]
    log_probs, best = (torch.cat(parts).view(logits.shape[:2]) for parts in zip(*blocks, strict=True))
    return log_probs, best
