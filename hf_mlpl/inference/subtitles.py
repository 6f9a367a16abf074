"""Makes SubRip (srt) and WebVTT (vtt) subtitles from the characters of a transcript and their times."""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

LINE_WIDTH = 42  # columns; with two lines and seven seconds the usual limits of subtitles in Latin script
MAX_LINES = 2
MAX_SECONDS = 7.0
MIN_SECONDS = 1.0  # CTC marks the frame in which a letter is recognised, often 30 ms: too short to be read
PAUSE_SECONDS = 1.0  # between the frames of two letters, which is longer than the pause that one hears


@dataclass(frozen=True)
class Cue:
    """Holds lines of text that are shown from `start` to `end`, in seconds."""

    start: float
    end: float
    lines: tuple[str, ...]


@dataclass(frozen=True)
class _Segment:
    """Holds a word, or a part of one, that no line break divides."""

    text: str
    start: float
    end: float
    after_space: bool
    after_line: bool = False  # it begins a cue


def build_cues(characters: Sequence[dict], duration: float = math.inf) -> list[Cue]:
    """
    Returns cues of at most two lines of 42 columns and seven seconds, which end at pauses and never overlap.

    A cue is shown for a second at least, unless the next one begins or the recording ends before. Lines end between
    words; only words that are wider than a line, such as sentences of scripts without spaces, are divided. Columns are
    those of a terminal: letters of East Asian scripts take two, combining marks none.

    Args:
        characters: the `chunks` of the pipeline with `return_timestamps="char"`: dicts of `text` and `timestamp`,
            start and end in seconds. White space with a line feed ends a cue.
        duration: seconds of the recording.
    """
    groups: list[list[_Segment]] = []
    for segment in _segments(characters):
        group = groups[-1] if groups else []
        if (
            group
            and not segment.after_line
            and segment.start - group[-1].end < PAUSE_SECONDS
            and segment.end - group[0].start <= MAX_SECONDS
            and len(_lines([*group, segment])) <= MAX_LINES
        ):
            group.append(segment)
        else:
            groups.append([segment])
    cues = []
    for group, following in zip_longest(groups, groups[1:]):
        start, end = group[0].start, max(group[-1].end, group[0].start + MIN_SECONDS)
        cues.append(Cue(start, min(end, following[0].start if following else duration), tuple(_lines(group))))
    return cues


def to_srt(characters: Sequence[dict], duration: float = math.inf) -> str:
    """Returns the text of a SubRip file; see `build_cues`."""
    cues = build_cues(characters, duration)
    return "\n".join(f"{number}\n{_format(cue, ',', cue.lines)}" for number, cue in enumerate(cues, start=1))


def to_vtt(characters: Sequence[dict], duration: float = math.inf) -> str:
    """Returns the text of a WebVTT file; see `build_cues`. `&`, `<` and `>`, which begin its markup, are escaped."""
    cues = build_cues(characters, duration)
    return "WEBVTT\n" + "".join(
        f"\n{_format(cue, '.', [html.escape(line, quote=False) for line in cue.lines])}" for cue in cues
    )


def _format(cue: Cue, decimal_mark: str, lines: Iterable[str]) -> str:
    times = f"{_format_time(cue.start, decimal_mark)} --> {_format_time(cue.end, decimal_mark)}"
    return "".join(f"{line}\n" for line in (times, *lines))


def _format_time(seconds: float, decimal_mark: str) -> str:  # hours have two digits or more
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}{decimal_mark}{milliseconds % 1000:03}"


def _segments(characters: Sequence[dict]) -> Iterator[_Segment]:
    """Yields words, and the characters of words that do not fit into a cue."""
    word: list[_Segment] = []  # characters, each with its combining marks
    after_space = after_line = False
    for character in characters:
        text, (start, end) = character["text"], character["timestamp"]
        if text.isspace():
            yield from _join_if_it_fits(word)
            word, after_space, after_line = [], True, after_line or "\n" in text
        elif word and _combines(text[0]):
            word[-1] = _join([word[-1], _Segment(text, float(start), float(end), after_space=False)])
        else:
            word.append(_Segment(text, float(start), float(end), after_space, after_line))
            after_space = after_line = False
    yield from _join_if_it_fits(word)


def _join_if_it_fits(word: list[_Segment]) -> list[_Segment]:
    if not word:
        return []
    joined = _join(word)
    return [joined] if _width(joined.text) <= LINE_WIDTH and joined.end - joined.start <= MAX_SECONDS else word


def _join(segments: Sequence[_Segment]) -> _Segment:
    text = "".join(segment.text for segment in segments)
    return _Segment(text, segments[0].start, segments[-1].end, segments[0].after_space, segments[0].after_line)


def _lines(segments: Sequence[_Segment]) -> list[str]:
    """Returns the segments in as few lines as possible, each filled before the next."""
    lines: list[str] = []
    for segment in segments:
        longer = f"{lines[-1]}{' ' * segment.after_space}{segment.text}" if lines else segment.text
        if lines and _width(longer) <= LINE_WIDTH:
            lines[-1] = longer
        else:
            lines.append(segment.text)
    return lines


def _width(text: str) -> int:
    """Returns the number of columns on a terminal."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text if not _combines(c))


def _combines(character: str) -> bool:
    return unicodedata.category(character) in ("Mn", "Mc", "Me", "Cf")
