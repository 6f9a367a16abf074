"""Reads lists of recordings: tables of any form with their usual columns, and flashlight's lists."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from ...model.text import normalize_text
from ..flashlight_lists import lines_of_list
from ..locales import noted_locale, to_locale
from ..metadata import LIKELY, USUAL_COLUMNS, TableRow, columns_of, find_columns, is_json, rows_of
from ..reading import ReadingReport, RowError, human_utterance
from ..recordings import FileNames, check_part_columns, is_object, local_path, part_of, spellings, with_part_durations
from ..splits import Corpus, Splits, of_languages
from ..tables import DAMAGED_BYTES, fold_column
from .manifests import read_manifest

COLUMNS = ("path", "sentence", "language", "speaker")
# Those of a list go before other usual names.
OWN_COLUMNS = {field: (name, *USUAL_COLUMNS[field]) for field, name in (("audio", "path"), ("text", "sentence"))}
# Fields of NeMo and lhotse that show a manifest.
MANIFEST_FIELDS = frozenset(("audio_filepath", "audio_filename", "supervisions", "recording_id", "sources"))
OUTSIDE = "path is not inside the table's folder"
QUOTED = re.compile(r'"([^"]|"")*"')  # a field as csv writes it


def read_list(
    table: str | Path,
    report: ReadingReport,
    languages: Sequence[str] | None = None,
    train_speakers: Sequence[str] | None = None,
    dev_speakers: Sequence[str] = (),
    test_speakers: Sequence[str] = (),
    **settings: Any,
) -> dict[str, list[dict]]:
    """Returns utterances of a table by split: `train`, `dev`, `test` (labelled) and `unlabelled`.

    An utterance with an empty sentence is unlabelled. If `train_speakers` are given, all speakers who are in no split
    are unlabelled too; their sentences are kept, to compare pseudo-labels with.

    Args:
        settings: `columns`, `language`, `delimiter` and `encoding` of `list_utterances`.

    Raises:
        ValueError: as `list_utterances` does, and for a speaker who is not in the table or in two splits.
    """
    utterances = list_utterances(table, report, languages, **settings)
    splits = Splits(train_speakers, dev_speakers, test_speakers)
    return splits.sort([Corpus(utterances, Path(table).parent)], report, table)


def list_utterances(
    table: str | Path,
    report: ReadingReport,
    languages: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
    language: str | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
) -> Iterator[dict]:
    """Yields utterances of a table (csv, tsv, or JSON with an object for each row), plain or gzipped.

    Paths are relative to the table's folder and name files inside it; symbolic links there may lead anywhere. If the
    table itself is a link, the folder of its target is accepted too. Columns `start` and `end`, in seconds, or
    `offset` and `duration`, make parts of recordings; a `duration` alone says nothing. JSON lines of NeMo or lhotse
    are read as `read_manifest` does, unless `columns` are given.

    Args:
        languages: to keep; by default all.
        columns: field of an utterance (`audio`, `text`, `language`, `speaker`, ...) -> column; by default `path`,
            `sentence`, `language` and `speaker`, or the first of `USUAL_COLUMNS` that the table has. A table without
            texts is unlabelled speech.
        language: of all rows, if there is no column of languages.
        delimiter, encoding: as in `read_table`, by default found.

    Raises:
        ValueError: for a table that is missing, a spreadsheet or in an unknown encoding, lacks a column or has no
            rows, and for columns that seem to be starts and ends but are unknown.
    """
    table = Path(table)
    columns_there = columns_of(table, LIKELY if columns is None else [*LIKELY, *columns.values()], delimiter, encoding)
    if is_json(table) and not columns and not MANIFEST_FIELDS.isdisjoint(columns_there):
        yield from of_languages(read_manifest(table, report, language, encoding), languages, report)
        return
    names = _columns(table, columns_there, columns or {}, language, report)
    rows = rows_of(table, sorted(set(names.values())), delimiter, encoding)
    utterances = _utterances(table, rows, names, language, {*map(to_locale, languages or ())}, report)
    yield from with_part_durations(utterances, report)


def _columns(
    table: Path, columns: Sequence[str], given: Mapping[str, str], language: str | None, report: ReadingReport
) -> dict[str, str]:
    """Returns the columns of a table by field; raises ValueError if there is none for recordings or languages."""
    found = ", ".join(filter(None, columns)) or "nothing"
    names = find_columns(columns, given, table, USUAL_COLUMNS | OWN_COLUMNS)
    if "audio" not in names and table.suffix == ".lst":
        raise ValueError(f"{table}: is a list of flashlight by its name, which --flashlight-lists reads")
    if "audio" not in names:
        raise ValueError(
            f"{table}: no column is known to be that of the recordings; its first line must name the columns, such as "
            f"{', '.join(COLUMNS)}, or --path-column one of them; it has {found}"
        )
    if "language" not in names and language is None:
        raise ValueError(
            f"{table}: no column is known to be the language; name it with --language-column, or give the language of "
            f"all rows with --language; it has {found}"
        )
    texts = [name for name in columns if fold_column(name) in USUAL_COLUMNS["text"] and name != names.get("text")]
    if texts and "text" not in given:
        report.note(f"{table}: the texts are those of its column {names['text']}; it also has {' and '.join(texts)}")
    if "text" not in names:
        report.note(
            f"{table}: no column is known to be the text, so its speech is unlabelled; --text-column names one"
        )
    if "language" in names and language is not None:
        report.note(f"{table}: the languages are those of its column {names['language']}, not {language} everywhere")
    check_part_columns(table, columns, names.keys())
    return names


def _utterances(
    table: Path,
    rows: Iterable[TableRow],
    names: Mapping[str, str],
    language: str | None,
    wanted: set[str],
    report: ReadingReport,
) -> Iterator[tuple[str, dict]]:
    folders = dict.fromkeys(map(os.path.abspath, (table.parent, table.parent.resolve(), table.resolve().parent)))
    files, languages_found, before, damaged, quoted = FileNames(), set(), report.read, 0, []
    outside_before = report.dropped[OUTSIDE]
    for where, row, problem in rows:
        fields = {field: row.get(name) for field, name in names.items()}
        if "" in row.values() and not any(row.values()):
            continue  # spreadsheets write rows of commas below the last one
        damaged += bool(problem and problem.startswith(DAMAGED_BYTES))
        spoken = fields["language"] if "language" in names else language
        locale = noted_locale(spoken, report) if isinstance(spoken, str) and not problem else ""
        languages_found.add(locale)
        if wanted and locale and locale not in wanted:
            continue
        with report.row(where):
            if problem:
                raise RowError(problem)
            if not locale:
                raise RowError("no language")
            texts = {field: _text(fields, field) for field in ("audio", "text", "speaker")}
            name, path = _place(local_path(texts["audio"]), folders, files)
            start, end = part_of(fields)
            part = "" if start is None and end is None else f"_{start or 0.0}-{'' if end is None else end}"
            text, speaker = normalize_text(texts["text"]), texts["speaker"].strip() or None
            if '""' in text[1:-1] and QUOTED.fullmatch(text):
                quoted.append(where)
            audio = {"path": path, "start": start, "end": end}
            yield where, human_utterance(Path(name).with_suffix("").as_posix() + part, audio, locale, text, speaker)
    if outside := report.dropped[OUTSIDE] - outside_before:
        report.note(
            f"{table}: {outside} paths are not inside its folder; move the table to a folder above them, or name them "
            "through a link beside it; --dataset reads paths to any place"
        )
    if damaged:
        report.note(f"{table}: {damaged} rows are damaged; if it is in another encoding, name that with --encoding")
    if quoted:
        report.note(
            f"{quoted[0]}: the text keeps its quotes, as {len(quoted)} do; a table with commas has none of them"
        )
    if report.read == before and languages_found:
        known = ", ".join(sorted(languages_found))
        raise ValueError(f"{table}: no rows of {', '.join(sorted(wanted))}; there are {known}")
    if report.read == before:
        raise ValueError(f"{table}: no rows below its header")


def _text(fields: Mapping[str, Any], field: str) -> str:
    """Returns a field as it is written (a number of Parquet as Python prints it), "" for none; raises `RowError`."""
    value = fields.get(field)
    if value is None or value != value:  # NaN, which programs write into JSON for no value
        return ""
    if not isinstance(value, (str, bool, int, float)):
        raise RowError(f"{field} is no text", f"a {type(value).__name__}")
    return str(value)


def _place(path: str, folders: Collection[str], files: FileNames) -> tuple[str, str]:
    """Returns the name of a recording below its table's folder, and its path; raises `RowError` if it is elsewhere."""
    if not path:
        raise RowError("no path")
    if is_object(path):
        return path.partition("://")[2], path
    if not all(_inside(spelling, folders) for spelling in spellings(path)):
        raise RowError(OUTSIDE, repr(path))
    spelling, place = files.locate_spelling(path, folders)
    return _inside(spelling, folders) or spelling, place


def _inside(path: str, folders: Iterable[str]) -> str | None:
    """Returns a path relative to the first folder that contains it by its name, or None; does not resolve links."""
    for folder in folders:
        name = os.path.relpath(os.path.join(folder, path), folder)
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
