"""Reads the recordings that a page lets people hear, and embeds as many of them as the page has room for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ..audio.reading import SAMPLING_RATE, AudioError, stream_audio
from ..error_line import error_line
from ..pages.audio import audio_source

PAGE_BYTES = 9_500_000  # of a whole page, in UTF-8; pages stay below 10 MB
LONGEST_SECONDS = 30.0  # of a clip: of longer recordings, only the beginning is embedded
READ_TOGETHER = 8  # recordings, after which the room that is left is looked at


@dataclass(frozen=True)
class Clip:
    """Holds the sound of a recording for a page.

    Args:
        source: `data:` URI of the sound; None without.
        problem: why there is no sound: the recording cannot be read, or the page has no room for it.
        is_cut: whether the recording is longer than the sound.
        is_left_out: whether the page has no room for the sound.
    """

    source: str | None = None
    problem: str | None = None
    is_cut: bool = False
    is_left_out: bool = False


LEFT_OUT = Clip(problem="no room on this page", is_left_out=True)


def read_clips(recordings: Sequence[dict | None], max_bytes: int) -> list[Clip]:
    """Returns the clips of recordings, in their order; those after the first that has no room left are left out.

    A recording that cannot be read costs no room, and gives a clip with the problem. No recording is read after the
    room is spent.

    Args:
        recordings: `audio` of utterances, the most important ones first; None where no recording is known.
        max_bytes: of all sources together.
    """
    clips: list[Clip] = []
    room = max_bytes
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for first in range(0, len(recordings), READ_TOGETHER):
            for clip in threads.map(_clip, recordings[first : first + READ_TOGETHER]):
                room -= len(clip.source or "")
                if room < 0:
                    return clips + [LEFT_OUT] * (len(recordings) - len(clips))
                clips.append(clip)
    return clips


def left_out_line(clips: Sequence[Clip]) -> str | None:
    """Says how many of the clips have no sound, and why; returns None if all have."""
    left_out = sum(clip.is_left_out for clip in clips)
    unreadable = sum(clip.source is None for clip in clips) - left_out
    if not left_out and not unreadable:
        return None
    line = f"{len(clips) - left_out - unreadable:,} of {len(clips):,} recordings can be heard."
    reasons = {"Missing or unreadable": unreadable, "No room on this page": left_out}
    return " ".join([line, *(f"{reason}: {count:,}." for reason, count in reasons.items() if count)])


def _clip(audio: dict | None) -> Clip:
    if audio is None:
        return Clip(problem="no recording is known")
    most, blocks, length = round(LONGEST_SECONDS * SAMPLING_RATE), [], 0
    try:
        for block in stream_audio(audio):
            blocks.append(block)
            length += len(block)
            if length > most:
                break
        samples = np.concatenate(blocks)[:most]
        return Clip(audio_source(samples, SAMPLING_RATE), is_cut=length > most)
    except (AudioError, MemoryError) as error:
        # The page may be published: it names the file, not its folder.
        folder = os.path.dirname(os.fspath(audio.get("path") or ""))
        return Clip(problem=error_line(error).replace(f"{folder}/", "") if folder else error_line(error))
