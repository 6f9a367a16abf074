"""Audio files of every format are read, and faulty ones refused in one line."""

import io
import os

import numpy as np
import pytest
import soundfile

from hf_mlpl.audio.reading import AudioError, audio_duration, audio_format, is_recording, load_audio

FORMATS = {"wav": ("WAV", None), "flac": ("FLAC", None), "mp3": ("MP3", None), "ogg": ("OGG", "VORBIS")}
OPUS = ("OGG", "OPUS")
SECONDS = 1.5


def write(path, samples, rate, kind):
    soundfile.write(path, samples, rate, format=kind[0], subtype=kind[1])
    return path


def sine(rate, frequency, seconds=SECONDS):
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def noise(num_samples, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(num_samples)).astype(np.float32)


def strongest_frequency(samples, rate=16000):
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return np.argmax(spectrum) * rate / len(samples)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    "extension, rate",
    [(extension, rate) for extension in FORMATS for rate in (8000, 16000, 22050, 44100, 48000)]
    + [("opus", rate) for rate in (8000, 16000, 48000)],
)
def test_formats_rates_and_channels(tmp_path, extension, rate, channels):
    tone = sine(rate, 1000)
    # The right channel has a second tone, so that averaging is seen: both are half as strong as in their channel.
    samples = tone if channels == 1 else np.stack([tone, sine(rate, 2500)], axis=1)
    path = write(tmp_path / f"a.{extension}", samples, rate, OPUS if extension == "opus" else FORMATS[extension])

    result = load_audio(path)
    assert result.dtype == np.float32
    assert result.ndim == 1
    assert abs(len(result) - 16000 * SECONDS) <= 1
    assert audio_duration(path) == pytest.approx(SECONDS, abs=1e-3)
    assert audio_format(path) == (rate, channels)
    middle = result[4000:20000]
    amplitudes = np.abs(np.fft.rfft(middle))[[1000, 2500]] / 8000
    expected = [0.5, 0] if channels == 1 else [0.25, 0.25]
    np.testing.assert_allclose(amplitudes, expected, atol=0.05)
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(np.sqrt(np.sum(np.square(expected)) / 2), rel=0.1)
    assert strongest_frequency(load_audio(path, 8000), 8000) in (
        pytest.approx(1000, abs=1),
        pytest.approx(2500, abs=1),
    )


def test_golden_samples(golden):
    for name in ("speech_de_wav", "speech_fr_flac", "speech_fr_wav", "quiet_wav"):
        path = golden / "wavs" / name.replace("_wav", ".wav").replace("_flac", ".flac")
        assert np.array_equal(load_audio(path), np.load(golden / "features" / f"{name}.samples.npy").reshape(-1))
    stereo = np.load(golden / "features" / "stereo_wav.samples.npy")
    np.testing.assert_allclose(load_audio(golden / "wavs" / "stereo.wav"), stereo.mean(axis=1), atol=1e-7)


def test_a_file_at_8_khz_is_resampled(golden):
    """The original program reads it as 16 kHz; our samples match the recording from which it was made."""
    at_8, at_16 = load_audio(golden / "wavs" / "speech_fr_8k.wav"), load_audio(golden / "wavs" / "speech_fr.wav")
    assert abs(len(at_8) - len(at_16)) <= 2
    low = slice(0, 3000 * len(at_16) // 16000)  # the spectrum below 3 kHz
    length = min(len(at_8), len(at_16))
    a, b = np.abs(np.fft.rfft(at_8[:length]))[low], np.abs(np.fft.rfft(at_16[:length]))[low]
    assert np.corrcoef(a, b)[0, 1] > 0.98


def test_sources(tmp_path):
    path = write(tmp_path / "a.flac", noise(5000), 16000, FORMATS["flac"])
    expected = load_audio(path)
    content = path.read_bytes()
    for source in (str(path), content, io.BytesIO(content), {"path": str(path)}, {"bytes": content, "path": None}):
        assert np.array_equal(load_audio(source), expected)
    assert np.array_equal(load_audio({"bytes": content, "path": "not here.mp3"}), expected)
    assert np.array_equal(load_audio({"array": expected, "sampling_rate": 16000, "path": "not here"}), expected)
    assert np.array_equal(load_audio({"array": np.stack([expected] * 2), "sampling_rate": 16000}), expected)
    assert len(load_audio({"array": expected, "sampling_rate": 8000})) == 10000
    with open(path, "rb") as file:
        assert np.array_equal(load_audio(file), expected)
    assert audio_duration(content) == 5000 / 16000


@pytest.mark.parametrize("extension", FORMATS)
@pytest.mark.parametrize("wrong", ["wav", "mp3", "ogg", "flac", "txt", ""])
def test_a_wrong_extension_does_not_matter(tmp_path, extension, wrong):
    path = write(tmp_path / f"right.{extension}", noise(16000), 16000, FORMATS[extension])
    expected = load_audio(path)
    misnamed = path.rename(tmp_path / f"misnamed.{wrong}")
    assert np.array_equal(load_audio(misnamed), expected)
    assert np.array_equal(load_audio(misnamed.read_bytes()), expected)
    with open(misnamed, "rb") as file:
        assert np.array_equal(load_audio(file), expected)


@pytest.mark.parametrize("extension", [*FORMATS, "opus"])
def test_a_part_has_exactly_the_samples_of_the_whole(tmp_path, extension):
    kind = OPUS if extension == "opus" else FORMATS[extension]
    # Tones and pauses take few bits: mp3 frames borrow from earlier ones, and the last page of an ogg file is long.
    samples = sine(16000, 1000, seconds=20) * (np.sin(np.arange(16000 * 20) / 16000) > 0.3)
    path = write(tmp_path / f"a.{extension}", samples, 16000, kind)
    recording = load_audio(path)
    tolerance = {"atol": 1e-3 if extension == "opus" else 1e-6}  # opus decoders forget slowly
    np.testing.assert_allclose(recording, soundfile.read(path, dtype="float32")[0], atol=1e-6)
    for start, end in [(0, 1), (0.5, 2.25), (7.12345, 11.001), (13.37, 13.4), (17, 19), (19, 20), (19.9, 20.05)]:
        part = load_audio({"path": path, "start": start, "end": end})
        expected = recording[round(start * 16000) : round(end * 16000)]
        assert part.shape == expected.shape
        np.testing.assert_allclose(part, expected, **tolerance)
    np.testing.assert_allclose(load_audio({"path": path, "start": 18.0}), recording[18 * 16000 :], **tolerance)
    np.testing.assert_allclose(load_audio({"path": path, "end": 0.25}), recording[:4000], **tolerance)
    part = load_audio({"bytes": path.read_bytes(), "start": 1, "end": 2})
    np.testing.assert_allclose(part, recording[16000:32000], **tolerance)
    array = {"array": recording, "sampling_rate": 16000, "start": 1, "end": 2}
    assert np.array_equal(load_audio(array), recording[16000:32000])


def test_a_part_of_a_file_at_another_rate(tmp_path):
    path = write(tmp_path / "a.ogg", sine(44100, 440, seconds=5), 44100, FORMATS["ogg"])
    part = load_audio({"path": path, "start": 1.5, "end": 3.5})
    assert len(part) == 32000
    assert strongest_frequency(part) == pytest.approx(440, abs=1)


@pytest.mark.parametrize(
    "start, end", [(-0.1, 1), (2, 1), (1, 1), (2.0, None), (5, 6), (1, 2.2), (None, -1), (0.0, 0)]
)
def test_a_part_outside_of_the_recording(tmp_path, start, end):
    path = write(tmp_path / "a.wav", noise(32000), 16000, FORMATS["wav"])
    with pytest.raises(AudioError, match=r"a\.wav: the part from .* is not inside the recording of 2\.000 s"):
        load_audio({"path": path, "start": start, "end": end})


def test_files_that_are_not_audio(tmp_path):
    cases = {"empty.wav": (b"", "is empty"), "text.mp3": (b"hello world" * 100, "is not audio that can be decoded")}
    cases |= {"zeros.ogg": (bytes(5000), "is not audio"), "headerless.raw": (bytes(5000), "is not audio")}
    for extension, kind in FORMATS.items():
        content = write(tmp_path / f"whole.{extension}", noise(16000), 16000, kind).read_bytes()
        cases[f"cut.{extension}"] = (content[:20], "is not audio")
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        for read in (load_audio, audio_duration, audio_format):
            with pytest.raises(AudioError, match=f"{name}: {message}") as error:
                read(tmp_path / name)
            assert "\n" not in str(error.value)
        with pytest.raises(AudioError, match=rf"<{len(content)} bytes>: {message}"):
            load_audio(content)
    with pytest.raises(AudioError, match=r"missing\.wav: no such file"):
        load_audio(tmp_path / "missing.wav")
    with pytest.raises(AudioError, match="is a folder"):
        load_audio(tmp_path)


def test_what_is_a_recording_in_a_folder(tmp_path):
    """A pipe to which nobody writes would be read for ever."""
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "gone.wav").symlink_to("nowhere")
    (tmp_path / "damaged.WAV").write_text("no sound")
    (tmp_path / "notes").write_text("no sound")
    write(tmp_path / "nameless", noise(1000), 16000, FORMATS["flac"])
    found = {path.name for path in tmp_path.iterdir() if is_recording(path)}
    assert found == {"gone.wav", "damaged.WAV", "nameless"}


def test_files_without_usable_samples(tmp_path):
    with pytest.raises(AudioError, match=r"nothing\.wav: no samples"):
        load_audio(write(tmp_path / "nothing.wav", np.zeros(0), 16000, FORMATS["wav"]))
    samples = noise(1000)
    samples[500] = np.nan
    with pytest.raises(AudioError, match=r"nan\.wav: has samples that are NaN or infinite"):
        load_audio(write(tmp_path / "nan.wav", samples, 16000, ("WAV", "FLOAT")))
    assert issubclass(AudioError, ValueError)


def test_arrays_and_dicts_of_another_form():
    for audio, message in [
        ({"array": noise(100)}, "its sampling_rate is None"),
        ({"array": noise(100), "sampling_rate": 0}, "its sampling_rate is 0"),
        ({"array": np.zeros(100, np.int16), "sampling_rate": 16000}, "int16; pass floats"),
        ({"array": np.zeros((100, 2)), "sampling_rate": 16000}, r"has shape \(100, 2\)"),
        ({"array": np.zeros(0), "sampling_rate": 16000}, "no samples"),
        ({"path": None, "bytes": None}, "None is not audio: pass a path"),
        (7, "7 is not audio: pass a path"),
    ]:
        with pytest.raises(AudioError, match=message):
            load_audio(audio)


@pytest.mark.parametrize("extension", FORMATS)
def test_a_file_that_ends_early_gives_what_is_there(tmp_path, extension):
    path = write(tmp_path / f"a.{extension}", noise(16000 * 4), 16000, FORMATS[extension])
    recording, content = load_audio(path), path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    part = load_audio(path)
    assert 0.8 * 16000 < len(part) < 2.5 * 16000
    np.testing.assert_allclose(part[:12000], recording[:12000], atol=1e-6)


@pytest.mark.parametrize("extension", ["flac", "mp3"])
def test_a_damaged_file_gives_what_comes_before_the_damage(tmp_path, extension, caplog):
    path = write(tmp_path / f"a.{extension}", noise(16000 * 4), 16000, FORMATS[extension])
    recording, content = load_audio(path), bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = b"\xaa" * 3000
    path.write_bytes(content)
    part = load_audio(path)
    assert 1.5 * 16000 < len(part) < 2.5 * 16000
    np.testing.assert_allclose(part[:16000], recording[:16000], atol=1e-6)
    assert f"a.{extension}: is damaged, only {len(part) / 16000:.2f} s" in caplog.text
    late = {"path": path, "start": 3.9}
    if extension == "flac":  # its blocks need nothing before them
        np.testing.assert_allclose(load_audio(late), recording[62400:], atol=1e-6)
    else:
        with pytest.raises(AudioError, match=r"a\.mp3: is damaged, nothing from 3\.9 s on can be decoded"):
            load_audio(late)


def test_flac_of_unknown_length(tmp_path):
    """Programs that stream write 0 as the header's number of samples."""
    path = write(tmp_path / "a.flac", noise(50000), 16000, FORMATS["flac"])
    recording, content = load_audio(path), bytearray(path.read_bytes())
    content[21] &= 0xF0  # the number has 36 bits, behind the 4-byte marker, the block's 4-byte header and 108 bits
    content[22:26] = bytes(4)
    assert np.array_equal(load_audio(bytes(content)), recording)
    assert np.array_equal(load_audio({"bytes": bytes(content), "start": 1, "end": 2}), recording[16000:32000])
    assert audio_duration(bytes(content)) == 50000 / 16000
