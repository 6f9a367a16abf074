"""Counts what is taken for what: characters for others, and languages for others."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable

import pyarrow as pa
from rapidfuzz.distance import Levenshtein

from ..model.text import normalize_text

MOST_COUNTED = 20_000  # utterances: more take seconds, and change nothing in the picture


def character_confusions(pairs: Iterable[tuple[str, str]]) -> Counter[tuple[str, str]]:
    """Counts the edits of (reference, hypothesis) pairs: (character, the one in its place), one of them "" for a gap.

    Characters are those of CER. Where several sequences of edits are shortest, one of them is counted.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for reference, hypothesis in pairs:
        reference, hypothesis = normalize_text(reference), normalize_text(hypothesis)
        for edit in Levenshtein.editops(reference, hypothesis):
            before = "" if edit.tag == "insert" else reference[edit.src_pos]
            counts[before, "" if edit.tag == "delete" else hypothesis[edit.dest_pos]] += 1
    return counts


def language_confusions(hypotheses: pa.Table) -> Counter[tuple[str, str]]:
    """Counts (language, predicted language) of utterances whose language was predicted."""
    groups = hypotheses.group_by(["language", "predicted_language"]).aggregate([([], "count_all")]).to_pylist()
    return Counter(
        {
            (row["language"], row["predicted_language"]): row["count_all"]
            for row in groups
            if row["predicted_language"] is not None
        }
    )


def visible(character: str) -> str:
    """Returns a character as a reader can see it, with its name if it has no shape of its own.

    >>> visible("a"), visible(" "), visible(""), visible("\\u200d")
    ('a', '␣ space', '∅ nothing', 'U+200D ZERO WIDTH JOINER')
    """
    if character in ("", " "):
        return "␣ space" if character else "∅ nothing"
    category = unicodedata.category(character)
    if category[0] == "M":
        return f"◌{character} {unicodedata.name(character, '')}".rstrip()
    if category[0] in "CZ":
        return f"U+{ord(character):04X} {unicodedata.name(character, '')}".rstrip()
    return character
