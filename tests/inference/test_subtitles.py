"""Subtitles: read back by an independent parser, and held to their limits for any text."""

import html
import io
import re
import textwrap
import unicodedata
from datetime import timedelta

import pytest
import webvtt
from hypothesis import assume, given
from hypothesis import strategies as st

from hf_mlpl.inference.subtitles import LINE_WIDTH, MAX_SECONDS, PAUSE_SECONDS, build_cues, to_srt, to_vtt


def spoken(text, start=0.0, seconds=0.06):
    """Returns characters of `text` in the pipeline's form, one after another; a line feed is a space with a pause."""
    characters = []
    for character in text:
        characters.append({"text": " " if character == "\n" else character, "timestamp": (start, start + seconds / 2)})
        start += seconds + (PAUSE_SECONDS if character == "\n" else 0)
    return characters


def read(content, kind):
    """Reads cues with webvtt-py: start and end, HH:MM:SS.mmm, and lines."""
    return [(cue.start, cue.end, tuple(cue.lines)) for cue in webvtt.from_buffer(io.StringIO(content), format=kind)]


def test_files_of_both_formats():
    characters = spoken("Dober dan,\n<i>R&B</i> --> 5 > 3!", start=3599.9)
    assert to_srt(characters) == (
        "1\n00:59:59,900 --> 01:00:00,900\nDober dan,\n\n2\n01:00:01,560 --> 01:00:02,790\n<i>R&B</i> --> 5 > 3!\n"
    )
    assert to_vtt(characters) == (
        "WEBVTT\n\n00:59:59.900 --> 01:00:00.900\nDober dan,\n\n"
        "01:00:01.560 --> 01:00:02.790\n&lt;i&gt;R&amp;B&lt;/i&gt; --&gt; 5 &gt; 3!\n"
    )
    times = [("00:59:59.900", "01:00:00.900"), ("01:00:01.560", "01:00:02.790")]
    assert read(to_srt(characters), "srt") == [
        (*times[0], ("Dober dan,",)),
        (*times[1], ("<i>R&B</i> --> 5 > 3!",)),
    ]
    assert [(start, end, html.unescape(lines[0])) for start, end, lines in read(to_vtt(characters), "vtt")] == [
        (*times[0], "Dober dan,"),
        (*times[1], "<i>R&B</i> --> 5 > 3!"),
    ]


def test_empty_transcripts():
    assert to_srt([]) == "" and to_vtt([]) == "WEBVTT\n" and read(to_vtt([]), "vtt") == []


def seconds(time: str) -> float:
    hours, minutes, rest = time.split(":")
    return timedelta(hours=int(hours), minutes=int(minutes), seconds=float(rest)).total_seconds()


@pytest.mark.parametrize("start", [0, 0.0004, 0.9996, 59.9996, 3599.9999, 3600, 86399.999, 360000.5])
def test_times_are_rounded_and_carried(start):
    line = to_srt([{"text": "a", "timestamp": (start, start + 2)}]).splitlines()[1]
    assert re.fullmatch(r"\d{2,}:[0-5]\d:[0-5]\d,\d{3} --> \d{2,}:[0-5]\d:[0-5]\d,\d{3}", line)
    assert [seconds(time.replace(",", ".")) for time in line.split(" --> ")] == pytest.approx(
        [start, start + 2], abs=0.000501
    )


def test_lines_are_filled_as_textwrap_fills_them():
    text = "Enakopravnost spolov je temeljna vrednota in skupni cilj vseh držav članic in ustanov te velike zveze"
    cues = build_cues(spoken(text, seconds=0.03))
    expected = textwrap.wrap(text, LINE_WIDTH)
    assert [line for cue in cues for line in cue.lines] == expected and [len(cue.lines) for cue in cues] == [2, 1]


def test_a_long_word_and_writing_without_spaces_are_divided():
    long_word = "Rindfleischetikettierungsüberwachungsaufgabenübertragungsgesetz"
    lines = [line for cue in build_cues(spoken(f"Das {long_word}", seconds=0.02)) for line in cue.lines]
    assert "".join(lines) == f"Das {long_word}" and [len(line) for line in lines] == [42, 25]
    japanese = "これは会議の録音です。" * 4
    lines = [line for cue in build_cues(spoken(japanese, seconds=0.1)) for line in cue.lines]
    assert "".join(lines) == japanese and [len(line) for line in lines] == [21, 21, 2]  # each is two columns wide


def test_a_slow_word_is_divided():
    cues = build_cues(spoken("abcdefghij", seconds=0.9))
    assert [cue.lines for cue in cues] == [("abcdefgh",), ("ij",)]


def test_no_cue_lies_behind_the_end():
    characters = spoken("Hej du\nda", start=0.2)
    end = characters[-1]["timestamp"][1] + 0.01
    expected = [(0.2, 1.2), (pytest.approx(1.62), end)]
    assert [(cue.start, cue.end) for cue in build_cues(characters, end)] == expected
    assert read(to_srt(characters, end), "srt")[-1][1] == "00:00:01.720"
    assert read(to_vtt(characters, end), "vtt")[-1][1] == "00:00:01.720"
    assert read(to_srt(characters), "srt")[-1][1] == "00:00:02.620"


@st.composite
def transcripts(draw):
    letters = st.sampled_from("aäbéшم漢ക് \u0301\u200d&<")
    characters, start = [], draw(st.floats(0, 1e5))
    for character in draw(st.lists(letters, max_size=300)):
        if character == " " and (not characters or characters[-1]["text"] == " "):
            continue
        gap, length = draw(st.sampled_from([0.0, 0.0, 0.03, 0.3, 2.0])), draw(st.sampled_from([0.03, 0.06, 0.6]))
        characters.append({"text": character, "timestamp": (start + gap, start + gap + length)})
        start += gap + length
    if characters and characters[-1]["text"] == " ":
        characters.pop()
    return characters


def columns(line):
    wide = sum(unicodedata.east_asian_width(c) == "W" for c in line)
    return len(line) + wide - sum(unicodedata.category(c)[0] in "MC" for c in line)


@given(transcripts())
def test_limits_hold_for_any_text(characters):
    cues = build_cues(characters)
    assume(cues)
    text = "".join(character["text"] for character in characters)
    assert "".join("".join(cue.lines) for cue in cues).replace(" ", "") == text.replace(" ", "")
    for cue in cues:
        assert 1 <= len(cue.lines) <= 2
        for line in cue.lines:
            # Only marks at the beginning of a word, which have no letter to combine with, can be a line on their own.
            is_marks = columns(line) == 0 and any(word.startswith(line) for word in text.split())
            assert 0 < columns(line) <= LINE_WIDTH or is_marks
            assert line == line.strip()
        assert cue.start < cue.end <= cue.start + MAX_SECONDS + 1e-6 or len("".join(cue.lines)) == 1
    starts = {character["timestamp"][0] for character in characters}
    assert all(cue.start in starts for cue in cues)
    assert all(cue.end <= following.start for cue, following in zip(cues, cues[1:], strict=False))
    for content, kind in ((to_srt(characters), "srt"), (to_vtt(characters), "vtt")):
        back = read(content, kind)
        assert [tuple(map(html.unescape, lines)) if kind == "vtt" else lines for _, _, lines in back] == [
            cue.lines for cue in cues
        ]
        assert [seconds(start) for start, _, _ in back] == pytest.approx([cue.start for cue in cues], abs=0.0006)
        assert [seconds(end) for _, end, _ in back] == pytest.approx([cue.end for cue in cues], abs=0.0006)
