"""Reads VoxPopuli's unlabelled speech: segments of the long recordings where these are, or already cut into files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ...audio.folder_walk import is_hidden
from ...audio.reading import AUDIO_SUFFIXES, END_TOLERANCE, AudioError, audio_duration
from ...audio.tar_index import ContainerError, NameMap, tar_index
from ...model.text import normalize_text
from ..locales import to_locale
from ..reading import ReadingReport, with_durations
from ..tables import read_table, row_problem

CODES = tuple("en de fr es pl it ro hu cs nl fi hr sk sl et lt pt bg el lv mt sv da".split())
SUBSETS = ("10k", "10k_sd", "100k", "400k", *CODES, *(f"{code}_v2" for code in CODES))
# Tables of segments: delimiter, and the columns for recording, number, start and end.
TABLES = {
    "unlabelled_v2.tsv.gz": ("\t", ("event_id", "segment_no", "start", "end")),
    "unlabelled_sd.tsv.gz": ("|", ("session_id", "id_", "start_time", "end_time")),  # one speaker in each segment
}


def read_voxpopuli(
    root: str | Path, report: ReadingReport, locales: Sequence[str] | None = None, subset: str | None = None
) -> Iterator[dict]:
    """Yields utterances without text, from the first of these that the folder has for a language:

    - long recordings and a table of their segments: `raw_audios/{lang}/{year}/{event_id}.ogg`, or the archives
      `{lang}_{year}.tar` and `{lang}_{year}_2.tar` of them in `raw_audios` or `root`, unextracted; the table
      `unlabelled_v2.tsv.gz` or `unlabelled_sd.tsv.gz` is in `annotations`, `unlabelled_data` or `root`;
    - segments already cut: `unlabelled_data/{lang}/{year}/{event_id}_{segment_no}.ogg`.

    Memory does not grow with the table. Sentences of an `annotations/truth.tsv.gz`, which the demo corpus has, become
    the texts. Training on unlabelled speech compares pseudo-labels with them, and uses them for nothing else.

    Args:
        locales: Common Voice locale codes; by default every language that is there.
        subset: one of VoxPopuli's, such as `10k`, `100k` (plenary sessions), `400k` (all), `sl`, `sl_v2`, and
            `10k_sd`, which reads `unlabelled_sd.tsv.gz`; by default all segments of what is there.

    Raises:
        ValueError: for an unknown subset, a folder without recordings, or without those of a locale, and where the
            annotations are missing, damaged or lack a column.
    """
    root = Path(root)
    if subset is not None and subset not in SUBSETS:
        raise ValueError(f"VoxPopuli has no subset {subset!r}; its subsets are {', '.join(SUBSETS)}")
    recordings, table = Recordings(root), _find_table(root, subset)
    long, cut = _layouts(root, recordings, table)
    found = long | cut.keys()
    if not found:
        raise ValueError(f"{root}: no VoxPopuli corpus; expected folders such as {root / 'raw_audios' / 'sl'}")
    wanted = set(locales or found)
    if subset is not None and (code := subset.removesuffix("_v2")) in CODES:
        wanted = wanted & {locale_of(code)} if locales else {locale_of(code)}
    if missing := sorted(wanted - found):
        raise ValueError(
            f"{root / 'raw_audios'}: no recordings of {', '.join(missing)}; there are {', '.join(sorted(found))}"
        )
    texts, belongs = _known_sentences(root), _membership(subset)
    problem = None
    try:
        if long & wanted:
            yield from _segments_of_recordings(table, recordings, long & wanted, belongs, texts, report)
    except ValueError as error:
        problem = error  # raised at the end: languages whose speech is cut do not need the table
    for locale in sorted(wanted - long):
        yield from with_durations(_cut_segments(cut[locale], locale, belongs, texts, report), report)
    if problem is not None:
        raise problem


def _layouts(root: Path, recordings: Recordings, table: Path) -> tuple[set[str], dict[str, Path]]:
    """Returns the locales whose long recordings can be used, and the folders of all that are cut."""
    cut = {locale_of(folder.name): folder for folder in _language_folders(root / "unlabelled_data")}
    long = {locale_of(code) for code in recordings.codes}
    return (long if table.is_file() or not cut else set()), cut


@lru_cache
def locale_of(code: str) -> str:
    """Returns Common Voice's locale for a language code of VoxPopuli; that of its `en_accented` is `en`."""
    return to_locale(code.removesuffix("_accented"))


class Recording(NamedTuple):
    audio: dict  # as in the schema
    duration: float  # seconds


class Problem(NamedTuple):
    reason: str
    detail: str


class Recordings:
    """Finds the long recordings below a folder, as files or inside of archives, by the event that they record.

    `codes` are the languages of the unlabelled ones. `find` gives an event's `Recording`, or the `Problem` with it.
    """

    def __init__(self, root: Path):
        self.root = (root / "raw_audios").absolute()  # so that utterance files can be used from anywhere
        self.archives: dict[tuple[str, str], list[Path]] = {}
        for archive in sorted([*self.root.glob("*.tar"), *root.absolute().glob("*.tar")]):
            if name := re.fullmatch(r"([a-z]+)_(\d{4})(_2)?\.tar", archive.name):
                self.archives.setdefault((name[1], name[2]), []).append(archive)
        folders = {folder.name for folder in _language_folders(self.root)}
        self.codes = folders | {code for code, _ in self.archives if code in CODES}
        # Rows of a table come recording by recording, or nearly so; 400,000 recordings need not stay.
        self.find = lru_cache(4096)(self._find)
        self._open = lru_cache(64)(opened)

    def _find(self, event: str) -> Recording | Problem:
        code, year = event.rpartition("_")[2], event[:4]
        path = self.root / code / year / f"{event}.ogg"
        archives = self.archives.get((code, year), [])
        try:
            if os.path.isfile(path):  # a name may be too long for a file
                audio = {"path": str(path)}
            else:
                found = [self._open(archive) for archive in archives]
                readable = [archive for archive in found if isinstance(archive, Archive)]
                if not (places := [place for archive in readable if (place := archive.find(event))]):
                    problems = [line for archive in readable for line in archive.problems]
                    problems += [line for line in found if isinstance(line, str)]
                    reason = "no recording" if len(readable) == len(found) else "unreadable audio"
                    return Problem(reason, ", ".join(map(str, [path, *archives, *problems])))
                audio = places[0]
            return Recording(audio, audio_duration(audio))
        except AudioError as error:
            return Problem("unreadable audio", str(error))


class Archive:
    """Finds recordings inside of a tar by their names without folders and suffixes. Raises as `tar_index` does."""

    def __init__(self, path: Path):
        self.path, self.index = path, tar_index(path)
        self.problems = self.index.problems
        self.numbers = NameMap(PurePosixPath(name).stem for name in self.index.names())

    def find(self, name: str) -> dict | None:
        """Returns the `audio` of a recording, as in the schema."""
        number = self.numbers.find(name)
        if number is None:
            return None
        offset, size = int(self.index.offsets[number]), int(self.index.sizes[number])
        return {"path": str(self.path), "offset": offset, "size": size}


def opened(path: Path) -> Archive | str:
    """Returns an archive, or the line why there is none; not an error, which would be tried for each recording."""
    try:
        return Archive(path)
    except ContainerError as error:
        return str(error)


def _language_folders(folder: Path) -> list[Path]:
    return [folder / code for code in CODES if (folder / code).is_dir()]


def _find_table(root: Path, subset: str | None) -> Path:
    names = ["unlabelled_sd.tsv.gz"] if subset == "10k_sd" else list(TABLES)[: 2 if subset is None else 1]
    # The scripts of VoxPopuli download tables into the folder of the segments that they cut.
    places = [root / folder / name for name in names for folder in ("annotations", "unlabelled_data", "")]
    return next((place for place in places if place.is_file()), places[0])


def _membership(subset: str | None) -> Callable[[str], bool]:
    """Returns whether events are in a subset, as in VoxPopuli's `get_unlabelled_data.py`; not by language."""
    if subset is None or subset == "400k" or subset.endswith("_v2"):
        return lambda event: True
    if subset in ("10k", "10k_sd"):
        return lambda event: "PLENARY" in event and "20190101" <= event[:8] < "20200801"
    return lambda event: "PLENARY" in event


def _known_sentences(root: Path) -> dict[str, str]:
    truth = root / "annotations" / "truth.tsv.gz"
    rows = read_table(truth, ("event_id", "segment_no", "sentence")) if truth.is_file() else ()
    whole = (row for _, row in rows if not row_problem(row))
    return {f"{row['event_id']}_{row['segment_no']}": normalize_text(row["sentence"]) for row in whole}


def _segments_of_recordings(
    table: Path,
    recordings: Recordings,
    locales: set[str],
    belongs: Callable[[str], bool],
    texts: dict[str, str],
    report: ReadingReport,
) -> Iterator[dict]:
    delimiter, columns = TABLES[table.name]
    event_column, number_column, start_column, end_column = columns
    missing = set(locales)
    for where, row in read_table(table, columns, delimiter):
        event = row[event_column]
        locale = locale_of((event or "").rpartition("_")[2])
        if event and (locale not in locales or not belongs(event)):
            continue  # the table lists every language of the corpus
        report.read += 1
        missing.discard(locale)
        if problem := row_problem(row):
            report.drop(problem, where)
        elif not event or os.path.basename(event) != event:
            report.drop("event id is not a file name", where, repr(event))
        elif part := segment(recordings, event, row[start_column], row[end_column], where, report):
            yield _utterance(f"{event}_{row[number_column]}", *part, locale, texts)
    for locale in sorted(missing):
        report.note(f"{table}: has no segments of the recordings of {locale} that are asked for")


def segment(
    recordings: Recordings, event: str, start: str | float, end: str | float, where: str, report: ReadingReport
) -> tuple[dict, float] | None:
    """Returns the `audio` of a part of a recording and its seconds, or None with a line in the report."""
    try:
        start, end = float(start), float(end)
    except ValueError:
        report.drop("start or end is not a number", where)
        return None
    found = recordings.find(event)
    if isinstance(found, Problem):
        report.drop(found.reason, where, found.detail)
        return None
    audio, duration = found
    if not (0 <= start < min(end, duration) and end <= duration + END_TOLERANCE):
        report.drop("segment outside its recording", where, f"{start}-{end} s of {duration:.2f} s")
        return None
    end = min(end, duration)
    return {**audio, "start": start, "end": end}, end - start


def _cut_segments(
    folder: Path, locale: str, belongs: Callable[[str], bool], texts: dict[str, str], report: ReadingReport
) -> Iterator[tuple[str, dict]]:
    for year in sorted(path for path in folder.absolute().iterdir() if path.is_dir()):
        for name in sorted(os.listdir(year)):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in AUDIO_SUFFIXES and not is_hidden(name) and belongs(stem):
                report.read += 1
                path = str(year / name)
                yield path, _utterance(stem, {"path": path, "start": None, "end": None}, None, locale, texts)


def _utterance(name: str, audio: dict, seconds: float | None, locale: str, texts: dict[str, str]) -> dict:
    text = texts.get(name)
    return {
        "id": name,
        "audio": audio,
        "duration_seconds": seconds,
        "language": locale,
        "text": text,
        "speaker": None,
        "source": "reference" if text else None,
    }
