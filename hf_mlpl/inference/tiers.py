"""Writes intervals of a recording, such as words and their times, as TextGrid (of Praat) and CTM (of NIST)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from statistics import geometric_mean
from typing import Any

from .subtitles import PAUSE_SECONDS

DECIMALS = 3  # of seconds; an output frame of the model has 30 ms


@dataclass(frozen=True)
class Interval:
    """Holds a text that is spoken from `start` to `end`, in seconds, and its probability where it is known."""

    start: float
    end: float
    text: str
    confidence: float | None = None


def word_intervals(chunks: Iterable[dict]) -> list[Interval]:
    """Returns the words among the `chunks` of the pipeline with `return_timestamps="word"`."""
    intervals = []
    for chunk in chunks:
        start, end = chunk["timestamp"]
        intervals.append(Interval(float(start), float(end), chunk["text"], chunk.get("confidence")))
    return intervals


def words_of_characters(chunks: Iterable[dict]) -> list[dict]:
    """Returns the chunks of words of a transcript of which `chunks` are the characters, spaces among them.

    The `confidence` of a word is the geometric mean of that of its characters.
    """
    words: list[list[dict]] = [[]]
    for chunk in chunks:
        if chunk["text"].isspace():
            words.append([])
        else:
            words[-1].append(chunk)
    return [_joined(characters) for characters in words if characters]


def _joined(characters: Sequence[dict]) -> dict:
    text = "".join(character["text"] for character in characters)
    word: dict[str, Any] = {"text": text, "timestamp": (characters[0]["timestamp"][0], characters[-1]["timestamp"][1])}
    if all("confidence" in character for character in characters):
        word["confidence"] = geometric_mean(max(character["confidence"], 1e-9) for character in characters)
    return word


def segments_of(words: Sequence[Interval]) -> list[Interval]:
    """Returns words joined to segments, which end where nothing is recognised for a second."""
    groups: list[list[Interval]] = []
    for word in words:
        if groups and word.start - groups[-1][-1].end < PAUSE_SECONDS:
            groups[-1].append(word)
        else:
            groups.append([word])
    return [Interval(group[0].start, group[-1].end, " ".join(word.text for word in group)) for group in groups]


def to_ctm(words: Iterable[Interval], recording: str, channel: str = "1") -> str:
    """
    Returns a line `recording channel start duration word confidence` for each word, sorted by time, as NIST's `sclite`
    reads them. Lines have no confidence where none is known. White space in names and words becomes `_`, because it
    separates columns, and so do two semicolons that begin a name, because they begin a comment.

    Args:
        recording: its name, by convention without folder and suffix.
    """
    lines = []
    for word in sorted(words, key=lambda word: word.start):
        start, end = round(word.start, DECIMALS), round(word.end, DECIMALS)
        confidence = "" if word.confidence is None else f" {word.confidence:.4f}"
        times = f"{start:.{DECIMALS}f} {end - start:.{DECIMALS}f}"
        lines.append(f"{ctm_field(recording)} {channel} {times} {ctm_field(word.text)}{confidence}\n")
    return "".join(lines)


def ctm_field(text: str) -> str:
    """Returns a text that is one column of a CTM file."""
    return re.sub(r"\s|^;;", "_", text)


def to_textgrid(tiers: Mapping[str, Sequence[Interval]], duration: float) -> str:
    """
    Returns a TextGrid in Praat's long text format, with an interval tier for each name.

    A tier has no gaps, so intervals with an empty text stand between the given ones, and no overlaps, so an interval
    ends where the next begins. Quotes in texts are doubled.

    Args:
        duration: seconds of the recording; an interval that ends later makes the TextGrid longer.

    Raises:
        ValueError: for two intervals of one tier that begin at the same time, and for one that ends before its start.
    """
    ends = [interval.end for intervals in tiers.values() for interval in intervals]
    end = round(max([duration, *ends]), DECIMALS)
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {end}"]
    lines += ["tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, intervals) in enumerate(tiers.items(), start=1):
        filled = list(_without_gaps(name, intervals, end))
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f"        name = {_quoted(name)}"]
        lines += ["        xmin = 0", f"        xmax = {end}", f"        intervals: size = {len(filled)}"]
        for place, interval in enumerate(filled, start=1):
            lines += [
                f"        intervals [{place}]:",
                f"            xmin = {interval.start}",
                f"            xmax = {interval.end}",
                f"            text = {_quoted(interval.text)}",
            ]
    return "".join(f"{line}\n" for line in lines)


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _without_gaps(name: str, intervals: Sequence[Interval], duration: float) -> Iterator[Interval]:
    """Yields intervals that follow each other from 0 to `duration`."""
    ordered, position = sorted(intervals, key=lambda interval: interval.start), 0.0
    for interval, following in zip_longest(ordered, ordered[1:]):
        start, end = round(interval.start, DECIMALS), round(interval.end, DECIMALS)
        if following is not None:
            end = min(end, round(following.start, DECIMALS))
        if not position <= start < end:
            raise ValueError(
                f"tier {name}: {interval.text!r} from {interval.start} to {interval.end} s has no time of its own; "
                "give intervals that begin together tiers of their own"
            )
        if position < start:
            yield Interval(position, start, "")
        yield Interval(start, end, interval.text)
        position = end
    if position < duration:
        yield Interval(position, duration, "")
