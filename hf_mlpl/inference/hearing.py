"""Chooses how a teacher hears unlabelled speech: by the letters of its labels, without a reference.

A model that has learned from few people makes fewer mistakes where other people's speech sounds more like what it has
learned: with the spectrum of the labelled speech, and with noise, which hides what differs between people. Either can
do harm as well. So the teacher labels a sample of the speech in each way, and hears all speech in the one whose labels
are nearest to transcripts. A student of slimIPL learns the speech as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from accelerate import Accelerator
from datasets import Dataset
from tqdm import tqdm
from transformers import PreTrainedModel

from ..data.batches import SpeechBatches
from ..data.letter_statistics import TrigramShares, mean_excess, with_texts
from ..data.rows import choose_rows, durations_of
from ..data.speaker_spectra import SpeakerSpectra
from ..main_process import on_main_process
from .sample import Sample

# Utterances, and seconds of them, that are labelled in four ways, which takes seconds with a small model
FEWEST_SAMPLED, MOST_SAMPLED, MOST_SECONDS = 50, 400, 600.0
SNR = 15.0  # decibels, near the middle of `waveform_augment`
LEAST_GAIN = 0.01  # of the distance, below which chance may decide, and speech stays as it is


class Hearing(NamedTuple):
    """Describes a way to hear speech.

    Args:
        snr: decibels between speech and the white noise that is added to it; None adds none.
        is_matched: whether each speaker has the spectrum of the labelled speech.
    """

    snr: float | None
    is_matched: bool

    def __str__(self) -> str:
        noise = f"noise of {self.snr:g} dB" if self.snr is not None else ""
        return " and ".join(filter(None, ["matched speakers" * self.is_matched, noise])) or "speech as it is"


HEARINGS = [Hearing(None, False), Hearing(None, True), Hearing(SNR, False), Hearing(SNR, True)]


def hear(accelerator: Accelerator, hearing: Hearing, unlabelled: SpeechBatches, labelled: SpeechBatches) -> None:
    """Lets the batches of unlabelled speech that are not augmented sound so; all processes call it.

    The spectra are measured with the noise, in the main process.
    """
    unlabelled.snr, unlabelled.match = hearing.snr, None
    if hearing.is_matched:
        reference = dataclasses.replace(labelled, snr=hearing.snr)
        unlabelled.match = on_main_process(accelerator, lambda: SpeakerSpectra.measure(unlabelled, reference))


def choose_hearing(
    accelerator: Accelerator,
    teacher: PreTrainedModel,
    unlabelled: SpeechBatches,
    labelled: SpeechBatches,
    max_batch_seconds: float,
) -> Hearing:
    """Lets the unlabelled speech sound in the way whose labels are nearest to transcripts, and returns it.

    Models of waveforms have no spectra, and hear noise or none. All processes call it.
    """
    count = MOST_SECONDS / float(durations_of(unlabelled.dataset).mean())
    count = int(np.clip(count, FEWEST_SAMPLED, MOST_SAMPLED))
    rows = choose_rows(unlabelled.dataset, count, max_batch_seconds)
    sample = Sample(unlabelled, rows, max_batch_seconds)
    labels, spectra = dict[Hearing, Dataset](), dict[Hearing, Callable | None]()
    hearings = [each for each in HEARINGS if unlabelled.ctc.masks_features or not each.is_matched]
    for hearing in tqdm(hearings, "hearings", leave=False, disable=not accelerator.is_main_process):
        hear(accelerator, hearing, unlabelled, labelled)
        spectra[hearing] = unlabelled.match
        texts = {row: label.text for row, label in sample.label(accelerator, teacher).items()}
        labels[hearing] = with_texts(unlabelled.dataset, texts)
    distances = on_main_process(accelerator, lambda: _distances(labels, labelled.dataset))
    nearest = min(hearings, key=distances.__getitem__)  # the first of several
    if distances[hearings[0]] - distances[nearest] < LEAST_GAIN:
        nearest = hearings[0]
    unlabelled.snr, unlabelled.match = nearest.snr, spectra[nearest]
    if accelerator.is_main_process:
        others = ", ".join(f"{hearing} {distance:.2f}" for hearing, distance in distances.items())
        tqdm.write(f"the teacher hears {nearest}; distances of its labels from transcripts: {others}")
    return nearest


def _distances(labels: dict[Hearing, Dataset], transcripts: Dataset) -> dict[Hearing, float]:
    shares = TrigramShares(transcripts)
    return {hearing: mean_excess(shares.distances(own)) for hearing, own in labels.items()}
