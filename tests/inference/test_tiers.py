"""Reads CTM by its definition and TextGrids by their grammar; tests/clients/test_formats.py has others' readers."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_mlpl.inference.tiers import Interval, segments_of, to_ctm, to_textgrid, word_intervals

WORDS = [
    {"text": "god", "timestamp": (0.0, 0.24)},
    {"text": 'n"att', "timestamp": (0.27, 0.6)},
    {"text": "anna", "timestamp": (1.71, 2.01)},
]


def read_textgrid(content: str) -> dict[str, list[tuple[float, float, str]]]:
    """Reads tiers of a TextGrid as Praat does: of a line, only numbers, texts in quotes and flags in <> count."""
    values = iter(re.findall(r'"(?:[^"]|"")*"|<\w+>|(?<![\w\[])-?\d+(?:\.\d+)?(?![\w\]])', content))
    head = [next(values) for _ in range(6)]
    assert head[:2] == ['"ooTextFile"', '"TextGrid"'] and head[4] == "<exists>" and float(head[2]) == 0
    tiers = {}
    for _ in range(int(head[5])):
        kind, name, start, end, count = (next(values) for _ in range(5))
        assert kind == '"IntervalTier"' and (start, end) == (head[2], head[3])
        rows = [(float(next(values)), float(next(values)), unquoted(next(values))) for _ in range(int(count))]
        assert rows[0][0] == float(start) and rows[-1][1] == float(end)
        assert [row[1] for row in rows[:-1]] == [row[0] for row in rows[1:]] and all(a < b for a, b, _ in rows)
        tiers[unquoted(name)] = rows
    assert next(values, None) is None
    return tiers


def unquoted(text: str) -> str:
    return text[1:-1].replace('""', '"')


def test_textgrid_of_words_and_segments():
    words = word_intervals(WORDS)
    tiers = read_textgrid(to_textgrid({"segments": segments_of(words), 'the "words"': words}, 2.5))
    assert tiers == {
        "segments": [(0, 0.6, 'god n"att'), (0.6, 1.71, ""), (1.71, 2.01, "anna"), (2.01, 2.5, "")],
        'the "words"': [
            (0, 0.24, "god"),
            (0.24, 0.27, ""),
            (0.27, 0.6, 'n"att'),
            (0.6, 1.71, ""),
            (1.71, 2.01, "anna"),
            (2.01, 2.5, ""),
        ],
    }


def test_an_empty_recording_has_empty_tiers():
    assert read_textgrid(to_textgrid({"segments": [], "words": []}, 1.25)) == dict.fromkeys(
        ("segments", "words"), [(0, 1.25, "")]
    )
    assert to_ctm([], "a") == "" and segments_of([]) == []


def test_no_interval_is_lost_or_overlaps():
    words = [Interval(0.3, 0.9, "b"), Interval(0.0, 0.4, "a"), Interval(0.9, 1.3, "c")]
    assert read_textgrid(to_textgrid({"words": words}, 1.0)) == {
        "words": [(0, 0.3, "a"), (0.3, 0.9, "b"), (0.9, 1.3, "c")]  # as long as its last word
    }
    with pytest.raises(ValueError, match="tier words: 'a' from 0.3 to 0.4 s has no time of its own"):
        to_textgrid({"words": [Interval(0.3, 0.4, "a"), Interval(0.3, 0.9, "b")]}, 1.0)


@given(
    st.lists(st.tuples(st.integers(1, 50), st.text(st.characters(exclude_categories=["Cs"]), min_size=1)), max_size=8)
)
def test_any_text_comes_back(steps):
    words, position = [], 0
    for step, text in steps:
        words.append(Interval(position * 0.03, (position + step) * 0.03, text))
        position += step + step % 3
    tier = read_textgrid(to_textgrid({"words": words}, position * 0.03 + 1))["words"]
    assert [row for row in tier if row[2]] == [(round(w.start, 3), round(w.end, 3), w.text) for w in words]


def read_ctm(content: str) -> list[tuple]:
    """Reads NIST's conversation time marks: five or six columns between white space, and comments behind `;;`."""
    rows = []
    for line in content.split("\n"):
        if line and not line.startswith(";;"):
            name, channel, start, duration, word, *confidence = line.split()
            assert len(confidence) < 2
            rows.append((name, channel, float(start), float(duration), word, *map(float, confidence)))
    return rows


def test_ctm():
    assert read_ctm(to_ctm(word_intervals(WORDS), "talks/a b\u00a0c")) == [
        ("talks/a_b_c", "1", 0.0, 0.24, "god"),
        ("talks/a_b_c", "1", 0.27, 0.33, 'n"att'),
        ("talks/a_b_c", "1", 1.71, 0.3, "anna"),
    ]
    words = [Interval(1.0, 1.5, "zwei"), Interval(0.0, 0.5, "ein s", 0.98765)]
    assert read_ctm(to_ctm(words, ";;a", "A")) == [
        ("_a", "A", 0.0, 0.5, "ein_s", 0.9877),
        ("_a", "A", 1.0, 0.5, "zwei"),
    ]
