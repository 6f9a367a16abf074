"""Tests the record of a run, through interruptions and from one stage to the next."""

import itertools
import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hf_mlpl.data.utterances import FEATURES, read_utterances, write_utterances
from hf_mlpl.evaluation.results import rates_alone
from hf_mlpl.training import run_record
from hf_mlpl.training.loop import train
from hf_mlpl.training.run_record import code_commit, hardware_name, training_data
from hf_mlpl.training_config import load_config

from .test_checkpoints import remove_manifests
from .test_loop import Killed, kill_at, run  # noqa: F401 - `run` is a fixture

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = ["max_updates=6", "eval_every=6", "save_every=2"]


def read_record(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def test_the_record_of_a_finished_run(tone_run, tone_data):
    record, results = read_record(tone_run), json.loads((tone_run / "results.json").read_text())
    expected = {"stage": "tones", "updates": 60, "started_from": None, "unlabelled_hours": {}}
    assert record.items() >= expected.items()
    assert record["model"]["languages"] == ["de", "sv-SE"] == list(record["training_data"])
    assert record["model"]["parameters"] == sum(t.numel() for t in load_weights(tone_run).values())
    rows = read_utterances([tone_data / "train.parquet"])
    for language, data in record["training_data"].items():
        seconds = sum(row["duration_seconds"] for row in rows if row["language"] == language)
        assert data == {"human_hours": pytest.approx(seconds / 3600), "pseudo_labelled_hours": 0, "teachers": []}
    [session] = record["sessions"]
    assert (session["first_update"], session["processes"]) == (1, 1) and 0 < session["hours"] < 1
    assert session["versions"]["torch"] == torch.__version__ and session["hardware"]
    last = [json.loads(line) for line in (tone_run / "metrics.jsonl").read_text().splitlines()][-1]
    assert rates_alone(results) == last["dev"] and results["update"] == 60
    assert results["data"] == [str(tone_data / "dev.parquet")]


def load_weights(folder: Path) -> dict:
    from safetensors.torch import load_file

    return load_file(folder / "model" / "model.safetensors")


def test_hours_are_summed_over_interruptions(run, tmp_path, monkeypatch):  # noqa: F811
    hour = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: 3600 * next(hour))  # an hour between two looks
    monkeypatch.setattr(run_record, "time", clock)
    kill_at(monkeypatch, 5)
    with pytest.raises(Killed):
        run("interrupted", *SHORT)
    record = read_record(tmp_path / "interrupted")
    assert record["updates"] == 4
    assert [session["hours"] for session in record["sessions"]] == [3]  # at the start, at update 2, at update 4
    kill_at(monkeypatch, 100)
    record = read_record(run("interrupted", *SHORT))
    assert record["updates"] == 6
    assert [session["hours"] for session in record["sessions"]] == [3 + 2]  # at the start and at the end

    monkeypatch.setattr(run_record, "hardware_name", lambda device: "another one")
    (tmp_path / "interrupted" / "model").rename(tmp_path / "moved")
    shutil.rmtree(tmp_path / "interrupted" / "checkpoints" / "update-00000004")
    record = read_record(run("interrupted", *SHORT))
    assert [(session["first_update"], session["hours"]) for session in record["sessions"]] == [(1, 5), (3, 3)]


def test_a_run_of_an_earlier_version_goes_on(run, tmp_path, monkeypatch):  # noqa: F811
    kill_at(monkeypatch, 4)
    with pytest.raises(Killed):
        run("old", *SHORT)
    (tmp_path / "old" / "run.json").unlink()
    remove_manifests(tmp_path / "old")
    monkeypatch.undo()
    record = read_record(run("old", *SHORT))
    assert record["updates"] == 6 and [session["first_update"] for session in record["sessions"]] == [3]


def test_the_model_that_a_run_starts_from(tone_data, tone_run, tmp_path):
    """Labels of a teacher are counted apart from human texts; paths of this machine are not recorded."""
    rows = read_utterances([tone_data / "unlabelled.parquet"]).to_list()
    labels = [row | {"text": "de"[i % 2], "source": "sv-SE/model@0123456789ab"} for i, row in enumerate(rows)]
    write_utterances([*labels, labels[0] | {"id": "odd", "text": "?"}], tmp_path / "labels.parquet")
    (tmp_path / "complete.json").write_text(json.dumps({"sources": [{"name": "VoxPopuli", "license": "cc0-1.0"}]}))
    files = f"train=[{tone_data / 'train.parquet'}, {tmp_path / 'labels.parquet'}]"
    settings = [f"output_dir={tmp_path / 'mixed'}", f"model={tone_run / 'model'}", "tokens=null", files, *SHORT]
    record = read_record(train(load_config(tone_data / "tones.yaml", [*settings, "stage=mixed", "dev=[]"])).parent)
    assert (record["stage"], record["dropped"]) == ("mixed", {"unknown characters": 1})
    assert record["started_from"] == {"name": "run", "revision": None, "run": read_record(tone_run)}
    hours = sum(row["duration_seconds"] for row in rows) / 3600
    assert record["training_data"]["de"]["pseudo_labelled_hours"] == 0
    assert record["training_data"]["sv-SE"] == {
        "human_hours": read_record(tone_run)["training_data"]["sv-SE"]["human_hours"],
        "pseudo_labelled_hours": pytest.approx(hours),
        "teachers": ["sv-SE/model@0123456789ab"],
    }
    assert record["sources"] == [{"name": "VoxPopuli", "license": "cc0-1.0", "url": None}]
    assert not (tmp_path / "mixed" / "results.json").exists()
    assert str(tmp_path) not in json.dumps(record) and str(tone_data) not in json.dumps(record)


def test_texts_of_people_beside_unlabelled_speech_are_human(tmp_path):
    def row(name, seconds, source):
        audio = dict.fromkeys(FEATURES["audio"]) | {"path": "a.wav"}
        return {"id": name, "audio": audio, "duration_seconds": seconds, "language": "sl", "source": source}

    rows = [row("a", 1800, "human"), row("b", 900, "reference"), row("c", 3600, "t@1"), row("d", 360, "t@2")]
    write_utterances([row | {"text": "a", "speaker": None} for row in rows], tmp_path / "a.parquet")
    data = training_data(read_utterances([tmp_path / "a.parquet"]))
    assert data == {"sl": {"human_hours": 0.75, "pseudo_labelled_hours": 1.1, "teachers": ["t@1", "t@2"]}}


def test_the_commit_is_of_this_code(tmp_path, monkeypatch):
    def git(*arguments) -> str:
        given = ["-c", "user.name=a", "-c", "user.email=a@example.org", *arguments]
        return subprocess.run(["git", *given], cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    package = tmp_path / "venv" / "hf_mlpl"
    package.mkdir(parents=True)
    module = Path(shutil.copy(run_record.__file__, package))
    monkeypatch.setattr(run_record, "__file__", str(module))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert code_commit() is None
    git("init", "--quiet")
    (tmp_path / "other.txt").write_text("of another project, in whose folder this is installed")
    git("add", "other.txt")
    git("commit", "--quiet", "-m", "theirs")
    assert code_commit() is None
    git("add", str(module))
    git("commit", "--quiet", "-m", "ours")
    assert code_commit() == git("rev-parse", "HEAD")
    module.write_text("changed")
    assert code_commit() == git("rev-parse", "HEAD") + "-dirty"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_commit() is None


def test_the_hardware_has_a_name():
    name = hardware_name(torch.device("cpu"))
    assert name.strip() == name != ""
    if Path("/proc/cpuinfo").is_file() and "model name" in Path("/proc/cpuinfo").read_text():
        assert f": {name}\n" in Path("/proc/cpuinfo").read_text()


@pytest.mark.parametrize("content", ["", "[]", '{"stage": "a"}'])
def test_a_strangers_run_json_is_not_believed(tone_run, tone_data, tmp_path, content):
    shutil.copytree(tone_run / "model", tmp_path / "theirs")
    (tmp_path / "theirs" / "run.json").write_text(content)
    settings = [f"output_dir={tmp_path / 'mine'}", f"model={tmp_path / 'theirs'}", "tokens=null", "dev=[]"]
    record = read_record(train(load_config(tone_data / "tones.yaml", [*settings, "max_updates=1"])).parent)
    assert record["started_from"] == {"name": "theirs", "revision": None, "run": None}
