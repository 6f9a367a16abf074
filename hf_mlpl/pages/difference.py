"""Shows where a text differs from its reference."""

from __future__ import annotations

import regex
from markupsafe import Markup
from rapidfuzz.distance import Levenshtein

from .document import TEMPLATES, render


def difference(reference: str, text: str) -> Markup:
    """
    Returns the reference and the text as one line, with what the text lacks deleted and what it adds inserted.

    Characters are compared as a reader sees them: a letter and its marks are one (a grapheme cluster). The edits are
    as few as possible. They are struck through and underlined, so that they can be told apart without colour, and a
    screen reader says them.
    """
    expected, given = (regex.findall(r"\X", each) for each in (reference, text))
    parts = [
        ("".join(expected[edit.src_start : edit.src_end]), "".join(given[edit.dest_start : edit.dest_end]))
        for edit in Levenshtein.opcodes(expected, given)
    ]
    return render(TEMPLATES / "difference.html", parts=parts)
