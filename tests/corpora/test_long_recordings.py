"""Long recordings become utterances: pauses, detectors, preparation, and the files that training reads."""

import csv
import json
import multiprocessing
import os
import re
import signal
import tracemalloc
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hf_mlpl import MlplForCTC, MlplProcessor
from hf_mlpl.audio.reading import load_audio
from hf_mlpl.cli.main import main
from hf_mlpl.corpora.preparation import long_recordings, pauses
from hf_mlpl.corpora.preparation.long_recordings import Segmentation, _detect
from hf_mlpl.corpora.preparation.parts import Part
from hf_mlpl.corpora.preparation.pauses import cut_at_pauses
from hf_mlpl.corpora.preparation.prepare import prepare, read_quarantine
from hf_mlpl.corpora.readers.folders import read_folder
from hf_mlpl.data.selection import select_unlabelled
from hf_mlpl.data.utterances import read_utterances
from hf_mlpl.inference.blank_detector import NEIGHBOURS, BlankDetector

from ..random_model import sweep
from ..tones import speak

RATE, FRAME = 16_000, 0.032


@pytest.fixture(autouse=True)
def datasets_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets-cache")


# ---- pauses


def speech_frames(probabilities: list[float]) -> list[bool]:
    """Marks the frames of speech and what belongs to them, one frame after another."""
    marked = [False] * len(probabilities)
    start = None
    for i, probability in enumerate([*probabilities, 0.0]):
        if probability >= pauses.STILL_SPEECH:
            start = i if start is None else start
        elif start is not None:
            if sum(p >= pauses.SPEECH for p in probabilities[start:i]) >= 3:  # 0.09 s
                for j in range(max(0, start - 5), min(len(probabilities), i + 3)):  # 0.15 s before, 0.1 s after
                    marked[j] = True
            start = None
    return marked


def fewest_groups(regions: list[tuple[int, int]], longest: int, longest_pause: int) -> int:
    """Counts the utterances of the best of all ways to join neighbours, by dynamic programming."""
    fewest = [0] + [len(regions)] * len(regions)
    for last in range(len(regions)):
        for first in range(last + 1):
            gaps = [regions[i + 1][0] - regions[i][1] for i in range(first, last)]
            if regions[last][1] - regions[first][0] <= longest and all(gap <= longest_pause for gap in gaps):
                fewest[last + 1] = min(fewest[last + 1], fewest[first] + 1)
    return fewest[-1]


runs = st.tuples(st.sampled_from([0.0, 0.2, 0.4, 0.6, 1.0]), st.integers(1, 60))


@settings(max_examples=60, deadline=None)
@given(st.lists(runs, max_size=12), st.floats(0.4, 6.0), st.integers(0, 10**6))
@example([(1.0, 60)] * 9, 1.024, 0)  # 32 frames, exactly
def test_utterances_hold_all_speech_and_are_few_and_short(runs, max_seconds, seed):
    probabilities = np.repeat([p for p, _ in runs], [n for _, n in runs]).astype(float)
    probabilities *= np.random.default_rng(seed).uniform(0.9, 1, len(probabilities))
    seconds = len(probabilities) * FRAME
    cuts = cut_at_pauses(probabilities, FRAME, seconds, max_seconds)
    assert all(end - start <= max_seconds for start, end in cuts.utterances.tolist())
    frames = np.rint(cuts.utterances / FRAME).astype(int)
    np.testing.assert_allclose(cuts.utterances, frames * FRAME, atol=1e-6)
    assert (np.diff(frames.reshape(-1)) >= 0).all() and (frames[:, 0] < frames[:, 1]).all()

    is_speech = speech_frames(probabilities.tolist())
    covered = np.zeros(len(probabilities), int)
    for start, end in frames:
        covered[start:end] += 1
    assert (covered[is_speech] == 1).all() and covered.max(initial=0) <= 1
    changes = np.flatnonzero(np.diff(is_speech, prepend=False, append=False))
    regions = list(zip(changes[::2].tolist(), changes[1::2].tolist(), strict=True))
    assert {start for start, _ in regions} >= set(frames[:1, 0].tolist())  # nothing but speech at both ends
    assert {end for _, end in regions} >= set(frames[-1:, 1].tolist())

    longest = int((max_seconds - 0.001) / FRAME)
    if all(end - start <= longest for start, end in regions):
        assert len(frames) == fewest_groups(regions, longest, int(3.0 / FRAME))


def test_speech_without_a_pause_is_cut_where_it_is_least_likely():
    probabilities = np.ones(2000)  # 64 s
    probabilities[[400, 600, 1100]] = 0.7, 0.6, 0.65
    probabilities[100] = 0.5  # too early
    frames = np.rint(cut_at_pauses(probabilities, FRAME, 64.0, 25.0).utterances / FRAME).astype(int)
    (first, second, third, *_), ends = frames[:, 0], frames[:, 1]
    assert first == 0 and abs(second - 600) <= 2 and abs(third - 1100) <= 2
    assert list(ends) == [*frames[1:, 0], 2000]  # nothing between them is lost
    sizes = np.diff(frames).ravel()
    assert sizes.min() >= 780 // 4 and sizes.max() <= 780


def test_limits_of_utterances():
    with pytest.raises(ValueError, match=r"utterances of 1 s: 2 s or more is accepted; .* up to 35 s"):
        Segmentation(Loudness(), 1.0)


# ---- detectors


def test_silero_in_blocks_is_silero():
    """Compares with the package's own functions, for many frames and for one at a time."""
    silero_vad = pytest.importorskip("silero_vad", reason='needs pip install "hf-mlpl[vad]"')
    from hf_mlpl.corpora.preparation.voice_activity import SileroDetector

    threads, rng = torch.get_num_threads(), np.random.default_rng(0)
    samples = np.concatenate([sweep(3), np.zeros(RATE, np.float32), sweep(2.345)])
    samples += rng.normal(scale=1e-3, size=len(samples)).astype(np.float32)
    blocks = np.split(samples, np.sort(rng.integers(0, len(samples), 40)))
    found = np.concatenate(list(SileroDetector()(iter(blocks))))
    expected = silero_vad.load_silero_vad(sequence=True).audio_forward(samples)
    np.testing.assert_array_equal(found, expected)
    one_by_one = silero_vad.load_silero_vad(onnx=True).audio_forward(torch.from_numpy(samples), RATE)[0]
    np.testing.assert_allclose(found, one_by_one, atol=1e-5)
    torch.set_num_threads(threads)  # which the package changes


def clips(folder: Path, rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """Returns clips of people without silence at their ends, some loud and some soft."""
    with open(folder / "manifest.tsv", encoding="utf-8", newline="") as file:
        paths = [row["path"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    trimmed = []
    for path in rng.choice(paths, count, replace=False):
        samples = load_audio(folder / path)
        loud = np.flatnonzero(np.convolve(samples**2, np.ones(800), "same") > 0.03 * np.convolve(samples**2, np.ones(800), "same").max())
        samples = samples[loud[0] : loud[-1] + 1]
        trimmed.append(samples * (rng.uniform(0.1, 0.9) / np.abs(samples).max()))
    return trimmed


def test_boundaries_of_human_speech(shared):
    """Reads numbers of six digits by people, with silence of known places between them."""
    pytest.importorskip("silero_vad", reason='needs pip install "hf-mlpl[vad]"')
    from hf_mlpl.corpora.preparation.voice_activity import SileroDetector

    if not (shared / "speech").is_dir():
        pytest.skip("the folder ../shared/speech (recordings of people) is missing")
    rng, samples, truth = np.random.default_rng(0), [], []
    digits = clips(shared / "speech" / "en-fsdd", rng, 120)
    for number in range(0, 120, 6):
        samples.append(np.zeros(round(RATE * rng.uniform(4, 6)), np.float32))
        start = sum(map(len, samples))
        samples += digits[number : number + 6]
        truth.append((start / RATE, sum(map(len, samples)) / RATE))
    samples = np.concatenate(samples)
    samples = samples + rng.normal(scale=3e-4, size=len(samples)).astype(np.float32)
    found = np.concatenate(list(SileroDetector()([samples])))
    utterances = cut_at_pauses(found, FRAME, len(samples) / RATE, 25.0).utterances
    assert len(utterances) == len(truth)
    errors = np.abs(utterances - truth)
    print(np.sort(errors.ravel())[-6:], (utterances-truth).mean(0))
    lost = np.maximum(utterances[:, 0] - np.array(truth)[:, 0], 0) + np.maximum(np.array(truth)[:, 1] - utterances[:, 1], 0)
    print(lost)
    assert np.quantile(errors, 0.9) < 0.2
    assert lost.sum() < 0.005 * np.diff(truth).sum()


# ---- helpers of preparation


@dataclass(frozen=True)
class Loudness:
    """Detects what is loud, which is exact for the recordings of these tests."""

    frame_seconds = 0.02
    log: Path | None = None  # a file that gets a line for each recording
    dies_after: int | None = None  # recordings

    def __call__(self, blocks: Iterable[np.ndarray]):
        if self.log is not None:
            with open(self.log, "a") as log:
                log.write("x\n")
            if self.dies_after == len(self.log.read_text().split()) and multiprocessing.parent_process():
                os.kill(os.getpid(), signal.SIGKILL)
        held = np.empty(0, np.float32)
        for block in blocks:
            held = np.concatenate([held, block])
            whole = len(held) // 320 * 320
            yield (np.abs(held[:whole]).reshape(-1, 320).max(1) > 0.05).astype(np.float32)
            held = held[whole:]

    def __repr__(self):  # without the file
        return "Loudness()"
