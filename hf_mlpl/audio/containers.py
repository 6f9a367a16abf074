"""Recordings inside tar files, gzipped or not, and inside Parquet files, read where they lie: nothing is extracted."""

from __future__ import annotations

import io
import os
import tempfile
import threading
from typing import BinaryIO

import numpy as np

from .tar_index import (
    CAN_SEEK_IN_GZIP,
    DAMAGE,
    GZIP,
    MAX_OPEN,
    ContainerError,
    LruCache,
    NameMap,
    TarIndex,
    Unpacked,
    file_state,
    index_arrays,
    reason,
    tar_index,
)

__all__ = ["ContainerError", "NameMap", "TarIndex", "audio_column", "open_member", "tar_index"]

WHOLE_BYTES = 2**20  # members up to this size are read at once, longer ones as the decoder asks for them
MAX_ROW_GROUPS = 4  # of Parquet files that a process keeps
ROW_GROUP_BYTES = 2**26  # of each in memory, so 256 MiB; larger ones, as those over 2 GiB, are in temporary files
BATCH_BYTES = 2**22  # of a row group that are read together

_files = LruCache(MAX_OPEN)
_row_groups = LruCache(MAX_ROW_GROUPS)


def open_member(path: str | os.PathLike, offset: int, size: int | None = None) -> BinaryIO:
    """
    A recording inside a container, as an open, seekable file.

    Args:
        path: A tar, gzipped or not, or a Parquet file.
        offset: Where the recording's bytes begin in the tar (unpacked), or its row in the Parquet file.
        size: Number of its bytes in the tar; None for a Parquet file.

    Raises:
        ContainerError: for a container that is missing or damaged, and where it has no such bytes or no such row.
    """
    try:
        if size is None:
            return io.BytesIO(_parquet_bytes(os.fspath(path), offset))
        # Opened for each recording, as it would be if it had been extracted; a buffer would read more than is needed.
        with open(path, "rb", buffering=0) as file:
            is_gzip = file.read(2) == GZIP
            if not is_gzip and size <= WHOLE_BYTES:
                file.seek(offset)
                content = file.read(size)
        if is_gzip:
            if size > WHOLE_BYTES and CAN_SEEK_IN_GZIP:
                return Section(_unpacking(path).file, offset, size)
            content = _files.get(file_state(path), lambda: _unpacking(path)).read(offset, size)
        elif size > WHOLE_BYTES:
            return Section(open(path, "rb"), offset, size)
    except ContainerError:
        raise
    except DAMAGE as error:
        raise ContainerError(f"{path}: {reason(error)}") from error
    if len(content) < size:
        raise ContainerError(f"{path}: ends before the {size} bytes at {offset}; is it the file that was indexed?")
    return io.BytesIO(content)


class Section(io.RawIOBase):
    """`size` bytes of an open file from `offset` on, as a file of its own."""

    def __init__(self, file: BinaryIO, offset: int, size: int):
        self.file, self.offset, self.size, self.position = file, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence]
        self.position = max(base + offset, 0)
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer) -> int:
        count = min(len(buffer), max(self.size - self.position, 0))
        self.file.seek(self.offset + self.position)
        content = self.file.read(count) or b""  # not all that can be read have `readinto`
        memoryview(buffer)[: len(content)] = content
        self.position += len(content)
        return len(content)

    def close(self) -> None:
        self.file.close()
        super().close()


def _unpacking(path: str | os.PathLike) -> Unpacked:
    return Unpacked(path, points=index_arrays(file_state(path), ["points"])["points"].tobytes())


class _ParquetFile:
    def __init__(self, path: str):
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            self.file = pq.ParquetFile(path, buffer_size=WHOLE_BYTES)  # else a column of a row group is read at once
            self.column = audio_column(self.file.schema_arrow, path)
        except (pa.ArrowException, OSError) as error:
            raise ContainerError(f"{path}: no Parquet file, or damaged") from error
        counts = [self.file.metadata.row_group(i).num_rows for i in range(self.file.num_row_groups)]
        self.starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self.lock = threading.Lock()

    def row_group(self, number: int) -> list[bytes | None] | _Spooled:
        """The recordings of a row group; in a temporary file if they are more than `ROW_GROUP_BYTES`."""
        group = self.file.metadata.row_group(number)
        size = sum(group.column(i).total_uncompressed_size for i in range(group.num_columns))
        rows = max(BATCH_BYTES * group.num_rows // max(size, 1), 1)
        values, size, spooled = [], 0, None
        batches = self.file.iter_batches(min(rows, 1000), [number], [self.column], use_threads=False)
        with self.lock:
            for batch in batches:
                for content in map(_content, batch.column(0)):
                    size += len(content or b"")
                    values.append(content)
                if spooled is None and size > ROW_GROUP_BYTES:
                    spooled = _Spooled()
                if spooled is not None:
                    spooled.extend(values)
                    values = []
        return values if spooled is None else spooled


class _Spooled:
    """Recordings in a temporary file without a name."""

    def __init__(self):
        self.file, self.ends, self.are_none, self.lock = tempfile.TemporaryFile(), [0], [], threading.Lock()

    def extend(self, values: list[bytes | None]) -> None:
        for content in values:
            self.are_none.append(content is None)
            self.ends.append(self.ends[-1] + self.file.write(content or b""))

    def __getitem__(self, number: int) -> bytes | None:
        if self.are_none[number]:
            return None
        with self.lock:
            self.file.seek(self.ends[number])
            return self.file.read(self.ends[number + 1] - self.ends[number])


def _content(value) -> bytes | None:
    value = value.as_py()
    return value["bytes"] if isinstance(value, dict) else value


def _parquet_bytes(path: str, row: int) -> bytes:
    import pyarrow as pa

    state = file_state(path)
    opened = _files.get(state, lambda: _ParquetFile(path))
    if not 0 <= row < opened.starts[-1]:
        raise ContainerError(f"{path}: has no row {row}, it has {opened.starts[-1]}")
    number = int(np.searchsorted(opened.starts, row, side="right")) - 1
    try:
        values = _row_groups.get((state, number), lambda: opened.row_group(number))
    except (pa.ArrowException, OSError) as error:
        raise ContainerError(f"{path}: row {row} cannot be read, is it damaged? ({reason(error)})") from error
    content = values[row - int(opened.starts[number])]
    if content is None:
        raise ContainerError(f"{path}: row {row} has no audio")
    return content


def audio_column(schema, path: str | os.PathLike) -> str:
    """Name of the one column that holds recordings, as `{bytes, path}` or as bytes, in an Arrow schema.

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
