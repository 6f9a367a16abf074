"""Opens releases of Common Voice, which have one locale each: tables and clips, in a folder or inside an archive.

Scripted speech has a table for each split and a folder `clips`. Spontaneous speech has one table,
`ss-corpus-{locale}.tsv`, and a folder `audios`.
"""

from __future__ import annotations

import io
import os
import random
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from transformers.utils import logging

from ...audio.containers import open_member
from ...audio.folder_walk import is_hidden
from ...audio.reading import AudioError, audio_duration
from ...audio.tar_index import NameMap, file_state, kept_arrays, tar_index
from ..locales import to_locale
from ..recordings import member_audio
from ..tables import BinaryFile, Row, open_table, table_rows

ARCHIVES = (".tar", ".tar.gz", ".tgz")
ARCHIVE_OF_LOCALE = re.compile(r"-([a-z]{2,3}(?:-[A-Za-z]+)?)\.(?:tar|tar\.gz|tgz)$")  # a name that ends in the locale
SCRIPTED, SPONTANEOUS = "clips", "audios"  # the kinds of releases, by the names of their folders of recordings
SPONTANEOUS_TABLE = re.compile(r"ss-corpus-([A-Za-z]{2,3}(?:-[A-Za-z]+)*)\.tsv")  # by its locale
DELTA = re.compile(r"corpus-[\d.]+-delta")  # in the name of a release that only has the clips since the last one
# Where releases lie below a folder. The names behind these patterns have no stars: folders of clips are never listed.
ABOVE = ("", "*/", "*/*/")
DURATIONS = "clip_durations.tsv"  # from release 16.1 on
SAMPLE = 32  # clips whose headers are compared with that table
BYTES_PER_SECOND = (500, 1_600_000)  # of the leanest speech codec, and of two channels in 32 bits at 192 kHz

Durations = Callable[[str], float | None]  # clip -> seconds, None if they are not known


class ExtractedRelease:
    """Opens `{folder}/{clips/*.mp3, train.tsv, ...}`, or spontaneous speech in such a folder."""

    def __init__(self, folder: Path, code: str, kind: str):
        self.folder, self.code, self.kind = folder, code, kind  # the code as the release writes it
        self.name, self.locale = folder, to_locale(code)
        self.clips = (folder / kind).absolute()  # so that utterance files can be used from anywhere
        self.problems: tuple[str, ...] = ()

    def has(self, table: str) -> bool:
        return (self.folder / table).is_file()

    def open(self, table: str) -> BinaryFile:
        return open_table(self.folder / table)

    def inputs(self, tables: Sequence[str]) -> tuple[Path, ...]:
        """Returns the files and folders on which the rows of some tables depend."""
        return (*(self.folder.absolute() / table for table in (*tables, DURATIONS)), self.clips)

    def audio(self, clip: str) -> dict:
        return {"path": str(self.clips / clip)}

    def measured_durations(self) -> Durations:
        return lambda clip: None  # `with_durations` measures the clips that a table names


class ArchivedRelease:
    """Opens a release inside a tar, gzipped or not; names of members begin with `folder`."""

    def __init__(self, archive: Path, folder: str, code: str, kind: str):
        self.archive, self.index = archive.absolute(), tar_index(archive)
        self.code, self.kind, self.locale = code, kind, to_locale(code)
        self.beginning = f"{folder}/" if folder else ""
        self.name = f"{archive}:{folder}"
        self.problems = self.index.problems

    def has(self, table: str) -> bool:
        return self.index.find(f"{self.beginning}{table}") is not None

    def open(self, table: str) -> BinaryFile:
        if member := self.index.find(f"{self.beginning}{table}"):
            return io.BufferedReader(open_member(self.archive, *member), 2**20)  # type: ignore[arg-type]  # has readinto
        tables = sorted(name.removeprefix(self.beginning) for name in self.index.names() if name.endswith(".tsv"))
        damage = "".join(f"; {line}" for line in self.problems if "damaged or cut off" in line)
        raise ValueError(f"{self.name}/{table}: no such file; tables there: {', '.join(tables) or 'none'}{damage}")

    def inputs(self, tables: Sequence[str]) -> tuple[Path, ...]:
        return (self.archive,)

    def audio(self, clip: str) -> dict | None:
        return member_audio(self.archive, self.index.find(f"{self.beginning}{self.kind}/{clip}"))

    def measured_durations(self) -> Durations:
        """Returns the durations in the headers of all clips, which are kept beside the archive."""
        measured = kept_arrays(file_state(self.archive), "durations", ["seconds"], self._measure)["seconds"]

        def seconds(clip: str) -> float | None:
            number = self.index.number(f"{self.beginning}{self.kind}/{clip}")
            return None if number is None or not measured[number] > 0 else float(measured[number])

        return seconds

    def _measure(self) -> dict[str, np.ndarray]:
        """Measures members in seconds, NaN for all but clips, in the archive's order: gzip is slow in others."""
        seconds = np.full(len(self.index), np.nan)
        members = enumerate(zip(self.index.names(), self.index.offsets, self.index.sizes, strict=True))
        with logging.tqdm(members, total=len(seconds), desc=f"durations of {self.archive.name}", delay=5) as progress:
            for number, (name, offset, size) in progress:
                with suppress(AudioError):  # reported when a table names the clip
                    if f"/{SCRIPTED}/" in name or f"{SPONTANEOUS}/" in name:
                        seconds[number] = audio_duration(member_audio(self.archive, (int(offset), int(size))))
        return {"seconds": seconds}


Release = ExtractedRelease | ArchivedRelease


def release_rows(release: Release, table: str, columns: Sequence[str]) -> Iterator[tuple[str, Row]]:
    """Yields the rows of a release's table as `read_table` does. Tables of spontaneous speech have quoted fields."""
    with release.open(table) as file:
        is_quoted = release.kind == SPONTANEOUS
        yield from table_rows(file, f"{release.name}/{table}", columns, loose_quotes=is_quoted)


def num_lines(release: Release, table: str) -> int:
    """Returns the number of lines of a release's table, including the header."""
    lines, last = 0, b"\n"
    with release.open(table) as file:
        while block := file.read(2**20):
            lines, last = lines + block.count(b"\n"), block
    return lines + (not last.endswith(b"\n"))


def _num_bytes(audio: dict | None) -> int:
    """Returns the bytes of a clip, 0 for one that is missing."""
    with suppress(OSError):
        if audio is not None:
            return audio["size"] if "size" in audio else os.path.getsize(audio["path"])
    return 0


def clip_durations(release: Release, note: Callable[[str], object]) -> Durations:
    """Returns the durations in a release's table if they can be trusted, else those in the headers of its clips."""
    if release.has(DURATIONS):
        try:
            table = _DurationTable(release, note)
        except ValueError as error:  # a missing column, for example
            note(f"{error}; durations are those of the clips' headers")
        else:
            if table.is_trusted():
                return table.seconds
    return release.measured_durations()


class FoundRelease(NamedTuple):
    """Describes a release that has not been opened yet."""

    locale: str
    kind: str
    is_delta: bool  # a full release may be beside it
    open: Callable[[], Release]


def find_releases(root: Path, problems: list[str]) -> dict[str, list[FoundRelease]]:
    """Finds the releases in an archive or folder, by locale; scripted speech goes before spontaneous, deltas are last.

    Args:
        problems: gets a line for each archive or folder that is not read.

    Raises:
        ValueError: for two releases of one locale and kind, unless one of them is a delta release, and if no archive
            can be read or none holds a release.
    """
    found: dict[str, list[FoundRelease]] = {}
    for release in _archived(root) if root.is_file() else _in_folder(root, problems):
        others = found.setdefault(release.locale, [])
        if not release.is_delta and any(other[:3] == release[:3] for other in others):
            raise ValueError(
                f"{root}: holds two releases of {release.locale}, whose splits differ; name the path of one"
            )
        others.append(release)
    if problems and not found:
        raise ValueError(problems[0])
    for releases in found.values():
        releases.sort(key=lambda release: (release.is_delta, release.kind == SPONTANEOUS))
    return dict(sorted(found.items()))


def _in_folder(root: Path, problems: list[str]) -> Iterator[FoundRelease]:
    archives = [path for path in sorted(root.glob("*")) if path.name.endswith(ARCHIVES) and not is_hidden(path.name)]
    not_read: list[str] = []
    extracted = [*_extracted(root, not_read), *_extracted_spontaneous(root, not_read)]
    known = {(release.locale, release.kind) for release in extracted}
    for archive in archives:
        if extracted:
            name = ARCHIVE_OF_LOCALE.search(archive.name)
            kind = SPONTANEOUS if re.search("sps-|spontaneous", archive.name) else SCRIPTED
            is_release = name or re.search("common-voice|-corpus-", archive.name)
            if is_release and (name is None or (to_locale(name[1]), kind) not in known):
                problems.append(f"{archive}: is not read, as extracted releases are beside it; name it alone")
            continue
        try:
            yield from _archived(archive)
        except ValueError as error:
            problems.append(str(error))
    problems += not_read
    yield from extracted


def _extracted(root: Path, problems: list[str]) -> Iterator[FoundRelease]:
    """Yields releases of scripted speech, whose folders are named by locale; only the nearest to `root`."""
    for above in ABOVE:
        if folders := _folders(root, above, SCRIPTED):
            tables = {path.parent for path in root.glob(f"{above}train.tsv")} - {*folders}
            problems += [f"{folder}: has train.tsv, but no folder clips" for folder in sorted(tables)]
            yield from (_found_in(folder, folder.absolute().name, SCRIPTED) for folder in folders)
            return


def _extracted_spontaneous(root: Path, problems: list[str]) -> Iterator[FoundRelease]:
    """Yields releases of spontaneous speech, whose tables are named by locale; only the nearest to `root`."""
    for above in ABOVE:
        tables = [path for folder in _folders(root, above, SPONTANEOUS) for path in sorted(folder.glob("ss-*.tsv"))]
        if found := [(path.parent, name[1]) for path in tables if (name := SPONTANEOUS_TABLE.fullmatch(path.name))]:
            yield from (_found_in(folder, code, SPONTANEOUS) for folder, code in found)
            return
    problems += [f"{table}: has no folder {SPONTANEOUS} beside it" for table in sorted(root.glob("ss-corpus-*.tsv"))]


def _folders(root: Path, above: str, kind: str) -> list[Path]:
    """Returns the folders below `root` that contain a folder of recordings, without hidden ones."""
    folders = sorted(path.parent for path in root.glob(f"{above}{kind}") if path.is_dir())
    return [folder for folder in folders if not any(map(is_hidden, folder.relative_to(root).parts))]


def _found_in(folder: Path, code: str, kind: str) -> FoundRelease:
    is_delta = any(DELTA.search(name) for name in folder.absolute().parts[-2:])
    return FoundRelease(to_locale(code), kind, is_delta, partial(ExtractedRelease, folder, code, kind))


def _archived(archive: Path) -> Iterator[FoundRelease]:
    if archive.suffix == ".parquet":
        return
    try:
        state = file_state(archive)
    except OSError as error:  # a link without its target
        raise ValueError(f"{archive}: {error.strerror}") from error
    for folder, code, kind in _folders_inside(archive, state):
        is_delta = bool(DELTA.search(f"{archive.name} {folder}"))
        yield FoundRelease(to_locale(code), kind, is_delta, partial(ArchivedRelease, archive, folder, code, kind))


@lru_cache(1024)  # there may be an archive for each locale, and each part of a preparation looks into all
def _folders_inside(archive: Path, state: tuple) -> tuple[tuple[str, str, str], ...]:
    """Returns the folder, code and kind of the releases in an archive; `state` lets the cache notice its changes."""
    index, found = tar_index(archive), set()
    for name in index.names():
        if f"/{SCRIPTED}/" in name:
            folder = name.rpartition(f"/{SCRIPTED}/")[0]
            found.add((folder, folder.rpartition("/")[2], SCRIPTED))
        elif table := SPONTANEOUS_TABLE.fullmatch(name.rpartition("/")[2]):
            found.add((name.rpartition("/")[0], table[1], SPONTANEOUS))
    found = {each for each in found if not any(map(is_hidden, each[0].split("/")))}
    if not found:
        reasons = [f"{archive}: no Common Voice release, it has no files such as sl/clips/a.mp3", *index.problems]
        raise ValueError("; ".join(reasons))
    return tuple(sorted(found))


class _DurationTable:
    """Holds the durations in the table of a release, in 24 bytes a clip, and the names of a sample of its clips."""

    def __init__(self, release: Release, note: Callable[[str], object]):
        self.release, self.name, self.note = release, f"{release.name}/{DURATIONS}", note
        self.sample: list[str] = []
        self.corrected: dict[str, float] = {}
        self.noted = False
        milliseconds = array("d")
        self.numbers = NameMap(self._names(milliseconds))
        self.milliseconds = np.array(milliseconds)

    def _names(self, milliseconds: array) -> Iterator[str]:
        choice = random.Random(0)
        for number, (_, row) in enumerate(release_rows(self.release, DURATIONS, ("clip", "duration[ms]"))):
            try:
                milliseconds.append(float(row["duration[ms]"]))
            except (TypeError, ValueError):
                milliseconds.append(0.0)
            clip = row["clip"] or ""
            if (place := number if number < SAMPLE else choice.randint(0, number)) < SAMPLE:
                self.sample[place : place + 1] = [clip]
            yield clip

    def is_trusted(self) -> bool:
        """Compares the sample with the clips' headers; returns False if more than one in ten differs."""
        found = {clip: seconds for clip in self.sample if self._listed(clip) and (seconds := self._measured(clip))}
        wrong = [clip for clip in found if abs(self._listed(clip) - found[clip]) > 0.25 + 0.05 * found[clip]]
        if not wrong:
            return True
        few = len(wrong) <= len(found) / 10
        self.corrected = {clip: found[clip] for clip in wrong}
        first = f"{wrong[0]} of {found[wrong[0]]:.2f} s, not {self._listed(wrong[0]):.2f} s"
        outcome = (
            f"these are corrected, others may be wrong too; without {DURATIONS} all clips are measured"
            if few
            else "durations are those of the clips' headers"
        )
        self.note(f"{self.name}: {len(wrong)} of {len(found)} entries looked at are wrong, such as {first}; {outcome}")
        return few

    def seconds(self, clip: str) -> float | None:
        size, seconds = _num_bytes(self.release.audio(clip)), self.corrected.get(clip) or self._listed(clip)
        if not size or seconds is None:
            return None
        if BYTES_PER_SECOND[0] <= size / seconds <= BYTES_PER_SECOND[1]:
            return seconds
        if not self.noted:
            self.note(f"{self.name}: entries that cannot be are not believed, such as {seconds:g} s of {clip}")
        self.noted = True
        return None

    def _listed(self, clip: str) -> float | None:
        number = self.numbers.find(clip)
        if number is None or not 0 < self.milliseconds[number] < np.inf:
            return None
        return float(self.milliseconds[number]) / 1000

    def _measured(self, clip: str) -> float | None:
        try:
            return audio_duration(audio) if (audio := self.release.audio(clip)) else None
        except AudioError:
            return None  # reported when the table of a split names the clip
