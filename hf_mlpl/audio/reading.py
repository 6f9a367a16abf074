"""Reads and writes audio: the package opens every file of sound here."""

from __future__ import annotations

import io
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain, groupby
from operator import itemgetter
from typing import BinaryIO

import numpy as np
import soundfile
import soxr
from transformers.utils import logging

from ..error_line import reason
from ..storage import is_remote, open_remote, parse_location, shown
from .containers import ContainerError, open_member
from .decoders import (
    BLOCK_VALUES,
    HAS_AV,
    HEAD,
    MAX_RATE,
    MIN_RATE,
    AudioError,
    DecoderSource,
    av_format,
    find_parts,
    open_part,
)
from .open_recordings import OpenRecording, OpenRecordings
from .parts import Part, SeekableFile

logger = logging.get_logger(__name__)

SAMPLING_RATE = 16_000  # of the model, and of all audio that is made for it
BLOCK_BYTES = 2**20  # of a pipe that are in memory
END_TOLERANCE = 0.1  # seconds that `end` may lie behind the recording, because tables of segments are rounded
#: Suffixes of files that libsndfile or PyAV reads. The format of a file is found by its content.
AUDIO_SUFFIXES = frozenset(
    ".wav .flac .mp3 .mp2 .ogg .oga .opus .spx .aif .aiff .aifc .au .snd .caf .w64 .rf64 .sph .nist .voc .wve .svx"
    " .m4a .m4b .mp4 .m4v .mov .3gp .3g2 .aac .adts .amr .awb .webm .weba .mka .mkv .ogv .ogx .wma .wmv .asf .avi .flv"
    " .mts .m2ts .mpg .mpeg .ac3 .eac3 .wv .ape .tta .dsf".split()
)


Audio = str | os.PathLike | bytes | BinaryIO | dict


def load_audio(audio: Audio, sampling_rate: int = SAMPLING_RATE) -> np.ndarray:
    """Returns mono samples (N,) of a recording in fp32, N > 0.

    libsndfile decodes wav, flac, mp3, ogg (vorbis, opus) and more formats; FFmpeg decodes m4a, mp4, webm, aac and more
    where PyAV is installed (the extra `av`). The format is found by the content, not by the file's name.

    Channels are averaged, and other rates are resampled (soxr, high quality), block by block: memory holds little but
    the result. A file is read to its end, whatever length its header gives, and so are all parts of mp3 or ogg files
    that were joined. A damaged file gives the samples before the damage, with a warning where the decoder notices it;
    wav, mp3 and ogg files that end early are simply shorter.

    Args:
        audio: A path, also of a pipe, a URL that fsspec opens (`s3://...`), the bytes of a file, an open binary file
            (read from its position on, to which it then goes back), or a dict with `array` and `sampling_rate`
            (samples (N,), or (channels, N) with two channels at most), or `bytes`, or `path`: the first that is not
            None.
            With `offset`, `path` is a container, and the recording is its `size` bytes from there on (in the unpacked
            stream, if it is a gzipped tar), or, without `size`, row `offset` of a Parquet file.
            `start` and `end` in a dict are seconds: only that part is decoded. `end` may lie up to 0.1 s behind the
            recording's end, which then ends the part.
        sampling_rate: Of the result, in samples per second.

    Raises:
        AudioError: for a file that is missing, empty or not audio, for no samples or samples that are NaN or
            infinite, for a part that is not inside the recording, and for a dict or array of another form.
    """
    blocks = stream_audio(audio, sampling_rate)
    first, second = next(blocks), next(blocks, None)
    if second is None:
        return first
    result, length = np.empty(0, dtype=np.float32), 0
    for block in chain([first, second], blocks):
        if length + len(block) > len(result):  # in place, so that there are never two copies
            result.resize(length + len(block) + length // 8, refcheck=False)
        result[length : length + len(block)] = block
        length += len(block)
    result.resize(length, refcheck=False)
    return result


def stream_audio(
    audio: Audio, sampling_rate: int = SAMPLING_RATE, recordings: OpenRecordings | None = None
) -> Iterator[np.ndarray]:
    """Yields the samples that `load_audio` returns in successive blocks (n,), n > 0.

    Memory does not grow with the recording's length. Takes the arguments of `load_audio`, and raises its errors where
    a fault is met, so that the blocks before it have been yielded.

    Args:
        recordings: keeps files open of which parts are read: from `start` to `end`, or members of tars.
    """
    if not isinstance(audio, dict):
        audio = {"path": audio}
    name = "array" if audio.get("array") is not None else _name(audio)
    yielded = False
    for block in _resampled(_mono_blocks(audio, name, recordings), sampling_rate):
        if len(block):
            yielded = True
            yield block
    if not yielded:
        start, end = audio.get("start"), audio.get("end")
        raise AudioError(
            f"{name}: no samples" + ("" if start is None and end is None else f" from {start} to {end} s")
        )


def _mono_blocks(audio: dict, name: str, recordings: OpenRecordings | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the rate and the samples (n,) of each block of a recording, or of its part from `start` to `end`."""
    start, end = audio.get("start"), audio.get("end")
    if audio.get("array") is not None:
        rate = audio.get("sampling_rate")
        samples = _array_samples(audio["array"], rate)
        seconds = samples.shape[1] / rate
        if seconds:
            _check_inside(start, end, seconds, name)
        first, last = round((start or 0.0) * rate), samples.shape[1] if end is None else round(end * rate)
        for begin in range(first, min(last, samples.shape[1]), BLOCK_VALUES):
            yield rate, _mixed(samples[:, begin : min(begin + BLOCK_VALUES, last)], name)
    else:
        with _opened(audio, name, recordings) as (file, known):
            for rate, block in _file_blocks(file, start, end, name, known):
                yield rate, _mixed(block.T, name)


def _file_blocks(
    file: SeekableFile, start: float | None, end: float | None, name: str, known: dict
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the rate and the samples (n, channels) of each block of all recordings in a file, or of a part.

    `known` is what is known of the file from an earlier call.
    """
    if start is None and end is None:
        for part in find_parts(file, name, thorough=True):
            with open_part(file, part, name) as decoder:
                for block in decoder.decode(0, None, name):
                    yield decoder.samplerate, block
            if part.lost:
                logger.warning(f"{name}: {part.lost} bytes of it are no sound that can be decoded")
        return
    parts, lengths = _parts_and_lengths(file, name, False, known)
    if not _is_inside(start, end, sum(lengths)):
        parts, lengths = _parts_and_lengths(file, name, True, known)
    _check_inside(start, end, sum(lengths), name)
    begin = 0.0
    for part, seconds in zip(parts, lengths, strict=True):
        if (start or 0.0) < begin + seconds and (end is None or begin < end):
            with open_part(file, part, name) as decoder:
                rate = decoder.samplerate
                first = round(max((start or 0.0) - begin, 0.0) * rate)
                last = None if end is None else round((end - begin) * rate)
                if last is not None and decoder.length is not None:
                    last = min(last, decoder.length)
                for block in decoder.decode(first, None if last is None else last - first, name):
                    yield rate, block
        begin += seconds


def _parts_and_lengths(file: SeekableFile, name: str, thorough: bool, known: dict) -> tuple[list[Part], list[float]]:
    if thorough not in known:
        parts = find_parts(file, name, thorough)
        known[thorough] = parts, [_length(file, part, name) for part in parts]
    return known[thorough]


def _is_inside(start: float | None, end: float | None, duration: float) -> bool:
    first, last = start or 0.0, duration if end is None else end
    return 0 <= first < last <= duration + END_TOLERANCE and first < duration


def _check_inside(start: float | None, end: float | None, duration: float, name: str) -> None:
    if duration and not _is_inside(start, end, duration):
        raise AudioError(f"{name}: the part from {start} to {end} s is not inside the recording of {duration:.3f} s")


def _length(file: SeekableFile, part: Part, name: str) -> float:
    """Returns the seconds of a part by its header; infinity where the header does not give them."""
    with open_part(file, part, name) as decoder:
        return math.inf if decoder.length is None else decoder.length / decoder.samplerate


def _mixed(samples: np.ndarray, name: str) -> np.ndarray:  # (channels, n) -> (n,)
    weights = np.full(len(samples), 1 / len(samples), dtype=np.float32)
    mono = samples[0] if len(samples) == 1 else weights @ samples  # 20 times as fast as mean(axis=0)
    if not np.isfinite(mono).all():
        raise AudioError(f"{name}: has samples that are NaN or infinite")
    return mono


def _resampled(blocks: Iterable[tuple[int, np.ndarray]], sampling_rate: int) -> Iterator[np.ndarray]:
    """Yields blocks at another rate; starts a new resampler where a recording changes its rate."""
    for rate, group in groupby(blocks, key=itemgetter(0)):
        samples = (block for _, block in group)
        first, second = next(samples), None if rate == sampling_rate else next(samples, None)
        if rate == sampling_rate:
            yield from chain([first], samples)
        elif second is None:  # a short recording: one call is a little faster
            yield soxr.resample(first, rate, sampling_rate, quality="HQ")
        else:
            resampler = soxr.ResampleStream(rate, sampling_rate, 1, dtype="float32", quality="HQ")
            yield from map(resampler.resample_chunk, chain([first, second], samples))
            yield resampler.resample_chunk(np.empty(0, dtype=np.float32), last=True)


def encode_flac(samples: np.ndarray, sampling_rate: int) -> bytes:
    """Returns a FLAC file of mono samples (N,) in [-1, 1], in 16 bits; samples outside are clipped."""
    file = io.BytesIO()
    soundfile.write(file, samples, sampling_rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def audio_duration(audio: Audio) -> float:
    """Returns the seconds of a whole recording, from its header.

    Where the header gives no length, or more than the file's bytes can hold, the recording is decoded. The headers of
    all frames of an mp3 are counted where the first gives no length, or contradicts the file's size. The header of an
    mp3 or flac that ends early still gives its former length.

    Takes the same `audio` as `load_audio`, except a dict with `array`. Raises `AudioError` as `load_audio` does.
    """
    name = _name(audio)
    with _opened(audio, name) as (file, known):
        seconds = sum(_length(file, part, name) for part in find_parts(file, name))
        if math.isfinite(seconds):
            return seconds
        return math.fsum(len(block) / rate for rate, block in _file_blocks(file, None, None, name, known))


def looks_like_audio(path: str | os.PathLike) -> bool:
    """Returns whether a file holds sound, by its content.

    Its header must be readable, or, without PyAV, begin like that of a format that PyAV reads. Pipes and devices are
    not opened.
    """
    if not os.path.isfile(path) or os.path.getsize(path) == 0:
        return False
    try:
        audio_format(path)
    except AudioError:
        if HAS_AV:
            return False
        try:
            with open(path, "rb") as file:
                return av_format(file.read(HEAD)) is not None
        except OSError:
            return False
    return True


def is_recording(path: str | os.PathLike) -> bool:
    """Returns whether a file of a folder is a recording, by its suffix or else by its content, even if it is damaged.

    A pipe or a device is none: to read it may take for ever. A link that leads nowhere is one by its suffix.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        return False
    return os.path.splitext(path)[1].lower() in AUDIO_SUFFIXES or looks_like_audio(path)


def audio_format(audio: Audio) -> tuple[int, int]:
    """Returns the rate and channels of a recording, from its header. Raises `AudioError` as `load_audio` does."""
    name = _name(audio)
    with _opened(audio, name) as (file, _), open_part(file, find_parts(file, name)[0], name) as decoder:
        return decoder.samplerate, decoder.channels


def _name(audio) -> str:
    """Returns the name of a recording in messages."""
    if isinstance(audio, dict):
        path = audio.get("path")
        if path is None:
            return _name(audio.get("bytes"))
        if audio.get("bytes") is not None or audio.get("offset") is None:
            return _name(path)
        return f"{_name(path)}, {'row' if audio.get('size') is None else 'byte'} {audio['offset']}"
    if isinstance(audio, (bytes, bytearray, memoryview)):
        return f"<{len(audio)} bytes>"
    if not isinstance(audio, (str, os.PathLike)):
        return str(getattr(audio, "name", audio))
    return shown(os.fspath(audio)) if is_remote(audio) else os.fspath(audio)


@contextmanager
def _opened(audio, name: str, recordings: OpenRecordings | None = None) -> Iterator[tuple[SeekableFile, dict]]:
    """Opens what `load_audio` takes as a seekable file; raises every error of the block as an `AudioError`.

    Yields the file, and what is known of it.
    """
    with ExitStack() as stack:
        try:
            kept = None if recordings is None else _kept(audio, name, stack, recordings)
            if kept is None:
                file, known = _open(audio, name, stack), {}
            elif audio.get("offset") is None:
                file, known = kept.file, kept.known
            else:
                file, known = open_member(audio["path"], audio["offset"], audio["size"], kept.file), {}
            if file.seek(0, os.SEEK_END) == 0:
                raise AudioError(f"{name}: is empty")
            yield file, known
        except AudioError:
            raise
        except ContainerError as error:
            raise AudioError(str(error)) from error
        except Exception as error:  # whatever a decoder or a file raises
            raise AudioError(f"{name}: cannot be read, or is damaged ({reason(error)})") from error


def _kept(audio: dict, name: str, stack: ExitStack, recordings: OpenRecordings) -> OpenRecording | None:
    """Returns the open file of which a part is read, or a member of a tar on a disk; None for what is read whole."""
    path, is_part = audio.get("path"), audio.get("start") is not None or audio.get("end") is not None
    if audio.get("bytes") is not None or not isinstance(path, (str, os.PathLike)):
        return None
    if audio.get("offset") is not None:  # what keeps Parquet files and tars at URLs open is in `containers`
        is_part = audio.get("size") is not None and not is_remote(path)
    return stack.enter_context(recordings.lent(path, lambda own: _open(path, name, own))) if is_part else None


def _open(source, name: str, stack: ExitStack) -> SeekableFile:
    if isinstance(source, dict):
        if source.get("bytes") is None and source.get("offset") is not None:
            member = open_member(source["path"], source["offset"], source.get("size"))
            stack.callback(member.close)
            return member
        source = source.get("path") if source.get("bytes") is None else source["bytes"]
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source)
    if hasattr(source, "read"):
        return _seekable(source, stack)
    if not isinstance(source, (str, os.PathLike)):
        raise AudioError(
            f"{source!r} is not audio: pass a path, bytes, an open file, or a dict with array, bytes or path"
        )
    if ":/" in os.fspath(source):
        try:
            location = parse_location(source)
            if is_remote(location):
                return stack.enter_context(open_remote(str(location)))
        except (OSError, ValueError) as error:
            raise AudioError(str(error)) from error
        source = location
    if os.path.isdir(source):
        raise AudioError(f"{name}: is a folder")
    try:
        file = stack.enter_context(open(source, "rb", buffering=0))
    except (OSError, ValueError) as error:  # ValueError: a null byte
        raise AudioError(f"{name}: {reason(error)}") from error
    kind = os.fstat(file.fileno()).st_mode
    if stat.S_ISREG(kind):
        return file
    if not stat.S_ISFIFO(kind):
        raise AudioError(f"{name}: is a device; pass a file or a pipe")
    return _seekable(file, stack)


def _seekable(file: SeekableFile, stack: ExitStack) -> SeekableFile:
    """Returns the rest of an open file from its position on; a temporary copy where the file is not seekable."""
    if hasattr(file, "seekable") and file.seekable():
        position = file.tell()
        stack.callback(file.seek, position)
        file.seek(0, os.SEEK_END)
        return DecoderSource(file, position, file.tell() - position)
    spooled = stack.enter_context(tempfile.TemporaryFile(buffering=0))
    shutil.copyfileobj(file, spooled, BLOCK_BYTES)
    return spooled


def _array_samples(array, rate) -> np.ndarray:  # -> (channels, N)
    is_number = isinstance(rate, (int, float, np.number)) and not isinstance(rate, bool)
    if not is_number or not MIN_RATE <= rate <= MAX_RATE:
        raise AudioError(
            f"array: its sampling_rate is {rate!r}; pass it beside the array, in samples per second, from {MIN_RATE} "
            f"to {MAX_RATE}"
        )
    try:
        array = np.asarray(array)
    except Exception as error:  # lists of different lengths; tensors that need a gradient, or of a GPU
        raise AudioError(f"array: cannot be made an array of numpy: {reason(error)}") from error
    if array.dtype.kind != "f":
        raise AudioError(
            f"array: has samples of {array.dtype}; pass floats in [-1, 1], divide 16-bit samples by 32768"
        )
    if array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[0] > 2):
        raise AudioError(
            f"array: has shape {array.shape}; pass (samples,), or (channels, samples) of 2 channels at most"
        )
    return np.atleast_2d(array).astype(np.float32, copy=False)
