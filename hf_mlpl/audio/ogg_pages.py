"""Finds the recordings in ogg files by their pages, and the stream of each that is sound.

libsndfile reads only the first of the recordings that were joined in a file, and only its first stream.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from .parts import LEAST_LOST, SMALL, FileBytes, Part, SeekableFile

SAMPLED_PAGES = 16  # of a long ogg file, where the search need not be thorough
SOUND = (b"\x01vorbis", b"OpusHead", b"\x7fFLAC", b"Speex   ")  # first bytes of the first packet of a stream
FIRST, LONGEST_PAGE = 2, 65307  # the flag of pages that begin a stream; bytes


class _Page(NamedTuple):
    position: int
    size: int
    flags: int
    serial: int
    number: int


def ogg_parts(file: SeekableFile, thorough: bool) -> list[Part]:
    """Returns the recordings in an ogg file, usually one; none where no stream is sound.

    Args:
        thorough: reads all pages; else, in files over 1 MiB, some of them.
    """
    data = FileBytes(file)
    if not thorough and data.size > SMALL and _pages_rise(data):
        return [Part(0, data.size)]
    links, is_open, end = [], False, 0
    for page in _pages(data):
        if page.flags & FIRST and not is_open:
            links.append(_Link(page.position))
        is_open = bool(page.flags & FIRST)
        if links:
            links[-1].add(page, data, end)
        end = page.position + page.size
    if links and data.size - end >= LEAST_LOST:
        links[-1].lost += data.size - end
    return [link.part(data.size) for link in links if link.serial is not None]


class _Link:
    """Collects the pages of one of the recordings that were joined."""

    def __init__(self, begin: int):
        self.begin, self.end, self.streams, self.lost = begin, begin, 0, 0
        self.serial: int | None = None

    def add(self, page: _Page, data: FileBytes, end: int) -> None:
        """Adds a page; the page before it ends at `end`."""
        self.lost += page.position - end
        self.end = page.position + page.size
        if page.flags & FIRST:
            self.streams += 1
            packet = data.at(page.position, min(page.size, 512))
            if self.serial is None and packet[27 + packet[26] :].startswith(SOUND):
                self.serial = page.serial

    def part(self, size: int) -> Part:
        serial = self.serial if self.streams > 1 else None
        return Part(self.begin, min(self.end, size) - self.begin, serial=serial, lost=self.lost)


def _page(data: FileBytes, position: int) -> _Page | None:
    head = data.at(position, 282)
    if len(head) < 27 or head[:4] != b"OggS" or len(head) < 27 + head[26]:
        return None
    number = int.from_bytes(head[18:22], "little")
    size = 27 + head[26] + sum(head[27 : 27 + head[26]])
    return _Page(position, size, head[5], int.from_bytes(head[14:18], "little"), number)


def _pages(data: FileBytes, position: int = 0) -> Iterator[_Page]:
    """Yields the pages from `position` on, and skips other bytes."""
    while position < data.size:
        if not data.start <= position <= data.start + len(data.chunk) - LONGEST_PAGE:
            data.load(position)
        page = _page(data, position)
        if page is not None:
            yield page
            position += page.size
            continue
        if not data.start <= position < data.start + len(data.chunk):
            data.load(position)
        found = data.chunk.find(b"OggS", position - data.start + 1)
        position = data.start + (found if found >= 0 else max(len(data.chunk) - 3, 1))
        if found < 0 and data.start + len(data.chunk) >= data.size:
            return


def _pages_rise(data: FileBytes) -> bool:
    """Returns whether pages sampled over the file belong to one stream, and their numbers rise."""
    last = None
    for i in range(SAMPLED_PAGES + 1):
        position = max(min(data.size * i // SAMPLED_PAGES, data.size - 2 * LONGEST_PAGE), 0)
        data.load(position, 2 * LONGEST_PAGE if i else 4096)
        offset, page = data.chunk.find(b"OggS"), None
        while offset >= 0 and (page := _page(data, position + offset)) is None:
            offset = data.chunk.find(b"OggS", offset + 1)
        if page is None or last is not None and (page.serial != last.serial or page.number < last.number):
            return False
        if i and page.flags & FIRST:
            return False
        last = page
    return True


def one_stream(file: SeekableFile, serial: int) -> BinaryIO:
    """Returns a temporary file with the pages of one logical stream."""
    data, result = FileBytes(file), tempfile.TemporaryFile()
    for page in _pages(data):
        if page.serial == serial:
            result.write(data.at(page.position, page.size))
    return result
