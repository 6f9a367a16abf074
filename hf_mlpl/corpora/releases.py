"""Releases of Common Voice, one locale each: their tables and clips, in a folder or inside an archive."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from transformers.utils import logging

from ..audio import AudioError, audio_duration
from ..containers import open_member
from ..tars import NameMap, file_state, kept_arrays, tar_index
from .locales import to_locale
from .tables import read_table, table_rows

ARCHIVES = ("*.tar", "*.tar.gz", "*.tgz")
DURATIONS = "clip_durations.tsv"  # from release 16.1 on


class ExtractedRelease:
    """`{folder}/{clips/*.mp3, train.tsv, ...}`, the folder being named by the locale."""

    def __init__(self, folder: Path):
        self.folder = self.name = folder
        self.locale = to_locale(folder.absolute().name)
        self.clips = (folder / "clips").absolute()  # so that utterance files can be used from anywhere
        self.problems: tuple[str, ...] = ()

    def rows(self, table: str, columns: Sequence[str]) -> Iterator[tuple[str, dict]]:
        return read_table(self.folder / table, columns)

    def num_lines(self, table: str) -> int:
        with open(self.folder / table, "rb") as file:
            return _num_lines(file)

    def audio(self, clip: str) -> dict:
        return {"path": str(self.clips / clip), "start": None, "end": None}

    def durations(self) -> Callable[[str], float | None]:
        """Clip -> seconds, as far as a table of the release has them and the clip is there."""
        if not (self.folder / DURATIONS).is_file():
            return lambda clip: None
        known = _tabled_durations(self.rows(DURATIONS, ("clip", "duration[ms]")))

        def seconds(clip: str) -> float | None:
            try:
                return known(clip) if os.path.getsize(self.clips / clip) else None
            except OSError:
                return None

        return seconds


class ArchivedRelease:
    """The same inside a tar, gzipped or not: `folder` is its members' common beginning, which ends in the locale."""

    def __init__(self, archive: Path, folder: str):
        self.archive, self.folder, self.index = archive.absolute(), folder, tar_index(archive)
        self.name = f"{archive}:{folder}"
        self.locale = to_locale(Path(folder).name)
        self.problems = self.index.problems

    def _open(self, table: str) -> io.BufferedReader:
        if found := self.index.find(f"{self.folder}/{table}"):
            return io.BufferedReader(open_member(self.archive, *found), 2**20)
        beginning = f"{self.folder}/"
        there = sorted(name.removeprefix(beginning) for name in self.index.names() if name.endswith(".tsv"))
        damage = "".join(f"; {line}" for line in self.problems if "damaged or cut off" in line)
        raise ValueError(f"{self.name}/{table}: no such file; tables there: {', '.join(there) or 'none'}{damage}")

    def rows(self, table: str, columns: Sequence[str]) -> Iterator[tuple[str, dict]]:
        with self._open(table) as file:
            yield from table_rows(file, f"{self.name}/{table}", columns)

    def num_lines(self, table: str) -> int:
        with self._open(table) as file:
            return _num_lines(file)

    def audio(self, clip: str) -> dict | None:
        found = self.index.find(f"{self.folder}/clips/{clip}")
        if found is None:
            return None
        return {"path": str(self.archive), "offset": found[0], "size": found[1], "start": None, "end": None}

    def durations(self) -> Callable[[str], float | None]:
        """Clip -> seconds, from a table of the release, or else from the clips' headers; None for what has none."""
        if self.index.find(f"{self.folder}/{DURATIONS}"):
            return _tabled_durations(self.rows(DURATIONS, ("clip", "duration[ms]")))
        measured = kept_arrays(file_state(self.archive), "durations", ["seconds"], self._measure)["seconds"]

        def seconds(clip: str) -> float | None:
            number = self.index.number(f"{self.folder}/clips/{clip}")
            return None if number is None or not measured[number] > 0 else float(measured[number])

        return seconds

    def _measure(self) -> dict[str, np.ndarray]:
        """Seconds of all members, NaN where there are none. In the archive's order: gzip is quick in no other."""
        seconds = np.full(len(self.index), np.nan)
        members = enumerate(zip(self.index.names(), self.index.offsets, self.index.sizes, strict=True))
        with logging.tqdm(members, total=len(seconds), desc=f"durations of {self.archive.name}", delay=5) as progress:
            for number, (name, offset, size) in progress:
                if "/clips/" in name:
                    try:
                        audio = {"path": self.archive, "offset": int(offset), "size": int(size)}
                        seconds[number] = audio_duration(audio)
                    except AudioError:
                        pass  # told when a table names it
        return {"seconds": seconds}


Release = ExtractedRelease | ArchivedRelease


def find_releases(root: Path) -> dict[str, Callable[[], Release]]:
    """What opens the release of each locale in an archive or folder; empty where there is nothing of the kind.

    Raises:
        ValueError: for an archive that cannot be read or holds no release, and for two releases of one locale.
    """
    found: dict[str, Callable[[], Release]] = {}
    for folder, release in _archived(root) if root.is_file() else _in_folder(root):
        locale = to_locale(Path(folder).name)
        if found.setdefault(locale, release) is not release:
            raise ValueError(f"{root}: holds two releases of {locale}, whose splits differ; name the path of one")
    return dict(sorted(found.items()))


def _in_folder(root: Path) -> Iterator[tuple[str, Callable[[], Release]]]:
    for pattern in ("clips", "*/clips", "*/*/clips"):
        if folders := sorted(path.parent for path in root.glob(pattern) if path.is_dir()):
            yield from ((str(folder.absolute()), partial(ExtractedRelease, folder)) for folder in folders)
            return
    for archive in sorted(path for pattern in ARCHIVES for path in root.glob(pattern)):
        yield from _archived(archive)


def _archived(archive: Path) -> Iterator[tuple[str, Callable[[], Release]]]:
    if archive.suffix == ".parquet":
        return
    index = tar_index(archive)
    folders = {name.rpartition("/clips/")[0] for name in index.names() if "/clips/" in name}
    if not folders:
        reasons = [f"{archive}: no Common Voice release, it has no files such as sl/clips/a.mp3", *index.problems]
        raise ValueError("; ".join(reasons))
    yield from ((folder, partial(ArchivedRelease, archive, folder)) for folder in sorted(folders))


def _num_lines(file: io.BufferedReader | io.BufferedIOBase) -> int:
    lines, last = 0, b"\n"
    while block := file.read(2**20):
        lines, last = lines + block.count(b"\n"), block
    return lines + (not last.endswith(b"\n"))


def _tabled_durations(rows: Iterator[tuple[str, dict]]) -> Callable[[str], float | None]:
    """Clip -> seconds, in 24 bytes a clip; None for a clip that the table lacks, or says to have no length."""
    milliseconds = []

    def names() -> Iterator[str]:
        for _, row in rows:
            try:
                milliseconds.append(float(row["duration[ms]"]))
            except (TypeError, ValueError):
                milliseconds.append(0.0)
            yield row["clip"] or ""

    numbers = NameMap(names())
    milliseconds = np.array(milliseconds)

    def seconds(clip: str) -> float | None:
        number = numbers.find(clip)
        return None if number is None or not 0 < milliseconds[number] < np.inf else float(milliseconds[number]) / 1000

    return seconds
