"""What mp3 and ogg files consist of: where one recording ends and the next begins, and whether headers tell the truth.

libsndfile believes the first header: of files that were joined it reads the first, and the length of an mp3 of
variable bit rate without a Xing frame it guesses from the first frame.
"""

from __future__ import annotations

import itertools
import os
import re
import tempfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

CHUNK = 2**22  # bytes of a file that are looked at together
SMALL = 2**20  # bytes; files up to this size are looked through where that costs less than opening them
SAMPLED_PAGES = 16  # of a long ogg file, where not all of it is read

# ---- mp3

KILOBITS = {  # (MPEG 1, layer): per second, by the header's index; index 0 is free format
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
KILOBITS[False, 3] = KILOBITS[False, 2]
RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # by the header's version
LONGEST_FRAME = 2881  # bytes, of any bit rate that has an index
MAX_FREE_FRAME = 2**13
FRAME_BYTES = (24, LONGEST_FRAME)
FRAMES_IN_JUNK = 3  # that must follow each other where something else comes before, which may look like a frame
XING_WITHIN = 64  # bytes from a frame's beginning
LEAST_LOST = 512  # bytes that are worth a warning: not the rest of a cut-off frame
ID3V1, APE_TAG = 128, 32  # bytes of the one, and of the other's header and footer


def _frame_lengths() -> dict[int, int]:
    """Bytes of a frame by bytes 1 and 2 of its header; 0 in free format, where they are not in the header."""
    lengths = {}
    for version, layer, index, rate, rest in itertools.product(RATES, (1, 2, 3), range(15), range(3), range(8)):
        protection, padding, private = rest & 1, rest >> 1 & 1, rest >> 2
        kilobits = KILOBITS[version == 3, layer][index]
        slots = (12 if layer == 1 else 72 if layer == 3 and version != 3 else 144) * kilobits * 1000
        length = (slots // RATES[version][rate] + padding) * (4 if layer == 1 else 1)
        first = 0xE0 | version << 3 | (4 - layer) << 1 | protection
        lengths[first << 8 | index << 4 | rate << 2 | padding << 1 | private] = length if kilobits else 0
    return lengths


def _crc16(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0xA001 if byte & 1 else 0)
    return byte


FRAME_LENGTHS = _frame_lengths()
CRC16 = [_crc16(byte) for byte in range(256)]
LAME_CHECKSUM = 154  # bytes behind the beginning of `Xing`: a checksum of the frame up to there


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


class _Bytes:
    """A file's bytes, of which a chunk is in memory."""

    def __init__(self, file: BinaryIO):
        self.file, self.start, self.chunk = file, 0, b""
        self.size = file.seek(0, os.SEEK_END)

    def at(self, position: int, count: int) -> bytes:
        """`count` bytes from there, fewer at the end."""
        if not self.start <= position <= position + count <= self.start + len(self.chunk):
            self.load(position, max(count, 4096))
        return self.chunk[position - self.start : position - self.start + count]

    def load(self, position: int, count: int = CHUNK) -> None:
        self.file.seek(position)
        self.start, pieces, wanted = position, [], min(count, max(self.size - position, 0))
        while wanted > 0 and (piece := self.file.read(wanted)):  # unbuffered files may give less than asked for
            pieces.append(piece)
            wanted -= len(piece)
        self.chunk = b"".join(pieces)


def head_behind_tags(file: BinaryIO, count: int) -> bytes:
    """The first bytes of a file, without the tags that may stand before any kind of audio."""
    data = _Bytes(file)
    return data.at(_after_tags(data, 0), count)


def starts_as_mp3(head: bytes) -> bool:
    return len(head) >= 4 and head[0] == 0xFF and head[1] << 8 | head[2] in FRAME_LENGTHS


def mp3_parts(file: BinaryIO, thorough: bool) -> list[Part]:
    """
    Returns the recordings in an mp3, usually one; none where no two frames follow each other.

    Args:
        thorough: looks through all headers of frames unless the first frame agrees with the file's size, and has its
            checksum; else only where the first frame does not tell the length, or contradicts the file's size.
    """
    data = _Bytes(file)
    start = _after_tags(data, 0)
    if _first_frame_fits(data, start, thorough):
        return [Part(0, data.size)]
    parts, position = [], start
    while position < data.size:
        part, position = _mp3_part(data, position)
        if part is not None:
            parts.append(part)
    starts = [*(part.offset for part in parts[1:]), data.size]
    parts = [part._replace(lost=_lost(data, sum(part[:2]), start)) for part, start in zip(parts, starts, strict=False)]
    if len(parts) == 1 and parts[0].trusted and parts[0].offset == start:
        return [parts[0]._replace(offset=0, size=sum(parts[0][:2]))]
    return parts


def _lost(data: _Bytes, end: int, start: int) -> int:
    """Bytes between two parts that are neither tags nor zeros."""
    begin = _after_tags(data, end)
    is_lost = start - begin >= LEAST_LOST and data.at(begin, min(start - begin, CHUNK)).strip(b"\0")
    return start - begin if is_lost else 0


def _length(data: _Bytes, position: int, free: int = 0) -> int:
    """Bytes of the frame there; 0 where there is none."""
    header = data.at(position, 4)
    if len(header) < 4 or header[0] != 0xFF:
        return 0
    length = FRAME_LENGTHS.get(header[1] << 8 | header[2])
    if length == 0:
        return free + (header[2] >> 1 & 1) if free else _free_length(data, position)
    return length or 0


def _free_length(data: _Bytes, position: int) -> int:
    """Bytes of a frame in free format: up to the next with that header."""
    near = data.at(position, MAX_FREE_FRAME)
    found = near.find(near[:2], 24)
    while found >= 0 and found + 2 < len(near) and (near[found + 2] ^ near[2]) & 0xFC:
        found = near.find(near[:2], found + 1)
    return max(found, 0)


def _after_tags(data: _Bytes, position: int) -> int:
    """Where the tags end that begin there; the same position where there is none."""
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


def _before_tags(data: _Bytes, end: int) -> int:
    """Where the tags begin that end there."""
    while True:
        if data.at(max(end - ID3V1, 0), 3) == b"TAG":
            end -= ID3V1
        elif (tail := data.at(max(end - APE_TAG, 0), APE_TAG))[:8] == b"APETAGEX":
            end -= int.from_bytes(tail[12:16], "little") + (APE_TAG if tail[23] & 0x80 else 0)
        else:
            return max(end, 0)


class _Xing(NamedTuple):
    """What the first frame of an mp3 says about all; `is_whole` if its checksum is right, as encoders write it."""

    is_constant: bool
    frames: int | None
    size: int | None
    is_whole: bool = False


def _xing(frame: bytes) -> _Xing | None:
    if frame[36:40] == b"VBRI":
        return _Xing(False, None, None)  # unknown to libsndfile
    for offset in (21, 36, 13):  # behind the side information, whose length depends on version and channels
        if frame[offset : offset + 4] in (b"Xing", b"Info"):
            flags, *numbers = (int.from_bytes(frame[i : i + 4], "big") for i in range(offset + 4, offset + 16, 4))
            frames = numbers.pop(0) if flags & 1 else None
            checksum, end = 0, offset + LAME_CHECKSUM
            for byte in frame[:end]:
                checksum = checksum >> 8 ^ CRC16[checksum & 0xFF ^ byte]
            is_whole = flags == 15 and checksum == int.from_bytes(frame[end : end + 2], "big")
            return _Xing(frame[offset] == ord("I"), frames, numbers.pop(0) if flags & 2 else None, is_whole)
    return None


def _first_frame_fits(data: _Bytes, start: int, thorough: bool) -> bool:
    """Whether the Xing frame and the file's size agree. A file that ends early has its former length in it."""
    length = _length(data, start)
    xing = _xing(data.at(start, length)) if length else None
    if xing is None or not xing.frames or not xing.size:
        return False
    available = _before_tags(data, data.size) - start
    ends_early = xing.size > available
    if available - xing.size > 2 * length or not FRAME_BYTES[0] <= xing.size / xing.frames <= FRAME_BYTES[1]:
        return False
    if thorough:
        return xing.is_whole and not ends_early
    if xing.is_constant:
        second = _length(data, start + length)
        return abs(xing.size - xing.frames * second) <= xing.frames + length + 2 * second
    return xing.is_whole or ends_early or data.size > SMALL


def _mp3_part(data: _Bytes, position: int) -> tuple[Part | None, int]:
    """The recording that begins at or behind `position`, and where to look for the next."""
    searched, begin = position, _find_frame(data, position)
    if begin is None:
        return None, data.size
    length = _length(data, begin)
    xing, first = _xing(data.at(begin, length)), begin
    kind, free, count, position, is_damaged = _kind(data.at(begin, 4)), 0, 0, begin, False
    if xing is not None:
        first = position = begin + length
    elif FRAME_LENGTHS[int.from_bytes(data.at(begin + 1, 2), "big")] == 0:
        free = length - (data.at(begin, 3)[2] >> 1 & 1)
    end = position
    while True:
        counted, position, stopped = _run(data, position, kind, free)
        count, end = count + counted, position if counted else end
        if not stopped:
            break
        after = _after_tags(data, position)
        found = _find_frame(data, after)
        if found is None:
            position = data.size
            break
        is_stuck, position, is_damaged = found == position, found, is_damaged or found > after
        if is_stuck:  # as before a frame in free format
            break
        if after > end or _kind(data.at(found, 4)) != kind or _xing(data.at(found, XING_WITHIN)) is not None:
            break
        if xing is None or not xing.frames or xing.frames < count:  # else the decoder says what it makes of it
            break
    trusted = xing is not None and xing.frames is not None and count <= xing.frames
    if trusted and xing.frames > count + 1 and not is_damaged:
        trusted = bool(xing.size) and begin + xing.size > min(end, data.size)  # it ends early
    start = begin if trusted else first
    is_sound = count >= (1 if searched == begin or trusted else FRAMES_IN_JUNK)
    return (Part(start, min(end, data.size) - start, trusted) if is_sound else None), max(position, end)


def _kind(header: bytes) -> tuple[int, bool]:
    """What is the same in all frames of a recording: version, layer and sampling rate, and whether it is mono."""
    return (header[1] << 8 | header[2]) & 0xFE0C, header[3] >= 0xC0


def _run(data: _Bytes, position: int, kind: tuple[int, bool], free: int) -> tuple[int, int, bool]:
    """Goes from frame to frame: their number, where they end, and whether something else follows."""
    count, lengths, (form, is_mono) = 0, FRAME_LENGTHS, kind
    while position < data.size:
        data.load(position)
        chunk, offset = data.chunk, 0
        last = len(chunk) - (4 if data.start + len(chunk) >= data.size else XING_WITHIN)
        marks = [found.start() for found in re.finditer(b"Xing|Info|VBRI", chunk)] + [len(chunk) + LONGEST_FRAME]
        while offset <= last:
            header = chunk[offset + 1] << 8 | chunk[offset + 2]
            length = lengths.get(header)
            if length == 0 and free:
                length = free + (header >> 1 & 1)
            if (
                not length
                or chunk[offset] != 0xFF
                or header & 0xFE0C != form
                or (chunk[offset + 3] >= 0xC0) != is_mono
            ):
                return count, position + offset, True
            while marks[0] < offset:
                marks.pop(0)
            if count and marks[0] < offset + XING_WITHIN and _xing(chunk[offset : offset + XING_WITHIN]):
                return count, position + offset, True
            count, offset = count + 1, offset + length
        position += offset
        if len(chunk) - last == 4:
            break
    return count, position, False


def _find_frame(data: _Bytes, position: int) -> int | None:
    """Where the next frame begins, behind which comes another, or the end."""
    while position < data.size:
        data.load(position)
        chunk, offset = data.chunk, data.chunk.find(b"\xff")
        while offset >= 0:
            length = _length(data, position + offset)
            behind = position + offset + length
            if length and (behind >= data.size or _length(data, behind) or _after_tags(data, behind) > behind):
                return position + offset
            if data.chunk is not chunk:
                data.load(position)
                chunk = data.chunk
            offset = chunk.find(b"\xff", offset + 1)
        position += max(len(chunk), 1)
    return None


# ---- ogg


class _Page(NamedTuple):
    position: int
    size: int
    flags: int
    serial: int
    number: int


SOUND = (b"\x01vorbis", b"OpusHead", b"\x7fFLAC", b"Speex   ")  # how the first packet of a stream begins
FIRST, LONGEST_PAGE = 2, 65307  # a flag of pages that begin a stream; bytes


def ogg_parts(file: BinaryIO, thorough: bool) -> list[Part]:
    """
    Returns the recordings in an ogg file, usually one; none where no stream is sound.

    Args:
        thorough: looks at all pages; else, in files over 1 MiB, at some.
    """
    data = _Bytes(file)
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
    return [
        Part(
            link.begin,
            min(link.end, data.size) - link.begin,
            True,
            link.serial if link.streams > 1 else None,
            link.lost,
        )
        for link in links
        if link.serial is not None
    ]


class _Link:
    """One of the recordings that were joined."""

    def __init__(self, begin: int):
        self.begin, self.end, self.streams, self.serial, self.lost = begin, begin, 0, None, 0

    def add(self, page: _Page, data: _Bytes, end: int) -> None:
        """Takes a page, before which another ends at `end`."""
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


def _page(data: _Bytes, position: int) -> _Page | None:
    head = data.at(position, 282)
    if len(head) < 27 or head[:4] != b"OggS" or len(head) < 27 + head[26]:
        return None
    number = int.from_bytes(head[18:22], "little")
    size = 27 + head[26] + sum(head[27 : 27 + head[26]])
    return _Page(position, size, head[5], int.from_bytes(head[14:18], "little"), number)


def _pages(data: _Bytes, position: int = 0) -> Iterator[_Page]:
    """The pages from there on, over what is none."""
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


def _pages_rise(data: _Bytes) -> bool:
    """Whether pages at some places are of one stream, and numbered in their order."""
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


def one_stream(file: BinaryIO, serial: int) -> BinaryIO:
    """Returns a file of the pages of one logical stream."""
    data, result = _Bytes(file), tempfile.TemporaryFile(buffering=2**16)
    for page in _pages(data):
        if page.serial == serial:
            result.write(data.at(page.position, page.size))
    return result


# ---- lengths in other headers


def length_patch(file: BinaryIO) -> tuple[int, bytes] | None:
    """Returns where the header of a wav, au or flac says a length that is too short, and what it must say."""
    data = _Bytes(file)
    head = data.at(0, 12)
    if head[:4] == b".snd" and head[8:12] == bytes(4):
        return 8, b"\xff" * 4
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return _wav_patch(data)
    if head[:4] == b"fLaC":
        return _flac_patch(data)
    return None


def lost_in_wav(file: BinaryIO) -> int:
    """Bytes behind the samples of a wav that are no further piece of it: the length of the samples may be wrong."""
    data = _Bytes(file)
    position, size = _wav_samples(data) if data.at(0, 4) == b"RIFF" else (0, 0)
    end = position + size + size % 2
    rest = data.size - end
    head = data.at(end, 8)
    is_piece = head[:4].strip().isalnum() and int.from_bytes(head[4:], "little") <= rest
    is_piece = is_piece or _after_tags(data, end) > end or not data.at(end, CHUNK).strip(b"\0")
    return rest if size and rest >= LEAST_LOST and not is_piece else 0


def _wav_samples(data: _Bytes) -> tuple[int, int]:
    """Where the samples of a wav begin, and how many bytes they are by the header; zeros where there are none."""
    position = 12
    while len(head := data.at(position, 8)) == 8:
        size = int.from_bytes(head[4:], "little")
        if head[:4] == b"data":
            return position + 8, size
        position += 8 + size + size % 2
    return 0, 0


def _wav_patch(data: _Bytes) -> tuple[int, bytes] | None:
    """Programs that stream leave 0 as the length of the samples."""
    position, size = _wav_samples(data)
    rest = data.size - position
    return (position - 4, min(rest, 2**32 - 1).to_bytes(4, "little")) if position and not size and rest else None


FLAC_HEADER = re.compile(rb"\xff[\xf8\xf9][^\x00-\x0f\xf0-\xff][\x00-\xaf]", re.DOTALL)
FLAC_BLOCKS = {1: 192} | {i: 576 << i - 2 for i in range(2, 6)} | {i: 256 << i - 8 for i in range(8, 16)}
FLAC_TAIL = 2**16  # bytes in which the last frame begins, where the header does not say how long frames are


def _flac_patch(data: _Bytes) -> tuple[int, bytes] | None:
    """Makes the length unknown if the last frame ends behind it: 36 bits of the first block, behind 108 others."""
    information = data.at(8, 34)
    if len(information) < 34:
        return None
    total = int.from_bytes(information[13:18], "big") & (1 << 36) - 1
    length = (int.from_bytes(information[7:10], "big") or FLAC_TAIL) + ID3V1
    tail = data.at(max(data.size - length, 42), min(length, max(data.size - 42, 0)))
    for found in reversed(list(FLAC_HEADER.finditer(tail))):
        end = _flac_frame_end(tail[found.start() : found.start() + 16], int.from_bytes(information[:2], "big"))
        if end is not None:
            is_short = total and total < end
            return (21, bytes([information[13] & 0xF0]) + bytes(4)) if is_short else None
    return None


def _flac_frame_end(header: bytes, block: int) -> int | None:
    """Number of the frame behind a flac frame, from its header; None if its checksum says that it is none."""
    ones = 8 - (header[4] ^ 0xFF).bit_length() if len(header) == 16 else 1
    if ones == 1 or ones > 7:
        return None
    length = max(ones, 1)  # bytes of a number written as UTF-8 writes characters
    number = header[4] & (0x7F >> ones)
    for byte in header[5 : 4 + length]:
        number = number << 6 | byte & 0x3F
    position, code, rate = 4 + length, header[2] >> 4, header[2] & 15
    size = FLAC_BLOCKS.get(code)
    if code in (6, 7):
        size = int.from_bytes(header[position : position + code - 5], "big") + 1
        position += code - 5
    position += {12: 1, 13: 2, 14: 2}.get(rate, 0)
    checksum = 0
    for byte in header[:position]:
        checksum ^= byte
        for _ in range(8):
            checksum = (checksum << 1) ^ (0x107 if checksum & 0x80 else 0)
    if size is None or position >= len(header) or checksum != header[position]:
        return None
    return (number if header[1] & 1 else number * block) + size
