"""Reading audio, and writing it: every file that the package opens as sound is opened here."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np
import soundfile
import soxr
from transformers.utils import logging

from .containers import ContainerError, Section, open_member

logger = logging.get_logger(__name__)

END_TOLERANCE = 0.1  # seconds that `end` may lie behind the recording, because tables of segments are rounded
LEAD_SECONDS = 2  # an mp3 frame needs up to 511 bytes before it: 1.5 s at the lowest bit rate
LAST_OGG_PAGE = 2**18  # frames that a page of ogg vorbis can hold: 255 packets of 1024
BLOCK_VALUES = 2**20  # samples of all channels that are decoded at a time: 4 MiB, 22 s of mono at 48 kHz
UNKNOWN_FRAMES = 2**62  # libsndfile gives about 2**63 for files whose header does not tell, as streamed flac


class AudioError(ValueError):
    """Audio that cannot be used; one line says which and why."""


def load_audio(audio: str | os.PathLike | bytes | BinaryIO | dict, sampling_rate: int = 16000) -> np.ndarray:
    """
    Mono samples (N,) in fp32, N > 0, from wav, flac, mp3, ogg (vorbis, opus) and whatever else libsndfile decodes.

    Channels are averaged, and other rates are resampled (soxr, high quality). The format is told by the content, not
    by the file's name. Of a damaged file one gets what comes before the damage, with a warning where the decoder
    notices it; wav, mp3 and ogg files that end early are simply shorter. An mp3 of variable bit rate without a Xing
    header is read up to the length that libsndfile estimates.

    Args:
        audio: A path, the bytes of a file, an open binary file, or a dict with `array` and `sampling_rate` (samples
            (N,), or (channels, N) with two channels at most), or `bytes`, or `path`: the first that is not None.
            With `offset`, `path` is a container, and the recording is its `size` bytes from there on (in the unpacked
            stream, if it is a gzipped tar), or, without `size`, row `offset` of a Parquet file.
            `start` and `end` in a dict are seconds: only that part is decoded. `end` may lie up to 0.1 s behind the
            recording's end, which then ends the part.
        sampling_rate: Of the result, in samples per second.

    Raises:
        AudioError: for a file that is missing, empty or not audio, for no samples or samples that are NaN or
            infinite, for a part that is not inside the recording, and for a dict or array of another form.
    """
    result, length = np.empty(0, dtype=np.float32), 0
    for block in stream_audio(audio, sampling_rate):
        if not length and len(block) < BLOCK_VALUES:
            result, length = block, len(block)
            continue
        if not result.flags.owndata:
            result = result.copy()
        if len(result) < length + len(block):  # grows in place: what is not written yet takes no memory
            result.resize(max(2 * len(result), length + len(block)), refcheck=False)
        result[length : length + len(block)] = block
        length += len(block)
    if len(result) > length:
        result.resize(length, refcheck=False)
    return result


def stream_audio(
    audio: str | os.PathLike | bytes | BinaryIO | dict, sampling_rate: int = 16000
) -> Iterator[np.ndarray]:
    """
    Yields what `load_audio` returns in successive blocks (n,), n > 0, in memory that a recording's length does not
    change. Takes what `load_audio` takes, and raises what it raises: where the fault is met, so that blocks before it
    have been yielded.
    """
    if not isinstance(audio, dict):
        audio = {"path": audio}
    name = "array" if audio.get("array") is not None else _name(audio)
    yielded = False
    for block in _resampled(_checked(_mono_blocks(audio, name), name), sampling_rate):
        if len(block):
            yielded = True
            yield block
    if not yielded:
        start, end = audio.get("start"), audio.get("end")
        raise AudioError(
            f"{name}: no samples" + ("" if start is None and end is None else f" from {start} to {end} s")
        )


def _mono_blocks(audio: dict, name: str) -> Iterator[tuple[int, np.ndarray]]:
    """Sampling rate and samples (n,) of each block of a recording, or of the part from `start` to `end` seconds."""
    start, end = audio.get("start"), audio.get("end")
    if audio.get("array") is not None:
        rate = audio.get("sampling_rate")
        samples = _array_samples(audio["array"], rate)
        first, count = _part(start, end, samples.shape[1], rate, name)
        for begin in range(first, first + count, BLOCK_VALUES):
            yield rate, _mixed(samples[:, begin : min(begin + BLOCK_VALUES, first + count)])
    else:
        with _open(audio) as file:
            first, count = _part(start, end, file.frames, file.samplerate, name)
            for block in _decode(file, first, count, name):
                yield file.samplerate, _mixed(block.T)


def _mixed(samples: np.ndarray) -> np.ndarray:  # (channels, n) -> (n,)
    if len(samples) == 1:
        return samples[0]
    return np.full(len(samples), 1 / len(samples), dtype=np.float32) @ samples  # 20 times as fast as mean(axis=0)


def _checked(blocks: Iterable[tuple[int, np.ndarray]], name: str) -> Iterator[tuple[int, np.ndarray]]:
    for rate, block in blocks:
        if not np.isfinite(block).all():
            raise AudioError(f"{name}: has samples that are NaN or infinite")
        yield rate, block


def _resampled(blocks: Iterable[tuple[int, np.ndarray]], sampling_rate: int) -> Iterator[np.ndarray]:
    """Blocks at another rate; where a recording changes its rate, the resampler starts anew."""
    resampler = current = None
    for rate, block in blocks:
        if rate != current:
            if resampler is not None:
                yield resampler.resample_chunk(np.empty(0, dtype=np.float32), last=True)
            resampler = None if rate == sampling_rate else _resampler(rate, sampling_rate)
            current = rate
        yield block if resampler is None else resampler.resample_chunk(block)
    if resampler is not None:
        yield resampler.resample_chunk(np.empty(0, dtype=np.float32), last=True)


def _resampler(rate: int, sampling_rate: int) -> soxr.ResampleStream:
    return soxr.ResampleStream(rate, sampling_rate, 1, dtype="float32", quality="HQ")


def encode_flac(samples: np.ndarray, sampling_rate: int) -> bytes:
    """A FLAC file of mono samples (N,) in [-1, 1], in 16 bits; samples outside are clipped."""
    file = io.BytesIO()
    soundfile.write(file, samples, sampling_rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def audio_duration(audio: str | os.PathLike | bytes | BinaryIO | dict) -> float:
    """
    Seconds of a whole recording, from its header; only where the header does not tell is the recording decoded.

    The header of an mp3 that ends early still tells its former length. `audio` is what `load_audio` takes, but for a
    dict with `array`. Raises `AudioError` as `load_audio` does.
    """
    with _open(audio) as file:
        known = file.frames < UNKNOWN_FRAMES
        frames = file.frames if known else sum(map(len, _decode(file, 0, file.frames, _name(audio))))
        return frames / file.samplerate


def audio_format(audio: str | os.PathLike | bytes | BinaryIO | dict) -> tuple[int, int]:
    """Sampling rate and channels of a recording, from its header. Raises `AudioError` as `load_audio` does."""
    with _open(audio) as file:
        return file.samplerate, file.channels


def _name(audio) -> str:
    """What messages call it."""
    if isinstance(audio, dict):
        path = audio.get("path")
        if path is None:
            return _name(audio.get("bytes"))
        if audio.get("bytes") is not None or audio.get("offset") is None:
            return _name(path)
        return f"{_name(path)}, {'row' if audio.get('size') is None else 'byte'} {audio['offset']}"
    if isinstance(audio, (bytes, bytearray, memoryview)):
        return f"<{len(audio)} bytes>"
    return os.fspath(audio) if isinstance(audio, (str, os.PathLike)) else str(getattr(audio, "name", audio))


def _source(audio):
    """The path, bytes or open file of what `load_audio` takes."""
    if not isinstance(audio, dict):
        return audio
    if audio.get("bytes") is not None:
        return audio["bytes"]
    if audio.get("offset") is None:
        return audio.get("path")
    try:
        return open_member(audio["path"], audio["offset"], audio.get("size"))
    except ContainerError as error:
        raise AudioError(str(error)) from error


def _open(audio) -> soundfile.SoundFile:
    name, source = _name(audio), _source(audio)
    if isinstance(source, (str, os.PathLike)):
        if not os.path.isfile(source):
            raise AudioError(f"{name}: {'is a folder' if os.path.isdir(source) else 'no such file'}")
        is_empty = os.path.getsize(source) == 0
    elif isinstance(source, Section):
        is_empty = source.size == 0
    elif isinstance(source, (bytes, bytearray, memoryview)) or hasattr(source, "read"):
        content = source.read() if hasattr(source, "read") else source
        source, is_empty = io.BytesIO(content), not content
    else:
        raise AudioError(
            f"{source!r} is not audio: pass a path, bytes, an open file, or a dict with array, bytes or path"
        )
    if is_empty:
        raise AudioError(f"{name}: is empty")
    try:
        return _SoundFile(source)
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: soundfile takes .raw files for headerless ones
        # libsndfile's own text is left out: for an mp3 that it cannot read it says that the file does not exist.
        raise AudioError(f"{name}: is not audio that can be decoded (wav, flac, mp3, ogg), or is damaged") from error


def _part(start: float | None, end: float | None, frames: int, rate: int, name: str) -> tuple[int, int]:
    """First frame and number of frames of the part from `start` to `end` seconds."""
    duration = frames / rate
    first_second, last_second = start or 0.0, duration if end is None else end
    inside = 0 <= first_second < last_second <= duration + END_TOLERANCE and first_second < duration
    if frames and not inside:
        raise AudioError(f"{name}: the part from {start} to {end} s is not inside the recording of {duration:.3f} s")
    first = round(first_second * rate)
    return first, min(round(last_second * rate), frames) - first


class _SoundFile(soundfile.SoundFile):
    """A file that is read block by block: soundfile seeks after each read, which is not exact in mp3 and opus."""

    def seekable(self) -> bool:
        return False


def _decode(file: soundfile.SoundFile, first: int, count: int, name: str) -> Iterator[np.ndarray]:
    """Up to `count` frames from frame `first` on, in blocks (n, channels); fewer where it ends or is damaged."""
    # Seeking is exact neither in mp3 and opus, whose decoders need what comes before, nor in the last page of an ogg
    # vorbis file, which libsndfile 1.2.2 misplaces by some hundred frames. A lead that is thrown away makes it so.
    begin = first - (LEAD_SECONDS * file.samplerate if file.format == "MP3" or file.subtype == "OPUS" else 0)
    if file.format == "OGG":
        begin = min(begin, file.frames - LAST_OGG_PAGE)
    lead = first - max(begin, 0)
    count += lead
    done, error = 0, None
    while done < count and error is None:
        # After an error libsndfile does not say how much it has decoded: NaN marks what it has not written.
        length = min(BLOCK_VALUES // file.channels, count - done)
        block = np.full((length, file.channels), np.nan, dtype=np.float32)
        try:
            if first and not done:
                file.seek(first - lead)
            decoded = len(file.read(out=block))
        except soundfile.SoundFileError as caught:
            decoded, error = length - int(np.isnan(block[:, 0]).sum()), caught
        if not decoded:
            break
        block = block[max(lead - done, 0) : decoded]
        done += decoded
        if len(block):
            yield block
    if error is not None and done <= lead:
        seconds = first / file.samplerate
        raise AudioError(f"{name}: is damaged, nothing from {seconds:g} s on can be decoded") from error
    if error is not None and file.frames < UNKNOWN_FRAMES:  # a file of unknown length always ends in an error
        seconds = (first - lead + done) / file.samplerate
        logger.warning(f"{name}: is damaged, only {seconds:.2f} s of it can be decoded")


def _array_samples(array, rate) -> np.ndarray:  # -> (channels, N)
    array = np.asarray(array)
    if not rate or rate <= 0:
        raise AudioError(f"array: its sampling_rate is {rate!r}; pass it beside the array, in samples per second")
    if array.dtype.kind != "f":
        raise AudioError(
            f"array: has samples of {array.dtype}; pass floats in [-1, 1], divide 16-bit samples by 32768"
        )
    if array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[0] > 2):
        raise AudioError(
            f"array: has shape {array.shape}; pass (samples,), or (channels, samples) of 2 channels at most"
        )
    return np.atleast_2d(array).astype(np.float32, copy=False)
