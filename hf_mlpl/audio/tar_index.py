"""Lists the members of a tar, gzipped or not, once, and reads from any place in it without unpacking the rest.

The list is stored beside the archive (`ARCHIVE.index.npz`), or in the Hub's cache folder where that cannot be written.
Names of members are data here, and never become paths.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
import threading
import zipfile
import zlib
from array import array
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from huggingface_hub.constants import HF_HOME
from transformers.utils import logging

from ..atomic import atomic_write
from ..error_line import reason
from ..storage import file_version, is_remote, open_remote, parse_location
from .parts import SeekableFile

logger = logging.get_logger(__name__)

FORMAT = 1  # version of index files; other versions are replaced
GZIP = b"\x1f\x8b"
CAN_SEEK_IN_GZIP = find_spec("indexed_gzip") is not None
SEEK_SPACING = 2**20  # bytes between two points where unpacking can start: a read unpacks half of it, some ms
MAX_SEEK_POINTS = 2048  # of an archive, because each is 32 KiB in memory: archives over 2 GiB have wider spacing
READ_AHEAD = 2**16  # bytes
MAX_INDEXES = 4  # in the memory of a process: about 100 bytes a member
MAX_OPEN = 64  # archives that a process keeps open
DAMAGE = (tarfile.TarError, EOFError, zlib.error, OSError, ValueError, OverflowError, MemoryError)


class ContainerError(ValueError):
    """Refuses a container, or a part of it, that cannot be read; its one line names the file and the reason."""


def file_state(path: str | os.PathLike) -> tuple[str, int, int]:
    """Returns path, size and time of a file, one of which changes when the file changes.

    Of a URL, a number for the version that its store names takes the place of the time.
    """
    if is_remote(path):
        size, version = file_version(str(path))
        return str(path), size, int(hashlib.sha256(str(version).encode()).hexdigest()[:15], 16)
    status = os.stat(path)
    return os.path.abspath(path), status.st_size, status.st_mtime_ns


class LruCache:
    """Holds the `limit` entries that were used last, for several threads; is emptied in forked processes."""

    def __init__(self, limit: int):
        self.limit = limit
        self.clear()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.clear)

    def clear(self) -> None:
        self.lock, self.entries = threading.RLock(), OrderedDict()

    def get(self, key: Hashable, make: Callable):
        with self.lock:
            if key not in self.entries:
                self.entries[key] = make()
            self.entries.move_to_end(key)
            while len(self.entries) > self.limit:
                self.entries.popitem(last=False)
            return self.entries[key]


class GzipReader:
    """Reads a gzipped file's content from any place; several threads wait for one another."""

    def __init__(self, path: str | os.PathLike, file: SeekableFile | None = None, points: bytes = b""):
        self.lock = threading.Lock()
        source: dict[str, Any] = {"fileobj": file} if file else {"filename": os.fspath(path)}
        self.file: Any
        if not CAN_SEEK_IN_GZIP:
            logger.warning_once(f"{path}: without the package indexed_gzip only reading it in order is fast")
            self.file = gzip.GzipFile(mode="rb", **source)  # seeking back starts anew
            return
        from indexed_gzip import IndexedGzipFile

        size = file.seek(0, os.SEEK_END) if file else os.path.getsize(path)
        if file:
            file.seek(0)
        spacing = max(SEEK_SPACING, size // MAX_SEEK_POINTS)
        # With its buffers of 1 MiB, each read would unpack that much too much.
        self.file = IndexedGzipFile(spacing=spacing, buffer_size=READ_AHEAD, readbuf_size=READ_AHEAD, **source)
        if points:
            self.file.import_index(fileobj=io.BytesIO(points))

    def points(self) -> bytes:
        """Returns the places where unpacking can start, after the file has been read to its end."""
        exported = io.BytesIO()
        if CAN_SEEK_IN_GZIP:
            self.file.export_index(fileobj=exported)
        return exported.getvalue()

    def read(self, offset: int, size: int) -> bytes:
        with self.lock:
            self.file.seek(offset)
            return self.file.read(size)


class NameMap:
    """Finds names among millions, in 16 bytes of memory each; of equal names the last one."""

    def __init__(self, names: Iterable[str]):
        digests = np.fromiter(map(self._digest, names), np.uint64)
        self.order = np.argsort(digests, kind="stable")
        self.digests = digests[self.order]

    @staticmethod
    def _digest(name: str) -> int:
        return int.from_bytes(hashlib.blake2b(_encoded(name), digest_size=8).digest(), "little")

    def find(self, name: str) -> int | None:
        """Returns the number of the name, counted from 0."""
        digest = np.uint64(self._digest(name))
        place = int(np.searchsorted(self.digests, digest, side="right")) - 1
        return int(self.order[place]) if place >= 0 and self.digests[place] == digest else None


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class TarIndex:
    """Lists the regular files of a tar archive, in its order.

    Args:
        blob, ends: their names in UTF-8, one behind another, and the end of each (N,).
        offsets, sizes: (N,) first byte of each file in the unpacked archive, and number of its bytes.
        problems: lines about members that are no files, and about damage.
    """

    blob: bytes
    ends: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    problems: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ends)

    def name(self, number: int) -> str:
        start = self.ends[number - 1] if number else 0
        return self.blob[start : self.ends[number]].decode("utf-8", "surrogateescape")

    def names(self) -> Iterator[str]:
        return map(self.name, range(len(self)))

    @cached_property
    def _numbers(self) -> NameMap:
        return NameMap(self.names())

    def number(self, name: str) -> int | None:
        """Returns the number of the member of that name; of equal names the last one's, as extracting does."""
        return self._numbers.find(name)

    def find(self, name: str) -> tuple[int, int] | None:
        """Returns offset and size of the member of that name."""
        number = self.number(name)
        return None if number is None else (int(self.offsets[number]), int(self.sizes[number]))


def tar_index(path: str | os.PathLike) -> TarIndex:
    """Returns the index of a tar, gzipped or not; makes it where none fits the archive's size and time.

    The index of a damaged archive lists the files before the damage, and `problems` has a line about it.

    Raises:
        ContainerError: for a file that is missing, or not a tar from its beginning.
    """
    try:
        state = file_state(path)
    except OSError as error:
        raise ContainerError(f"{path}: {reason(error)}") from error
    return _indexes.get(state, lambda: _tar_index(state))


_indexes = LruCache(MAX_INDEXES)


def _tar_index(state: tuple[str, int, int]) -> TarIndex:
    arrays = index_arrays(state, ["blob", "problems", "ends", "offsets", "sizes"])
    blob, problems = arrays.pop("blob").tobytes(), json.loads(arrays.pop("problems").tobytes())
    return TarIndex(blob, problems=tuple(problems), **arrays)


def index_arrays(state: tuple[str, int, int], wanted: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns arrays of an archive's index, among them `points` where unpacking can start."""
    return kept_arrays(state, "index", wanted, lambda: _scan(parse_location(state[0])))


def kept_arrays(
    state: tuple[str, int, int], kind: str, wanted: Sequence[str], make: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Returns arrays about an archive: from their file if it fits `state`, else made, and stored where possible."""
    path = Path(state[0])
    folder = hashlib.sha256(_encoded(str(path.parent))).hexdigest()[:16]
    name = f"{path.name}.{kind}.npz"
    places = [Path(HF_HOME) / "hf_mlpl" / "indexes" / folder / name]
    if not is_remote(state[0]):
        places.insert(0, path.with_name(name))
    stamp = np.array([FORMAT, *state[1:], CAN_SEEK_IN_GZIP], dtype=np.int64)
    for place in places:
        try:
            with np.load(place, allow_pickle=False) as stored:
                if np.array_equal(stored["stamp"], stamp):
                    return {name: stored[name] for name in wanted}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            pass  # missing, or damaged
    arrays: dict[str, Any] = make() | {"stamp": stamp}
    for place in places:
        try:
            with atomic_write(place) as partial, open(partial, "wb") as file:
                np.savez(file, **arrays)
            break
        except OSError as error:  # a folder that is read-only, or full
            logger.info(f"{place}: cannot be written: {reason(error)}")
    return {name: arrays[name] for name in wanted}


def _scan(path: str | Path) -> dict[str, np.ndarray]:
    blob, ends, offsets, sizes, problems = bytearray(), array("q"), array("q"), array("q"), []
    with open_remote(path) if isinstance(path, str) else open(path, "rb") as file:
        length = file.seek(0, os.SEEK_END)
        file.seek(0)
        is_gzip = file.read(2) == GZIP
        file.seek(0)
        unpacked = GzipReader(path, file) if is_gzip else None
        name = PurePath(path).name
        with logging.tqdm(total=length, unit="B", unit_scale=True, desc=f"index of {name}", delay=5) as progress:
            for name, offset, size in _members(unpacked.file if unpacked else file, path, problems):
                blob += _encoded(name)
                ends.append(len(blob))
                offsets.append(offset)
                sizes.append(size)
                if len(ends) % 1000 == 0:
                    progress.update(file.tell() - progress.n)
        points = unpacked.points() if unpacked else b""
    return {
        "blob": np.frombuffer(blob, dtype=np.uint8),
        "problems": np.frombuffer(json.dumps(problems).encode(), dtype=np.uint8),
        "points": np.frombuffer(points, dtype=np.uint8),
        "ends": np.frombuffer(ends, dtype=np.int64),
        "offsets": np.frombuffer(offsets, dtype=np.int64),
        "sizes": np.frombuffer(sizes, dtype=np.int64),
    }


def _members(stream: SeekableFile, path: str | Path, problems: list[str]) -> Iterator[tuple[str, int, int]]:
    """Yields name, offset and size of the complete regular files; appends lines about the rest to `problems`."""
    try:
        tar = tarfile.open(fileobj=stream, mode="r:")
    except DAMAGE as error:
        raise ContainerError(
            f"{path}: not a tar archive, gzipped or not, or its beginning is damaged ({reason(error)}); download it "
            "again, and unpack archives of other kinds"
        ) from error
    count, failure, last = 0, None, None
    while failure is None:
        try:
            member = tar.next()
        except DAMAGE as error:
            member, failure = None, reason(error)
        else:
            tar.members.clear()  # type: ignore[attr-defined]  # else it keeps them all
            if member is None:
                failure = _end_is_missing(stream, tar.offset)
            elif last is not None and member.offset <= last.offset or member.size < 0:
                member, failure = None, "a header that points back"  # which could be followed for ever
        if last is not None and last.isreg() and not last.issparse():
            if failure and last.size and not _has_byte(stream, last.offset_data + last.size - 1):
                failure = f"{last.name!r} is cut off"
            else:
                count += 1
                yield last.name.removeprefix("./"), last.offset_data, last.size
        elif last is not None and not last.isdir():
            kind = "link" if last.islnk() or last.issym() else "device, pipe or sparse file"
            problems.append(f"{path}: {last.name!r} is a {kind} and left out")
        if member is None:
            break
        last = member
    if failure:
        problems.append(
            f"{path}: is damaged or cut off after {count} files ({failure}); those are read, download it again for "
            "the others"
        )


def _has_byte(stream: SeekableFile, offset: int) -> bool:
    try:
        stream.seek(offset)
        return len(stream.read(1)) == 1
    except DAMAGE:
        return False


def _end_is_missing(stream: SeekableFile, offset: int) -> str | None:
    """Returns why tarfile, which takes a damaged or missing header for the end, is wrong about an end at `offset`."""
    try:
        stream.seek(offset)
        block = stream.read(512)
    except DAMAGE as error:
        return reason(error)
    return None if block == bytes(512) else "no end mark" if len(block) < 512 else "a header that is none"
