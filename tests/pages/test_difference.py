"""Differences of texts, read back by an HTML parser."""

import random
import re
from html import unescape

import pytest
from rapidfuzz.distance import Levenshtein

from hf_mlpl.pages.difference import difference

PARTS = re.compile(r"<(del|ins)>(.*?)</\1>", re.DOTALL)


def read(markup: str) -> tuple[str, str, list[tuple[str, str]]]:
    """Returns the reference, the text, and the edits of a difference."""
    inner = re.fullmatch(r'<span class="difference" dir="auto">(.*)</span>', markup.strip(), re.DOTALL)[1]
    before = PARTS.sub(lambda match: match[2] if match[1] == "del" else "", inner)
    after = PARTS.sub(lambda match: match[2] if match[1] == "ins" else "", inner)
    return unescape(before), unescape(after), [(kind, unescape(text)) for kind, text in PARTS.findall(inner)]


@pytest.mark.parametrize(
    ("reference", "text", "edits"),
    [
        ("a cat", "a cat", []),
        ("a cat", "a bat", [("del", "c"), ("ins", "b")]),
        ("two words", "twowords", [("del", " ")]),
        ("", "new", [("ins", "new")]),
        ("cafe\u0301", "cafe", [("del", "e\u0301"), ("ins", "e")]),  # a letter with its mark is one
        ("नमस्ते", "नमस्त", [("del", "स्ते"), ("ins", "स्त")]),
        ("👩‍👩‍👧 a", "👩 a", [("del", "👩‍👩‍👧"), ("ins", "👩")]),
        ("السلام", "السلم", [("del", "ا")]),
        ("<b>&amp;", "<i>&amp;", [("del", "b"), ("ins", "i")]),
    ],
)
def test_edits(reference, text, edits):
    assert read(difference(reference, text)) == (reference, text, edits)


def test_no_more_edits_than_needed():
    draw = random.Random(0)
    for _ in range(200):
        reference, text = ("".join(draw.choices("ab <c", k=draw.randint(0, 12))) for _ in range(2))
        before, after, edits = read(difference(reference, text))
        assert (before, after) == (reference, text)
        removed, added = (sum(len(part) for kind, part in edits if kind == tag) for tag in ("del", "ins"))
        assert max(removed, added) <= Levenshtein.distance(reference, text) <= removed + added
