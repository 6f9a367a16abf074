"""Reads VoxPopuli's unlabelled speech: segments of long recordings, or segments that are already cut into files."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ...atomic import atomic_write, read_json, write_json
from ...audio.folder_walk import is_hidden
from ...audio.reading import AUDIO_SUFFIXES, END_TOLERANCE, AudioError, audio_duration
from ...audio.tar_index import ContainerError, NameMap, tar_index
from ...error_line import error_line
from ...model.text import normalize_text
from ..listing import state_of
from ..locales import to_locale
from ..reading import ReadingReport, RowError, check_languages, file_name_of, human_utterance, with_durations
from ..recordings import member_audio
from ..tables import read_table, row_problem

CODES = tuple("en de fr es pl it ro hu cs nl fi hr sk sl et lt pt bg el lv mt sv da".split())
SUBSETS = ("10k", "10k_sd", "100k", "400k", *CODES, *(f"{code}_v2" for code in CODES))
# Tables of segments: delimiter, and the columns for recording, number, start and end.
TABLES = {
    "unlabelled_v2.tsv.gz": ("\t", ("event_id", "segment_no", "start", "end")),
    "unlabelled_sd.tsv.gz": ("|", ("session_id", "id_", "start_time", "end_time")),  # one speaker in each segment
}

PIECE, NOTES = 50_000, "notes.json"  # segments, and the file beside those with the rows of the table
ROWS = pa.schema(
    [("line", pa.int64()), *((name, pa.string()) for name in ("event", "number", "start", "end", "problem"))]
)


def read_voxpopuli(
    root: str | Path, report: ReadingReport, locales: Sequence[str] | None = None, subset: str | None = None
) -> Iterator[dict]:
    """Yields utterances without text, from the first of these layouts that the folder has for a language:

    - long recordings and a table of their segments: `raw_audios/{lang}/{year}/{event_id}.ogg`, or the archives
      `{lang}_{year}.tar` and `{lang}_{year}_2.tar` in `raw_audios` or `root`, which are not extracted; the table
      `unlabelled_v2.tsv.gz` or `unlabelled_sd.tsv.gz` is in `annotations`, `unlabelled_data` or `root`;
    - segments already cut: `unlabelled_data/{lang}/{year}/{event_id}_{segment_no}.ogg`.

    Memory does not grow with the table. Sentences of an `annotations/truth.tsv.gz`, which the demo corpus has, become
    the texts. Training on unlabelled speech only compares pseudo-labels with them.

    Args:
        locales: Common Voice locale codes; by default all languages of the folder.
        subset: one of VoxPopuli's, such as `10k`, `100k` (plenary sessions), `400k` (all), `sl`, `sl_v2`, and
            `10k_sd`, which reads `unlabelled_sd.tsv.gz`; by default all segments.

    Raises:
        ValueError: for an unknown subset, a folder without recordings, or without those of the locales, and for
            annotations that are missing, damaged or lack a column.
    """
    speech, failure = _Speech(Path(root), locales, subset, report), None
    texts = _known_sentences(speech.root)
    try:
        yield from _segments(speech.table, speech.rows(report), speech.recordings, texts, report)
    except ValueError as error:
        failure = error  # raised at the end: languages whose speech is cut do not need the table
    for locale, folder in speech.cut:
        yield from with_durations(_cut_segments(_cut_files(folder, subset), locale, texts, report), report)
    if failure:
        raise failure


def voxpopuli_pieces(
    root: str | Path, folder: Path, locales: Sequence[str] | None = None, subset: str | None = None
) -> list[partial]:
    """Splits what `read_voxpopuli` reads into readers of 50,000 segments, about 400 hours, that can be pickled.

    Together they read the same utterances in the same order; the last one has the notes about all of them. The list is
    empty where it would have one reader.

    Args:
        folder: for the rows of the table, which is read once, and not again by a call after one that was killed.

    Raises:
        ValueError: as `read_voxpopuli` does.
    """
    whole = ReadingReport()
    speech = _Speech(Path(root), locales, subset, whole)
    pieces = [partial(read_piece, speech.root, speech.table, rows) for rows in _write_rows(speech, folder, whole)]
    for locale, cut in speech.cut:
        numbers = range(0, sum(1 for _ in _cut_files(cut, subset)), PIECE)
        pieces += [partial(read_cut_piece, speech.root, cut, locale, subset, first, PIECE) for first in numbers]
    if len(pieces) > 1:
        pieces[-1] = partial(pieces[-1].func, *pieces[-1].args, notes=tuple(whole.notes))
    return pieces if len(pieces) > 1 else []


def read_piece(
    root: Path, table: Path, rows: Path, report: ReadingReport, notes: Sequence[str] = ()
) -> Iterator[dict]:
    """Yields the utterances of some rows of the table, which `voxpopuli_pieces` has written into a file."""
    read = (SegmentRow(**row) for batch in pq.ParquetFile(rows).iter_batches() for row in batch.to_pylist())
    yield from _segments(table, read, Recordings(root), _known_sentences(root), report)
    report.note_all(notes)


def read_cut_piece(
    root: Path,
    folder: Path,
    locale: str,
    subset: str | None,
    first: int,
    count: int,
    report: ReadingReport,
    notes: Sequence[str] = (),
) -> Iterator[dict]:
    """Yields the utterances of `count` files of a language whose speech is cut, from the one numbered `first`."""
    files = islice(_cut_files(folder, subset), first, first + count)
    yield from with_durations(_cut_segments(files, locale, _known_sentences(root), report), report)
    report.note_all(notes)


class SegmentRow(NamedTuple):
    """Holds the fields of a row of the table, its line, and the problem of a row that cannot be used."""

    line: int
    event: str | None
    number: str | None
    start: str | None
    end: str | None
    problem: str | None


class _Speech:
    """Finds the unlabelled speech of a folder that is asked for: `table` and `recordings`, or `cut` by language.

    Raises:
        ValueError: as `read_voxpopuli` does.
    """

    def __init__(self, root: Path, locales: Sequence[str] | None, subset: str | None, report: ReadingReport):
        if subset is not None and subset not in SUBSETS:
            raise ValueError(f"VoxPopuli has no subset {subset!r}; its subsets are {', '.join(SUBSETS)}")
        self.root, self.subset = root, subset
        self.recordings, self.table = Recordings(root), _find_table(root, subset)
        cut = {locale_of(folder.name): folder for folder in _language_folders(root / "unlabelled_data")}
        long = {locale_of(code) for code in self.recordings.codes} if self.table.is_file() or not cut else set()
        if not (found := long | cut.keys()):
            raise ValueError(f"{root}: no VoxPopuli corpus; expected folders such as {root / 'raw_audios' / 'sl'}")
        wanted = {*map(to_locale, locales or found)}
        if subset is not None and (code := subset.removesuffix("_v2")) in CODES:
            wanted = wanted & {locale_of(code)} if locales else {locale_of(code)}
        check_languages(wanted, sorted(found), f"{root / 'raw_audios'}: no recordings of", report)
        self.long = long & wanted  # languages of the table
        self.cut = [(locale, cut[locale]) for locale in sorted(wanted & cut.keys() - long)]

    def rows(self, report: ReadingReport) -> Iterator[SegmentRow]:
        """Yields the rows of the table that are asked for and whose archives are there; notes what is missing."""
        if not self.long:
            return
        delimiter, columns = TABLES[self.table.name]
        missing, not_there = set(self.long), Counter[str]()
        for where, row in read_table(self.table, columns, delimiter):
            event, *fields = (row[column] for column in columns)
            code = (event or "").rpartition("_")[2]
            locale = locale_of(code)
            if event and (locale not in self.long or not _belongs(event, self.subset)):
                continue  # the table lists every language of the corpus
            missing.discard(locale)
            if event and event[:4].isdigit() and self.recordings.lacks(code, event[:4]):
                not_there[f"{code}_{event[:4]}"] += 1
                continue
            problem, line = row_problem(row), int(where.rpartition(":")[2])
            if problem is None:
                number, start, end = fields
                yield SegmentRow(line, event, number, start, end, None)
            else:
                yield SegmentRow(line, None, None, None, None, problem)
        if not_there:
            report.note(
                f"{self.table}: {not_there.total()} segments are not read, because their archives are not there: "
                + ", ".join(f"{name}.tar" for name in sorted(not_there))
            )
        for locale in sorted(missing):
            report.note(f"{self.table}: has no segments of the recordings of {locale} that are asked for")


def _write_rows(speech: _Speech, folder: Path, report: ReadingReport) -> list[Path]:
    """Writes the rows of the table that are asked for into files of `PIECE` rows; returns them in order.

    The report gets the notes about the table. A table that is damaged has the rows before the damage.
    """
    if not speech.long:
        return []
    recordings = speech.recordings
    states = [state_of(speech.table), sorted(recordings.codes), sorted(recordings.archives), sorted(speech.long)]
    key = repr((speech.table, states, speech.subset, PIECE))
    folder = folder / hashlib.sha256(os.fsencode(key)).hexdigest()[:16]
    if not folder.exists():
        noted, damage, number = ReadingReport(), None, 0
        rows = speech.rows(noted)
        with atomic_write(folder) as unfinished:
            unfinished.mkdir()
            while damage is None:
                block: list[SegmentRow] = []
                try:
                    for row in islice(rows, PIECE):
                        block.append(row)  # not extend, so that the list keeps the rows before an error
                except ValueError as error:
                    damage = error_line(error)
                if not block:
                    break
                pq.write_table(
                    pa.Table.from_pylist([row._asdict() for row in block], ROWS), unfinished / f"{number:06}"
                )
                number += 1
            write_json(unfinished / NOTES, {"notes": noted.notes, "damage": damage})
    written = read_json(folder / NOTES, notes=list)
    report.note_all(written["notes"])
    if written["damage"]:
        report.note_first(written["damage"])
    return sorted(path for path in folder.iterdir() if path.name != NOTES)


@lru_cache
def locale_of(code: str) -> str:
    """Returns Common Voice's locale for a language code of VoxPopuli; that of its `en_accented` is `en`."""
    return to_locale(code.removesuffix("_accented"))


class Recordings:
    """Finds the long recordings below a folder, as files or inside archives, by the name of their event.

    `codes` are the languages of the unlabelled recordings. `find` returns the `audio` of an event and its seconds, or
    the error that refuses its segments: a cache does not keep errors that are raised. `lacks` returns whether a year
    of a language has not been downloaded.
    """

    def __init__(self, root: Path):
        self.root = (root / "raw_audios").absolute()  # so that utterance files can be used from anywhere
        self.archives: dict[tuple[str, str], list[Path]] = {}
        for archive in sorted([*self.root.glob("*.tar"), *root.absolute().glob("*.tar")]):
            if name := re.fullmatch(r"([a-z]+)_(\d{4})(_2)?\.tar", archive.name):
                self.archives.setdefault((name[1], name[2]), []).append(archive)
        folders = {folder.name for folder in _language_folders(self.root)}
        self.codes = folders | {code for code, _ in self.archives if code in CODES}
        # Tables are sorted by recording, or nearly so: not all of 400,000 recordings have to be kept.
        self.find = lru_cache(4096)(self._find)
        self.lacks = lru_cache(4096)(self._lacks)
        self._open = lru_cache(64)(Archive)

    def _lacks(self, code: str, year: str) -> bool:
        """Returns whether all recordings of a language are in archives, and none of them is of a year."""
        years = {year for other, year in self.archives if other == code}
        return bool(years) and year not in years and not (self.root / code).is_dir()

    def _find(self, event: str) -> tuple[dict, float] | RowError:
        code, year = event.rpartition("_")[2], event[:4]
        path = self.root / code / year / f"{event}.ogg"
        archives = self.archives.get((code, year), [])
        try:
            if os.path.isfile(path):  # a name may be too long for a file
                audio = {"path": str(path)}
            else:
                opened = [self._open(archive) for archive in archives]
                audio = next((audio for archive in opened if (audio := archive.find(event))), None)
                if audio is None:
                    problems = [line for archive in opened for line in archive.problems]
                    reason = "no recording" if all(archive.is_readable for archive in opened) else "unreadable audio"
                    return RowError(reason, ", ".join(map(str, [path, *archives, *problems])))
            return audio, audio_duration(audio)
        except AudioError as error:
            return RowError("unreadable audio", str(error))


class Archive:
    """Finds recordings inside a tar by their names without folders and suffixes; none in one that cannot be read."""

    def __init__(self, path: Path):
        self.path, self.is_readable = path, True
        try:
            self.index = tar_index(path)
            self.problems = self.index.problems
            self.numbers = NameMap(PurePosixPath(name).stem for name in self.index.names())
        except ContainerError as error:
            self.is_readable, self.problems = False, (str(error),)

    def find(self, name: str) -> dict | None:
        """Returns the `audio` of a recording, as in the schema."""
        number = self.numbers.find(name) if self.is_readable else None
        if number is None:
            return None
        return member_audio(self.path, (int(self.index.offsets[number]), int(self.index.sizes[number])))


def _language_folders(folder: Path) -> list[Path]:
    return [folder / code for code in CODES if (folder / code).is_dir()]


def _find_table(root: Path, subset: str | None) -> Path:
    names = ["unlabelled_sd.tsv.gz"] if subset == "10k_sd" else list(TABLES)[: 2 if subset is None else 1]
    # The scripts of VoxPopuli download tables into the folder of the segments that they cut.
    places = [root / folder / name for name in names for folder in ("annotations", "unlabelled_data", "")]
    return next((place for place in places if place.is_file()), places[0])


def _belongs(event: str, subset: str | None) -> bool:
    """Returns whether an event is in a subset, as in VoxPopuli's `get_unlabelled_data.py`, in any language."""
    if subset is None or subset == "400k" or subset.endswith("_v2"):
        return True
    return "PLENARY" in event and (subset not in ("10k", "10k_sd") or "20190101" <= event[:8] < "20200801")


def _known_sentences(root: Path) -> dict[str, str]:
    truth = root / "annotations" / "truth.tsv.gz"
    rows = read_table(truth, ("event_id", "segment_no", "sentence")) if truth.is_file() else ()
    good = (row for _, row in rows if not row_problem(row))
    return {f"{row['event_id']}_{row['segment_no']}": normalize_text(row["sentence"]) for row in good}


def _segments(
    table: Path, rows: Iterable[SegmentRow], recordings: Recordings, texts: dict[str, str], report: ReadingReport
) -> Iterator[dict]:
    """Yields the utterances of rows of a table."""
    for row in rows:
        with report.row(f"{table}:{row.line}"):
            if row.problem:
                raise RowError(row.problem)
            event = file_name_of(row.event, "event id")
            audio, seconds = segment(recordings, event, row.start, row.end)
            locale = locale_of(event.rpartition("_")[2])
            yield _utterance(f"{event}_{row.number}", audio, locale, texts) | {"duration_seconds": seconds}


def segment(recordings: Recordings, event: str, start: str | float, end: str | float) -> tuple[dict, float]:
    """Returns the `audio` of a part of a recording and its seconds; raises `RowError` if there is no such part."""
    try:
        start, end = float(start), float(end)
    except ValueError:
        raise RowError("start or end is not a number") from None
    found = recordings.find(event)
    if isinstance(found, RowError):
        raise RowError(found.reason, found.detail)
    audio, duration = found
    if not (0 <= start < min(end, duration) and end <= duration + END_TOLERANCE):
        raise RowError("segment outside its recording", f"{start}-{end} s of {duration:.2f} s")
    end = min(end, duration)
    return audio | {"start": start, "end": end}, end - start


def _cut_files(folder: Path, subset: str | None) -> Iterator[str]:
    """Yields the paths of segments that are cut, in the order of their years and names."""
    for year in sorted(path for path in folder.absolute().iterdir() if path.is_dir()):
        for name in sorted(os.listdir(year)):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in AUDIO_SUFFIXES and not is_hidden(name) and _belongs(stem, subset):
                yield str(year / name)


def _cut_segments(
    files: Iterable[str], locale: str, texts: dict[str, str], report: ReadingReport
) -> Iterator[tuple[str, dict]]:
    for path in files:
        report.read += 1
        name = os.path.splitext(os.path.basename(path))[0]
        yield path, _utterance(name, {"path": path}, locale, texts)


def _utterance(name: str, audio: dict, locale: str, texts: dict[str, str]) -> dict:
    utterance = human_utterance(name, audio, locale, texts.get(name))
    return utterance | {"source": utterance["text"] and "reference"}
