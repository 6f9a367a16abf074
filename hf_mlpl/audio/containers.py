"""Reads recordings inside tar files, gzipped or not, and inside Parquet files, without extracting them."""

from __future__ import annotations

import io
import os
import tempfile
import threading

import numpy as np

from ..error_line import reason
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

_files = LruCache(MAX_OPEN)
_row_groups = LruCache(MAX_ROW_GROUPS)


def open_member(path: str | os.PathLike, offset: int, size: int | None = None) -> SeekableFile:
    """Opens a recording inside a container as a seekable file.

    Args:
        path: A tar, gzipped or not, or a Parquet file.
        offset: First byte of the recording in the (unpacked) tar, or its row in the Parquet file.
        size: Number of its bytes in the tar; None for a Parquet file.

    Raises:
        ContainerError: for a container that is missing or damaged, or has no such bytes or row.
    """
    try:
        if size is None:
            return io.BytesIO(_parquet_bytes(os.fspath(path), offset))
        # Opened for each recording, like an extracted file; a buffer would read more than is needed.
        with open(path, "rb", buffering=0) as file:
            is_gzip = file.read(2) == GZIP
            if not is_gzip and size <= MAX_BYTES_AT_ONCE:
                file.seek(offset)
                content = file.read(size)
        if is_gzip:
            if size > MAX_BYTES_AT_ONCE and CAN_SEEK_IN_GZIP:
                return Section(_gzip_reader(path).file, offset, size)
            content = _files.get(file_state(path), lambda: _gzip_reader(path)).read(offset, size)
        elif size > MAX_BYTES_AT_ONCE:
            return Section(open(path, "rb"), offset, size)
    except ContainerError:
        raise
    except DAMAGE as error:
        raise ContainerError(f"{path}: {reason(error)}") from error
    if len(content) < size:
        raise ContainerError(f"{path}: ends before the {size} bytes at {offset}; is it the file that was indexed?")
    return io.BytesIO(content)


def _gzip_reader(path: str | os.PathLike) -> GzipReader:
    return GzipReader(path, points=index_arrays(file_state(path), ["points"])["points"].tobytes())


class _ParquetFile:
    def __init__(self, path: str):
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            # Without a buffer size, a column of a row group is read at once.
            self.file = pq.ParquetFile(path, buffer_size=MAX_BYTES_AT_ONCE)
            self.column = audio_column(self.file.schema_arrow, path)
        except (pa.ArrowException, OSError) as error:
            raise ContainerError(f"{path}: no Parquet file, or damaged") from error
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


def _parquet_bytes(path: str, row: int) -> bytes:
    import pyarrow as pa

    state = file_state(path)
    opened = _files.get(state, lambda: _ParquetFile(path))
    if not 0 <= row < opened.starts[-1]:
        raise ContainerError(f"{path}: has no row {row}, it has {opened.starts[-1]}")
    number = int(np.searchsorted(opened.starts, row, side="right")) - 1
    try:
        recordings = _row_groups.get((state, number), lambda: opened.row_group(number))
    except (pa.ArrowException, OSError) as error:
        raise ContainerError(f"{path}: row {row} cannot be read, is it damaged? ({reason(error)})") from error
    content = recordings[row - int(opened.starts[number])]
    if content is None:
        raise ContainerError(f"{path}: row {row} has no audio")
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
