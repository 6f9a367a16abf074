"""Greedy CTC decoding of a data set, with a confidence for every text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm import tqdm

from .data import SpeechBatches, plan_batches
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
        error: one line, where the audio could not be read; the rest is then empty.
    """

    row: int
    text: str = ""
    confidence: float = 0.0
    language: str | None = None
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
                yield from _decode(model, processor, batch)
            if progress is not None:
                progress.update(len(batch.indices) + len(batch.problems))
    finally:
        model.train(was_training)


def _decode(model: MlplForCTC, processor: MlplProcessor, batch) -> Iterator[Hypothesis]:
    output = model(**batch.inputs(model.device))
    best_log_probs, best = output.logits.float().log_softmax(-1).max(-1)  # (B, S)
    num_frames = model.config.num_output_frames(batch.attention_mask.sum(1))
    # Padded frames are certain blanks, log-probability 0: they add nothing to the sum.
    confidences = (best_log_probs.sum(1).cpu() / num_frames).exp().tolist()
    texts = processor.batch_decode(best.cpu())
    languages = [None] * len(texts)
    if output.language_log_probs is not None:
        languages = [model.config.languages[i] for i in output.language_log_probs.argmax(-1).tolist()]
    for row, text, confidence, language in zip(batch.indices, texts, confidences, languages, strict=True):
        yield Hypothesis(row=row, text=text, confidence=confidence, language=language)
