"""Makes subtitles of the characters of a transcript and their times: SubRip (srt) and WebVTT (vtt)."""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

LINE_WIDTH = 42  # columns; with two lines and seven seconds the usual limits of subtitles in Latin script
MAX_LINES = 2
MAX_SECONDS = 7.0
MIN_SECONDS = 1.0  # CTC marks the frame in which a letter is recognised, often 30 ms: too short to be read
PAUSE_SECONDS = 1.0  # between the marks of two letters, hence longer than what one hears


@dataclass(frozen=True)
class Cue:
    """Holds lines of text that are shown from `start` to `end`, in seconds."""

    start: float
    end: float
    lines: tuple[str, ...]


@dataclass(frozen=True)
class _Piece:
    """Holds a word or a part of one, which no line break divides."""

    text: str
    start: float
    end: float
    after_space: bool


def build_cues(characters: Sequence[dict], duration: float = math.inf) -> list[Cue]:
    """
    Returns cues of at most two lines of 42 columns and seven seconds, which end at pauses and never overlap.

    A cue is shown for a second at least, unless the next one begins or the recording ends before. Lines end between
    words; only words that are wider than a line, such as sentences of scripts without spaces, are divided. Columns are
    those of a terminal: letters of East Asian scripts take two, combining marks none.

    Args:
        characters: the `chunks` of the pipeline with `return_timestamps="char"`: dicts of `text` and `timestamp`,
            start and end in seconds.
        duration: seconds of the recording.
    """
    groups: list[list[_Piece]] = []
    for piece in _pieces(characters):
        group = groups[-1] if groups else []
        if (
            group
            and piece.start - group[-1].end < PAUSE_SECONDS
            and piece.end - group[0].start <= MAX_SECONDS
            and len(_lines([*group, piece])) <= MAX_LINES
        ):
            group.append(piece)
        else:
            groups.append([piece])
    cues = []
    for group, following in zip_longest(groups, groups[1:]):
        start, end = group[0].start, max(group[-1].end, group[0].start + MIN_SECONDS)
        cues.append(Cue(start, min(end, following[0].start if following else duration), tuple(_lines(group))))
    return cues


def to_srt(characters: Sequence[dict], duration: float = math.inf) -> str:
    """Returns the text of a SubRip file; see `build_cues`."""
    return "\n".join(
        f"{number}\n{_time(cue.start, ',')} --> {_time(cue.end, ',')}\n" + "".join(f"{line}\n" for line in cue.lines)
        for number, cue in enumerate(build_cues(characters, duration), start=1)
    )


def to_vtt(characters: Sequence[dict], duration: float = math.inf) -> str:
    """Returns the text of a WebVTT file; see `build_cues`. `&`, `<` and `>`, which begin its markup, are escaped."""
    return "WEBVTT\n" + "".join(
        f"\n{_time(cue.start, '.')} --> {_time(cue.end, '.')}\n"
        + "".join(f"{html.escape(line, quote=False)}\n" for line in cue.lines)
        for cue in build_cues(characters, duration)
    )


def _time(seconds: float, decimal_mark: str) -> str:  # hours have two digits or more
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}{decimal_mark}{milliseconds % 1000:03}"


def _pieces(characters: Sequence[dict]) -> Iterator[_Piece]:
    """Yields words, and the characters of words that do not fit into a cue."""
    word: list[_Piece] = []  # its characters, each with the marks that combine with it
    after_space = False
    for character in characters:
        text, (start, end) = character["text"], character["timestamp"]
        if text.isspace():
            yield from _undivided_if_it_fits(word)
            word, after_space = [], True
        elif word and _combines(text[0]):
            word[-1] = _join([word[-1], _Piece(text, float(start), float(end), after_space=False)])
        else:
            word.append(_Piece(text, float(start), float(end), after_space))
            after_space = False
    yield from _undivided_if_it_fits(word)


def _undivided_if_it_fits(word: list[_Piece]) -> list[_Piece]:
    if not word:
        return []
    whole = _join(word)
    return [whole] if _width(whole.text) <= LINE_WIDTH and whole.end - whole.start <= MAX_SECONDS else word


def _join(pieces: Sequence[_Piece]) -> _Piece:
    text = "".join(piece.text for piece in pieces)
    return _Piece(text, pieces[0].start, pieces[-1].end, pieces[0].after_space)


def _lines(pieces: Sequence[_Piece]) -> list[str]:
    """Returns the pieces in as few lines as possible, each filled before the next."""
    lines: list[str] = []
    for piece in pieces:
        longer = f"{lines[-1]}{' ' * piece.after_space}{piece.text}" if lines else piece.text
        if lines and _width(longer) <= LINE_WIDTH:
            lines[-1] = longer
        else:
            lines.append(piece.text)
    return lines


def _width(text: str) -> int:
    """Returns the number of columns on a terminal."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text if not _combines(c))


def _combines(character: str) -> bool:
    return unicodedata.category(character) in ("Mn", "Mc", "Me", "Cf")
