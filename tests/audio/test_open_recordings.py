"""Tests recordings that stay open: few requests for their parts, and the same samples."""

import os
import pickle
import tarfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile

from hf_mlpl.audio import reading
from hf_mlpl.audio.open_recordings import OpenRecordings
from hf_mlpl.audio.reading import AudioError, load_audio, stream_audio
from hf_mlpl.audio.tar_index import tar_index
from hf_mlpl.storage import RemoteFile

RATE, PARTS = 16_000, 25


@pytest.fixture
def asked(monkeypatch):
    """Counts the opens and reads of files that stay open."""
    counts, opened, request = Counter(), reading._open, RemoteFile.request

    def count(kind, function, *arguments):
        counts[kind] += 1
        return function(*arguments)

    monkeypatch.setattr(reading, "_open", lambda *arguments: count("opens", opened, *arguments))
    monkeypatch.setattr(RemoteFile, "request", lambda *arguments: count("reads", request, *arguments))
    return counts


@pytest.fixture(params=["ogg", "flac", "wav"])
def parts(request, tmp_path):
    """Returns 100 parts of four recordings of 25 s, and the samples of them, decoded at once by soundfile."""
    rng, parts, expected = np.random.default_rng(0), [], []
    for number in range(4):
        path = tmp_path / f"{number}.{request.param}"
        with soundfile.SoundFile(path, "w", RATE, 1) as file:
            for _ in range(PARTS):
                file.write(rng.normal(0, 0.05, RATE))
        samples = soundfile.read(path, dtype="float32")[0]
        for start in range(PARTS):
            parts.append({"path": str(path), "start": float(start), "end": start + 0.75})
            expected.append(samples[start * RATE : round((start + 0.75) * RATE)])
    return parts, expected


def test_parts_of_open_recordings_cost_few_requests(parts, asked):
    parts, expected = parts
    with ThreadPoolExecutor(4) as pool:  # each has a recording at a time, and some have the same
        shared = OpenRecordings()
        made = pool.map(lambda part: np.concatenate(list(stream_audio(part, RATE, shared))), parts[::-1])
        for samples, right in zip(made, expected[::-1], strict=True):
            assert np.array_equal(samples, right)
    asked.clear()
    recordings = OpenRecordings()
    for part, right in zip(parts, expected, strict=True):
        assert np.array_equal(np.concatenate(list(stream_audio(part, RATE, recordings))), right)
    assert asked["opens"] == 4 and 4 <= asked["reads"] <= 8  # a read of up to 4 MiB has all of a recording
    recordings.close()
    assert not recordings.idle


def test_members_of_an_open_tar(tmp_path, asked):
    for number in range(8):
        soundfile.write(tmp_path / f"{number}.wav", np.full(8000, number / 10), RATE, subtype="FLOAT")
    with tarfile.open(tmp_path / "clips.tar", "w") as tar:
        for number in range(8):
            tar.add(tmp_path / f"{number}.wav", f"{number}.wav")
    index, recordings = tar_index(tmp_path / "clips.tar"), OpenRecordings()
    for number in range(8):
        place = {"offset": int(index.offsets[number]), "size": int(index.sizes[number])}
        (samples,) = stream_audio({"path": str(tmp_path / "clips.tar"), **place}, RATE, recordings)
        assert np.array_equal(samples, np.full(8000, number / 10, np.float32))
    assert asked == {"opens": 1, "reads": 1}


def test_what_is_not_kept(tmp_path):
    """Files over the limit, whole ones, those with an error, and in a fork all; in another process there are none."""
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", np.full(RATE, number / 10), RATE)
    recordings = OpenRecordings(2)
    for number in range(3):
        list(stream_audio({"path": str(tmp_path / f"{number}.wav"), "start": 0.2}, RATE, recordings))
        list(stream_audio(str(tmp_path / f"{number}.wav"), RATE, recordings))
    assert list(recordings.idle) == [str(tmp_path / "1.wav"), str(tmp_path / "2.wav")]
    with pytest.raises(AudioError, match=r"2.wav: the part from 3.0 to 4.0 s is not inside the recording of 1.000 s"):
        list(stream_audio({"path": str(tmp_path / "2.wav"), "start": 3.0, "end": 4.0}, RATE, recordings))
    with pytest.raises(AudioError, match="lost.wav: no such file"):
        list(stream_audio({"path": str(tmp_path / "lost.wav"), "start": 3.0}, RATE, recordings))
    assert list(recordings.idle) == [str(tmp_path / "1.wav")]
    assert not pickle.loads(pickle.dumps(recordings)).idle
    part, position = {"path": str(tmp_path / "1.wav"), "start": 0.5}, recordings.idle[str(tmp_path / "1.wav")].file
    if (child := os.fork()) == 0:
        os._exit(0 if len(np.concatenate(list(stream_audio(part, RATE, recordings)))) == RATE // 2 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert recordings.idle[str(tmp_path / "1.wav")].file is position
    assert np.array_equal(np.concatenate(list(stream_audio(part, RATE, recordings))), load_audio(part))
