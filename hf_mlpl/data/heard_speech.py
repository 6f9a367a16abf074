"""Changes speech for the ears of a model: white noise hides what differs between people, spectra make it alike."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .augmentation import add_noise


@dataclass(frozen=True)
class HeardSpeech:
    """Holds the changes that all utterances of a job get.

    Args:
        name: says in the `source` of labels how speech was heard, such as `heard-n15`.
        snr: decibels between speech and the white noise that is added to it; None adds none.
        match: changes the features of each speaker, such as `speaker_spectra.SpeakerSpectra`; None leaves them.
    """

    name: str
    snr: float | None = None
    match: Callable[[torch.Tensor, torch.Tensor, Sequence[str]], torch.Tensor] | None = None

    def samples(self, samples: np.ndarray, utterance: str, piece: int) -> np.ndarray:
        """Returns the samples (N,) of a piece of an utterance, with noise that depends on its id and number alone."""
        if self.snr is None:
            return samples
        return add_noise(samples, self.snr, np.random.default_rng([zlib.crc32(utterance.encode()), piece]))

    def features(self, features: torch.Tensor, speaker: str) -> torch.Tensor:
        """Returns the features (T, F) of a speaker's speech, or of a recording's."""
        if self.match is None:
            return features
        return self.match(features[None], torch.tensor([len(features)]), [speaker])[0]
