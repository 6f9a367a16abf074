"""Finds the recordings in mp3 files by their frames, and checks the length that the first frame gives.

libsndfile believes the first header: it reads the first of files that were joined, and guesses the length of an mp3 of
variable bit rate without a Xing frame from its first frame.
"""

from __future__ import annotations

import itertools
import re
from typing import NamedTuple

from .parts import CHUNK, LEAST_LOST, SMALL, FileBytes, Part, SeekableFile, after_tags, before_tags

KILOBITS = {  # (MPEG 1, layer): per second, by the header's index; index 0 is free format
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
KILOBITS[False, 3] = KILOBITS[False, 2]
RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # by the header's version
SHORTEST_FRAME, LONGEST_FRAME = 24, 2881  # bytes, of any bit rate that has an index
MAX_FREE_FRAME = 2**13
FRAMES_IN_JUNK = 3  # that must follow one another behind other bytes, which may look like a frame
XING_WITHIN = 64  # bytes from a frame's beginning


def _frame_lengths() -> dict[int, int]:
    """Returns the length of a frame by bytes 1 and 2 of its header; 0 in free format, where they do not give it."""
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


def starts_as_mp3(head: bytes) -> bool:
    return len(head) >= 4 and head[0] == 0xFF and head[1] << 8 | head[2] in FRAME_LENGTHS


def mp3_parts(file: SeekableFile, thorough: bool) -> list[Part]:
    """Returns the recordings in an mp3, usually one; none where no two frames follow each other.

    Args:
        thorough: reads the headers of all frames unless the first frame agrees with the file's size and has the right
            checksum; else only where the first frame gives no length, or contradicts the file's size.
    """
    data = FileBytes(file)
    start = after_tags(data, 0)
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


def _lost(data: FileBytes, end: int, start: int) -> int:
    """Returns the number of bytes from `end` to `start` that are neither tags nor zeros."""
    begin = after_tags(data, end)
    is_lost = start - begin >= LEAST_LOST and data.at(begin, min(start - begin, CHUNK)).strip(b"\0")
    return start - begin if is_lost else 0


def _length(data: FileBytes, position: int, free: int = 0) -> int:
    """Returns the length of the frame at `position`; 0 where none begins."""
    header = data.at(position, 4)
    if len(header) < 4 or header[0] != 0xFF:
        return 0
    length = FRAME_LENGTHS.get(header[1] << 8 | header[2])
    if length == 0:
        return free + (header[2] >> 1 & 1) if free else _free_length(data, position)
    return length or 0


def _free_length(data: FileBytes, position: int) -> int:
    """Returns the length of a frame in free format: up to the next frame with that header."""
    near = data.at(position, MAX_FREE_FRAME)
    found = near.find(near[:2], 24)
    while found >= 0 and found + 2 < len(near) and (near[found + 2] ^ near[2]) & 0xFC:
        found = near.find(near[:2], found + 1)
    return max(found, 0)


class _Xing(NamedTuple):
    """Holds what the first frame of an mp3 says about all frames."""

    is_constant: bool  # bit rate
    frames: int | None
    size: int | None  # bytes
    has_checksum: bool = False  # the right one, as encoders write it


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
            has_checksum = flags == 15 and checksum == int.from_bytes(frame[end : end + 2], "big")
            return _Xing(frame[offset] == ord("I"), frames, numbers.pop(0) if flags & 2 else None, has_checksum)
    return None


def _first_frame_fits(data: FileBytes, start: int, thorough: bool) -> bool:
    """Returns whether the Xing frame, which has the former length of a cut-off file, agrees with the file's size."""
    length = _length(data, start)
    xing = _xing(data.at(start, length)) if length else None
    if xing is None or not xing.frames or not xing.size:
        return False
    available = before_tags(data, data.size) - start
    ends_early = xing.size > available
    if available - xing.size > 2 * length or not SHORTEST_FRAME <= xing.size / xing.frames <= LONGEST_FRAME:
        return False
    if thorough:
        return xing.has_checksum and not ends_early
    if xing.is_constant:
        second = _length(data, start + length)
        return abs(xing.size - xing.frames * second) <= xing.frames + length + 2 * second
    return xing.has_checksum or ends_early or data.size > SMALL


def _mp3_part(data: FileBytes, position: int) -> tuple[Part | None, int]:
    """Returns the recording that begins at or behind `position`, and the position to search for the next one."""
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
        after = after_tags(data, position)
        found = _find_frame(data, after)
        if found is None:
            position = data.size
            break
        is_stuck, position, is_damaged = found == position, found, is_damaged or found > after
        if is_stuck:  # as before a frame in free format
            break
        if after > end or _kind(data.at(found, 4)) != kind or _xing(data.at(found, XING_WITHIN)) is not None:
            break
        if xing is None or not xing.frames or xing.frames < count:  # else the decoder reports the damage
            break
    trusted = xing is not None and xing.frames is not None and count <= xing.frames
    if trusted and xing.frames > count + 1 and not is_damaged:
        trusted = bool(xing.size) and begin + xing.size > min(end, data.size)  # it ends early
    start = begin if trusted else first
    is_sound = count >= (1 if searched == begin or trusted else FRAMES_IN_JUNK)
    return (Part(start, min(end, data.size) - start, trusted) if is_sound else None), max(position, end)


def _kind(header: bytes) -> tuple[int, bool]:
    """Returns bits that all frames of a recording share, for version, layer and sampling rate, and `is_mono`."""
    return (header[1] << 8 | header[2]) & 0xFE0C, header[3] >= 0xC0


def _run(data: FileBytes, position: int, kind: tuple[int, bool], free: int) -> tuple[int, int, bool]:
    """Follows frames of a kind; returns their number, their end, and whether other bytes follow."""
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


def _find_frame(data: FileBytes, position: int) -> int | None:
    """Returns the position of the next frame that another frame, tags or the end follow; None where none comes."""
    while position < data.size:
        data.load(position)
        chunk, offset = data.chunk, data.chunk.find(b"\xff")
        while offset >= 0:
            length = _length(data, position + offset)
            behind = position + offset + length
            if length and (behind >= data.size or _length(data, behind) or after_tags(data, behind) > behind):
                return position + offset
            if data.chunk is not chunk:
                data.load(position)
                chunk = data.chunk
            offset = chunk.find(b"\xff", offset + 1)
        position += max(len(chunk), 1)
    return None
