"""Reads recordings inside tar files, gzipped or not, and inside Parquet files, without extracting them."""

from __future__ import annotations

import io
import os
import tempfile
import threading
import time
from collections.abc import Hashable
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from ..error_line import reason
from ..storage import StorageError, open_remote, parse_location, shown
from .parts import Section, SeekableFile
from .tar_index import (
    CAN_SEEK_IN_GZIP,
    DAMAGE,
    GZIP,
    MAX_OPEN,
    ContainerError,
    GzipReader,
    LruCache,
    file_state,
    index_arrays,
)

MAX_BYTES_AT_ONCE = 2**20  # of a member; longer ones are read as the decoder asks for them
MAX_ROW_GROUPS = 4  # of Parquet files that a process keeps
ROW_GROUP_BYTES = 2**26  # of each in memory, so 256 MiB; larger ones, such as those over 2 GiB, are in temporary files
BATCH_BYTES = 2**22  # of a row group that are read together
LOOK_SECONDS = 30.0  # between looks whether a container at a URL has been replaced

_states = LruCache(MAX_OPEN)
_files = LruCache(MAX_OPEN)
_row_groups = LruCache(MAX_ROW_GROUPS)


def open_member(
    path: str | os.PathLike, offset: int, size: int | None = None, kept: SeekableFile | None = None
) -> SeekableFile:
    """Opens a recording inside a container as a seekable file.

    Args:
        path: A tar, gzipped or not, or a Parquet file; also a URL, whose file a process keeps open.
        offset: First byte of the recording in the (unpacked) tar, or its row in the Parquet file.
        size: Number of its bytes in the tar; None for a Parquet file.
        kept: The open tar, which stays open, where the caller keeps it.

    Raises:
        ContainerError: for a container that is missing or damaged, or has no such bytes or row.
    """
    path, name = _located(path)
    try:
        if size is None:
            return io.BytesIO(_parquet_bytes(path, name, offset))
        if isinstance(path, str):
            return _remote_member(path, offset, size)
        # Else opened for each recording, like an extracted file; a buffer would read more than is needed.
        with nullcontext(kept) if kept else open(path, "rb", buffering=0) as file:
            file.seek(0)
            is_gzip = file.read(2) == GZIP
            if not is_gzip and size <= MAX_BYTES_AT_ONCE:
                file.seek(offset)
                content = file.read(size)
        if is_gzip:
            if size > MAX_BYTES_AT_ONCE and CAN_SEEK_IN_GZIP:
                return Section(_gzip_reader(path).file, offset, size)
            content = _files.get(_state(path), lambda: _gzip_reader(path)).read(offset, size)
        elif size > MAX_BYTES_AT_ONCE:
            return Section(open(path, "rb"), offset, size)
    except ContainerError:
        raise
    except DAMAGE as error:
        raise ContainerError(f"{name}: {reason(error)}") from error
    if len(content) < size:
        raise _too_short(name, offset, size)
    return io.BytesIO(content)


def _located(path: str | os.PathLike) -> tuple[str | Path, str]:
    """Returns the path or URL of a container, and its name in messages."""
    try:
        location = parse_location(path)
    except ValueError as error:
        raise ContainerError(str(error)) from error
    return location, shown(location) if isinstance(location, str) else os.fspath(path)


def _state(location: str | Path) -> Hashable:
    """Returns what changes when a container does; at a URL, which is a request, up to `LOOK_SECONDS` later."""
    if isinstance(location, Path):
        return file_state(location)
    return _states.get((location, time.monotonic() // LOOK_SECONDS), lambda: file_state(location))


def _remote_member(url: str, offset: int, size: int) -> SeekableFile:
    """Opens a member of a tar at a URL: by one request, where it is not gzipped and up to `MAX_BYTES_AT_ONCE` long."""
    archive = _files.get(_state(url), lambda: _RemoteArchive(url))
    if archive.gzip is None and size > MAX_BYTES_AT_ONCE and offset + size <= archive.file.size:
        return Section(open_remote(url), offset, size)
    if archive.gzip is not None:
        content = archive.gzip.read(offset, size)
    else:
        content = archive.file.request(offset, min(offset + size, archive.file.size))
    if len(content) < size:
        raise _too_short(archive.file.name, offset, size)
    return io.BytesIO(content)


class _RemoteArchive:
    def __init__(self, url: str):
        self.file = open_remote(url)
        is_gzip = self.file.request(0, min(2, self.file.size)) == GZIP
        self.gzip = GzipReader(url, self.file, _points(url)) if is_gzip else None


def _too_short(name: str, offset: int, size: int) -> ContainerError:
    return ContainerError(f"{name}: ends before the {size} bytes at {offset}; is it the file that was indexed?")


def _points(path: str | os.PathLike) -> bytes:
    return index_arrays(file_state(path), ["points"])["points"].tobytes()


def _gzip_reader(path: str | os.PathLike) -> GzipReader:
    return GzipReader(path, points=_points(path))


class _ParquetFile:
    def __init__(self, path: str | Path, name: str):
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            # Without a buffer size, a column of a row group is read at once.
            source = open_remote(path) if isinstance(path, str) else path
            self.file = pq.ParquetFile(source, buffer_size=MAX_BYTES_AT_ONCE)
            self.column = audio_column(self.file.schema_arrow, name)
        except StorageError:
            raise
        except (pa.ArrowException, OSError) as error:
            raise ContainerError(f"{name}: no Parquet file, or damaged") from error
        counts = [self.file.metadata.row_group(i).num_rows for i in range(self.file.num_row_groups)]
        self.starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self.lock = threading.Lock()

    def row_group(self, number: int) -> _RowGroup:
        group = self.file.metadata.row_group(number)
        size = sum(group.column(i).total_uncompressed_size for i in range(group.num_columns))
        rows = max(BATCH_BYTES * group.num_rows // max(size, 1), 1)
        recordings = _RowGroup()
        batches = self.file.iter_batches(min(rows, 1000), [number], [self.column], use_threads=False)
        with self.lock:
            for batch in batches:
                for value in batch.column(0):
                    content = value.as_py()
                    recordings.append(content["bytes"] if isinstance(content, dict) else content)
        return recordings


class _RowGroup:
    """Holds the recordings of a row group; on disk where they are more than `ROW_GROUP_BYTES`."""

    def __init__(self):
        self.file, self.spans, self.lock = tempfile.SpooledTemporaryFile(ROW_GROUP_BYTES), [], threading.Lock()

    def append(self, content: bytes | None) -> None:
        self.spans.append(None if content is None else (self.file.tell(), self.file.write(content)))

    def __getitem__(self, number: int) -> bytes | None:
        if self.spans[number] is None:
            return None
        offset, size = self.spans[number]
        with self.lock:
            self.file.seek(offset)
            return self.file.read(size)


def _parquet_bytes(path: str | Path, name: str, row: int) -> bytes:
    import pyarrow as pa

    state = _state(path)
    opened = _files.get(state, lambda: _ParquetFile(path, name))
    if not 0 <= row < opened.starts[-1]:
        raise ContainerError(f"{name}: has no row {row}, it has {opened.starts[-1]}")
    number = int(np.searchsorted(opened.starts, row, side="right")) - 1
    try:
        recordings = _row_groups.get((state, number), lambda: opened.row_group(number))
    except (pa.ArrowException, OSError) as error:
        raise ContainerError(f"{name}: row {row} cannot be read, is it damaged? ({reason(error)})") from error
    content = recordings[row - int(opened.starts[number])]
    if content is None:
        raise ContainerError(f"{name}: row {row} has no audio")
    return content


def audio_column(schema, path: str | os.PathLike) -> str:
    """Returns the name of the one column with recordings, as `{bytes, path}` or as bytes, in an Arrow schema.

    Raises:
        ContainerError: where there is none, or several and none of them is `audio`.
    """
    import pyarrow as pa

    def holds_bytes(kind) -> bool:
        if pa.types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0 and holds_bytes(kind.field("bytes").type)
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    names = [field.name for field in schema if holds_bytes(field.type)]
    if "audio" not in names and len(names) != 1:
        raise ContainerError(
            f"{path}: no column `audio` with the bytes of recordings; it has {', '.join(schema.names)}"
        )
    return "audio" if "audio" in names else names[0]
