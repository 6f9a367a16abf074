"""What is inside a tar, gzipped or not: a list made once, and reading from any place without unpacking the rest.

The list is kept beside the archive (`ARCHIVE.index.npz`), or in the Hub's cache folder if there cannot be one. Names
of members are data here, and never become paths.
"""

from __future__ import annotations

import contextlib
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
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from huggingface_hub.constants import HF_HOME
from transformers.utils import logging

from ..error_line import error_line

logger = logging.get_logger(__name__)

FORMAT = 1  # of index files; others are made anew
GZIP = b"\x1f\x8b"
CAN_SEEK_IN_GZIP = find_spec("indexed_gzip") is not None
SEEK_SPACING = 2**20  # bytes between two points where unpacking can start: a read unpacks half of it, some ms
MAX_SEEK_POINTS = 2048  # of an archive, because each is 32 KiB in memory: archives over 2 GiB have wider spacing
READ_AHEAD = 2**16  # bytes
MAX_INDEXES = 4  # that a process keeps in memory: about 100 bytes a member
MAX_OPEN = 64  # archives that a process keeps open
DAMAGE = (tarfile.TarError, EOFError, zlib.error, OSError, ValueError, OverflowError, MemoryError)


class ContainerError(ValueError):
    """A container, or a part of it, that cannot be read; one line says which and why."""


def reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else error_line(error)


def file_state(path: str | os.PathLike) -> tuple[str, int, int]:
    """Changes when the file does."""
    status = os.stat(path)
    return os.path.abspath(path), status.st_size, status.st_mtime_ns


class LruCache:
    """The `limit` things that were used last. Not passed on to a forked process, which opens its own."""

    def __init__(self, limit: int):
        self.limit = limit
        self.forget()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        self.lock, self.things = threading.RLock(), OrderedDict()

    def get(self, key: Hashable, make: Callable):
        with self.lock:
            if key not in self.things:
                self.things[key] = make()
            self.things.move_to_end(key)
            while len(self.things) > self.limit:
                self.things.popitem(last=False)
            return self.things[key]


class Unpacked:
    """A gzipped file's content, read from any place; by several threads one after another."""

    def __init__(self, path: str | os.PathLike, file: BinaryIO | None = None, points: bytes = b""):
        self.lock = threading.Lock()
        source: dict[str, Any] = {"fileobj": file} if file else {"filename": os.fspath(path)}
        self.file: Any
        if not CAN_SEEK_IN_GZIP:
            logger.warning_once(f"{path}: without the package indexed_gzip it is quick to read in its order only")
            self.file = gzip.GzipFile(mode="rb", **source)  # seeking back starts anew
            return
        from indexed_gzip import IndexedGzipFile

        spacing = max(SEEK_SPACING, os.path.getsize(path) // MAX_SEEK_POINTS)
        # With its buffers of 1 MiB, each read would unpack that much too much.
        self.file = IndexedGzipFile(spacing=spacing, buffer_size=READ_AHEAD, readbuf_size=READ_AHEAD, **source)
        if points:
            self.file.import_index(fileobj=io.BytesIO(points))

    def points(self) -> bytes:
        """Where unpacking can start, after all has been read once."""
        exported = io.BytesIO()
        if CAN_SEEK_IN_GZIP:
            self.file.export_index(fileobj=exported)
        return exported.getvalue()

    def read(self, offset: int, size: int) -> bytes:
        with self.lock:
            self.file.seek(offset)
            return self.file.read(size)


class NameMap:
    """Finds names among millions, in 16 bytes of memory each; of two equal names the later one."""

    def __init__(self, names: Iterable[str]):
        digests = np.fromiter(map(self._digest, names), np.uint64)
        self.order = np.argsort(digests, kind="stable")
        self.digests = digests[self.order]

    @staticmethod
    def _digest(name: str) -> int:
        return int.from_bytes(hashlib.blake2b(_encoded(name), digest_size=8).digest(), "little")

    def find(self, name: str) -> int | None:
        """Number of the name."""
        digest = np.uint64(self._digest(name))
        place = int(np.searchsorted(self.digests, digest, side="right")) - 1
        return int(self.order[place]) if place >= 0 and self.digests[place] == digest else None


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class TarIndex:
    """The files of a tar archive, in its order.

    Args:
        blob, ends: (N,) their names in UTF-8, one behind another, and where each ends.
        offsets, sizes: (N,) where each one's bytes begin in the unpacked archive, and how many they are.
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
        """Which member has that name; of two, the later, as in extracting."""
        return self._numbers.find(name)

    def find(self, name: str) -> tuple[int, int] | None:
        """Offset and size of the member of that name."""
        number = self.number(name)
        return None if number is None else (int(self.offsets[number]), int(self.sizes[number]))


def tar_index(path: str | os.PathLike) -> TarIndex:
    """The index of a tar, gzipped or not, which is made when there is none that fits the archive's size and time.

    Of a damaged archive it lists what comes before the damage, and `problems` says where that is.

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
    """Arrays of an archive's index, in which `points` are where unpacking can start."""
    return kept_arrays(state, "index", wanted, lambda: _scan(Path(state[0])))


def kept_arrays(
    state: tuple[str, int, int], what: str, wanted: Sequence[str], make: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Arrays about an archive: from their file if it fits `state`, else made anew, and kept if there is a place."""
    path = Path(state[0])
    folder = hashlib.sha256(_encoded(str(path.parent))).hexdigest()[:16]
    places = [path.with_name(f"{path.name}.{what}.npz")]
    places.append(Path(HF_HOME) / "hf_mlpl" / "indexes" / folder / places[0].name)
    stamp = np.array([FORMAT, *state[1:], CAN_SEEK_IN_GZIP], dtype=np.int64)
    for place in places:
        try:
            with np.load(place, allow_pickle=False) as stored:
                if np.array_equal(stored["stamp"], stamp):
                    return {name: stored[name] for name in wanted}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            pass  # not there, or damaged
    arrays: dict[str, Any] = make() | {"stamp": stamp}
    for place in places:
        unfinished = place.with_name(f".{place.name}.{os.getpid()}-{threading.get_ident()}.tmp")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with open(unfinished, "wb") as file:
                np.savez(file, **arrays)
            os.replace(unfinished, place)
            break
        except OSError as error:  # a folder that is read-only, or full
            logger.info(f"{place}: cannot be kept there: {reason(error)}")
            with contextlib.suppress(OSError):
                unfinished.unlink()
    return {name: arrays[name] for name in wanted}


def _scan(path: Path) -> dict[str, np.ndarray]:
    blob, ends, offsets, sizes, problems = bytearray(), array("q"), array("q"), array("q"), []
    with open(path, "rb") as file:
        is_gzip = file.read(2) == GZIP
        file.seek(0)
        unpacked = Unpacked(path, file) if is_gzip else None
        length = os.path.getsize(path)
        with logging.tqdm(total=length, unit="B", unit_scale=True, desc=f"index of {path.name}", delay=5) as progress:
            for name, offset, size in _members(unpacked.file if unpacked else file, path, problems):
                blob += _encoded(name)
                ends.append(len(blob))
                offsets.append(offset)
                sizes.append(size)
                if len(ends) % 1000 == 0:
                    progress.update(file.tell() - progress.n)
        points = unpacked.points() if unpacked else b""
    as_bytes: dict[str, bytes | bytearray] = {
        "blob": blob,
        "problems": json.dumps(problems).encode(),
        "points": points,
    }
    arrays = {name: np.frombuffer(content, dtype=np.uint8) for name, content in as_bytes.items()}
    numbers = {"ends": ends, "offsets": offsets, "sizes": sizes}
    return arrays | {name: np.frombuffer(values, dtype=np.int64) for name, values in numbers.items()}


def _members(stream: BinaryIO, path: Path, problems: list[str]) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of the regular files that are whole; appends lines about the rest to `problems`."""
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


def _has_byte(stream: BinaryIO, offset: int) -> bool:
    try:
        stream.seek(offset)
        return len(stream.read(1)) == 1
    except DAMAGE:
        return False


def _end_is_missing(stream: BinaryIO, offset: int) -> str | None:
    """Why the place where tarfile sees the end is not one: it takes a damaged header, and no header, for the end."""
    try:
        stream.seek(offset)
        block = stream.read(512)
    except DAMAGE as error:
        return reason(error)
    return None if block == bytes(512) else "no end mark" if len(block) < 512 else "a header that is none"
