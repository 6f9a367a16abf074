"""Bytes of audio files: their parts, which are recordings of their own, and the tags around them."""

from __future__ import annotations

import os
from typing import BinaryIO, NamedTuple

CHUNK = 2**22  # bytes of a file that are looked at together
SMALL = 2**20  # bytes; files up to this size are looked through where that costs less than opening them
LEAST_LOST = 512  # bytes that are worth a warning: not the rest of a cut-off frame
ID3V1, APE_TAG = 128, 32  # bytes of the one, and of the other's header and footer


class Part(NamedTuple):
    """Bytes of a file that are a recording of their own.

    Args:
        trusted: whether the length that a decoder takes from its beginning is right.
        serial: of the one logical stream in it that is sound, where there are several.
        lost: bytes behind it that are neither sound nor tags.
        patch: an offset, and bytes that a decoder must read there, instead of a length that is wrong.
    """

    offset: int
    size: int
    trusted: bool = True
    serial: int | None = None
    lost: int = 0
    patch: tuple[int, bytes] | None = None


class FileBytes:
    """A file's bytes, of which a chunk is in memory."""

    def __init__(self, file: BinaryIO):
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
    """Returns where the tags end that begin at `position`; `position` itself where there is none."""
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
    """Returns where the tags begin that end at `end`; `end` itself where there is none."""
    while True:
        if data.at(max(end - ID3V1, 0), 3) == b"TAG":
            end -= ID3V1
        elif (tail := data.at(max(end - APE_TAG, 0), APE_TAG))[:8] == b"APETAGEX":
            end -= int.from_bytes(tail[12:16], "little") + (APE_TAG if tail[23] & 0x80 else 0)
        else:
            return max(end, 0)


def head_behind_tags(file: BinaryIO, count: int) -> bytes:
    """Returns the first bytes of a file, without the tags that may stand before any kind of audio."""
    data = FileBytes(file)
    return data.at(after_tags(data, 0), count)
