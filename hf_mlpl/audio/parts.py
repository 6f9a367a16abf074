"""Reads bytes of audio files: sections, the parts that are recordings of their own, and the tags around them."""

from __future__ import annotations

import io
import os
from typing import BinaryIO, NamedTuple

from ..storage import SeekableReader

CHUNK = 2**22  # bytes of a file that are searched together
SMALL = 2**20  # bytes; files up to this size are searched to the end where that costs less than opening them
LEAST_LOST = 512  # bytes that are worth a warning: more than the rest of a cut-off frame
ID3V1, APE_TAG = 128, 32  # bytes of an ID3v1 tag, and of the header or footer of an APE tag

SeekableFile = BinaryIO | io.RawIOBase  # opened for reading


class Part(NamedTuple):
    """Locates the bytes of a file that are a recording of their own.

    Args:
        trusted: whether the length that a decoder takes from the part's beginning is right.
        serial: number of the one logical stream that is sound, where there are several.
        lost: bytes behind the part that are neither sound nor tags.
        patch: an offset, and bytes that a decoder must read there, instead of a wrong length.
    """

    offset: int
    size: int
    trusted: bool = True
    serial: int | None = None
    lost: int = 0
    patch: tuple[int, bytes] | None = None


class Section(SeekableReader):
    """Reads `size` bytes of an open file, from `offset` on, as a file of their own."""

    def __init__(self, file: SeekableFile, offset: int, size: int):
        self.file, self.offset, self.size = file, offset, size

    def readinto(self, buffer) -> int:
        count = min(len(buffer), max(self.size - self.position, 0))
        self.file.seek(self.offset + self.position)
        content = self.file.read(count) or b""  # some readable objects have no `readinto`
        memoryview(buffer)[: len(content)] = content
        self.position += len(content)
        return len(content)

    def close(self) -> None:
        self.file.close()
        super().close()


class FileBytes:
    """Gives access to a file's bytes by position, with a chunk of them in memory."""

    def __init__(self, file: SeekableFile):
        self.file, self.start, self.chunk = file, 0, b""
        self.size = file.seek(0, os.SEEK_END)

    def at(self, position: int, count: int) -> bytes:
        """Returns `count` bytes from `position` on, fewer at the end."""
        if not self.start <= position <= position + count <= self.start + len(self.chunk):
            self.load(position, max(count, 4096))
        return self.chunk[position - self.start : position - self.start + count]

    def load(self, position: int, count: int = CHUNK) -> None:
        """Reads the chunk of `count` bytes that begins at `position`, fewer at the end."""
        self.file.seek(position)
        self.start, pieces, wanted = position, [], min(count, max(self.size - position, 0))
        while wanted > 0 and (piece := self.file.read(wanted)):  # unbuffered files may give less than asked for
            pieces.append(piece)
            wanted -= len(piece)
        self.chunk = b"".join(pieces)


def after_tags(data: FileBytes, position: int) -> int:
    """Returns the end of the tags that begin at `position`; `position` itself where there are none."""
    while True:
        head = data.at(position, APE_TAG)
        if head[:3] == b"ID3" and len(head) >= 10 and max(head[6:10]) < 128:
            size = 10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
            size = size if position + size < data.size else 10  # a tag that is longer than the file
        elif head[:8] == b"APETAGEX" and len(head) == APE_TAG:
            is_header = head[23] & 0x20
            size = APE_TAG + (int.from_bytes(head[12:16], "little") if is_header else 0)
        elif head[:3] == b"TAG":
            size = 227 if head[3:4] == b"+" else ID3V1
        elif head[:11] == b"LYRICSBEGIN":
            near = data.at(position, 2**16)
            size = max(near.find(b"LYRICS200") + 9, near.find(b"LYRICSEND") + 9, 11)
        else:
            return position
        position += size


def before_tags(data: FileBytes, end: int) -> int:
    """Returns the beginning of the tags that end at `end`; `end` itself where there are none."""
    while True:
        if data.at(max(end - ID3V1, 0), 3) == b"TAG":
            end -= ID3V1
        elif (tail := data.at(max(end - APE_TAG, 0), APE_TAG))[:8] == b"APETAGEX":
            end -= int.from_bytes(tail[12:16], "little") + (APE_TAG if tail[23] & 0x80 else 0)
        else:
            return max(end, 0)


def head_behind_tags(file: SeekableFile, count: int) -> bytes:
    """Returns the first bytes of a file, without the tags that may stand before any kind of audio."""
    data = FileBytes(file)
    return data.at(after_tags(data, 0), count)
