"""Tests label sets: contents, reproducible bytes, and the state of the Hub after any fault of the network."""

import ast
import dataclasses
import json
import math
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from datasets import Audio, Features, load_dataset
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub import DatasetCard, HfApi

from hf_mlpl import atomic
from hf_mlpl.atomic import own_path
from hf_mlpl.audio.reading import load_audio
from hf_mlpl.data.utterances import read_utterances, write_utterances
from hf_mlpl.labels import publishing
from hf_mlpl.labels.filtering import filter_labels
from hf_mlpl.labels.filters import LabelFilter
from hf_mlpl.labels.folder import is_labelled
from hf_mlpl.labels.publishing import push_label_set, write_label_set
from hf_mlpl.labels.schema import LABEL_FEATURES, LABEL_SET_FEATURES, SCORES
from hf_mlpl.labels.shards import read_shard
from hf_mlpl.labels.summary import LabelSummary
from hf_mlpl.sharing import hub

pytestmark = pytest.mark.usefixtures("one_thread", "empty_picture")

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def made_in(folder: Path) -> dict[str, dict]:
    """Returns id -> row of labels.parquet."""
    return {row["id"]: row for row in pq.read_table(folder / "labels.parquet").to_pylist()}


def rows_of(folder: Path) -> list[dict]:
    return [row for path in sorted(folder.rglob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Contents of a label set


def test_rows_are_the_labels_by_id(tone_labels, tmp_path):
    made = made_in(tone_labels["sv-SE"])
    bound = sorted(row["mean_log_prob"] for row in made.values())[8]
    write_label_set(tone_labels["sv-SE"], "sv-SE", tmp_path, [LabelFilter(f"mean_log_prob >= {bound!r}")])
    rows = rows_of(tmp_path)
    assert [row["id"] for row in rows] == sorted(made) and len(rows) == 24
    for row in rows:
        label = made[row["id"]]
        assert (row["start"], row["end"]) == (label["audio"]["start"], label["audio"]["end"])
        assert row["end"] - row["start"] == pytest.approx(row["duration_seconds"])
        for name in ("duration_seconds", "language", "text", "predicted_language", *SCORES):
            assert row[name] == label[name]
        assert (row["teacher"], row["teacher_revision"]) == ("me/teacher", COMMIT)
        assert row["kept"] is (label["mean_log_prob"] >= bound)
        assert set(row) == set(LABEL_SET_FEATURES)
    assert sum(row["kept"] for row in rows) == 16


def test_no_path_leaves_the_machine(tone_labels, tmp_path, tone_corpus):
    for language, folder in tone_labels.items():
        write_label_set(folder, language, tmp_path, with_audio=language == "de")
    for path in tmp_path.rglob("*.parquet"):
        table = pq.read_table(path)
        content = json.dumps(
            [table.drop(["audio"] if "audio" in table.column_names else []).to_pylist(), str(table.schema)]
        )
        assert table.schema.metadata.keys() == {b"huggingface"}
        paths = [row["path"] for row in table["audio"].to_pylist()] if "audio" in table.column_names else []
        assert "/" not in "".join(paths) and str(tone_corpus) not in content and "lost.wav" not in content
    for path in tmp_path.rglob("*.json"):
        assert str(tone_corpus) not in path.read_text() and str(tmp_path.parent) not in path.read_text()


def test_the_same_labels_give_the_same_bytes(tone_labels, tmp_path, monkeypatch):
    """Even if they were labelled in another order."""
    monkeypatch.setattr(publishing, "SHARD_ROWS", 10)
    write_label_set(tone_labels["sv-SE"], "sv-SE", tmp_path / "a")
    other = tmp_path / "labels"
    rows = pq.read_table(tone_labels["sv-SE"] / "labels.parquet").to_pylist()
    write_utterances(rows[::-1], other / "labels.parquet", LABEL_FEATURES)
    (other / "complete.json").write_bytes((tone_labels["sv-SE"] / "complete.json").read_bytes())
    write_label_set(other, "sv-SE", tmp_path / "b")
    shards = [f"sv-SE/train-0000{number}-of-00003.parquet" for number in range(3)]
    assert sorted(contents(tmp_path / "a")) == ["sv-SE/summary.json", *shards]
    assert [pq.read_metadata(tmp_path / "a" / shard).num_rows for shard in shards] == [10, 10, 4]
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_audio_in_it(tone_labels, tmp_path, monkeypatch, tone_data):
    monkeypatch.setattr(publishing, "SHARD_SECONDS", 4)
    monkeypatch.setattr(publishing, "AUDIO_ROWS", 3)
    for language, folder in tone_labels.items():
        write_label_set(folder, language, tmp_path, with_audio=True)
    given = made_in(tone_labels["de"]) | made_in(tone_labels["sv-SE"])
    rows = rows_of(tmp_path)
    assert {row["id"] for row in rows} == set(given) and len(rows) == 24 + 31
    for row in rows:
        samples, rate = soundfile.read(_written(tmp_path / "a.flac", row["audio"]["bytes"]), dtype="float32")
        assert rate == 16_000 and row["audio"]["path"] == f"{row['id']}.flac"
        assert np.abs(samples - load_audio(given[row["id"]]["audio"])).max() <= 0.5 / 2**15 + 1e-7
    for path in tmp_path.glob("*/*.parquet"):
        assert pq.read_schema(path).names == [*LABEL_SET_FEATURES, "audio"]
        assert Features.from_arrow_schema(pq.read_schema(path))["audio"] == Audio(16_000)
    seconds = [sum(pq.read_table(path)["duration_seconds"].to_pylist()) for path in tmp_path.glob("de/*.parquet")]
    assert len(seconds) == math.ceil(sum(seconds) / 4) and max(seconds) < 4 + 1
    write_label_set(tone_labels["de"], "de", tmp_path / "again", with_audio=True)
    assert contents(tmp_path / "again" / "de") == contents(tmp_path / "de")


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_summary_counts(tone_labels, tmp_path):
    made = list(made_in(tone_labels["de"]).values())
    least = sorted(row["lowest_word_confidence"] or 0 for row in made)[10]
    most = sorted(row["compression_ratio"] for row in made)[20]
    filters = [LabelFilter(f"lowest_word_confidence >= {least!r}"), LabelFilter(f"compression_ratio <= {most!r}")]
    summary = write_label_set(tone_labels["de"], "de", tmp_path, filters)
    assert LabelSummary.read(tmp_path / "de" / "summary.json") == summary

    def hours(rows) -> float:
        return pytest.approx(math.fsum(row["duration_seconds"] for row in rows) / 3600, abs=1e-6)

    sure = [row for row in made if (row["lowest_word_confidence"] or 0) >= least]
    full = [row for row in made if row["compression_ratio"] <= most]
    both = [row for row in sure if row in full]
    assert 0 < len(both) < min(len(sure), len(full)) < 31
    assert (summary.utterances, summary.unreadable, summary.kept) == (31, 1, len(both))
    assert (summary.hours, summary.hours_kept) == (hours(made), hours(both))
    assert summary.hours_kept_by == {filters[0].condition: hours(sure), filters[1].condition: hours(full)}
    assert summary.another_language == sum(row["predicted_language"] != "de" for row in made)
    assert summary.empty == sum(not row["text"] for row in made)
    assert summary.cer == json.loads((tone_labels["de"] / "complete.json").read_text())["languages"]["de"]["cer"]
    assert summary.mean_log_prob == pytest.approx(sum(row["mean_log_prob"] for row in made) / 31, abs=1e-6)
    for name, histogram in summary.scores.items():
        edges, counts = histogram["edges"], [0] * 40
        for value in (row[name] for row in made if row[name] is not None):
            bins = [
                number for number in range(40) if edges[number] <= value
            ]  # the first and the last bin take the rest
            counts[bins[-1] if bins else 0] += 1
        assert histogram["counts"] == counts and sum(counts) + histogram["null"] == 31


def test_labels_that_are_not_complete(tone_labels, tmp_path):
    with pytest.raises(ValueError, match="nothing: no complete pseudo-labels; `hf-mlpl pseudo-label --output"):
        write_label_set(tmp_path / "nothing", "de", tmp_path)
    with pytest.raises(ValueError, match="has a language '../fi'; label sets take locale codes"):
        write_label_set(tone_labels["de"], "../fi", tmp_path)
    with pytest.raises(ValueError, match="no labels of fi; there are de"):
        write_label_set(tone_labels["de"], "fi", tmp_path)
    old = tmp_path / "old"
    complete = json.loads((tone_labels["de"] / "complete.json").read_text())
    del complete["languages"]["de"]["errors"]
    write_utterances([], old / "labels.parquet", LABEL_FEATURES)
    (old / "complete.json").write_text(json.dumps(complete))
    with pytest.raises(ValueError, match="complete.json: damaged, or of an older hf_mlpl .it has no errors.; delete"):
        write_label_set(old, "de", tmp_path)


def copy_of(folder: Path, copy: Path, **changed) -> Path:
    """Copies the labels of a folder, with new values of some columns in all rows."""
    rows = [row | changed for row in made_in(folder).values()]
    write_utterances(rows, copy / "labels.parquet", LABEL_FEATURES)
    shutil.copy(folder / "complete.json", copy)
    return copy


def test_labels_without_recordings_that_can_be_read_are_left_out(tone_labels, tmp_path, caplog):
    rows = list(made_in(tone_labels["de"]).values())
    rows[4]["audio"]["path"], rows[5]["audio"]["path"] = "lost.wav", str(tmp_path / "text.wav")
    (tmp_path / "text.wav").write_text("no audio")
    write_utterances(rows, tmp_path / "labels" / "labels.parquet", LABEL_FEATURES)
    shutil.copy(tone_labels["de"] / "complete.json", tmp_path / "labels")
    summary = write_label_set(tmp_path / "labels", "de", tmp_path / "set", with_audio=True)
    assert (summary.utterances, summary.unreadable) == (29, 3)
    assert {row["id"] for row in rows_of(tmp_path / "set")} == {r["id"] for r in rows} - {rows[4]["id"], rows[5]["id"]}
    lines = sorted(record.getMessage() for record in caplog.records)
    for line, row in zip(lines, sorted([rows[4]["id"], rows[5]["id"]]), strict=True):
        assert line.startswith(f"{row}: ") and line.endswith("; it is not pushed")
    nothing = copy_of(tone_labels["de"], tmp_path / "nothing", audio={"path": "lost.wav"})
    with pytest.raises(ValueError, match="none of the 31 recordings of de can be read any more"):
        write_label_set(nothing, "de", tmp_path / "none", with_audio=True)


@pytest.mark.parametrize(
    "content", ["null", "7", "[]", "{", "{}", '{"teacher": 3}', '{"languages": 1}', "errors", "sources", "hours"]
)
def test_a_complete_json_that_is_damaged_is_one_line(content, tone_labels, tmp_path):
    folder = copy_of(tone_labels["de"], tmp_path / "labels")
    complete = json.loads((folder / "complete.json").read_text())
    if content in complete:
        complete[content] = None
    elif content == "hours":
        complete["languages"]["de"]["hours"] = "many"
    (folder / "complete.json").write_text(json.dumps(complete) if content.isalpha() and content != "null" else content)
    with pytest.raises(
        ValueError, match="complete.json: damaged.*; delete it and give `hf-mlpl pseudo-label"
    ) as caught:
        write_label_set(folder, "de", tmp_path)
    assert "\n" not in str(caught.value)


def test_labels_that_are_damaged_are_one_line(tone_labels, tmp_path):
    folder = copy_of(tone_labels["de"], tmp_path / "labels")
    whole = bytearray((folder / "labels.parquet").read_bytes())
    for content in (b"", whole[:-9], whole[:4] + bytes(100) + whole[104:], b"PAR1" + bytes(len(whole) - 8) + b"PAR1"):
        (folder / "labels.parquet").write_bytes(content)
        with pytest.raises(ValueError, match="labels.parquet: no Parquet file of labels, or damaged") as caught:
            write_label_set(folder, "de", tmp_path)
        assert "\n" not in str(caught.value)


# On the Hub

REPO = "me/tones-pl"


@pytest.fixture
def hub_of_labels(local_hub, monkeypatch):
    """Returns the local Hub; waits before retries are short."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))
    return local_hub


def push(folder: Path, **options) -> list[str]:
    return list(push_label_set(folder, REPO, **options))


def files(local_hub) -> dict[str, bytes]:
    return local_hub.files(REPO, repo_type="dataset")


def titles(local_hub) -> list[str]:
    """Returns the titles of commits, the first one first, without that which creates the repository."""
    return [commit.title for commit in local_hub.commits(REPO, repo_type="dataset")[::-1][1:]]


def sent(local_hub) -> dict[str, int]:
    """Counts the requests that send contents of files, and those that make commits."""
    requests = [(request.method, request.path) for request in local_hub.requests]
    return {
        "contents": sum(method == "PUT" for method, _ in requests),
        "commits": sum(method == "POST" and "/commit/" in path for method, path in requests),
    }


def test_each_language_is_loaded_by_its_name(hub_of_labels, tone_labels, quick_python, tmp_path, monkeypatch):
    monkeypatch.setattr(publishing, "SHARD_ROWS", 10)
    lines = [line for folder in tone_labels.values() for line in push(folder)]
    assert [line.partition(" labels, ")[0] for line in lines] == ["de: 31", "sv-SE: 24"]
    for language, folder in tone_labels.items():
        write_label_set(folder, language, tmp_path)
        expected = rows_of(tmp_path / language)
        assert load_dataset(REPO, language)["train"].to_list() == expected
        assert list(load_dataset(REPO, language, split="train", streaming=True)) == expected
    pushed = files(hub_of_labels)
    assert {name: pushed.pop(name) for name in contents(tmp_path)} == contents(tmp_path)
    assert set(pushed) == {"README.md", "scores.png", ".gitattributes"}

    commit = hub_of_labels.commits(REPO, repo_type="dataset")[0].oid
    load = (
        f"from datasets import load_dataset as l; print(l({REPO!r}, 'sv-SE', split='train', revision={commit!r})[23])"
    )
    done = subprocess.run([quick_python, "-c", load], env=hub_of_labels.env, capture_output=True, text=True)
    assert ast.literal_eval(done.stdout) == rows_of(tmp_path / "sv-SE")[23], done.stderr


def test_audio_of_the_hub(hub_of_labels, tone_labels, tmp_path):
    push(tone_labels["de"], with_audio=True)
    dataset = load_dataset(REPO, "de", split="train")
    assert dataset.features["audio"] == Audio(16_000)
    row = dataset.cast_column("audio", Audio(decode=False))[0]
    assert row["audio"]["path"] == f"{row['id']}.flac"
    expected = load_audio(made_in(tone_labels["de"])[row["id"]]["audio"])
    assert np.array_equal(load_audio(row["audio"]["bytes"]), expected)


def test_pushing_again_sends_nothing(hub_of_labels, tone_labels, bucket):
    """Nor do the same labels in object storage."""
    for folder in tone_labels.values():
        push(folder)
    before, pushed = sent(hub_of_labels), files(hub_of_labels)
    assert before["commits"] == 2
    for folder in tone_labels.values():
        push(folder)
        for name in ("complete.json", "labels.parquet"):
            (bucket / name).write_bytes((folder / name).read_bytes())
        push(bucket)
    assert sent(hub_of_labels) == before and files(hub_of_labels) == pushed
    assert titles(hub_of_labels) == ["de: 31 pseudo-labels, 0.00 h", "sv-SE: 24 pseudo-labels, 0.00 h"]


def test_another_language_leaves_the_others_unchanged(hub_of_labels, tone_labels):
    push(tone_labels["de"])
    before, alone = files(hub_of_labels), sent(hub_of_labels)["contents"]
    push(tone_labels["sv-SE"])
    after = files(hub_of_labels)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"README.md", "scores.png", "sv-SE/train-00000-of-00001.parquet", "sv-SE/summary.json"}
    assert set(before) <= set(after) and len(titles(hub_of_labels)) == 2
    assert sent(hub_of_labels)["contents"] == alone + 2  # a shard and the picture
    configs = DatasetCard.load(REPO).data.configs
    assert [config["config_name"] for config in configs] == ["de", "sv-SE"]
    other = configs[1]["data_files"]
    assert other == [{"split": "train", "path": "sv-SE/train-*.parquet"}]


def test_changed_labels_replace_the_old(hub_of_labels, tone_labels, monkeypatch):
    push(tone_labels["sv-SE"])
    with monkeypatch.context() as patch:
        patch.setattr(publishing, "SHARD_ROWS", 10)
        push(tone_labels["de"])
    push(tone_labels["de"], filters=[LabelFilter("mean_log_prob >= -0.01")])
    shards = [name for name in files(hub_of_labels) if name.endswith("parquet")]
    assert shards == ["sv-SE/train-00000-of-00001.parquet", "de/train-00000-of-00001.parquet"]
    kept = load_dataset(REPO, "de", split="train")["kept"]
    assert kept == [row["mean_log_prob"] >= -0.01 for row in load_dataset(REPO, "de", split="train")]
    assert True in kept and False in kept and len(titles(hub_of_labels)) == 3


FAULTS = {
    "a burst of 503": [{"method": method, "path": "", "status": 503, "times": 3} for method in ("POST", "PUT", "GET")],
    "too many requests": [{"method": "POST", "path": "/commit/", "status": 429, "retry_after": 1}],
    "an upload that is cut": [{"method": "PUT", "path": "", "received": 1000}],
    "a commit that is cut": [{"method": "POST", "path": "/commit/", "received": 100}],
    "a lost answer to the commit": [{"method": "POST", "path": "/commit/", "after": 10}],
    "a repository that another process has made": [{"method": "POST", "path": "/repos/create", "after": 0}],
    "a summary that is not given": [{"method": "HEAD", "path": "summary.json", "status": 503, "times": 9}],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_lost_or_duplicated(fault, hub_of_labels, tone_labels, tmp_path):
    push(tone_labels["de"])
    if "repository" in fault:
        HfApi().delete_repo(REPO, repo_type="dataset")
    for each in FAULTS[fault]:
        hub_of_labels.fail(**each)
    push(tone_labels["sv-SE"])
    assert titles(hub_of_labels)[-1].startswith("sv-SE: 24")
    if "repository" in fault:
        push(tone_labels["de"])
    assert len(titles(hub_of_labels)) == 2
    for language, folder in tone_labels.items():
        write_label_set(folder, language, tmp_path)
    pushed = files(hub_of_labels)
    assert {name: pushed[name] for name in contents(tmp_path)} == contents(tmp_path)
    assert [config["config_name"] for config in DatasetCard.load(REPO).data.configs] == ["de", "sv-SE"]
    assert not list(tone_labels["sv-SE"].glob(".pushing-*"))


def test_two_machines_at_once(hub_of_labels, tone_labels, monkeypatch):
    """The other machine commits when this one has already written its card."""
    push_others = [lambda: push(tone_labels["sv-SE"])]

    def plot_when_the_other_has_pushed(*arguments):
        if push_others:
            push_others.pop()()
        plot_scores(*arguments)

    plot_scores = publishing.plot_scores
    monkeypatch.setattr(publishing, "plot_scores", plot_when_the_other_has_pushed)
    push(tone_labels["de"])
    refused = [request.status for request in hub_of_labels.requests if "/commit/" in request.path]
    assert refused == [200, 412, 200]
    assert [title[:2] for title in titles(hub_of_labels)] == ["sv", "de"]
    assert {"de/summary.json", "sv-SE/summary.json"} <= set(files(hub_of_labels))
    assert [config["config_name"] for config in DatasetCard.load(REPO).data.configs] == ["de", "sv-SE"]
    assert "24" in DatasetCard.load(REPO).text and "31" in DatasetCard.load(REPO).text


def test_a_push_that_fails_is_one_line(hub_of_labels, tone_labels, monkeypatch):
    hub_of_labels.fail("POST", "/repos/create", status=401)
    with pytest.raises(OSError) as caught:
        push(tone_labels["de"])
    message = str(caught.value)
    assert message.startswith(f"{REPO}: cannot push to it (") and "\n" not in message
    assert f"{tone_labels['de']} is complete: give HF_TOKEN or" in message
    assert "the same command again pushes it" in message and hub_of_labels.token not in message
    monkeypatch.setattr(hub, "PATIENCE", 0.1)
    hub_of_labels.fail("POST", "/commit/", status=503, times=1000)
    with pytest.raises(OSError, match="cannot push to it"):
        push(tone_labels["de"])
    assert titles(hub_of_labels) == []


def test_a_summary_that_is_damaged(hub_of_labels, tone_labels, tmp_path):
    HfApi().create_repo(REPO, repo_type="dataset")
    options = {"path_in_repo": "fi/summary.json", "repo_id": REPO, "repo_type": "dataset"}
    HfApi().upload_file(path_or_fileobj=b"{}", **options)
    with pytest.raises(OSError, match="fi/summary.json: no summary of pseudo-labels .*missing 17 required"):
        push(tone_labels["de"])
    other = write_label_set(tone_labels["sv-SE"], "sv-SE", tmp_path)
    damaged = dataclasses.asdict(other) | {"language": "fi", "scores": {"blank_ratio": {}}}
    HfApi().upload_file(path_or_fileobj=json.dumps(damaged).encode(), **options)
    with pytest.raises(OSError, match="fi/summary.json: no summary of pseudo-labels .it has no edges"):
        push(tone_labels["de"])


def test_the_licence_of_a_teacher_on_the_hub(hub_of_labels, tone_labels, tmp_path):
    """It is that of the card at the teacher's commit."""
    HfApi().create_repo("me/whisper")
    card = b"---\nlicense: apache-2.0\n---\n"
    commit = HfApi().upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="me/whisper").oid
    shutil.copytree(tone_labels["de"], tmp_path / "de")
    complete = json.loads((tmp_path / "de" / "complete.json").read_text()) | {"teacher": f"me/whisper@{commit}"}
    (tmp_path / "de" / "complete.json").write_text(json.dumps(complete))
    push(tmp_path / "de")
    push(tone_labels["sv-SE"])  # whose teacher is not there
    text = DatasetCard.load(REPO).text
    assert f"/tree/{commit}) | apache-2.0 |" in text and re.search(r"\| sv-SE \| .*/tree/\w+\) \| - \|", text)


def test_labels_and_summaries_of_older_versions(hub_of_labels, tone_labels, tmp_path):
    """They have fewer scores and no convention; the missing ones are null, in filters, label sets and cards."""
    older, scores = tmp_path / "older", ["mean_log_prob", "lowest_word_confidence"]
    shutil.copytree(tone_labels["sv-SE"], older)
    complete = json.loads((older / "complete.json").read_text())
    del complete["languages"]["sv-SE"]["convention"]
    (older / "complete.json").write_text(json.dumps(complete))
    for path in [older / "labels.parquet", *(older / "shards").iterdir()]:
        labels = read_shard(path).drop([name for name in SCORES if name not in scores])
        path.unlink()
        pq.write_table(labels, path.with_suffix(".parquet"))
    teacher = complete["teacher"]
    utterances = read_utterances([older / "labels.parquet"])
    for shard in (older / "shards").iterdir():
        names = pq.read_table(shard)["id"].to_pylist()
        assert is_labelled(shard, utterances.filter(lambda row, names=names: row["id"] in names), teacher)
    filter_labels([older / "labels.parquet", tone_labels["de"] / "labels.parquet"], [], tmp_path / "kept.parquet")
    kept = pq.read_table(tmp_path / "kept.parquet").to_pylist()
    made = made_in(tone_labels["sv-SE"])
    assert len(kept) == 55 and set(kept[0]) == set(LABEL_FEATURES)
    for row in kept[:24]:
        assert {name: row[name] for name in SCORES} == dict.fromkeys(SCORES) | {
            name: made[row["id"]][name] for name in scores
        }
    with pytest.raises(
        ValueError,
        match=r"^'blank_ratio <= 1' cannot hold: none of 24 labels has a value of blank_ratio; their scores are "
        "mean_log_prob, lowest_word_confidence, characters$",
    ):
        filter_labels([older / "labels.parquet"], [LabelFilter("blank_ratio <= 1")], tmp_path / "none.parquet")
    assert not (tmp_path / "none.parquet").exists()
    with pytest.raises(ValueError, match="cannot hold: none of 24 labels has a value of agreement"):
        write_label_set(older, "sv-SE", tmp_path / "set", [LabelFilter("agreement >= 0.9")])

    summary = write_label_set(older, "sv-SE", tmp_path / "set")
    written = json.loads((tmp_path / "set" / "sv-SE" / "summary.json").read_text())
    del written["convention"]
    for name in SCORES.keys() - {*scores}:
        assert summary.scores[name]["null"] == 24
        del written["scores"][name]
    (tmp_path / "set" / "sv-SE" / "summary.json").write_text(json.dumps(written))
    options = {"path_in_repo": "sv-SE/summary.json", "repo_id": REPO, "repo_type": "dataset"}
    HfApi().create_repo(REPO, repo_type="dataset")
    HfApi().upload_file(path_or_fileobj=tmp_path / "set" / "sv-SE" / "summary.json", **options)
    push(tone_labels["de"])
    text = DatasetCard.load(REPO).text
    assert "- de: " in text and "- sv-SE: " not in text and "| `agreement` |" in text and "; here null |" in text


def test_labels_of_a_collapsed_teacher_are_not_pushed(hub_of_labels, tone_labels, tmp_path, monkeypatch):
    """The other languages of the folder are; and the leftovers of a killed push are removed."""
    rows = [row | {"text": "", "language": "fi"} for row in made_in(tone_labels["de"]).values()]
    rows += made_in(tone_labels["sv-SE"]).values()
    write_utterances(rows, tmp_path / "labels" / "labels.parquet", LABEL_FEATURES)
    complete, other = (json.loads((tone_labels[name] / "complete.json").read_text()) for name in ("de", "sv-SE"))
    complete["languages"] = {"fi": complete["languages"]["de"] | {"empty": 31}} | other["languages"]
    (tmp_path / "labels" / "complete.json").write_text(json.dumps(complete))
    monkeypatch.setattr(atomic, "_cleaned", set())
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as ended:
        pass
    working = own_path(tmp_path / "labels", "pushing")
    leftover = working.with_name(re.sub(r"-\d+-", f"-{ended.pid}-", working.name))
    for folder in (leftover, working):
        (folder / "de").mkdir(parents=True)
        (folder / "de" / "summary.json").write_text("{}")
    with pytest.raises(
        ValueError, match="labels: fi: 100% of 31 pseudo-labels are empty, and not pushed: .*; --allow-c"
    ):
        push(tmp_path / "labels")
    assert {name.partition("/")[0] for name in files(hub_of_labels) if "/" in name} == {"sv-SE"}
    assert list((tmp_path / "labels").glob(".*")) == [working]


def test_a_private_data_set(hub_of_labels, tone_labels):
    push(tone_labels["de"], private=True)
    assert HfApi().dataset_info(REPO).private
    with pytest.raises(DatasetNotFoundError):
        load_dataset(REPO, "de", token=False)
