"""Measures the spectra of speakers, and gives the features of each the spectrum of other speech.

People differ in the mean and the spread of each mel bin by their voice, their microphone and the noise around them. A
teacher that has heard few people takes that for other letters. Kaldi's recipes normalise mean and variance for each
speaker; here they become those of the speech that the teacher was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from tqdm import tqdm

from .augmentation import moments
from .batches import SpeechBatches
from .rows import blocks, durations_of, speakers_of

SECONDS = 120.0  # of each speaker that are measured
PRIOR_FRAMES = 500.0  # a speaker with so many is changed half as much as one with very many
LEAST_VARIANCE = 1e-6  # of bins in which nothing is heard
ROWS = 32  # of which features are made at a time


@dataclass(frozen=True)
class SpeakerSpectra:
    """Holds the change of each speaker's features.

    Args:
        changes: (2, F) by speaker, the factors and the offsets of the mel bins.
        has_zero_mean: whether the features of each utterance are normalised.
    """

    changes: dict[str, torch.Tensor]
    has_zero_mean: bool

    @classmethod
    def measure(cls, speech: SpeechBatches, reference: SpeechBatches) -> SpeakerSpectra | None:
        """Measures two minutes of each speaker; returns None for models of waveforms, which have no features.

        Utterances without a speaker count as those of their recording. Mean and standard deviation of a mel bin
        become those of the frames of `reference`, the less, the less speech there is of the speaker.
        """
        if not speech.ctc.masks_features or not (known := _sums(reference)):
            return None
        target_mean, target_variance = _moments_of(sum(known.values()))
        changes = {}
        for speaker, sums in _sums(speech).items():
            mean, variance = _moments_of(sums)
            share = sums[0] / (sums[0] + PRIOR_FRAMES)
            factor = ((target_variance + LEAST_VARIANCE) / (variance + LEAST_VARIANCE)) ** (share / 2)
            changes[speaker] = torch.stack([factor, mean + share * (target_mean - mean) - factor * mean]).float()
        return cls(changes, speech.ctc.has_zero_mean)

    def __call__(self, features: torch.Tensor, num_frames: torch.Tensor, speakers: Sequence[str]) -> torch.Tensor:
        """Returns features (B, T, F) as if their speakers had the voices and microphones of the reference.

        Args:
            num_frames: (B,), valid frames; others are and stay 0.
            speakers: (B,), or recordings; the features of those that were not measured stay as they are.
        """
        same = torch.stack([torch.ones(features.shape[2]), torch.zeros(features.shape[2])])
        changes = torch.stack([self.changes.get(speaker, same) for speaker in speakers])
        is_valid = (torch.arange(features.shape[1]) < num_frames[:, None])[:, :, None]
        changed = features * changes[:, :1] + changes[:, 1:]
        if self.has_zero_mean:
            counts = is_valid.sum(dim=(1, 2), keepdim=True) * features.shape[2]
            mean, deviation = moments(changed, is_valid, counts)
            changed = (changed - mean) / deviation.clamp(min=1e-5)
        return changed.where(is_valid, 0.0)


def _sums(speech: SpeechBatches) -> dict[str, torch.Tensor]:
    """Returns (3, F) by speaker: the frames of a sample, the sum of each mel bin, and that of its squares."""
    rows, names = _sample(speech.dataset)
    speakers, sums = dict(zip(rows.tolist(), names, strict=True)), dict[str, torch.Tensor]()
    for first in tqdm(range(0, len(rows), ROWS), "spectra of speakers", unit=f" x {ROWS} utterances", leave=False):
        batch = speech.batch(rows[first : first + ROWS].tolist(), None)
        for i, row in enumerate(batch.indices):
            frames = batch.input_features[i][batch.attention_mask[i].bool()].double()
            own = torch.stack([torch.ones_like(frames), frames, frames.square()]).sum(dim=1)
            sums[speakers[row]] = sums.get(speakers[row], 0) + own
    return sums


def _moments_of(sums: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns mean and variance (F,) for (3, F) from `_sums`."""
    mean = sums[1] / sums[0]
    return mean, (sums[2] / sums[0] - mean.square()).clamp(min=0)


def _sample(dataset: Dataset) -> tuple[np.ndarray, list[str]]:
    """Returns rows of two minutes of each speaker, in the order of the data set, and their speakers."""
    columns = [name for name in ("speaker", "audio") if name in dataset.column_names]
    parts = [speakers_of(block).combine_chunks() for block in blocks(dataset, columns)]
    encoded = pa.chunked_array(parts, pa.string()).combine_chunks().dictionary_encode()
    codes, durations = encoded.indices.to_numpy(), durations_of(dataset)
    order = np.lexsort((np.random.default_rng(0).random(len(codes)), codes))
    before = np.cumsum(durations[order]) - durations[order]  # seconds of earlier ones
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    of_speaker = before - np.repeat(before[starts], np.diff(np.append(starts, len(codes))))
    rows = np.sort(order[of_speaker < SECONDS])
    return rows, encoded.take(pa.array(rows)).to_pylist()
