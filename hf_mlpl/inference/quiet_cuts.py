"""Cuts a recording where it is quietest into pieces of a limited length, which do not overlap.

A model that generates text writes what it hears, also at the cut end of a word. So pieces end in pauses, and their
texts can be joined as they are.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable

import numpy as np

FRAME_SECONDS = 0.02
PAUSE_SECONDS = 0.2  # a pause is at least as long; stops inside of words are shorter


def cut_where_quiet(
    blocks: Iterable[np.ndarray], sampling_rate: int, max_seconds: float
) -> Generator[tuple[np.ndarray, bool], None, None]:
    """Yields the samples (N,) of successive pieces of at most `max_seconds`, and whether a piece is the last one.

    A piece ends in the quietest fifth of a second of its second half. Pieces have at least a tenth of `max_seconds`,
    unless the recording is shorter.

    Args:
        blocks: successive samples (n,), of any number. No more of them are held than the next piece needs.
    """
    longest = round(max_seconds * sampling_rate)
    least = longest // 10
    held = np.empty(0, np.float32)
    for block in blocks:
        held = np.concatenate([held, block]) if len(held) else block
        while len(held) >= longest + least:
            place = _quietest(held, longest // 2, longest, sampling_rate)
            yield held[:place], False
            held = held[place:]
    if len(held) > longest:
        place = _quietest(held, longest // 2, len(held) - least, sampling_rate)
        yield held[:place], False
        held = held[place:]
    yield held, True


def _quietest(samples: np.ndarray, start: int, end: int, sampling_rate: int) -> int:
    """Returns the middle of the quietest `PAUSE_SECONDS` of samples between two places."""
    frame = max(1, round(FRAME_SECONDS * sampling_rate))
    frames = samples[start : start + (end - start) // frame * frame].reshape(-1, frame)
    energy = np.square(frames, dtype=np.float64).mean(1)
    width = min(round(PAUSE_SECONDS / FRAME_SECONDS), len(energy))
    means = np.convolve(energy, np.full(width, 1 / width), mode="valid")
    return start + int((np.argmin(means) + width / 2) * frame)
