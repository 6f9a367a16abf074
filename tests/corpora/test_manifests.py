"""Manifests of NeMo and lhotse, written here by their definitions; tests/clients/test_formats.py has lhotse itself."""

import gzip
import json
import os

import numpy as np
import pytest
import soundfile
from datasets import Dataset, Features, Value

from hf_mlpl.audio.reading import load_audio
from hf_mlpl.cli.main import main
from hf_mlpl.corpora.readers.hf_datasets import read_dataset
from hf_mlpl.corpora.readers.manifests import read_manifest
from hf_mlpl.corpora.reading import ReadingReport
from hf_mlpl.data.utterances import read_utterances
from hf_mlpl.labels.files import labels_of_anyone

RATE = 8000


@pytest.fixture
def clips(tmp_path):
    """Writes a.wav and b/c.wav, of 4 and 2 seconds, and both.wav of two channels, in a folder `clips`."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, size=(4 * RATE, 2)).astype(np.float32)
    (tmp_path / "clips" / "b").mkdir(parents=True)
    for name, samples in (("a", noise[:, 0]), ("b/c", noise[: 2 * RATE, 1]), ("both", noise)):
        soundfile.write(tmp_path / "clips" / f"{name}.wav", samples, RATE, subtype="FLOAT")
    return tmp_path / "clips"


def write_rows(path, *rows):
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", encoding="utf-8") as file:
        file.writelines(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    return path


def read(path, language=None):
    report = ReadingReport()
    return list(read_manifest(path, report, language)), report


def part_of(utterance):
    audio = utterance["audio"]
    return os.path.basename(audio["path"]), audio["start"], audio["end"]


def test_parts_of_nemo_are_parts(clips, tmp_path):
    rows = [
        {"audio_filepath": "a.wav", "offset": 0.5, "duration": 1.1, "text": "one", "lang": "sv", "speaker": "ann"},
        {"audio_filepath": "a.wav", "duration": 1.6, "text": "two", "lang": "en", "id": "second"},
        {"audio_filepath": str(clips / "b" / "c.wav"), "duration": 2.0, "text": "all", "source_lang": "de"},
        {"audio_filename": "b/c.wav", "offset": 0, "duration": 2.04, "text": " cafe\u0301 ", "language": "fr"},
        {"audio_filepath": "a.wav", "offset": 2, "text": None, "lang": "en"},
    ]
    found, report = read(write_rows(clips / "train_manifest.json", *rows))
    assert report.kept == 5
    assert [part_of(row) for row in found] == [
        ("a.wav", 0.5, 1.6),
        ("a.wav", 0.0, 1.6),
        ("c.wav", None, None),
        ("c.wav", None, None),
        ("a.wav", 2.0, 4.0),
    ]
    assert [row["duration_seconds"] for row in found] == pytest.approx([1.1, 1.6, 2.0, 2.0, 2.0])
    assert [row["text"] for row in found] == ["one", "two", "all", "café", None]
    assert [row["source"] for row in found] == ["human"] * 4 + [None]
    assert [row["language"] for row in found] == ["sv-SE", "en", "de", "fr", "en"]
    assert (found[0]["id"], found[0]["speaker"], found[1]["id"]) == ("a_0.5-1.6", "ann", "second")
    whole, _ = soundfile.read(clips / "a.wav", dtype="float32")
    np.testing.assert_array_equal(load_audio(found[0]["audio"], RATE), whole[round(0.5 * RATE) : round(1.6 * RATE)])


def test_a_manifest_may_be_a_link(clips, tmp_path):
    """As those of DVC and the Hub's cache; paths are found beside the link, and beside what it leads to."""
    rows = [{"audio_filepath": name, "lang": "en"} for name in ("a.wav", "linked/c.wav")]
    target = write_rows(clips / "train_manifest.json", *rows)
    (tmp_path / "mine").mkdir()
    os.symlink(clips / "b", tmp_path / "mine" / "linked")
    os.symlink(target, tmp_path / "mine" / "m.json")
    found, report = read(tmp_path / "mine" / "m.json")
    assert [row["duration_seconds"] for row in found] == [4.0, 2.0] and not report.dropped


def test_rows_of_nemo_that_would_be_wrong_are_refused(clips):
    good = {"audio_filepath": "a.wav", "offset": 1.0, "duration": 1.0, "text": "x", "lang": "en"}
    bad = {
        "not a part of a recording": [{"duration": float("nan")}, {"offset": "x"}, {"duration": -1}, {"offset": -0.5}],
        "segment outside its recording": [{"duration": 3.5}],
        "no language": [{"lang": None}, {"lang": float("nan")}],
        "its text is a translation": [{"source_lang": "en", "target_lang": "de-DE"}],
        "its text is in another file": [{"text": None, "text_filepath": "a.txt"}],
        "text is no text": [{"text": ["x"]}],
        "audio_filepath is no text": [{"audio_filepath": ["a.wav", "b.wav"]}],
        "no audio that can be read": [{"audio_filepath": None}],
        "unreadable audio": [{"audio_filepath": "lost.wav"}],
        "no JSON object": ["[1]\n", "{\n"],
    }
    rows = [row if isinstance(row, str) else good | row for rows in bad.values() for row in rows]
    found, report = read(write_rows(clips / "m.json", *rows, "\n", good | {"source_lang": "en", "target_lang": "en"}))
    assert report.dropped == {reason: len(rows) for reason, rows in bad.items()}
    assert [row["text"] for row in found] == ["x"]
    nan, _ = read(write_rows(clips / "nan.json", good | {"text": float("nan"), "speaker": float("nan")}))
    assert (nan[0]["text"], nan[0]["speaker"]) == (None, None)


def test_manifests_of_tar_files_and_other_files_are_refused_in_a_line(clips):
    sharded = write_rows(clips / "tarred.json", {"audio_filepath": "a.wav", "duration": 1, "text": "x", "shard_id": 0})
    cases = {sharded: "has a shard_id", clips / "m__OP_0..7_CL_.json": "pattern", clips / "lost.json": "no such"}
    table = clips / "table.tsv"
    table.write_text("audio_filepath\ttext\na.wav\tx\n")
    segments = write_rows(clips / "supervisions.jsonl.gz", {"id": "x", "recording_id": "a", "start": 0, "duration": 1})
    cases |= {table: "is a table", segments: "recordings.jsonl.gz beside it"}
    for path, message in cases.items():
        with pytest.raises(ValueError, match=message) as caught:
            read(path, "en")
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def recording(clips, name="a", seconds=4.0, channels=(0,), **more):
    source = {"type": "file", "channels": list(channels), "source": str(clips / f"{name}.wav")}
    numbers = {"sampling_rate": RATE, "num_samples": round(seconds * RATE), "duration": seconds}
    return {"id": name, "sources": [source], **numbers, "channel_ids": list(channels), **more}


def cut(recording, *supervisions, start=1.0, duration=2.0, channel=0, kind="MonoCut"):
    fields = {"id": "cut", "start": start, "duration": duration, "channel": channel, "type": kind}
    return fields | {"supervisions": list(supervisions), "recording": recording}


def segment(name, start, duration, channel=0, **fields):
    return {"id": name, "recording_id": "a", "start": start, "duration": duration, "channel": channel, **fields}


def test_supervisions_of_cuts_are_utterances(clips):
    """Their starts count from the start of the cut, and may lie before it: then the text is of more than the cut."""
    files_of_channels = recording(clips)["sources"] + recording(clips, "b/c", channels=[1])["sources"]
    first = segment("first", -0.2, 1.3, text="one", language="sv", speaker="ann", custom={"text_source": "teacher"})
    rows = [
        cut(recording(clips), first, segment("second", 1.1, 0.8, language="sv")),
        cut(recording(clips)),
        cut(recording(clips, transforms=[{"name": "Resample", "kwargs": {}}]), segment("third", 0.5, 0.5, text="x")),
        cut(recording(clips, "both", channels=[0, 1]), segment("mixed", 0, 1, [0, 1], text="x"), kind="MultiCut"),
        cut({"id": "two", "sources": files_of_channels}, segment("right", 0, 0.5, 1, text="x"), kind="MultiCut"),
    ]
    found, report = read(write_rows(clips / "cuts.jsonl.gz", *rows), "sv")
    assert report.dropped == {}
    assert [(row["id"], *part_of(row), row["text"], row["source"]) for row in found] == [
        ("first", "a.wav", 0.8, 2.1, "one", "teacher"),
        ("second", "a.wav", 2.1, 2.9, None, None),
        ("cut", "a.wav", 1.0, 3.0, None, None),
        ("third", "a.wav", 1.5, 2.0, "x", "human"),
        ("mixed", "both.wav", 1.0, 2.0, "x", "human"),
        ("right", "c.wav", 1.0, 1.5, "x", "human"),
    ]
    assert (found[0]["language"], found[0]["speaker"]) == ("sv-SE", "ann")


def test_audio_that_only_lhotse_makes_is_refused(clips):
    both, text = recording(clips, "both", channels=[0, 1]), segment("s", 0, 1, text="x")
    url = recording(clips)
    url["sources"][0]["type"] = "url"
    lost = cut(recording(clips), text | {"channel": 1})
    bad = {
        "one channel of several": [cut(both, text), cut(both, text, channel=[0, 1], kind="MultiCut"), cut(both)],
        "lhotse changes its audio": [cut(recording(clips, transforms=[{"name": "Speed"}]), text)],
        "its recording is not one file": [cut(url, text), cut(both | {"sources": both["sources"] * 2}, text), lost],
        "no audio that can be read": [cut(recording(clips), kind="PaddingCut"), {"id": "m", "type": "MixedCut"}],
        "not a part of a recording": [cut(recording(clips), segment("s", "x", 1)), cut(recording(clips), start=-1)],
        "no supervision": [cut(recording(clips), "s")],
    }
    found, report = read(write_rows(clips / "cuts.jsonl", *[row for rows in bad.values() for row in rows]), "en")
    assert found == [] and report.dropped == {reason: len(rows) for reason, rows in bad.items()}


def test_supervisions_have_their_recordings_beside_them(clips):
    write_rows(clips / "sl_recordings_dev.jsonl.gz", recording(clips), recording(clips, "b/c", 2.0))
    segments = [segment("s", 1.5, 1.0, text="ena", language="sl"), segment("t", 0, 1) | {"recording_id": "lost"}]
    found, report = read(write_rows(clips / "sl_supervisions_dev.jsonl.gz", *segments))
    assert [(row["id"], *part_of(row), row["text"]) for row in found] == [("s", "a.wav", 1.5, 2.5, "ena")]
    assert report.dropped == {"no recording": 1}
    with pytest.raises(ValueError, match="name sl_supervisions_dev.jsonl.gz"):
        read(clips / "sl_recordings_dev.jsonl.gz", "sl")
    (clips / "sl_supervisions_dev.jsonl.gz").unlink()
    found, _ = read(clips / "sl_recordings_dev.jsonl.gz", "sl")
    assert [(row["id"], *part_of(row), row["text"]) for row in found] == [
        ("a", "a.wav", None, None, None),
        ("b/c", "c.wav", None, None, None),
    ]


def test_a_recording_is_measured_once_for_its_parts(clips, monkeypatch):
    measured = []
    monkeypatch.setattr("hf_mlpl.corpora.reading.audio_duration", lambda audio: measured.append(audio["path"]) or 4.0)
    rows = [
        {"audio_filepath": f"{'ab'[n % 2]}.wav", "offset": n / 4, "duration": 0.25, "lang": "en"} for n in range(16)
    ]
    found, _ = read(write_rows(clips / "m.json", *rows))
    assert len(found) == 16 and sorted(measured) == [str(clips / "a.wav"), str(clips / "b.wav")]


def test_nan_in_json_is_no_text(clips):
    """Python and pandas write it for no value; `NaN` in quotes is a word."""
    row = {"audio_filepath": "a.wav", "lang": "en"}
    manifest = write_rows(clips / "m.json", row | {"text": float("nan")}, row | {"text": "NaN", "offset": 1})
    for rows in (read(manifest)[0], list(read_dataset(manifest, ReadingReport()))):
        assert [row["text"] for row in rows] == [None, "NaN"]
    features = Features({"id": Value("string"), "text": Value("string"), "score": Value("float64")})
    rows = [{"id": "a", "text": float("nan")}, {"id": "b", "text": "NaN", "score": float("nan")}]
    Dataset.from_list([{"id": "b", "text": "NaN", "score": float("nan")}]).to_parquet(clips / "l.parquet")
    for table in (write_rows(clips / "l.jsonl", *rows), clips / "l.parquet"):
        skipped = []
        labels = labels_of_anyone(table, features, ["id", "text"], lambda *line, to=skipped: to.append(line))
        rows = [row for block in labels for row in block.to_pylist()]
        assert rows == [{"id": "b", "text": "NaN", "score": None}]
        assert skipped == [(f"{table}:1", "no text")] * (table.suffix == ".jsonl")


JUNK = [None, "", "x", "0", "a\0b", "~", 0, -1, 3, 1e400, float("nan"), [], {}, [[]], [None], {"a": 1}]


def variants(value):
    """Yields a value of JSON with each junk in each of its places, and without each of its fields."""
    yield from JUNK
    if isinstance(value, dict):
        for name in value:
            yield {key: content for key, content in value.items() if key != name}
            yield from (value | {name: other} for other in variants(value[name]))
    if isinstance(value, list):
        yield from ([other] for other in variants(value[0]))


def test_junk_in_any_place_costs_only_its_row(clips):
    """Each row is an utterance or is counted; no junk in a row of lhotse gives its text another part of the audio."""
    nemo = {"audio_filepath": "a.wav", "offset": 0.5, "duration": 1, "text": "x", "lang": "en", "speaker": "ann"}
    text = segment("s", 0.25, 0.5, text="x", language="en", custom={"text_source": "teacher"})
    made = recording(clips, transforms=[{"name": "Resample", "kwargs": {}}])
    write_rows(clips / "x_recordings.jsonl", recording(clips))
    # the places that 0, -1 and 3 as start or duration mean
    parts = {
        "nemo": {(0.0, 1.0), (0.5, 1.5), (0.5, 3.5), (0.5, 4.0), (3.0, 4.0)},
        "cuts": {(0.0, 0.5), (0.25, 0.75), (1.0, 1.5), (1.25, 1.75), (3.25, 3.75)},
        "x_supervisions": {(0.0, 0.5), (0.25, 0.75), (0.25, 3.25), (3.0, 3.5)},
    }
    for name, good in {"nemo": nemo, "cuts": cut(made, text), "x_supervisions": text}.items():
        rows = [json.dumps(row) + "\n" for row in variants(good) if row is not None]
        found, report = read(write_rows(clips / f"{name}.jsonl", good, *rows), "en")
        assert report.read == len(rows) + 1 and report.kept == len(found)
        assert {row["audio"]["path"] for row in found} == {str(clips / "a.wav")}
        assert {part_of(row)[1:] for row in found if row["text"]} == parts[name]


def test_prepare_data_sorts_manifests_by_their_names(clips, tmp_path):
    row = {"audio_filepath": "a.wav", "duration": 1.0, "text": "x", "lang": "en"}
    train = [row, row | {"offset": 1, "text": ""}, row | {"offset": 2, "text_source": "reference"}]
    write_rows(clips / "train_manifest.json", *train, row | {"lang": "de", "offset": 1})
    write_rows(clips / "dev_manifest.json", row | {"audio_filepath": "b/c.wav"})
    names = [str(clips / f"{name}_manifest.json") for name in ("train", "dev")]
    output = tmp_path / "data"
    assert main(["prepare-data", "--manifests", *names, "--languages", "en", "--output", str(output)]) == 0
    found = {path.stem: read_utterances([path]).to_list() for path in output.glob("*.parquet")}
    assert {name: [(part_of(row), row["text"], row["source"]) for row in rows] for name, rows in found.items()} == {
        "train": [(("a.wav", 0.0, 1.0), "x", "human")],
        "dev": [(("c.wav", 0.0, 1.0), "x", "human")],
        "unlabelled": [(("a.wav", 1.0, 2.0), None, None), (("a.wav", 2.0, 3.0), "x", "reference")],
    }
