"""Opens releases of Common Voice, which have one locale each: tables and clips, in a folder or inside an archive."""

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
DURATIONS = "clip_durations.tsv"  # from release 16.1 on
SAMPLE = 32  # clips whose headers are compared with that table
BYTES_PER_SECOND = (500, 1_600_000)  # of the leanest speech codec, and of two channels in 32 bits at 192 kHz

Durations = Callable[[str], float | None]  # clip -> seconds, None if they are not known


class ExtractedRelease:
    """Opens `{folder}/{clips/*.mp3, train.tsv, ...}`; the folder's name is the locale."""

    def __init__(self, folder: Path):
        self.folder = self.name = folder
        self.locale = to_locale(folder.absolute().name)
        self.clips = (folder / "clips").absolute()  # so that utterance files can be used from anywhere
        self.problems: tuple[str, ...] = ()

    def open(self, table: str) -> BinaryFile:
        return open_table(self.folder / table)

    def inputs(self, tables: Sequence[str]) -> tuple[Path, ...]:
        """Returns the files and folders on which the rows of some tables depend."""
        return (*(self.folder.absolute() / table for table in (*tables, DURATIONS)), self.clips)

    def audio(self, clip: str) -> dict:
        return {"path": str(self.clips / clip)}

    def has_durations(self) -> bool:
        return (self.folder / DURATIONS).is_file()

    def measured_durations(self) -> Durations:
        return lambda clip: None  # `with_durations` measures the clips that a table names


class ArchivedRelease:
    """Opens a release inside a tar, gzipped or not; names of members begin with `folder`, which ends in the locale."""

    def __init__(self, archive: Path, folder: str):
        self.archive, self.folder, self.index = archive.absolute(), folder, tar_index(archive)
        self.name = f"{archive}:{folder}"
        self.locale = to_locale(Path(folder).name)
        self.problems = self.index.problems

    def open(self, table: str) -> BinaryFile:
        if member := self.index.find(f"{self.folder}/{table}"):
            return io.BufferedReader(open_member(self.archive, *member), 2**20)  # type: ignore[arg-type]  # has readinto
        beginning = f"{self.folder}/"
        tables = sorted(name.removeprefix(beginning) for name in self.index.names() if name.endswith(".tsv"))
        damage = "".join(f"; {line}" for line in self.problems if "damaged or cut off" in line)
        raise ValueError(f"{self.name}/{table}: no such file; tables there: {', '.join(tables) or 'none'}{damage}")

    def inputs(self, tables: Sequence[str]) -> tuple[Path, ...]:
        return (self.archive,)

    def audio(self, clip: str) -> dict | None:
        return member_audio(self.archive, self.index.find(f"{self.folder}/clips/{clip}"))

    def has_durations(self) -> bool:
        return self.index.find(f"{self.folder}/{DURATIONS}") is not None

    def measured_durations(self) -> Durations:
        """Returns the durations in the headers of all clips, which are kept beside the archive."""
        measured = kept_arrays(file_state(self.archive), "durations", ["seconds"], self._measure)["seconds"]

        def seconds(clip: str) -> float | None:
            number = self.index.number(f"{self.folder}/clips/{clip}")
            return None if number is None or not measured[number] > 0 else float(measured[number])

        return seconds

    def _measure(self) -> dict[str, np.ndarray]:
        """Measures members in seconds, NaN for all but clips, in the archive's order: gzip is slow in others."""
        seconds = np.full(len(self.index), np.nan)
        members = enumerate(zip(self.index.names(), self.index.offsets, self.index.sizes, strict=True))
        with logging.tqdm(members, total=len(seconds), desc=f"durations of {self.archive.name}", delay=5) as progress:
            for number, (name, offset, size) in progress:
                with suppress(AudioError):  # reported when a table names the clip
                    if "/clips/" in name:
                        seconds[number] = audio_duration(member_audio(self.archive, (int(offset), int(size))))
        return {"seconds": seconds}


Release = ExtractedRelease | ArchivedRelease


def release_rows(release: Release, table: str, columns: Sequence[str]) -> Iterator[tuple[str, Row]]:
    """Yields the rows of a release's table as `read_table` does."""
    with release.open(table) as file:
        yield from table_rows(file, f"{release.name}/{table}", columns)


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
    if release.has_durations():
        try:
            table = _DurationTable(release, note)
        except ValueError as error:  # a missing column, for example
            note(f"{error}; durations are those of the clips' headers")
        else:
            if table.is_trusted():
                return table.seconds
    return release.measured_durations()


def find_releases(root: Path, problems: list[str]) -> dict[str, Callable[[], Release]]:
    """Finds the releases in an archive or folder, and returns by locale a function that opens each.

    Args:
        problems: gets a line for each archive or folder that is not read.

    Raises:
        ValueError: for two releases of one locale, and if no archive can be read or none holds a release.
    """
    found: dict[str, Callable[[], Release]] = {}
    for folder, release in _archived(root) if root.is_file() else _in_folder(root, problems):
        locale = to_locale(Path(folder).name)
        if found.setdefault(locale, release) is not release:
            raise ValueError(f"{root}: holds two releases of {locale}, whose splits differ; name the path of one")
    if problems and not found:
        raise ValueError(problems[0])
    return dict(sorted(found.items()))


def _in_folder(root: Path, problems: list[str]) -> Iterator[tuple[str, Callable[[], Release]]]:
    archives = [path for path in sorted(root.glob("*")) if path.name.endswith(ARCHIVES) and not is_hidden(path.name)]
    for pattern in ("clips", "*/clips", "*/*/clips"):
        folders = sorted(path.parent for path in root.glob(pattern) if path.is_dir())
        if folders := [folder for folder in folders if not any(map(is_hidden, folder.relative_to(root).parts))]:
            extracted = {to_locale(folder.absolute().name) for folder in folders}
            for archive in archives:
                if (name := ARCHIVE_OF_LOCALE.search(archive.name)) and to_locale(name[1]) not in extracted:
                    problems.append(f"{archive}: is not read, as extracted releases are beside it; name it alone")
            tables = sorted({path.parent for path in root.glob(pattern.replace("clips", "train.tsv"))} - {*folders})
            problems += [f"{folder}: has train.tsv, but no folder clips" for folder in tables]
            yield from ((str(folder.absolute()), partial(ExtractedRelease, folder)) for folder in folders)
            return
    for archive in archives:
        try:
            yield from _archived(archive)
        except ValueError as error:
            problems.append(str(error))


def _archived(archive: Path) -> Iterator[tuple[str, Callable[[], Release]]]:
    if archive.suffix == ".parquet":
        return
    try:
        state = file_state(archive)
    except OSError as error:  # a link without its target
        raise ValueError(f"{archive}: {error.strerror}") from error
    yield from ((folder, partial(ArchivedRelease, archive, folder)) for folder in _folders_inside(archive, state))


@lru_cache(1024)  # there may be an archive for each locale, and each part of a preparation looks into all
def _folders_inside(archive: Path, state: tuple) -> tuple[str, ...]:
    """Returns the folders of releases inside an archive; because of `state` the cache notices a changed archive."""
    index = tar_index(archive)
    folders = {name.rpartition("/clips/")[0] for name in index.names() if "/clips/" in name}
    folders = {folder for folder in folders if not any(map(is_hidden, folder.split("/")))}
    if not folders:
        reasons = [f"{archive}: no Common Voice release, it has no files such as sl/clips/a.mp3", *index.problems]
        raise ValueError("; ".join(reasons))
    return tuple(sorted(folders))


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
