"""Data directories of Kaldi, in the layout of its page "Data preparation"."""

import numpy as np
import pytest
import soundfile

from hf_mlpl.cli.main import main
from hf_mlpl.corpora.readers.folders import read_folder
from hf_mlpl.corpora.readers.kaldi import read_kaldi
from hf_mlpl.corpora.reading import ReadingReport
from hf_mlpl.data.utterances import read_utterances

RATE = 8000


@pytest.fixture
def recipe(tmp_path):
    """Writes the folders `audio`, `data/train` (with segments) and `data/dev` (without) of a recipe."""
    (tmp_path / "audio").mkdir()
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, size=10 * RATE).astype(np.float32)
    for name in ("a", "b c"):
        soundfile.write(tmp_path / "audio" / f"{name}.wav", noise, RATE)
    command = f"touch {tmp_path}/made; cat audio/a.wav |"
    segments = [
        *("ana-1 reca 1.5 2.25", "ana-2 reca 3 -1", "ben-1 recb 0.0 4.5 -1", "ben-2 recc 0 1", "ben-3 recd 0 1"),
        *("ben-4 recx 0 1", "ben-5 reca 2 1", "ben-6 reca", "ben-7 reca 9 12", "ben-8 rece 0 1", "ben-9 recb 5 6"),
        "ben-10 reca 0 1 B",
    ]
    files = {
        "train/wav.scp": f"reca audio/a.wav\nrecb {tmp_path}/audio/b c.wav\nrecc {command}\nrecd a.ark:17\nrece e\n",
        "train/segments": "\n".join(segments),
        "train/text": "ana-1  Dober   dan\nben-1 \u010das\nben-2 ne\nlost ne\n",
        "train/utt2spk": "ana-1 ana\nana-2 ana\nben-1 ben\n",
        "dev/wav.scp": "u1 audio/a.wav\nu2 audio/b c.wav\n",
        "dev/text": "u1 ja\nu2 null\n",
        "dev/utt2lang": "u1 sv\n",
    }
    for name, content in files.items():
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(content.encode())
    with open(tmp_path / "data" / "train" / "text", "ab") as file:
        file.write(b"ben-9 \xe8as\n")
    return tmp_path


def test_data_directories(recipe):
    report = ReadingReport()
    rows = list(read_kaldi(recipe / "data" / "train", report, "sl"))
    found = [(row["id"], row["audio"]["start"], row["audio"]["end"], row["text"], row["speaker"]) for row in rows]
    assert found == [
        ("ana-1", 1.5, 2.25, "Dober dan", "ana"),
        ("ana-2", 3.0, 10.0, None, "ana"),
        ("ben-1", 0.0, 4.5, "\u010das", "ben"),
    ]
    assert [row["duration_seconds"] for row in rows] == [0.75, 7.0, 4.5]
    assert [row["audio"]["path"] for row in rows[1:]] == [
        str(recipe / "audio" / name) for name in ("a.wav", "b c.wav")
    ]
    assert report.dropped == {
        "its audio is made by a command": 1,
        "its audio is in an archive of Kaldi": 1,
        "one channel of several": 1,
        "no recording": 1,
        "not a part of a recording": 1,
        "not a line of segments": 1,
        "segment outside its recording": 1,
        "unreadable audio": 1,
        "bytes that are not UTF-8": 1,
    }
    assert report.read == 12 and not (recipe / "made").exists()
    assert report.notes == [f"{recipe / 'data' / 'train' / 'text'}: texts without an utterance: 1, such as lost"]
    (recipe / "data" / "dev" / "text").write_bytes("u1 \u010das\nu2 \u0161\u010d".encode("cp1250"))
    with pytest.raises(
        ValueError, match="dev/text: 2 lines, such as line 1, are not UTF-8; name the encoding with --enc"
    ):
        list(read_kaldi(recipe / "data" / "dev", report, "sl"))
    dev = list(read_kaldi(recipe / "data" / "dev", ReadingReport(), "sl", "cp1250"))
    assert [row["text"] for row in dev] == ["\u010das", "\u0161\u010d"]
    with pytest.raises(
        ValueError, match="dev: no recordings, such as .*; --manifests reads data directories of Kaldi"
    ):
        list(read_folder(recipe / "data" / "dev", report, "sl"))
    with pytest.raises(ValueError, match="audio: no data directory of Kaldi, which has a wav.scp"):
        list(read_kaldi(recipe / "audio", report))


def test_data_directories_by_the_command(recipe, capsys):
    """The name of a folder shows its split, and utt2lang its language."""
    output, folders = recipe / "out", [str(recipe / "data" / name) for name in ("train", "dev")]
    assert main(["prepare-data", "--manifests", *folders, "--output", str(output)]) == 0, capsys.readouterr().err
    (row,) = read_utterances([output / "dev.parquet"])
    assert (row["id"], row["language"], row["text"]) == ("u1", "sv-SE", "ja")
    assert main(["prepare-data", "--manifests", *folders, "--language", "sl", "--output", str(output)]) == 0
    texts = {path.stem: read_utterances([path])["text"] for path in output.glob("*.parquet")}
    assert texts == {"train": ["Dober dan", "\u010das"], "dev": ["ja", "null"], "unlabelled": [None]}
