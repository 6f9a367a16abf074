"""What is written as a manifest is read again as the same utterances, and their audio is the same."""

import gzip
import json
import tarfile

import numpy as np
import pytest
import soundfile

from hf_mlpl.audio.reading import load_audio
from hf_mlpl.cli.main import main
from hf_mlpl.corpora.readers.manifests import read_manifest
from hf_mlpl.corpora.reading import ReadingReport
from hf_mlpl.data.utterances import read_utterances, write_utterances
from hf_mlpl.interop.manifests import export_manifest

RATE = 16_000


@pytest.fixture
def recordings(tmp_path):
    """Writes a.wav of 3 s and both.flac of two channels, and archives a.wav."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, size=(3 * RATE, 2))
    folder = tmp_path / "my talks"
    folder.mkdir()
    soundfile.write(folder / "a.wav", noise[:, 0], RATE)
    soundfile.write(folder / "both.flac", noise, RATE)
    with tarfile.open(folder / "all.tar", "w") as archive:
        archive.add(folder / "a.wav", "a.wav")
    return folder


def utterance(name, path, start=None, end=None, seconds=3.0, **fields):
    audio = {"path": str(path), "offset": None, "size": None, "start": start, "end": end}
    seconds = seconds if end is None else end - start
    row = {"id": name, "audio": audio, "duration_seconds": seconds, "language": "sv-SE", "text": "Hej, då!"}
    return row | {"speaker": "ann", "source": "human"} | fields


@pytest.fixture
def utterances(recordings):
    return [
        utterance("whole/1", recordings / "a.wav"),
        utterance("part", recordings / "a.wav", 0.1, 0.3, text='two "words"', speaker=None, language="de"),
        utterance("long", recordings / "a.wav", 1.234567, 2.9, source="0123abc"),
        utterance("stereo", recordings / "both.flac", 0.5, 1.7),
        utterance("reference", recordings / "both.flac", source="reference"),
        utterance("unlabelled", recordings / "a.wav", 2.0, 2.5, text=None, source=None),
    ]


def read(manifest):
    report = ReadingReport()
    rows = list(read_manifest(manifest, report))
    assert report.dropped == {} and report.kept == len(rows)
    return rows


@pytest.mark.parametrize("name", ["nemo/train.json", "nemo/train.json.gz", "cuts", "supervisions"])
def test_utterances_come_back(utterances, tmp_path, name):
    write_utterances(utterances, tmp_path / "data.parquet")
    output = tmp_path / (name if name.startswith("nemo") else "lhotse")
    report = export_manifest([tmp_path / "data.parquet"], output, output.name if output.name == "lhotse" else "nemo")
    assert (report.utterances, report.left_out) == (6, {})
    rows = read(output if name.startswith("nemo") else output / f"{name}.jsonl.gz")
    write_utterances(rows, tmp_path / "again.parquet")
    again = read_utterances([tmp_path / "again.parquet"]).to_list()
    assert [row | {"duration_seconds": pytest.approx(row["duration_seconds"])} for row in again] == utterances


def test_rows_of_nemo(utterances, recordings, tmp_path):
    """The fields that NeMo's manifests have; nulls are left out, because NeMo would read them as values."""
    write_utterances(utterances, tmp_path / "data.parquet")
    export_manifest([tmp_path / "data.parquet"], tmp_path / "train.json", "nemo")
    rows = [json.loads(line) for line in (tmp_path / "train.json").read_text(encoding="utf-8").splitlines()]
    path = str(recordings / "a.wav")
    extra = {"text_source": "human"}
    assert rows[0] == extra | {
        **{"audio_filepath": path, "duration": 3.0, "text": "Hej, då!", "lang": "sv-SE", "speaker": "ann"},
        "id": "whole/1",
    }
    assert rows[1] == extra | {
        **{"audio_filepath": path, "offset": 0.1, "duration": 0.2, "text": 'two "words"', "lang": "de", "id": "part"},
    }
    assert rows[5] == {
        **{"audio_filepath": path, "offset": 2.0, "duration": 0.5, "lang": "sv-SE", "speaker": "ann"},
        "id": "unlabelled",
    }


def test_audio_in_archives_is_counted_or_copied(recordings, utterances, tmp_path, capsys):
    with tarfile.open(recordings / "all.tar") as archive:
        member = archive.getmember("a.wav")
    inside = utterance("inside", recordings / "all.tar", 1.0, 2.0)
    inside["audio"] |= {"offset": member.offset_data, "size": member.size}
    write_utterances([utterances[0], inside], tmp_path / "data.parquet")
    command = ["export-manifest", str(tmp_path / "data.parquet"), "--to", "nemo", "--output"]
    assert main([*command, str(tmp_path / "a.json")]) == 0
    out, err = capsys.readouterr()
    assert "a.json: 1 utterances" in out and "left out: 1 in archives or Parquet files; --copies" in err
    assert [row["id"] for row in read(tmp_path / "a.json")] == ["whole/1"]

    assert main([*command, str(tmp_path / "b.json"), "--copies", str(tmp_path / "copies")]) == 0
    assert capsys.readouterr().err == ""
    copy = read(tmp_path / "b.json")[1]
    assert copy["audio"]["path"].startswith(str(tmp_path / "copies")) and copy["duration_seconds"] == 1.0
    np.testing.assert_allclose(load_audio(copy["audio"]), load_audio(inside["audio"]), atol=2**-15)

    write_utterances([inside], tmp_path / "data.parquet")
    assert main([*command, str(tmp_path / "c.json")]) == 1
    assert "c.json: no utterance can be written; 1 in archives" in capsys.readouterr().err
    assert not (tmp_path / "c.json").exists()


def test_recordings_that_lhotse_cannot_read_are_left_out(utterances, recordings, tmp_path, capsys):
    (recordings / "bad.wav").write_bytes(b"RIFF")
    bad = [utterance(name, recordings / "bad.wav") for name in ("bad", "worse")]
    write_utterances([*utterances, *bad], tmp_path / "data.parquet")
    command = ["export-manifest", str(tmp_path / "data.parquet"), "--to", "lhotse", "--output", str(tmp_path / "out")]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert "6 utterances" in out and err.count("bad.wav") == 1 and "left out: 2 unreadable audio\n" in err
    with gzip.open(tmp_path / "out" / "recordings.jsonl.gz", "rt") as file:
        assert [json.loads(line)["id"] for line in file] == [str(recordings / name) for name in ("a.wav", "both.flac")]
    assert main(command) == 1
    assert "out exists already; name a new folder" in capsys.readouterr().err
