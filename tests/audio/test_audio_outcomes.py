"""Audio as it is found in the wild: a table of files, with the result of reading and the line of the report."""

import struct
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hf_mlpl.audio.reading import AudioError, audio_duration, load_audio
from hf_mlpl.corpora.preparation.prepare import Part, Preprocessing, prepare
from hf_mlpl.corpora.reading import ReadingReport, with_durations
from hf_mlpl.data.utterances import read_utterances

RATE = 16_000
SECONDS = 2.0


def tone(rate=RATE, channels=1, seconds=SECONDS) -> np.ndarray:
    mono = 0.3 * np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate)
    return np.stack([mono] * channels, axis=1) if channels > 1 else mono


def written(format, subtype=None, **signal):
    def write(path: Path) -> None:
        soundfile.write(path, tone(**signal), signal.get("rate", RATE), format=format, subtype=subtype)

    return write


def cut(format, part):
    def write(path: Path) -> None:
        written(format)(path)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])

    return write


def corrupt(format):
    """Overwrites the last fifth; the header and the frames before stay good."""

    def write(path: Path) -> None:
        written(format)(path)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * 4 // 5] + b"\xa5" * (len(data) // 5))

    return write


def raw(content: bytes):
    return lambda path: path.write_bytes(content)


def wav_header(channels: int) -> bytes:
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, RATE, RATE * 2, 2 * max(channels, 1), 16)
    data = struct.pack("<4sI", b"data", 3200) + bytes(3200)
    return struct.pack("<4sI4s", b"RIFF", 4 + len(form) + len(data), b"WAVE") + form + data


def very_long(path: Path) -> None:
    with soundfile.SoundFile(path, "w", 8000, 1, format="FLAC") as file:
        for _ in range(3 * 60):
            file.write(np.zeros(60 * 8000, np.int16))


# name: how it is written, seconds by its header, seconds of samples; a text instead of seconds is an AudioError.
OUTCOMES = {
    "good.wav": (written("WAV"), SECONDS, SECONDS),
    "no-audio.mp3": (raw(b"<html>404</html>" * 50), "is not audio", "is not audio"),
    "empty.mp3": (raw(b""), "is empty", "is empty"),
    "zero-length.wav": (written("WAV", seconds=0), 0, "no samples"),
    "zero-channels.wav": (raw(wav_header(0)), "is not audio", "is not audio"),
    "truncated.wav": (cut("WAV", 0.5), 1.0, 1.0),
    "truncated.mp3": (cut("MP3", 0.5), SECONDS, 1.0),
    "truncated.ogg": (cut("OGG", 0.5), None, None),  # at a page, of which a short file has few
    "truncated.flac": (cut("FLAC", 0.5), SECONDS, 1.0),
    "corrupt.flac": (corrupt("FLAC"), SECONDS, 1.6),
    "surround.wav": (written("WAV", channels=6), SECONDS, SECONDS),
    "surround.flac": (written("FLAC", channels=6), SECONDS, SECONDS),
    **{f"{rate}.wav": (written("WAV", rate=rate), SECONDS, SECONDS) for rate in (8000, 11025, 44100, 96000, 192000)},
    "flac-named.mp3": (written("FLAC"), SECONDS, SECONDS),
    "mp3-named.wav": (written("MP3"), SECONDS, SECONDS),
    "ogg-without-a-suffix": (written("OGG"), SECONDS, SECONDS),
}


def outcome(function, path) -> float | str:
    try:
        return function(path)
    except AudioError as error:
        assert "\n" not in str(error) and str(error).startswith(f"{path}: ")
        return str(error)


@pytest.mark.parametrize("name", OUTCOMES)
def test_outcomes(name, tmp_path):
    write, duration, seconds = OUTCOMES[name]
    write(tmp_path / name)
    found = outcome(audio_duration, tmp_path / name), outcome(lambda p: len(load_audio(p)) / RATE, tmp_path / name)
    for measured, expected in zip(found, (duration, seconds), strict=True):
        if isinstance(expected, str):
            assert expected in measured
        elif expected is not None:
            assert measured == pytest.approx(expected, abs=0.3)
        else:
            assert isinstance(measured, str) or 0 <= measured <= SECONDS
    if name.startswith(("surround", "good")) or name.endswith("named.mp3"):
        np.testing.assert_allclose(load_audio(tmp_path / name), tone(), atol=1e-3)


def test_a_part_of_a_very_long_file(tmp_path):
    very_long(tmp_path / "long.flac")
    assert audio_duration(tmp_path / "long.flac") == 3 * 3600
    assert len(load_audio({"path": str(tmp_path / "long.flac"), "start": 10_000, "end": 10_002.5})) == 2.5 * RATE


def read_all(folder: Path, report: ReadingReport):
    def rows():
        for path in sorted(folder.iterdir()):
            report.read += 1
            row = {"id": path.name, "audio": {"path": str(path)}, "language": "sl", "text": "Da.", "speaker": None}
            yield path.name, row | {"source": "human"}

    return with_durations(rows(), report)


def test_each_has_its_row_in_the_report(tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for name, (write, *_) in OUTCOMES.items():
        write(folder / name)
    report = prepare(
        [Part("clips", partial(read_all, folder), "train")], tmp_path / "data", Preprocessing(decode=True)
    )
    lines = (tmp_path / "data" / "report.txt").read_text().splitlines()
    reported = {name: [line for line in lines if line.startswith(f"{name}: ")] for name in OUTCOMES}
    bad = {name for name, (_, _, seconds) in OUTCOMES.items() if isinstance(seconds, str)}
    shorter = {"truncated.mp3", "truncated.flac", "corrupt.flac"}
    for name in OUTCOMES.keys() - {"truncated.ogg"}:
        if name in bad:
            (line,) = reported[name]
            assert line.startswith((f"{name}: unreadable audio: ", f"{name}: no samples: "))
        elif name in shorter:
            (line,) = reported[name]
            assert line.startswith(f"{name}: kept with another duration: ")
        else:
            assert reported[name] == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
        kept = read_utterances([tmp_path / "data" / "train.parquet"])
    assert set(kept["id"]) - {"truncated.ogg"} == OUTCOMES.keys() - bad - {"truncated.ogg"}
    assert report.read == len(OUTCOMES) and report.dropped.total() == len(OUTCOMES) - len(kept)
    quarantine = (tmp_path / "data" / "quarantine.tsv").read_text()
    assert all(f"{folder / name}\t" in quarantine for name in bad)
