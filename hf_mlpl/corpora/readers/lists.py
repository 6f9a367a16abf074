"""Reads lists of recordings: tables `path sentence language speaker`, and lists of flashlight."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from ...model.text import normalize_text
from ..flashlight_lists import ListEntry, lines_of_list
from ..locales import noted_locale, to_locale
from ..reading import ReadingReport, human_utterance
from ..recordings import FileNames, PartError, located, part_of, with_part_durations
from ..tables import read_table, row_problem

COLUMNS = ("path", "sentence", "language", "speaker")


def read_list(
    table: str | Path,
    report: ReadingReport,
    languages: Sequence[str] | None = None,
    train_speakers: Sequence[str] | None = None,
    dev_speakers: Sequence[str] = (),
    test_speakers: Sequence[str] = (),
) -> dict[str, list[dict]]:
    """Returns utterances of a table by split: `train`, `dev`, `test` (labelled) and `unlabelled`.

    Tabs, commas or semicolons separate columns, and quotes are text where tabs do; see `read_table`. Paths are
    relative to the table's folder and name files inside it; symbolic links there may lead anywhere. Where the table is
    a link itself, the folder of what it leads to will do too. Columns `start` and `end`, in seconds, or `offset` and
    `duration`, make parts of recordings.

    An empty sentence is no error: that utterance is unlabelled. Where `train_speakers` are named, all speakers who are
    in no split are unlabelled too; their sentences stay beside their speech, to compare pseudo-labels with.

    Raises:
        ValueError: where the table, a needed column or any row is missing, for a speaker that the table does not have,
            and for one in two splits.
    """
    table = Path(table)
    splits = {"train": set(train_speakers or ()), "dev": set(dev_speakers), "test": set(test_speakers)}
    named = sorted(speaker for speakers in splits.values() for speaker in speakers)
    if twice := {speaker for speaker in named if named.count(speaker) > 1}:
        raise ValueError(f"speakers in more than one split: {', '.join(sorted(twice))}")
    utterances = {"train": [], "dev": [], "test": [], "unlabelled": []}
    found = set()
    for utterance in with_part_durations(_rows(table, report, languages), report):
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
        known = ", ".join(sorted(found - {None})) or "none"
        raise ValueError(f"{table}: no clips of the speakers {', '.join(absent)}; there are {known}")
    return {name: rows for name, rows in utterances.items() if rows}


def _rows(table: Path, report: ReadingReport, languages: Sequence[str] | None) -> Iterator[tuple[str, dict]]:
    folders = dict.fromkeys(map(os.path.abspath, (table.parent, table.parent.resolve(), table.resolve().parent)))
    files, wanted, spoken, before = FileNames(), {*map(to_locale, languages or ())}, set(), report.read
    for where, row in read_table(table, COLUMNS, None):
        problem = row_problem(row)
        language = "" if problem else noted_locale(row["language"], report)
        spoken.add(language)
        if wanted and language and language not in wanted:
            continue
        report.read += 1
        if problem:
            report.drop(problem, where)
        elif not language:
            report.drop("no language", where)
        elif (name := _inside(row["path"], folders)) is None:
            report.drop("path is not inside the table's folder", where, repr(row["path"]))
        else:
            try:
                start, end = part_of(row)
            except PartError as error:
                report.drop("not a part of a recording", where, str(error))
                continue
            text = normalize_text(row["sentence"])
            part = "" if start is None and end is None else f"_{start or 0.0}-{'' if end is None else end}"
            name, path = Path(name).with_suffix("").as_posix() + part, located(name, folders, files)
            audio = {"path": path, "start": start, "end": end}
            yield where, human_utterance(name, audio, language, text, row["speaker"] or None)
    if report.read == before and spoken:
        raise ValueError(f"{table}: no rows of {', '.join(sorted(wanted))}; there are {', '.join(sorted(spoken))}")
    if report.read == before:
        raise ValueError(f"{table}: no rows below its header")


def _inside(path: str, folders: Iterable[str]) -> str | None:
    """Returns a path relative to the folder that it is inside of by its name, or None; links are not looked at."""
    for folder in folders:
        name = os.path.relpath(os.path.join(folder, path), folder) if path else os.curdir
        if name != os.curdir and name.split(os.sep)[0] != os.pardir:
            return name
    return None


def read_fl_lists(
    names: Sequence[str | Path], language: str, report: ReadingReport, datadir: str | Path = ""
) -> Iterator[dict]:
    """Yields utterances of list files, in their order, without speakers; those without a transcript have no text.

    What a list says of durations is not believed: they are taken from the recordings.

    Args:
        names, datadir: as of `hf-mlpl test`: lists, and recordings, are below `datadir` where that is given.
        language: of all recordings, as a locale code of Common Voice.

    Raises:
        OSError: for a list that cannot be read.
    """
    lines = chain.from_iterable(lines_of_list(os.path.join(datadir, name), os.fspath(datadir)) for name in names)
    before = report.read
    yield from with_part_durations(
        _rows_of_lists(lines, os.fspath(datadir), noted_locale(language, report), report), report
    )
    if report.read == before:
        report.note(f"{', '.join(map(str, names))}: no lines")


def _rows_of_lists(
    lines: Iterable[tuple[str, ListEntry | ValueError]], datadir: str, language: str, report: ReadingReport
) -> Iterator[tuple[str, dict]]:
    files = FileNames()
    for where, entry in lines:
        report.read += 1
        if isinstance(entry, ValueError):
            report.drop("not a line of a list", where, str(entry))
            continue
        if entry.duration < 0:
            report.drop("negative duration", where, f"{entry.duration:g}")
            continue
        audio = {"path": located(entry.path, (os.curdir, datadir), files), "start": None, "end": None}
        yield where, human_utterance(entry.id, audio, language, normalize_text(entry.transcript))
