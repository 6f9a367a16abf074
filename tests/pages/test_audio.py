"""Sound and spectrograms of pages, decoded by other programs."""

import base64
import io

import av
import numpy as np
import pytest
import soxr
from PIL import Image

from hf_mlpl.pages.audio import SpeechEncoder, audio_source
from hf_mlpl.pages.spectrogram import ROWS, Spectrogram

from ..random_model import sweep


def decoded(source: str) -> np.ndarray:
    """Returns the samples (N,) at 16 kHz of an address, which FFmpeg decodes as Chromium does."""
    kind, _, content = source.partition(";base64,")
    assert kind == "data:audio/mpeg"
    with av.open(io.BytesIO(base64.b64decode(content))) as file:
        assert (file.streams.audio[0].rate, file.streams.audio[0].channels) == (16_000, 1)
        return np.concatenate([frame.to_ndarray().mean(0) for frame in file.decode(audio=0)])


def lag(samples: np.ndarray, others: np.ndarray) -> tuple[int, float]:
    """Returns the shift with the highest correlation of two recordings, and the correlation there."""
    size = len(samples) + len(others)
    spectrum = np.fft.rfft(samples, size).conj() * np.fft.rfft(others, size)
    correlation = np.fft.irfft(spectrum, size) / (np.linalg.norm(samples) * np.linalg.norm(others))
    shift = int(correlation.argmax())
    return shift - size if shift > size / 2 else shift, float(correlation.max())


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_the_sound_stays_where_it_is(rate):
    samples = sweep(6.0, rate)
    source = audio_source(samples, rate)
    assert len(source) < 6.0 * 4_200
    shift, correlation = lag(soxr.resample(samples, rate, 16_000), decoded(source))
    assert len(decoded(source)) == 96_000 and shift == 0 and correlation > 0.9


def test_blocks_are_one_recording():
    samples = 3 * sweep(4.0, 8_000)  # too loud
    encoder = SpeechEncoder(8_000, 16)
    for block in np.array_split(samples, 7):
        encoder.add(block)
    source = encoder.source()
    assert len(source) < 4.0 * 2_900
    shift, correlation = lag(soxr.resample(np.clip(samples, -1, 1), 8_000, 16_000), decoded(source))
    assert shift == 0 and correlation > 0.9


def pictures(tiles: list[str]) -> np.ndarray:
    """Returns the brightness (rows, columns) of tiles side by side."""
    return np.hstack(
        [
            np.asarray(Image.open(io.BytesIO(base64.b64decode(tile.partition("base64,")[2]))).convert("L"))
            for tile in tiles
        ]
    )


def test_a_spectrogram_shows_each_tone_in_its_place():
    rate, frequencies = 16_000, [500.0, 2_500.0, 6_000.0]
    seconds = np.arange(15 * rate) / rate  # of each tone: three times 15 s are three tiles
    samples = np.concatenate([np.sin(2 * np.pi * frequency * seconds) for frequency in frequencies])
    drawn = Spectrogram(rate)
    for block in np.array_split(samples.astype(np.float32), 11):
        drawn.add(block)
    tiles = drawn.finish()
    assert len(tiles) == 3 and pictures(tiles).shape == (ROWS, 45 * 50)
    for number, frequency in enumerate(frequencies):
        middle = pictures(tiles)[:, (number * 15 + 2) * 50 : (number * 15 + 13) * 50]
        assert abs((ROWS - 1 - middle.mean(1).argmax()) - frequency / 100) <= 1
        assert middle.mean(1).min() < 10  # the other frequencies are dark
    whole = Spectrogram(rate)
    whole.add(samples)
    assert np.array_equal(pictures(whole.finish()), pictures(tiles))
    assert Spectrogram(rate).finish() == []
