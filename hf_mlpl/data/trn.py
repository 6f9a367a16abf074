"""Writes transcripts in the trn format of sclite, NIST's program for scoring, which other programs read too."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..atomic import atomic_write

# Characters by which sclite marks alternatives, optional words, words that count for nothing, and comments
LOOK_ALIKES = str.maketrans("(){}@;*", "（）｛｝＠；＊")


@contextmanager
def trn_files(hypotheses: Path, references: Path) -> Iterator[Callable[[str, str, str], None]]:
    """Opens a pair of files, which appear once they are complete.

    Yields a function that writes a line into each: it takes the words of a hypothesis and of its reference, with
    spaces between them, and the id of both.
    """
    with (
        atomic_write(hypotheses) as hypotheses,
        atomic_write(references) as references,
        open(hypotheses, "w", encoding="utf-8") as hypothesis_file,
        open(references, "w", encoding="utf-8") as reference_file,
    ):

        def write(hypothesis: str, reference: str, utterance_id: str) -> None:
            hypothesis_file.write(f"{hypothesis} ({utterance_id})\n")
            reference_file.write(f"{reference} ({utterance_id})\n")

        yield write


def file_name(name: str) -> str:
    """Replaces each slash of a name by `#`, as flashlight does, so that no file is written into another folder."""
    return re.sub(r"[/\\]", "#", name)


def plain_words(text: str) -> str:
    """Returns a text in which each word counts as one word: what sclite gives a meaning becomes a look-alike."""
    return text.translate(LOOK_ALIKES)


def utterance_id(speaker: str | None, name: str) -> str:
    """Returns an id from which `sclite -i spu_id` reads the speaker, up to the first hyphen; by default `all`.

    White space and brackets become underscores, and in the speaker's name they become dots, as hyphens do.
    """
    unsafe = r"[\s()]"
    return re.sub(f"{unsafe}|[-_]", ".", speaker or "all") + "-" + re.sub(unsafe, "_", name)
