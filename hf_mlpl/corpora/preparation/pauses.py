"""Cuts a recording at its pauses into utterances of a limited length, by the probabilities of speech in its frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Thresholds, and the least speech, as in silero-vad's `get_speech_timestamps`, but for shorter words.
SPEECH = 0.5  # probability from which on a frame is speech
STILL_SPEECH = 0.35  # probability from which on a frame goes on with the speech beside it
LEAST_SPEECH = 0.09  # seconds of frames of `SPEECH` that speech has at least; less is a click
BEFORE, AFTER = 0.15, 0.1  # seconds that belong to speech too: detectors miss soft beginnings, and end late
LONGEST_PAUSE = 3.0  # seconds of a pause inside an utterance


@dataclass(frozen=True)
class Cuts:
    """Holds the utterances of a recording.

    Args:
        utterances: starts and ends in seconds (U, 2), one after another.
        speech_seconds: speech in them, without pauses.
    """

    utterances: np.ndarray
    speech_seconds: float


def cut_at_pauses(probabilities: np.ndarray, frame_seconds: float, seconds: float, max_seconds: float) -> Cuts:
    """Cuts a recording into utterances of less than `max_seconds`, which hold all of its speech.

    Neighbouring speech is one utterance as long as it fits and no pause is longer than `LONGEST_PAUSE`, which makes
    as few utterances as possible. Speech without a pause is cut where speech is least likely, but never into pieces
    of less than a quarter of `max_seconds`.

    Args:
        probabilities: of speech, (F,), of successive frames.
        frame_seconds: duration of a frame.
        seconds: duration of the recording, in which the last frame may end early.
        max_seconds: at least 8 frames.
    """
    regions, speech = _speech(probabilities, frame_seconds)
    # A millisecond less, so that no difference of rounded times is longer.
    longest = int((max_seconds - 0.001) / frame_seconds)
    means = np.convolve(np.pad(probabilities, 2), np.full(5, 0.2), mode="valid")  # a dip, not one frame
    pieces = [piece for start, end in regions for piece in _split(means, start, end, longest)]
    utterances = _pack(pieces, longest, int(LONGEST_PAUSE / frame_seconds))
    times = np.round(np.array(utterances, dtype=np.float64).reshape(-1, 2) * frame_seconds, 3)
    return Cuts(np.minimum(times, seconds), speech * frame_seconds)


def _speech(probabilities: np.ndarray, frame_seconds: float) -> tuple[list[tuple[int, int]], int]:
    """Returns the first frames and ends of speech with its padding, and the number of frames without padding."""
    changes = np.flatnonzero(np.diff(probabilities >= STILL_SPEECH, prepend=False, append=False))
    starts, ends = changes[::2], changes[1::2]
    certain = np.append(0, np.cumsum(probabilities >= SPEECH))
    is_speech = certain[ends] - certain[starts] >= round(LEAST_SPEECH / frame_seconds)
    starts, ends = starts[is_speech], ends[is_speech]
    first = np.maximum(starts - round(BEFORE / frame_seconds), 0)
    last = np.minimum(ends + round(AFTER / frame_seconds), len(probabilities))
    has_pause_before = first[1:] > last[:-1]
    first = first[np.append(np.ones(len(first[:1]), bool), has_pause_before)]
    last = last[np.append(has_pause_before, np.ones(len(last[:1]), bool))]
    return list(zip(first.tolist(), last.tolist(), strict=True)), int((ends - starts).sum())


def _split(probabilities: np.ndarray, start: int, end: int, longest: int) -> list[tuple[int, int]]:
    """Cuts speech of more than `longest` frames before the frames of the lowest probability."""
    pieces = []
    while end - start > longest:
        first, last = start + longest // 2, min(start + longest, end - longest // 4)
        place = first + int(np.argmin(probabilities[first : last + 1]))
        pieces.append((start, place))
        start = place
    return [*pieces, (start, end)]


def _pack(pieces: list[tuple[int, int]], longest: int, longest_pause: int) -> list[tuple[int, int]]:
    """Joins neighbouring pieces as long as they fit into `longest` frames."""
    packed: list[tuple[int, int]] = []
    for start, end in pieces:
        if packed and end - packed[-1][0] <= longest and start - packed[-1][1] <= longest_pause:
            packed[-1] = (packed[-1][0], end)
        else:
            packed.append((start, end))
    return packed
