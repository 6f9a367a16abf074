"""Corrects wrong lengths in the headers of wav, au and flac files, which libsndfile believes."""

from __future__ import annotations

import re

from .parts import CHUNK, ID3V1, LEAST_LOST, FileBytes, SeekableFile, after_tags

FLAC_HEADER = re.compile(rb"\xff[\xf8\xf9][^\x00-\x0f\xf0-\xff][\x00-\xaf]", re.DOTALL)
FLAC_BLOCKS = {1: 192} | {i: 576 << i - 2 for i in range(2, 6)} | {i: 256 << i - 8 for i in range(8, 16)}
FLAC_TAIL = 2**16  # bytes in which the last frame begins, where the header does not give the length of frames


def length_patch(file: SeekableFile) -> tuple[int, bytes] | None:
    """Returns the offset of a length that is too short in the header of a wav, au or flac, and the right bytes."""
    data = FileBytes(file)
    head = data.at(0, 12)
    if head[:4] == b".snd" and head[8:12] == bytes(4):
        return 8, b"\xff" * 4
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return _wav_patch(data)
    if head[:4] == b"fLaC":
        return _flac_patch(data)
    return None


def lost_in_wav(file: SeekableFile) -> int:
    """Returns the number of bytes behind the samples of a wav that are no chunk of it: its length may be wrong."""
    data = FileBytes(file)
    position, size = _wav_samples(data) if data.at(0, 4) == b"RIFF" else (0, 0)
    end = position + size + size % 2
    rest = data.size - end
    head = data.at(end, 8)
    is_chunk = head[:4].strip().isalnum() and int.from_bytes(head[4:], "little") <= rest
    is_chunk = is_chunk or after_tags(data, end) > end or not data.at(end, CHUNK).strip(b"\0")
    return rest if size and rest >= LEAST_LOST and not is_chunk else 0


def _wav_samples(data: FileBytes) -> tuple[int, int]:
    """Returns the offset of the samples of a wav, and their bytes by the header; zeros where it has none."""
    position = 12
    while len(head := data.at(position, 8)) == 8:
        size = int.from_bytes(head[4:], "little")
        if head[:4] == b"data":
            return position + 8, size
        position += 8 + size + size % 2
    return 0, 0


def _wav_patch(data: FileBytes) -> tuple[int, bytes] | None:
    """Returns the true length where the header has 0, as programs that stream write it."""
    position, size = _wav_samples(data)
    rest = data.size - position
    return (position - 4, min(rest, 2**32 - 1).to_bytes(4, "little")) if position and not size and rest else None


def _flac_patch(data: FileBytes) -> tuple[int, bytes] | None:
    """Replaces the length by an unknown one if the last frame ends behind it: bits 108 to 143 of the first block."""
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
    """Returns the number of the first sample behind a flac frame, from its header; None if its checksum is wrong."""
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
