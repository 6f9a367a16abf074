"""Decodes audio files block by block, with libsndfile, and with PyAV where libsndfile cannot read them."""

from __future__ import annotations

import io
import math
import os
import threading
from collections.abc import Iterator
from itertools import chain

import numpy as np
import soundfile
from transformers.utils import logging

from ..error_line import reason
from ..installation import install_command, is_installed
from .header_lengths import length_patch, lost_in_wav
from .mp3_frames import mp3_parts, starts_as_mp3
from .ogg_pages import ogg_parts, one_stream
from .parts import Part, Section, SeekableFile, head_behind_tags

logger = logging.get_logger(__name__)

HAS_AV = is_installed("av")
LEAD_SECONDS = 2  # decoded before a part: an mp3 frame needs up to 511 bytes before it: 1.5 s at the lowest bit rate
LAST_OGG_PAGE = 2**18  # frames that a page of ogg vorbis can hold: 255 packets of 1024
BLOCK_VALUES = 2**20  # samples of all channels that are decoded at a time: 4 MiB, 22 s of mono at 48 kHz
UNKNOWN_FRAMES = 2**62  # libsndfile gives about 2**63 for files whose header has no length, such as streamed flac
FRAMES_IN_A_BYTE = 2**13  # at most, in any format: flac has silence of 65,535 frames in 10 bytes
FRAMES_IN_A_BYTE_OF = {"MP3": 48, "OGG": 1024, "WAV": 16}
MIN_RATE, MAX_RATE, MAX_CHANNELS = 1000, 768_000, 64
HEAD = 4096  # bytes that show the format of a file
NOT_AUDIO = "is not audio that can be decoded"
NOT_AUDIO_OR_DAMAGED = f"{NOT_AUDIO} (wav, flac, mp3, ogg), or is damaged"
ENDLESS = 2**63 - 1  # bytes
SNDFILE_FORMATS = {"ogg", "wav", "aiff", "caf", "au", "flac"}  # of which FFmpeg reads more codecs
GUESSED_LENGTH = {"aac", "ac3", "amr", "avi", "mpeg", "mpegts", "wav"}  # by FFmpeg, from the bit rate
AV_LEAD_SECONDS = 1  # decoded before a part: aac and opus need what comes before
AV_FORMATS = {
    b"\x1aE\xdf\xa3": "matroska",
    b"#!AMR": "amr",
    b"0&\xb2u\x8ef\xcf\x11": "asf",
    b"FLV\x01": "flv",
    b"\x00\x00\x01\xba": "mpeg",
    b"\x0bw": "ac3",
    b"wvpk": "wv",
    b"MAC ": "ape",
    b"TTA1": "tta",
    b"ADIF": "aac",
    b"DSD ": "dsf",
    b"OggS": "ogg",
    b"RIFF": "wav",
    b"RF64": "wav",
    b"FORM": "aiff",
    b"caff": "caf",
    b".snd": "au",
    b"fLaC": "flac",
}


class AudioError(ValueError):
    """Refuses audio that cannot be used; its one line names the file and the reason."""


def av_format(head: bytes) -> str | None:
    """Returns FFmpeg's name of the format that a file's first bytes show; None for other files.

    FFmpeg is told the format, because on its own it might take a text for a playlist and open the files in it.
    """
    if head[4:8] == b"ftyp" or head[4:8] in (b"moov", b"mdat", b"wide") or head[4:12] == b"freemoov":
        return "mov"
    if len(head) > 7 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "aac"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if len(head) > 376 and head[0] == head[188] == head[376] == 0x47:
        return "mpegts"
    return next((name for beginning, name in AV_FORMATS.items() if head.startswith(beginning)), None)


class SndfileDecoder(soundfile.SoundFile):
    """Decodes a recording block by block with libsndfile. soundfile's `blocks` is not exact in mp3 and opus.

    Args:
        source: An open file, or the descriptor of one.
        size: Number of its bytes.
    """

    def __init__(self, source: SeekableFile | int, size: int):
        # A descriptor of its own: libsndfile 1.2.0 closes that of a file that it cannot read, whatever `closefd` says.
        super().__init__(os.dup(source) if isinstance(source, int) else source)
        self.source = source
        limit = FRAMES_IN_A_BYTE_OF.get(self.format, FRAMES_IN_A_BYTE) * size
        #: Frames; None where the header has no number, or a higher one than the file's bytes can hold.
        self.length = self.frames if self.frames <= limit else None

    def seekable(self) -> bool:  # else soundfile seeks after each block
        return False

    def decode(self, first: int, count: int | None, name: str) -> Iterator[np.ndarray]:
        """Yields up to `count` frames from `first` on, in blocks (n, channels); fewer at an end or at damage."""
        # Seeking is exact neither in mp3 and opus, whose decoders need what comes before, nor in the last page of an
        # ogg vorbis file, which libsndfile 1.2.2 misplaces by some hundred frames. Decoding a lead and dropping it
        # makes it exact.
        begin = first - (LEAD_SECONDS * self.samplerate if self.format == "MP3" or self.subtype == "OPUS" else 0)
        if self.format == "OGG":
            begin = min(begin, self.frames - LAST_OGG_PAGE)
        lead = first - max(begin, 0)
        count = self.frames if count is None else count + lead
        done, error, length = 0, None, BLOCK_VALUES // self.channels
        while done < count and error is None:
            # After an error libsndfile does not report how much it has decoded: NaN marks samples it has not written.
            block = np.full((min(length, count - done), self.channels), np.nan, dtype=np.float32)
            try:
                if first and not done:
                    self.seek(first - lead)
                decoded = len(self.read(out=block))
            except Exception as caught:
                decoded, error = len(block) - int(np.isnan(block[:, 0]).sum()), caught
            _check(self.source, name)
            if not decoded:
                break
            block = block[max(lead - done, 0) : decoded]
            done += decoded
            if len(block):
                yield block
        if error is not None and done <= lead:
            seconds = first / self.samplerate
            raise AudioError(f"{name}: is damaged, nothing from {seconds:g} s on can be decoded") from error
        if error is not None and self.frames < UNKNOWN_FRAMES:  # a file of unknown length always ends in an error
            seconds = (first - lead + done) / self.samplerate
            logger.warning(f"{name}: is damaged, only {seconds:.2f} s of it can be decoded")


if hasattr(os, "register_at_fork") and hasattr(soundfile.SoundFile, "_sf_error_lock"):
    # A forked child would wait for ever for the lock if another thread of its parent held it.
    os.register_at_fork(after_in_child=lambda: setattr(soundfile.SoundFile, "_sf_error_lock", threading.Lock()))


class AvDecoder:
    """Decodes the first audio stream of a file of any format block by block with PyAV."""

    format = subtype = "av"

    def __init__(self, file: DecoderSource, form: str):
        import av

        self.container = av.open(file, format=form, metadata_errors="ignore")
        try:
            if not self.container.streams.audio:
                raise AudioError(f"{NOT_AUDIO}, it has no audio stream")
            self.stream = self.container.streams.audio[0]
            self.resampler = av.AudioResampler(format="fltp")
            self.errors = 0
            self.ahead = next(self._frames(), None)
            if self.ahead is None:
                raise AudioError(NOT_AUDIO_OR_DAMAGED)
            self.samplerate, self.channels = self.ahead.sample_rate, self.ahead.layout.nb_channels
        except BaseException:
            self.container.close()
            raise
        seconds = math.inf
        if form not in GUESSED_LENGTH and self.stream.duration is not None:
            seconds = self.stream.duration * self.stream.time_base
        elif form not in GUESSED_LENGTH and self.container.duration is not None:
            seconds = self.container.duration / 1_000_000
        frames = seconds * self.samplerate
        #: Frames; None where the header has no number, or a higher one than the file's bytes can hold.
        self.length = round(frames) if frames <= FRAMES_IN_A_BYTE * file.size else None

    def _frames(self) -> Iterator:
        """Yields decoded frames; a packet that cannot be decoded is counted and left out."""
        import av

        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                frames = packet.decode()
            except av.FFmpegError as error:
                self.errors += 1
                if isinstance(error, av.EOFError) or self.errors > 1000:
                    return
                continue
            yield from frames

    def decode(self, first: int, count: int | None, name: str) -> Iterator[np.ndarray]:
        """Yields up to `count` frames from `first` on, in blocks (n, channels); fewer at an end or at damage."""
        begin = self.ahead.time or 0.0
        lead_seconds = first / self.samplerate - AV_LEAD_SECONDS
        if lead_seconds > 0:
            self.container.seek(int((begin + lead_seconds) / self.stream.time_base), stream=self.stream)
            frames = self._frames()
        else:
            frames = chain([self.ahead], self._frames())
        position, last, pending = None, None if count is None else first + count, []
        for frame in frames:
            if position is None:
                position = self._position(frame) if lead_seconds > 0 else 0
            samples = self._floats(frame)
            block = samples[max(first - position, 0) : None if last is None else max(last - position, 0)]
            position += len(samples)
            if len(block):
                pending.append(block)
            if sum(map(len, pending)) >= BLOCK_VALUES // self.channels:
                yield np.concatenate(pending)
                pending = []
            if last is not None and position >= last:
                break
        if pending:
            yield np.concatenate(pending)
        if self.errors:
            logger.warning(f"{name}: is damaged, {self.errors} pieces of it cannot be decoded and are left out")

    def _position(self, frame) -> int:
        """Returns the number of a frame's first sample. Times in webm are milliseconds, its frames of one length."""
        time = round(((frame.time or 0.0) - (self.ahead.time or 0.0)) * self.samplerate)
        exact = self.ahead.samples + round((time - self.ahead.samples) / frame.samples) * frame.samples
        return exact if abs(exact - time) <= self.stream.time_base * self.samplerate else time

    def _floats(self, frame) -> np.ndarray:  # (n, channels)
        import av

        try:
            converted = self.resampler.resample(frame)
        except ValueError:  # the recording has changed its rate or channels
            layout = self.ahead.layout.name
            self.resampler = av.AudioResampler(format="fltp", layout=layout, rate=self.samplerate)
            converted = self.resampler.resample(frame)
        if not converted:
            return np.empty((0, self.channels), dtype=np.float32)
        return np.concatenate([piece.to_ndarray() for piece in converted], axis=1).T

    def __enter__(self) -> AvDecoder:
        return self

    def __exit__(self, *_) -> None:
        self.container.close()


class DecoderSource(Section):
    """Gives a decoder a section of an open file, and keeps an error in reading, which decoders cannot pass on.

    Args:
        endless: reports no end, so that libsndfile reads an mp3 to its end instead of guessing its length.
        patch: an offset, and bytes that are read there instead of the file's.
    """

    def __init__(
        self, file: SeekableFile, offset: int, size: int, endless: bool = False, patch: tuple[int, bytes] | None = None
    ):
        super().__init__(file, offset, size)
        self.endless, self.patch = endless, patch
        self.error: Exception | None = None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if self.endless and whence == os.SEEK_END and offset == 0:
            self.position = ENDLESS
            return self.position
        return super().seek(offset, whence)

    def readinto(self, buffer) -> int:
        begin = self.position
        try:
            count = super().readinto(buffer)
        except Exception as error:
            self.error = error
            return 0
        if self.patch is not None:
            start = self.patch[0] - begin
            for i in range(max(start, 0), min(start + len(self.patch[1]), count)):
                memoryview(buffer)[i : i + 1] = self.patch[1][i - start : i - start + 1]
        return count

    def close(self) -> None:  # the file stays open
        pass


def _check(source: SeekableFile | int, name: str) -> None:
    """Raises the error that a decoder has met in reading."""
    if isinstance(source, DecoderSource) and source.error is not None:
        raise AudioError(f"{name}: {reason(source.error)}") from source.error


def find_parts(file: SeekableFile, name: str, thorough: bool = False) -> list[Part]:
    """Returns the recordings in an open file: several where mp3 or ogg files were joined.

    Args:
        thorough: searches the whole file, if that can show more.

    Raises:
        AudioError: for a file that begins like an mp3 and is none.
    """
    head = head_behind_tags(file, HEAD)
    parts = None
    if starts_as_mp3(head) or (av_format(head) is None and file.seek(0) == 0 and file.read(3) == b"ID3"):
        parts = mp3_parts(file, thorough)
        if not parts:
            raise AudioError(f"{name}: {NOT_AUDIO_OR_DAMAGED}")
    elif head.startswith(b"OggS"):
        parts = ogg_parts(file, thorough)
    if parts:
        return parts
    return [Part(0, file.seek(0, os.SEEK_END), lost=lost_in_wav(file) if thorough else 0, patch=length_patch(file))]


def open_part(file: SeekableFile, part: Part, name: str) -> SndfileDecoder | AvDecoder:
    """Returns an open decoder, which is a context manager. Raises `AudioError`."""
    decoder = _open_decoder(file, part, name)
    rate, channels = decoder.samplerate, decoder.channels
    if MIN_RATE <= rate <= MAX_RATE and channels <= MAX_CHANNELS:
        return decoder
    decoder.__exit__(None, None, None)
    raise AudioError(
        f"{name}: has {channels} channels at {rate} Hz by its header, which is damaged: at most {MAX_CHANNELS} "
        f"channels, and {MIN_RATE} to {MAX_RATE} Hz are read"
    )


def _open_decoder(file: SeekableFile, part: Part, name: str) -> SndfileDecoder | AvDecoder:
    source = _source(file, part)
    try:
        return SndfileDecoder(source, part.size)
    except Exception as error:  # libsndfile's own text is left out: it reports that some mp3s do not exist
        _check(source, name)
        form = av_format(head_behind_tags(file, HEAD))
        if form is None or (form in SNDFILE_FORMATS and not HAS_AV):
            raise AudioError(f"{name}: {NOT_AUDIO_OR_DAMAGED}") from error
        if not HAS_AV:
            raise AudioError(
                f"{name}: {NOT_AUDIO} by libsndfile, or is damaged; m4a, mp4, webm, aac and amr need av, which comes "
                f"with {install_command('av')}; or convert it: ffmpeg -i INPUT OUTPUT.wav"
            ) from error
    try:
        return AvDecoder(DecoderSource(file, 0, file.seek(0, os.SEEK_END)), form)
    except Exception as error:
        message = error if isinstance(error, AudioError) else NOT_AUDIO_OR_DAMAGED
        raise AudioError(f"{name}: {message}") from error


def _source(file: SeekableFile, part: Part) -> SeekableFile | int:
    """Returns a source for libsndfile: the file itself where possible, because that is fastest."""
    if part.serial is not None:
        pages = one_stream(DecoderSource(file, part.offset, part.size), part.serial)
        return DecoderSource(pages, 0, pages.seek(0, os.SEEK_END))
    size = file.seek(0, os.SEEK_END)
    if part.trusted and part.patch is None and (part.offset, part.size) == (0, size):
        file.seek(0)
        if isinstance(file, io.FileIO):
            return file.fileno()
        if isinstance(file, io.BytesIO):
            return file
    offset = part.offset
    if isinstance(file, DecoderSource):  # whose own errors must be seen
        offset += file.offset
        file = file.file
    return DecoderSource(file, offset, part.size, not part.trusted, part.patch)
