"""Compresses speech for pages."""

from __future__ import annotations

import base64
import io

import numpy as np
import soundfile
import soxr

# What MPEG-2 layer III has; 16 kHz is the rate of most models.
RATE = 16_000
# libsndfile's compression levels of bit rates at 16 kHz, in kbit/s; at 24, speech is easy to follow.
COMPRESSION = {24: 0.9, 16: 0.95, 8: 0.99}


class SpeechEncoder:
    """
    Compresses speech, block after block, to an MP3 file, which all browsers play.

    Args:
        sampling_rate: of the samples, in samples per second.
        kilobits: bit rate, 24, 16 or 8 kbit/s.
    """

    def __init__(self, sampling_rate: int, kilobits: int = 24):
        self._file = io.BytesIO()
        self._resampler = (
            None if sampling_rate == RATE else soxr.ResampleStream(sampling_rate, RATE, 1, dtype="float32")
        )
        self._writer = soundfile.SoundFile(
            self._file,
            "w",
            RATE,
            channels=1,
            format="MP3",
            subtype="MPEG_LAYER_III",
            bitrate_mode="CONSTANT",
            compression_level=COMPRESSION[kilobits],
        )

    def add(self, samples: np.ndarray, is_last: bool = False) -> None:
        """Adds samples (n,) in [-1, 1]; louder ones are clipped."""
        samples = np.asarray(samples, dtype=np.float32)
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(samples, last=is_last)
        if len(samples):
            self._writer.write(np.clip(samples, -1, 1))

    def source(self) -> str:
        """Ends the file; returns its `data:` address."""
        if self._resampler is not None:
            self.add(np.empty(0, dtype=np.float32), is_last=True)
        self._writer.close()
        return f"data:audio/mpeg;base64,{base64.b64encode(self._file.getvalue()).decode()}"


def audio_source(samples: np.ndarray, sampling_rate: int) -> str:
    """
    Returns a recording as the `data:` address of an MP3 file of 24 kbit/s, about 4 kB per second.

    Args:
        samples: (N,) in [-1, 1]; louder ones are clipped.
        sampling_rate: in samples per second.
    """
    encoder = SpeechEncoder(sampling_rate)
    encoder.add(samples)
    return encoder.source()
