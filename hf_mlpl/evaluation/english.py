"""Normalises English as the Open ASR Leaderboard does.

The leaderboard adds fillers, names, compounds and acronyms to Whisper's normaliser, which transformers has, and so
does this file. Its tables are those of `normalizer/english_abbreviations.py` in
https://github.com/huggingface/open_asr_leaderboard at commit d1e99b2; `open_asr_leaderboard.json` has its licences.

The leaderboard's scores differ in two more ways: it takes a compound in one word for the same in two, and leaves out
utterances whose reference is empty in this form, such as "Um". Our word error rates may be higher by these words.
"""

from __future__ import annotations

import json
import re
from functools import cache
from itertools import groupby
from pathlib import Path

from transformers.models.whisper.english_normalizer import (
    EnglishNumberNormalizer,
    EnglishSpellingNormalizer,
    EnglishTextNormalizer,
)

TABLES = Path(__file__).parent / "open_asr_leaderboard.json"
FILLERS = "hmm|mm|mhm|mmm|uh|um|ah|aha|ahh|ahm|eh|ehehe|em|hm|huh|hum|mhum|uhm|umm|uhuh"
# Words behind which 's stands for "is"; behind others it is a possessive.
WITH_IS = "it|he|she|what|that|who|here|there|how|when|where|why|this"


def normalize_english(text: str) -> str:
    """Returns the leaderboard's form of an English text, without a space at its ends.

    >>> normalize_english("Um, the B.B.C. said: it's okay, Stephen won't paint e-mail in that colour for £20!")
    'the bbc said it is okay steven will not paint email in that color for £20'
    """
    return _normalizer()(text).strip()


@cache
def _normalizer() -> EnglishTextNormalizer:
    tables = json.loads(TABLES.read_text(encoding="utf-8"))
    normalizer = EnglishTextNormalizer(tables["spellings"])
    normalizer.ignore_patterns = rf"\b({FILLERS})\b"
    is_rule = {r"'s\b": (rf"\b({WITH_IS})'s\b", r"\1 is")}
    normalizer.replacers = dict(is_rule.get(rule[0], rule) for rule in normalizer.replacers.items())
    numbers, spellings = EnglishNumberNormalizer(), EnglishSpellingNormalizer(tables["spellings"])
    names = EnglishSpellingNormalizer(tables["names"])

    def standardize_numbers(text: str) -> str:
        for pattern, word in tables["compounds"].items():
            text = re.sub(pattern, word, text)
        return numbers(text)

    normalizer.standardize_numbers = standardize_numbers
    normalizer.standardize_spellings = lambda text: _joined_acronyms(names(spellings(text)))
    return normalizer


def _joined_acronyms(text: str) -> str:
    """Joins runs of single letters and digits; with the words a or i among them, runs of three or more."""
    words = []
    for is_single, run in groupby(text.split(), lambda word: len(word) == 1 and word.isalnum()):
        run = list(run)
        is_acronym = is_single and len(run) >= (3 if {"a", "i"} & {*run} else 2)
        words.append("".join(run) if is_acronym else " ".join(run))
    return " ".join(words)
