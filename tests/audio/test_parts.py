"""Files with wrong headers, joined files, and formats that only PyAV reads are read to their end."""

import io
import multiprocessing
import os
import subprocess
import threading
import tracemalloc
import zipfile
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import soxr

from hf_mlpl.audio import containers, decoders, reading
from hf_mlpl.audio.reading import AudioError, audio_duration, audio_format, load_audio, looks_like_audio, stream_audio

RATE = 16000
DELAY = 1105  # samples of encoder and decoder that a Xing frame says to leave out
ID3V2 = b"ID3\x03\0\0" + bytes([0, 8, 0, 0]) + bytes(8 << 14)
ID3V1 = b"TAG" + b"abc".ljust(125)
APE = b"APETAGEX" + b"".join(n.to_bytes(4, "little") for n in (2000, 1000, 1, 0x80000000)) + bytes(8)
APE = APE[:20] + b"\0\0\0\xa0" + bytes(8) + b"x" * 968 + APE


def encoded(samples, form, subtype=None, rate=RATE, **options) -> bytes:
    file = io.BytesIO()
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    with soundfile.SoundFile(file, "w", rate, channels, subtype, format=form, **options) as sound:
        for start in range(0, len(samples), rate):
            sound.write(samples[start : start + rate])
    return file.getvalue()


def first_frame(mp3: bytes) -> int:
    """Returns the length of the Xing frame, which ends where the second frame begins."""
    return mp3.index(mp3[:2], 100)


def claiming(mp3: bytes, frames=None, size=None) -> bytes:
    """Returns the mp3 with another number of frames, or of bytes, in its Xing frame."""
    mark, result = mp3.index(b"Xing"), bytearray(mp3)
    for offset, factor in ((8, frames), (12, size)):
        if factor is not None:
            number = int.from_bytes(mp3[mark + offset : mark + offset + 4], "big")
            result[mark + offset : mark + offset + 4] = round(number * factor).to_bytes(4, "big")
    return bytes(result)


def with_vbri(mp3: bytes) -> bytes:
    result = bytearray(mp3)
    result[36 : first_frame(mp3)] = bytes(first_frame(mp3) - 36)
    result[36:40] = b"VBRI"
    return bytes(result)


QUIET, LOUD = np.zeros(2 * RATE), 0.15 * np.random.default_rng(0).standard_normal(2 * RATE)
SPEECH = np.r_[QUIET, LOUD]
VARIABLE = {"bitrate_mode": "VARIABLE", "compression_level": 0.5}
MP3 = encoded(SPEECH, "MP3", **VARIABLE)
MP3_OTHER = encoded(np.r_[LOUD, QUIET], "MP3", **VARIABLE)
MP3_BARE = MP3[first_frame(MP3) :]
MP3_STEREO = encoded(np.stack([LOUD, QUIET], 1), "MP3", rate=44100)
VORBIS, OPUS = encoded(SPEECH, "OGG", "VORBIS"), encoded(SPEECH, "OGG", "OPUS")
OPUS_STEREO = encoded(np.stack([SPEECH, SPEECH], 1), "OGG", "OPUS")
WAV, FLAC = encoded(SPEECH, "WAV"), encoded(SPEECH, "FLAC")


# ---- mp3 whose first frame gives no length, or a wrong one


@pytest.mark.parametrize(
    "content",
    [
        MP3_BARE,
        MP3_BARE + APE + ID3V1,
        MP3_BARE + bytes(5000),
        claiming(MP3, frames=0.5),
        claiming(MP3, frames=2),
        claiming(MP3, frames=0.5, size=0.5),
        with_vbri(MP3),
    ],
    ids=["bare", "bare-tags", "bare-zeros", "fewer-frames", "more-frames", "smaller", "vbri"],
)
def test_a_variable_bit_rate_without_a_right_header_is_read_to_its_end(content, caplog):
    expected = load_audio(MP3)  # by the header that its encoder wrote
    assert len(expected) == len(SPEECH)
    found = load_audio(content)
    assert audio_duration(content) == len(found) / RATE
    np.testing.assert_allclose(found[DELAY : DELAY + len(expected)], expected, atol=1e-5)
    assert len(found) - DELAY - len(expected) < 1152
    part = load_audio({"bytes": content, "start": 2.5, "end": 3.25})
    np.testing.assert_allclose(part, found[40000:52000], atol=1e-5)
    assert not caplog.text


@pytest.mark.parametrize(
    "content", [ID3V2 + MP3, MP3 + ID3V1, MP3 + APE, MP3 + APE + ID3V1, ID3V2 + MP3 + bytes(9000)]
)
def test_tags_are_no_sound(content, caplog):
    np.testing.assert_array_equal(load_audio(content), load_audio(MP3))
    assert audio_duration(content) == len(SPEECH) / RATE
    assert not caplog.text


def test_bytes_that_cannot_be_decoded_are_reported(caplog):
    damaged = MP3_BARE[: len(MP3_BARE) // 2] + b"\xaa\x55\x01" * 1000 + MP3_BARE[len(MP3_BARE) // 2 :]
    assert len(load_audio(damaged)) > 0.95 * len(SPEECH)
    assert "bytes of it are no sound that can be decoded" in caplog.text
    for content in (MP3 + b"ab7" * 3000, WAV + b"ab7" * 3000, VORBIS + b"ab7" * 3000):
        caplog.clear()
        assert len(load_audio(content)) == len(SPEECH)
        assert "9000 bytes of it are no sound that can be decoded" in caplog.text


# ---- joined files


@pytest.mark.parametrize(
    "pieces",
    [
        [MP3, MP3],
        [MP3_BARE, MP3_OTHER],
        [MP3 + ID3V1, ID3V2 + MP3_OTHER, MP3],
        [MP3, MP3_STEREO],
        [VORBIS, VORBIS],
        [OPUS, OPUS_STEREO],
        [VORBIS, OPUS],
    ],
    ids=["mp3", "bare-mp3", "tags", "mono-stereo", "vorbis", "opus-stereo", "vorbis-opus"],
)
def test_joined_files_are_read_whole(pieces, tmp_path, caplog):
    (tmp_path / "a").write_bytes(b"".join(pieces))
    expected = np.concatenate([load_audio(piece) for piece in pieces])
    found = load_audio(tmp_path / "a")
    np.testing.assert_allclose(found, expected, atol=1e-6)
    seconds = [audio_duration(piece) for piece in pieces]
    assert audio_duration(tmp_path / "a") == pytest.approx(sum(seconds))
    border = round(seconds[0] * RATE)
    part = load_audio({"path": tmp_path / "a", "start": seconds[0] - 0.5, "end": seconds[0] + 0.5})
    tolerance = 2e-3 if b"OpusHead" in pieces[-1] else 1e-5  # opus decoders forget slowly
    # the resampler that begins or ends inside a recording hears nothing there
    np.testing.assert_allclose(part[200:-200], expected[border - 8000 : border + 8000][200:-200], atol=tolerance)
    assert not caplog.text


def ogg_page(flags: int, serial: int, number: int, packet: bytes) -> bytes:
    page = bytearray(b"OggS\0" + bytes([flags]) + bytes(8) + serial.to_bytes(4, "little"))
    page += number.to_bytes(4, "little") + bytes(4) + bytes([1, len(packet)]) + packet
    checksum = 0
    for byte in page:
        checksum ^= byte << 24
        for _ in range(8):
            checksum = (checksum << 1) ^ (0x104C11DB7 if checksum & 0x80000000 else 0)
    page[22:26] = checksum.to_bytes(4, "little")
    return bytes(page)


def test_an_ogg_whose_first_stream_is_no_sound():
    video = ogg_page(2, 77, 0, b"\x80theora" + bytes(30))
    content = video + VORBIS[:58] + ogg_page(0, 77, 1, bytes(200)) + VORBIS[58:] + ogg_page(4, 77, 2, bytes(100))
    np.testing.assert_array_equal(load_audio(content), load_audio(VORBIS))
    assert audio_duration(content) == len(SPEECH) / RATE


# ---- lengths and rates in headers


def changed(content: bytes, at: int, number: int, size=4, order="little") -> bytes:
    return content[:at] + number.to_bytes(size, order) + content[at + size :]


AU, AIFF = encoded(SPEECH, "AU"), encoded(SPEECH, "AIFF")


@pytest.mark.parametrize(
    "content",
    [
        changed(WAV, WAV.index(b"data") + 4, 0),
        changed(WAV, WAV.index(b"data") + 4, 0xFFFFFFFF),
        encoded(SPEECH, "RF64"),
        changed(AU, 8, 0, order="big"),
        changed(AU, 8, 0xFFFFFFFF, order="big"),
        changed(AIFF, AIFF.index(b"COMM") + 10, 2**31 - 1, order="big"),
        changed(AIFF, AIFF.index(b"COMM") + 10, 10, order="big"),
        changed(FLAC, 22, 0, order="big"),
        changed(FLAC, 22, len(SPEECH) // 3, order="big"),
        changed(FLAC, 21, FLAC[21] << 32 | 0xF << 32 | 0xFFFFFFFF, 5, "big"),
    ],
    ids="wav-0 wav-max rf64 au-0 au-max aiff-more aiff-fewer flac-0 flac-fewer flac-more".split(),
)
def test_lengths_in_headers_are_not_believed(content):
    np.testing.assert_allclose(load_audio(content), SPEECH, atol=1e-4)
    assert audio_duration(content) == len(SPEECH) / RATE
    part = load_audio({"bytes": content, "start": 2.5, "end": 3})
    np.testing.assert_allclose(part, SPEECH[40000:48000], atol=1e-4)


@pytest.mark.parametrize(
    "content, message",
    [
        (changed(WAV, 24, 1), "has 1 channels at 1 Hz by its header"),
        (changed(WAV, 22, 1000, 2), "has 1000 channels at 16000 Hz"),
        (changed(WAV, 24, 0xFFFFFFF0), "is not audio|Hz by its header"),
    ],
)
def test_rates_and_channels_that_no_recording_has(content, message):
    for read in (load_audio, audio_duration, audio_format):
        with pytest.raises(AudioError, match=message) as error:
            read(content)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("rate", [1, float("nan"), float("inf"), 1e12, True, "16000", -16000])
def test_arrays_with_rates_that_no_recording_has(rate):
    with pytest.raises(AudioError, match="array: its sampling_rate is .* from 1000 to 768000"):
        load_audio({"array": LOUD, "sampling_rate": rate})


def test_arrays_that_are_none():
    with pytest.raises(AudioError, match="array: cannot be made an array"):
        load_audio({"array": [[0.1], [0.1, 0.2]], "sampling_rate": RATE})


# ---- block by block


@pytest.mark.parametrize("rate", [8000, 44100])
def test_blocks_are_the_whole(rate, monkeypatch):
    samples = 0.1 * np.random.default_rng(1).standard_normal((5 * rate, 2)).astype(np.float32)
    content = encoded(samples, "WAV", "FLOAT", rate=rate)
    expected = soxr.resample(samples.mean(axis=1), rate, RATE, quality="HQ")
    monkeypatch.setattr(decoders, "BLOCK_VALUES", 10_000)
    monkeypatch.setattr(reading, "BLOCK_VALUES", 10_000)
    blocks = list(stream_audio(content))
    assert len(blocks) > 3 and max(map(len, blocks)) <= 12_000 and all(block.dtype == np.float32 for block in blocks)
    np.testing.assert_allclose(np.concatenate(blocks), expected, atol=1e-6)
    np.testing.assert_array_equal(load_audio(content), np.concatenate(blocks))
    array = {"array": samples.T, "sampling_rate": rate}
    np.testing.assert_allclose(np.concatenate(list(stream_audio(array))), expected, atol=1e-6)
    part = {"bytes": content, "start": 1.25, "end": 4}
    np.testing.assert_array_equal(np.concatenate(list(stream_audio(part))), load_audio(part))
    with pytest.raises(AudioError, match="is not inside the recording"):
        next(stream_audio(part | {"end": 9}))


def test_memory_is_that_of_the_result(tmp_path):
    with soundfile.SoundFile(tmp_path / "a.wav", "w", 48000, 5) as file:
        for _ in range(40):
            file.write(np.zeros((48000, 5), np.int16))
    tracemalloc.start()
    try:
        samples = load_audio(tmp_path / "a.wav")
        peak = tracemalloc.get_traced_memory()[1]
        size = samples.nbytes
        del samples
        tracemalloc.reset_peak()
        assert sum(map(len, stream_audio(tmp_path / "a.wav"))) == 40 * RATE
        streamed = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size == 40 * RATE * 4
    assert peak < 1.2 * size + streamed and streamed < 16 * 2**20


# ---- sources that can only be read once


def test_pipes(tmp_path):
    expected = load_audio(WAV)
    os.mkfifo(tmp_path / "pipe")
    for read in (load_audio, audio_duration):
        writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(WAV,))
        writer.start()
        assert np.array_equal(read(tmp_path / "pipe"), expected if read is load_audio else len(expected) / RATE)
        writer.join()
    (tmp_path / "a.flac").write_bytes(FLAC)
    with subprocess.Popen(["cat", tmp_path / "a.flac"], stdout=subprocess.PIPE) as process:
        np.testing.assert_allclose(load_audio(process.stdout), expected, atol=1e-4)
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "wb") as file:
        file.write(MP3_BARE[:30_000])  # as much as a pipe holds
    np.testing.assert_array_equal(load_audio(f"/dev/fd/{read_end}"), load_audio(MP3_BARE[:30_000]))
    os.close(read_end)
    with pytest.raises(AudioError, match="/dev/zero: is a device"):
        load_audio("/dev/zero")


def test_open_files(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"12345" + WAV)
    with open(tmp_path / "a.wav", "rb") as file:
        for _ in range(2):  # it goes back to where it was
            file.seek(5)
            np.testing.assert_array_equal(load_audio(file), load_audio(WAV))
            np.testing.assert_array_equal(load_audio(file), load_audio(WAV))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.wav", WAV)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive, archive.open("a.wav") as file:
        np.testing.assert_array_equal(load_audio(file), load_audio(WAV))
    (tmp_path / "a.txt").write_text("text")
    with open(tmp_path / "a.txt") as file, pytest.raises(AudioError):
        load_audio(file)

    class Broken(io.BytesIO):
        def read(self, size=-1):
            if self.tell() > 20_000:
                raise OSError(5, "lost")
            return super().read(size)

    with pytest.raises(AudioError, match="Input/output error"):
        load_audio(Broken(FLAC))


# ---- formats that only PyAV reads


def with_av(form: str, codec: str, video: bool = False) -> bytes:
    av = pytest.importorskip("av")
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        stream = container.add_stream(codec, rate=48000 if codec == "libopus" else RATE)
        stream.layout = "mono"
        if video:
            pictures = container.add_stream("mpeg4", rate=10)
            pictures.width = pictures.height = 32
            pictures.pix_fmt = "yuv420p"
            for number in range(40):
                picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
                picture.pts, picture.time_base = number, Fraction(1, 10)
                container.mux(pictures.encode(picture))
        samples = SWEEP if stream.rate == RATE else soxr.resample(SWEEP, RATE, stream.rate)
        for start in range(0, len(samples), 960):
            piece = np.ascontiguousarray(samples[None, start : start + 960], dtype=np.float32)
            frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = stream.rate, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if video:
            container.mux(pictures.encode(None))
    return file.getvalue()


TIMES = np.arange(4 * RATE) / RATE
SWEEP = 0.4 * np.sin(2 * np.pi * (300 + 200 * TIMES) * TIMES)


@pytest.mark.parametrize(
    "form, codec, video",
    [("ipod", "aac", False), ("mp4", "aac", True), ("webm", "libopus", False), ("adts", "aac", False)],
)
def test_formats_that_only_pyav_reads(form, codec, video, tmp_path, monkeypatch):
    path = tmp_path / "a.wav"  # the name does not matter
    path.write_bytes(with_av(form, codec, video))
    found = load_audio(path)
    lag = 1024 if form == "adts" else 0  # which has no place to say how long the encoder's delay is
    assert len(SWEEP) <= len(found) <= len(SWEEP) + lag + 2048
    assert np.abs(found[lag : lag + len(SWEEP)] - SWEEP)[200:-1500].mean() < 0.005
    assert audio_duration(path) == pytest.approx(len(found) / RATE, abs=0.1)
    assert audio_format(path) == (48000 if codec == "libopus" else RATE, 1)
    for start, end in ((0, 1), (0.5, 2.25), (2.125, 3.5)):
        part = load_audio({"path": path, "start": start, "end": end})
        expected = found[round(start * RATE) : round(end * RATE)]
        assert part.shape == expected.shape
        np.testing.assert_allclose(part[100:-100], expected[100:-100], atol=1e-3)
    assert looks_like_audio(path)
    monkeypatch.setattr(decoders, "HAS_AV", False)
    monkeypatch.setattr(reading, "HAS_AV", False)
    assert looks_like_audio(path)
    with pytest.raises(AudioError, match=r"a\.wav: is not audio .*need av, which .*pip install .*ffmpeg -i"):
        load_audio(path)


def test_files_that_look_like_audio(tmp_path):
    (tmp_path / "folder.wav").mkdir()
    os.mkfifo(tmp_path / "pipe.wav")
    pq.write_table(pa.table({"audio": [WAV]}), tmp_path / "a.parquet")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.wav", WAV)
    others = {
        "text.mp3": b"hello world\n" * 500,
        "utf16.mp3": "hello world\n".encode("utf-16") * 500,
        "playlist.m3u8": b"#EXTM3U\n#EXTINF:3\na.wav\n",
        "a.json": b'{"text": "hello"}',
        "picture.png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(500),
        "picture.jpg": b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01" + bytes(range(256)) * 20,
        "empty.wav": b"",
    }
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
    sounds = {"a.txt": WAV, "b": FLAC, "c.json": MP3, "d.png": MP3_BARE, "e": ID3V2 + MP3, "f": OPUS, "g.dat": AU}
    for name, content in sounds.items():
        (tmp_path / name).write_bytes(content)
    assert {path.name for path in tmp_path.iterdir() if looks_like_audio(path)} == set(sounds)


# ---- Parquet, and processes


def test_row_groups_that_do_not_fit_in_memory(tmp_path, monkeypatch):
    """A row group over 2 GiB, which pyarrow cannot return as one array, is read like this."""
    monkeypatch.setattr(containers, "ROW_GROUP_BYTES", 100_000)
    monkeypatch.setattr(containers, "BATCH_BYTES", 50_000)
    rows = [None, WAV, FLAC, b"", MP3, OPUS, None, VORBIS, *[MP3_BARE] * 20]
    values = pa.array([None if row is None else {"bytes": row, "path": "a"} for row in rows])
    pq.write_table(pa.table({"audio": values}), tmp_path / "a.parquet", row_group_size=14)
    for number in np.random.default_rng(0).permutation(len(rows)):
        if rows[number]:
            assert containers.open_member(tmp_path / "a.parquet", int(number)).read() == rows[number]
        else:
            with pytest.raises(AudioError, match=rf"row {number}.* (has no audio|is empty)"):
                load_audio({"path": tmp_path / "a.parquet", "offset": int(number)})


def test_a_damaged_row_group_is_one_line(tmp_path):
    content = bytearray(pq_bytes([MP3, MP3_BARE] * 5))
    content[100:3000] = b"\xff" * 2900
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(AudioError, match=r"a\.parquet: row 3 cannot be read, is it damaged") as error:
        load_audio({"path": tmp_path / "a.parquet", "offset": 3})
    assert "\n" not in str(error.value)


def pq_bytes(rows: list[bytes]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"audio": rows}), file, compression="snappy")
    return file.getvalue()


def read_once(paths: list) -> None:
    for path in paths:
        load_audio(path)


def test_processes_that_are_forked_while_threads_read(tmp_path):
    (tmp_path / "a.parquet").write_bytes(pq_bytes([WAV, FLAC]))
    (tmp_path / "a.mp3").write_bytes(MP3)
    audios = [{"path": tmp_path / "a.parquet", "offset": 1}, tmp_path / "a.mp3"]
    done = threading.Event()

    def keep_reading():
        while not done.is_set():
            containers._row_groups.clear()
            read_once(audios)

    threads = [threading.Thread(target=keep_reading) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            child = multiprocessing.get_context("fork").Process(target=read_once, args=(audios,))
            child.start()
            child.join(30)
            assert child.exitcode == 0
    finally:
        done.set()
        for thread in threads:
            thread.join()
