"""Trackers get every number of metrics.jsonl once, through interruptions; their own files are read back."""

import json
import os
import signal
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from hf_mlpl.training.log import TrainingLog
from hf_mlpl.training_config import load_config

from ..tones import SETTINGS

pytestmark = pytest.mark.usefixtures("one_thread")
DEV = {"languages": {"de": {"cer": 0.5, "utterances": 8}}, "macro": {"cer": 0.5, "language_accuracy": None}}


def numbers(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Returns update and value of each number in `metrics.jsonl`, by its name in trackers."""
    found: dict[str, list] = {}

    def add(value, names: list[str], update: int):
        if isinstance(value, dict):
            for name, inner in value.items():
                add(inner, [*names, name], update)
        elif value is not None:
            found.setdefault("/".join(names), []).append((update, value))

    for line in (folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        add({name: value for name, value in row.items() if name != "update"}, [], row["update"])
    return found


def in_tensorboard(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def in_trackio(folder: Path, project: str) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Returns the numbers of each run of a project in trackio's tables."""
    runs: dict[str, dict] = {}
    with closing(sqlite3.connect(folder / f"{project}.db")) as tables:
        for run, step, metrics in tables.execute("SELECT run_name, step, metrics FROM metrics ORDER BY step, id"):
            for name, value in json.loads(metrics).items():
                runs.setdefault(run, {}).setdefault(name, []).append((step, value))
    return runs


def in_single_precision(found: dict) -> dict:
    """Returns numbers that equal others in single precision, which is that of TensorBoard's files."""
    return {name: [(update, pytest.approx(value)) for update, value in values] for name, values in found.items()}


class Broken(GeneralTracker):
    """Fails to send, as a tracker without its network does."""

    name, requires_logging_directory, tracker = "wandb", False, None

    def __init__(self, project, **options):
        super().__init__()
        self.project, self.options = project, options

    def start(self):
        if self.project == "none":
            raise RuntimeError("api_key not\nconfigured")

    def log(self, values, step):
        self.tries = getattr(self, "tries", 0) + 1
        if self.project == "tones":
            raise OSError("http://me:secret@host/api: no route to host")
        self.steps = [*getattr(self, "steps", []), step]

    def store_init_configuration(self, values):
        pass

    def finish(self):
        raise OSError("no route to host")


@pytest.fixture
def log(tmp_path, monkeypatch):
    """Makes the log of a run with the given updates and settings."""
    writers = pytest.importorskip("tensorboard.summary.writer.event_file_writer", reason="needs the extra tensorboard")
    # files of one process and second are in the order of this number as a text, in which 10 comes before 2
    monkeypatch.setattr(writers, "_global_uid", writers.AtomicCounter(0))
    settings = {**SETTINGS, "output_dir": str(tmp_path), "tokens": "tokens-all.lst", "train": ["train.parquet"]}
    (tmp_path / "tones.yaml").write_text(yaml.safe_dump(settings))

    def log(start, *overrides):
        log = TrainingLog(tmp_path, load_config(tmp_path / "tones.yaml", overrides), start, True)
        log.start_trackers()
        return log

    return log


def write(log: TrainingLog, *updates: int) -> None:
    for update in updates:
        log.count_update(loss=1 / update, gradient_norm=0.5, audio_seconds=3.0)
        log.log_window(update, 0.1, {"labels": 3, "cer": None, "empty": 0.25})
        if update % 2 == 0:
            log.log_evaluation(update, DEV)


def test_tensorboard_has_each_number_once(log, tmp_path):
    settings = "report_to=[tensorboard]"
    write(log(0, settings), 1, 2, 3)  # and dies, after a checkpoint of update 2
    shown = numbers(tmp_path)
    assert in_tensorboard(tmp_path) == in_single_precision(shown)
    assert shown["dev/languages/de/cer"] == [(2, 0.5)] and shown["labels/empty"][0] == (1, 0.25)
    with log(2, settings) as resumed:
        write(resumed, 3, 4, 5)
    assert in_tensorboard(tmp_path) == in_single_precision(numbers(tmp_path))
    assert len(list((tmp_path / "tensorboard").glob("*/hparams.yml"))) == 1
    [path] = (tmp_path / "tensorboard").glob("*/hparams.yml")
    assert yaml.safe_load(path.read_text())["spec_augment/start_update"] == 2


def test_a_tracker_that_is_named_later_gets_the_rows_before(log, tmp_path):
    write(log(0), 1, 2, 3)
    with log(2, "report_to=[tensorboard]") as resumed:
        write(resumed, 3)
    with log(3) as without:
        write(without, 4)
    with log(4, "report_to=[tensorboard]") as resumed:
        write(resumed, 5)
    assert in_tensorboard(tmp_path) == in_single_precision(numbers(tmp_path))
    assert [update for update, _ in in_tensorboard(tmp_path)["loss"]] == [1, 2, 3, 4, 5]


def test_a_broken_tracker_costs_a_warning(log, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "wandb", Broken)
    monkeypatch.setattr("hf_mlpl.training_config.settings.is_installed", lambda name: True)
    with log(0, "report_to=[wandb, tensorboard]", "project=tones") as broken:
        write(broken, 1, 2)
        options = broken.trackers.trackers["wandb"].options
    assert len(caplog.messages) == 2
    problem = "OSError: http://host/api: no route to host"  # and no password
    assert caplog.messages[0] == f"wandb lacks the rows from update 1 on ({problem})"
    assert in_tensorboard(tmp_path) == in_single_precision(numbers(tmp_path))
    record = json.loads((tmp_path / "trackers.json").read_text())
    assert (options["id"], options["name"], options["resume"]) == (record["id"], record["name"], "allow")
    assert record["name"] == f"tones-{record['id'][:6]}" and record["last"]["wandb"] == [-1, False]

    with log(2, "report_to=[wandb]", "project=tones") as resumed:  # of the same run, which still lacks all rows
        tracker = resumed.trackers.trackers["wandb"]
        assert tracker.options["id"] == record["id"] and not hasattr(tracker, "steps")
        write(resumed, 3)
        assert tracker.tries == 1  # for three rows; the next one is for twice as many
        tracker.project = "tones, with a network again"
        write(resumed, 4)
        assert tracker.steps == [1, 2, 2, 3, 4, 4]
        tracker.project = "tones"
        write(resumed, 5)
        tracker.project = "tones, at the end"
    assert tracker.steps == [1, 2, 2, 3, 4, 4, 5]
    assert json.loads((tmp_path / "trackers.json").read_text())["last"]["wandb"] == [5, False]
    with pytest.raises(ValueError, match=r"report_to: wandb cannot be started \(.* api_key not configured\); mend"):
        log(0, "report_to=[wandb]", "project=none")
    caplog.clear()
    with log(2, "report_to=[wandb]", "project=none") as resumed:  # in the night, when nobody looks
        write(resumed, 3)
    assert "wandb cannot be started (RuntimeError: api_key not configured): training goes on" in caplog.text


def test_a_damaged_record_costs_a_new_run(log, tmp_path, caplog):
    with log(0, "report_to=[tensorboard]") as whole:
        write(whole, 1, 2)
    path = tmp_path / "trackers.json"
    record = json.loads(path.read_text())
    for damaged in ("{", json.dumps(record | {"last": {"tensorboard": "2"}})):
        path.write_text(damaged)
        with log(2, "report_to=[tensorboard]") as resumed:
            write(resumed, 3)
        assert f"{path}: damaged (" in caplog.text and json.loads(path.read_text())["id"] != record["id"]
        caplog.clear()
    assert in_tensorboard(tmp_path) == in_single_precision(numbers(tmp_path))


def test_a_record_that_cannot_be_written_costs_a_warning(log, tmp_path, caplog):
    with log(0, "report_to=[tensorboard]") as going_on:
        write(going_on, 1)
        (tmp_path / "trackers.json").unlink()
        (tmp_path / "trackers.json").mkdir()
        write(going_on, 2)
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith("trackers.json: IsADirectoryError: ")
    assert in_tensorboard(tmp_path) == in_single_precision(numbers(tmp_path))


def test_runs_without_trackers_have_no_file_of_them(log, tmp_path):
    with log(0) as alone:
        write(alone, 1)
    assert [path.name for path in tmp_path.glob("*") if path.name != "tones.yaml"] == ["metrics.jsonl"]


KILLED = """
import os, signal, sys
from hf_mlpl.cli.main import main
from hf_mlpl.training import loop
step = loop.train_step
def train_step(*arguments):
    if arguments[-1] == 27:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(*arguments)
if sys.argv[1] == "killed":
    loop.train_step = train_step
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_in_the_same_run(tone_data, tmp_path, quick_python):
    """By a real signal, soon after the last row: trackio writes twice a second, and loses what it still held."""
    for name in ("tensorboard", "trackio"):
        pytest.importorskip(name, reason=f"needs the extra {name}")
    environment = os.environ | {
        "TRACKIO_DIR": str(tmp_path / "trackio"),
        "HF_HUB_OFFLINE": "1",
        "HF_TOKEN": "hf_secret",
    }
    overrides = [f"output_dir={tmp_path / 'run'}", "report_to=[tensorboard, trackio]", "project=tones", "stage=a"]
    command = ["train", str(tone_data / "tones.yaml"), *overrides]

    def run(kind: str) -> subprocess.CompletedProcess:
        program = [quick_python, "-c", KILLED, kind, *command]
        return subprocess.run(program, env=environment, capture_output=True, text=True)

    assert run("killed").returncode == -signal.SIGKILL
    done = run("whole")
    assert done.returncode == 0, done.stderr
    assert "rackio" not in done.stdout and "Resumed existing run: a-" in done.stderr
    expected = numbers(tmp_path / "run")
    assert [update for update, _ in expected["loss"]] == list(range(1, 61)) and "dev/macro/cer" in expected
    record = json.loads((tmp_path / "run" / "trackers.json").read_text())
    runs = in_trackio(tmp_path / "trackio", "tones")
    assert list(runs) == [record["name"]] and record["name"].startswith("a-")
    del expected["audio_seconds_per_second"]
    for found in (runs[record["name"]], in_tensorboard(tmp_path / "run")):
        assert len(found.pop("audio_seconds_per_second")) == 60
        assert found == in_single_precision(expected)
    with closing(sqlite3.connect(tmp_path / "trackio" / "tones.db")) as tables:
        [config] = (json.loads(text) for (text,) in tables.execute("SELECT config FROM configs"))
    assert config["learning_rate"] == 0.01 and config["_Group"] == "a"
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"hf_secret" in path.read_bytes()]
