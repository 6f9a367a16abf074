"""Reads lists of recordings: tables with the columns `path sentence language speaker`, and flashlight's lists."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from ...model.text import normalize_text
from ..flashlight_lists import lines_of_list
from ..locales import noted_locale, to_locale
from ..reading import ReadingReport, RowError, check_known, human_utterance
from ..recordings import FileNames, check_part_columns, part_columns, part_of, with_part_durations
from ..tables import check_row, read_table, row_problem

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

    Tabs, commas or semicolons separate columns; quotes are ordinary characters in tables with tabs, see `read_table`.
    Paths are relative to the table's folder and name files inside it; symbolic links there may lead anywhere. If the
    table itself is a link, the folder of its target is accepted too. Columns `start` and `end`, in seconds, or
    `offset` and `duration`, make parts of recordings.

    An utterance with an empty sentence is unlabelled. If `train_speakers` are given, all speakers who are in no split
    are unlabelled too; their sentences are kept, to compare pseudo-labels with.

    Raises:
        ValueError: for a table that is missing, lacks a column or has no rows, for columns that seem to be starts and
            ends but are unknown, and for a speaker who is not in the table or in two splits.
    """
    table = Path(table)
    splits = {"train": set(train_speakers or ()), "dev": set(dev_speakers), "test": set(test_speakers)}
    named = sorted(speaker for speakers in splits.values() for speaker in speakers)
    if twice := {speaker for speaker in named if named.count(speaker) > 1}:
        raise ValueError(f"speakers in more than one split: {', '.join(sorted(twice))}")
    utterances: dict[str, list[dict]] = {"train": [], "dev": [], "test": [], "unlabelled": []}
    found = set()
    rest = "train" if train_speakers is None else "unlabelled"
    for utterance in with_part_durations(_rows(table, report, languages), report):
        speaker = utterance["speaker"]
        found.add(speaker)
        split = next((name for name, speakers in splits.items() if speaker in speakers), rest)
        if utterance["text"] is None:
            split = "unlabelled"
        elif split == "unlabelled":
            utterance["source"] = "reference"
        utterances[split].append(utterance)
    check_known(named, sorted(found - {None}), f"{table}: no clips of the speakers")
    return {name: rows for name, rows in utterances.items() if rows}


def _rows(table: Path, report: ReadingReport, languages: Sequence[str] | None) -> Iterator[tuple[str, dict]]:
    folders = dict.fromkeys(map(os.path.abspath, (table.parent, table.parent.resolve(), table.resolve().parent)))
    files, wanted, languages_found, before = FileNames(), {*map(to_locale, languages or ())}, set(), report.read
    for where, row in read_table(table, COLUMNS, None):
        check_part_columns(table, row, part_columns(row).keys())
        language = "" if row_problem(row) else noted_locale(row["language"], report)
        languages_found.add(language)
        if wanted and language and language not in wanted:
            continue
        with report.row(where):
            check_row(row)
            if not language:
                raise RowError("no language")
            if (path := _inside(row["path"], folders)) is None:
                raise RowError("path is not inside the table's folder", repr(row["path"]))
            start, end = part_of(row)
            part = "" if start is None and end is None else f"_{start or 0.0}-{'' if end is None else end}"
            name, text = Path(path).with_suffix("").as_posix() + part, normalize_text(row["sentence"])
            audio = {"path": files.locate(path, folders), "start": start, "end": end}
            yield where, human_utterance(name, audio, language, text, row["speaker"] or None)
    if report.read == before and languages_found:
        known = ", ".join(sorted(languages_found))
        raise ValueError(f"{table}: no rows of {', '.join(sorted(wanted))}; there are {known}")
    if report.read == before:
        raise ValueError(f"{table}: no rows below its header")


def _inside(path: str, folders: Iterable[str]) -> str | None:
    """Returns a path relative to the first folder that contains it by its name, or None; does not resolve links."""
    for folder in folders:
        name = os.path.relpath(os.path.join(folder, path), folder) if path else os.curdir
        if name != os.curdir and name.split(os.sep)[0] != os.pardir:
            return name
    return None


def read_fl_lists(
    names: Sequence[str | Path], language: str, report: ReadingReport, datadir: str | Path = ""
) -> Iterator[dict]:
    """Yields utterances of list files, in their order, without speakers; those without a transcript have no text.

    Durations are those of the recordings, not those of the lists.

    Args:
        names, datadir: as in `hf-mlpl test`: lists and recordings are below `datadir` if it is given.
        language: of all recordings, as a locale code of Common Voice.

    Raises:
        OSError: for a list that cannot be read.
    """
    before = report.read
    yield from with_part_durations(
        _rows_of_lists(names, os.fspath(datadir), noted_locale(language, report), report), report
    )
    if report.read == before:
        report.note(f"{', '.join(map(str, names))}: no lines")


def _rows_of_lists(
    names: Sequence[str | Path], datadir: str, language: str, report: ReadingReport
) -> Iterator[tuple[str, dict]]:
    files = FileNames()
    for where, entry in chain.from_iterable(lines_of_list(os.path.join(datadir, name), datadir) for name in names):
        with report.row(where):
            if isinstance(entry, ValueError):
                raise RowError("not a line of a list", str(entry))
            if entry.duration < 0:
                raise RowError("negative duration", f"{entry.duration:g}")
            audio = {"path": files.locate(entry.path, (os.curdir, datadir))}
            yield where, human_utterance(entry.id, audio, language, normalize_text(entry.transcript))
