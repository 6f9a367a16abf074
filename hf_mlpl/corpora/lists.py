"""Lists of recordings, for speech of one's own: tables `path sentence language speaker`, and lists of flashlight."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from ..text import normalize_text
from .fl_lists import ListEntry, lines_of_list
from .tables import read_table
from .utterances import ReadingReport, with_durations

COLUMNS = ("path", "sentence", "language", "speaker")


def read_list(
    table: str | Path,
    report: ReadingReport,
    languages: Sequence[str] | None = None,
    train_speakers: Sequence[str] | None = None,
    dev_speakers: Sequence[str] = (),
    test_speakers: Sequence[str] = (),
) -> dict[str, list[dict]]:
    """Utterances of a tab-separated table without quoting, as `train`, `dev`, `test` (labelled) and `unlabelled`.

    Paths are relative to the table's folder and stay inside it. An empty sentence is no error: that utterance is
    unlabelled. Where `train_speakers` are named, all speakers who are in no split are unlabelled too; their sentences
    stay beside their speech, to compare pseudo-labels with.

    Raises:
        ValueError: where the table or a needed column is missing, for a speaker that the table does not have, and for
            one in two splits.
    """
    table = Path(table)
    splits = {"train": set(train_speakers or ()), "dev": set(dev_speakers), "test": set(test_speakers)}
    named = sorted(speaker for speakers in splits.values() for speaker in speakers)
    if twice := {speaker for speaker in named if named.count(speaker) > 1}:
        raise ValueError(f"speakers in more than one split: {', '.join(sorted(twice))}")
    utterances = {"train": [], "dev": [], "test": [], "unlabelled": []}
    found = set()
    for utterance in with_durations(_rows(table, report, languages), report):
        speaker = utterance["speaker"]
        found.add(speaker)
        rest = "train" if train_speakers is None else "unlabelled"
        split = next((name for name, speakers in splits.items() if speaker in speakers), rest)
        if utterance["text"] is None:
            split = "unlabelled"
        elif split == "unlabelled":
            utterance["source"] = "reference"
        utterances[split].append(utterance)
    if absent := sorted(set(named) - found):
        raise ValueError(
            f"{table}: no clips of the speakers {', '.join(absent)}; there are {', '.join(sorted(found))}"
        )
    return {name: rows for name, rows in utterances.items() if rows}


def _rows(table: Path, report: ReadingReport, languages: Sequence[str] | None) -> Iterator[tuple[str, dict]]:
    folder = table.parent.resolve()
    for where, row in read_table(table, COLUMNS):
        if languages and row["language"] not in (None, *languages):  # None is a row with too few columns
            continue
        report.read += 1
        path = (folder / (row["path"] or "")).resolve()
        if None in row or None in row.values():
            report.drop("wrong number of columns", where)
        elif folder not in path.parents:
            report.drop("path is not inside the table's folder", where, repr(row["path"]))
        else:
            text = normalize_text(row["sentence"])
            utterance = {
                "id": path.relative_to(folder).with_suffix("").as_posix(),
                "audio": {"path": str(path), "start": None, "end": None},
                "language": row["language"],
                "text": text or None,
                "speaker": row["speaker"],
                "source": "human" if text else None,
            }
            yield where, utterance


def read_fl_lists(
    names: Sequence[str | Path], language: str, report: ReadingReport, datadir: str | Path = ""
) -> Iterator[dict]:
    """Utterances of list files, in their order, without speakers; those without a transcript have no text.

    What a list says of durations is not believed: they are taken from the recordings.

    Args:
        names, datadir: as of `hf-mlpl test`: lists, and recordings, are below `datadir` where that is given.
        language: of all recordings, as a locale code of Common Voice.

    Raises:
        OSError: for a list that cannot be read.
    """
    lines = chain.from_iterable(lines_of_list(os.path.join(datadir, name), os.fspath(datadir)) for name in names)
    yield from with_durations(_rows_of_lists(lines, language, report), report)


def _rows_of_lists(
    lines: Iterable[tuple[str, ListEntry | ValueError]], language: str, report: ReadingReport
) -> Iterator[tuple[str, dict]]:
    for where, entry in lines:
        report.read += 1
        if isinstance(entry, ValueError):
            report.drop("not a line of a list", where, str(entry))
            continue
        text = normalize_text(entry.transcript) or None
        utterance = {
            "id": entry.id,
            "audio": {"path": os.path.abspath(entry.path), "start": None, "end": None},
            "language": language,
            "text": text,
            "speaker": None,
            "source": text and "human",
        }
        yield where, utterance
