"""Greedy CTC decoding of a data set, with a confidence for every text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm import tqdm

from .data import SpeechBatch, SpeechBatches, plan_batches
from .modeling_mlpl import MlplForCTC
from .processing_mlpl import MlplProcessor


@dataclass(frozen=True)
class Hypothesis:
    """What the model says of one utterance.

    Args:
        row: of the data set.
        text: greedy, without a language model.
        confidence: geometric mean, over output frames, of the best class's probability; 0 ... 1.
        language: the likeliest, None for a model without languages.
        num_frames: output frames, of 30 ms.
        blank_ratio: share of the output frames that say blank.
        error: one line, where the audio could not be read; the rest is then empty.
    """

    row: int
    text: str = ""
    confidence: float = 0.0
    language: str | None = None
    num_frames: int = 0
    blank_ratio: float = 0.0
    error: str | None = None


@torch.inference_mode()
def transcribe(
    model: MlplForCTC,
    processor: MlplProcessor,
    dataset: Dataset,
    max_batch_seconds: float,
    num_workers: int = 0,
    progress: tqdm | None = None,
) -> Iterator[Hypothesis]:
    """Transcribes every utterance of a data set exactly once, longest first, in evaluation mode.

    Args:
        max_batch_seconds: audio of one forward, padding counted. It changes the speed, not the texts.
        progress: a bar that counts utterances.
    """
    durations = np.array(dataset["duration_seconds"])
    batches = SpeechBatches(
        dataset, plan_batches(durations, max_batch_seconds), processor, model.config, with_labels=False
    )
    was_training = model.training
    model.eval()
    try:
        for batch in DataLoader(batches, batch_size=None, sampler=range(len(batches.plan)), num_workers=num_workers):
            for row, problem in batch.problems.items():
                yield Hypothesis(row=row, error=problem)
            if batch.indices:
                yield from decode_batch(model, processor, batch)
            if progress is not None:
                progress.update(len(batch.indices) + len(batch.problems))
    finally:
        model.train(was_training)


@torch.inference_mode()
def decode_batch(model: MlplForCTC, processor: MlplProcessor, batch: SpeechBatch) -> list[Hypothesis]:
    """What a model in evaluation mode says of the utterances of one batch."""
    output = model(**batch.inputs(model.device))
    best_log_probs, best = output.logits.float().log_softmax(-1).max(-1)  # (B, S)
    num_frames = model.config.num_output_frames(batch.attention_mask.sum(1))  # (B,)
    # Padded frames are certain blanks, log-probability 0: they add nothing to the first sum, nor to the second.
    confidences = (best_log_probs.sum(1).cpu() / num_frames).exp()
    letters = (best != model.config.blank_token_id).sum(1).cpu()
    languages = [None] * len(best)
    if output.language_log_probs is not None:
        languages = [model.config.languages[i] for i in output.language_log_probs.argmax(-1).tolist()]
    columns = (
        batch.indices,
        processor.batch_decode(best.cpu()),
        confidences.tolist(),
        languages,
        num_frames.tolist(),
        (1 - letters / num_frames).tolist(),
    )
    return [Hypothesis(*row) for row in zip(*columns, strict=False)]  # a batch of nothing has one silent frame
