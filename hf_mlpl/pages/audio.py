"""Compresses speech for pages."""

from __future__ import annotations

import base64
import io
import struct

import numpy as np
import soundfile
import soxr

RATE = 16_000  # of speech, and one of those of MPEG-2 layer III
# libsndfile's compression levels of bit rates at 16 kHz, in kbit/s; at 24, speech is easy to follow.
COMPRESSION = {24: 0.9, 16: 0.95, 8: 0.99}
SAMPLES_PER_FRAME = 576
ENCODER_DELAY = 576  # samples; decoders know their own
INFO_BYTES = 288  # of a frame of 64 kbit/s


class SpeechEncoder:
    """
    Compresses speech, block after block, to an MP3 file, which all browsers play.

    Args:
        sampling_rate: of the samples, in samples per second.
        kilobits: bit rate, 24, 16 or 8 kbit/s.
    """

    def __init__(self, sampling_rate: int, kilobits: int = 24):
        self._file, self._frame_bytes = io.BytesIO(), kilobits * 1000 // 8 * SAMPLES_PER_FRAME // RATE
        self._num_samples = 0
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

    def add(self, samples: np.ndarray) -> None:
        """Adds samples (n,) in [-1, 1]; louder ones are clipped."""
        samples = np.asarray(samples, dtype=np.float32)
        self._write(samples if self._resampler is None else self._resampler.resample_chunk(samples))

    def _write(self, samples: np.ndarray) -> None:
        if len(samples):
            self._writer.write(np.clip(samples, -1, 1))
            self._num_samples += len(samples)

    def source(self) -> str:
        """Ends the file; returns its `data:` address."""
        if self._resampler is not None:
            self._write(self._resampler.resample_chunk(np.empty(0, dtype=np.float32), last=True))
        self._writer.close()
        frames = self._file.getvalue()
        content = _info_frame(self._num_samples, len(frames), self._frame_bytes) + frames
        return f"data:audio/mpeg;base64,{base64.b64encode(content).decode()}"


def _info_frame(num_samples: int, num_bytes: int, frame_bytes: int) -> bytes:
    """
    Returns the first frame of an MP3 file, a silent one that says how many samples decoders must leave out.

    Without it players begin 69 ms late, which is the delay of encoder and decoder. LAME writes this frame itself only
    where the others are large enough to hold it. A constant bit rate needs no table of places, so that players find
    every second exactly.
    """
    num_frames = num_bytes // frame_bytes
    padding = num_frames * SAMPLES_PER_FRAME - ENCODER_DELAY - num_samples
    header = bytes.fromhex("fff388c4") + bytes(9)  # MPEG-2 layer III, 64 kbit/s, 16 kHz, mono; side information
    tag = b"Info" + struct.pack(">III", 0b11, num_frames, num_bytes + INFO_BYTES)  # has both numbers
    tag += b"LAME3.100\1".ljust(21, b"\0") + (ENCODER_DELAY << 12 | padding).to_bytes(3, "big")
    return (header + tag).ljust(INFO_BYTES, b"\0")


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
