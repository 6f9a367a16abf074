"""Faults of long jobs, such as a killed process or a full disk, cost no finished work."""

import itertools
import os
import re
import resource
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from hf_mlpl.atomic import atomic_write
from hf_mlpl.data.utterances import read_utterances, write_utterances
from hf_mlpl.folder_lock import claimed
from hf_mlpl.labels import labelling, shared_job
from hf_mlpl.training import log, loop
from hf_mlpl.training.checkpoints import Checkpointer
from hf_mlpl.training.log import TrainingLog, draw_curves
from hf_mlpl.training.loop import train
from hf_mlpl.training_config import load_config

from .commands import run_command
from .ranks import Death, run_on_two
from .training.test_loop import assert_equal_bits
from .two_processes import SHARD_SIZE, slimipl_overrides

pytestmark = pytest.mark.usefixtures("one_thread")

SHARDS = {"labels.labelling": {"SHARD_SIZE": SHARD_SIZE}}
LOST = "error: another process of this job failed or was killed; the same command again continues from what is saved"


def errors(stderr: str) -> list[str]:
    """Returns the lines of stderr that are neither progress bars nor warnings; fails for a traceback."""
    assert "Traceback" not in stderr, stderr
    return [line for line in stderr.replace("\r", "\n").splitlines() if line.startswith("error: ")]


def labelling_command(tone_data, tone_run, output) -> list:
    command = ["pseudo_label.py", "--model", tone_run / "model", "--data", tone_data / "unlabelled.parquet"]
    return [*command, "--output", output, "--batch-seconds", 3, "--num-workers", 0]


def assert_equal_labels(folder, other):
    labels, expected = (pq.read_table(path / "labels.parquet").drop(["source"]) for path in (folder, other))
    assert labels.equals(expected)
    assert not list(folder.rglob(".partial*"))


# ---- a killed process, and one that fails alone


@pytest.mark.slow
def test_training_goes_on_after_a_process_was_killed(tone_data, tone_run, two_processes, tmp_path):
    overrides = slimipl_overrides(tone_run / "model", tone_data / "unlabelled.parquet")
    command = ["train.py", tone_data / "tones.yaml", f"output_dir={tmp_path / 'run'}", *overrides]
    saved = tmp_path / "run" / "checkpoints" / "update-00000006"
    death = Death(1, "training.loop", "train_step", 8, after=saved)
    (status, stderr), killed = run_on_two(tmp_path, *command, death=death)
    assert (status, killed[0]) == (1, -9) and errors(stderr) == [LOST]
    assert list(saved.parent.iterdir()) == [saved]
    assert [status for status, _ in run_on_two(tmp_path, *command)] == [0, 0]
    assert_equal_bits(tmp_path / "run", two_processes / "slimipl")


@pytest.mark.slow
def test_labelling_ends_although_a_process_was_killed(tone_data, tone_run, two_processes, tmp_path):
    """The main process is killed in its first shard; the other takes it over. Then the job is another one."""
    command = labelling_command(tone_data, tone_run, tmp_path / "labels")
    death = Death(0, "labels.labelling", "scores", 3)
    (killed, _), (status, stderr) = run_on_two(tmp_path, *command, death=death, **SHARDS)
    assert (killed, status) == (-9, 0) and not errors(stderr)
    assert_equal_labels(tmp_path / "labels", two_processes / "labels")
    assert sorted(path.name for path in (tmp_path / "labels").iterdir()) == [
        "complete.json",
        "job.json",
        "labels.parquet",
        "shards",
    ]
    assert [path.name for path in sorted((tmp_path / "labels" / "shards").iterdir())] == [
        f"{number:05d}.arrow" for number in range(5)
    ]

    ended = run_on_two(tmp_path, *command, "--data", tone_data / "dev.parquet")
    [line] = [line for _, stderr in ended for line in errors(stderr)]  # both know it, and one of them says it
    assert [status for status, _ in ended] == [1, 1] and "holds another job's labels" in line
    with claimed(tmp_path / "other"):  # as by a training run
        ended = run_on_two(tmp_path, *command, "--output", tmp_path / "other")
    [line] = [line for _, stderr in ended for line in errors(stderr)]
    assert [status for status, _ in ended] == [1, 1] and f"{tmp_path}/other: another job works there" in line


def test_a_divergence_names_the_micro_batches_of_all_processes(tone_data, tmp_path):
    command = ["train.py", tone_data / "tones.yaml", f"output_dir={tmp_path / 'run'}", "learning_rate=1e38", "dev=[]"]
    ended = run_on_two(tmp_path, *command, "micro_batches_per_update=4")
    message = (
        "error: the gradient of micro-batches 4, 5, 6, 7 is not finite, its loss is nan; lower learning_rate, or look"
    )
    assert [status for status, _ in ended] == [1, 1]
    assert [line[: len(message)] for _, stderr in ended for line in errors(stderr)] == [message]


def test_an_error_of_both_processes_is_one_line(two_processes):
    """Under `accelerate launch`, whose own traceback ends with the line again."""
    stderr, _, launcher = (two_processes / "stderr.txt").read_text().partition("Traceback")
    [message] = errors(stderr)
    assert f"  traceback : {message}\n" in launcher
    assert "no setting is called max_updats; there are output_dir" in message


# ---- a full disk: a file cannot grow beyond a size, for which writers get an error like that for a full disk


@contextmanager
def little_room(num_bytes, module, function, call=1):
    """Limits the size of files to so many bytes, from the `call`-th call of a function on."""
    limits, calls, original = resource.getrlimit(resource.RLIMIT_FSIZE), itertools.count(1), getattr(module, function)

    def limiting(*arguments, **named):
        if next(calls) == call:
            resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
        return original(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, function, limiting)
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def says_no_room(message: str, path: Path) -> bool:
    """Returns whether a message is one line on a full disk, with a way out."""
    return re.fullmatch(re.escape(f"{path}: there is no room to write it (") + ".*; make room, then .* again", message)


def test_training_goes_on_when_there_is_room_again(error_of, tone_data, tmp_path, monkeypatch):
    """Whatever could not be written: weights, optimiser, curves or the model."""
    monkeypatch.setattr(log, "draw_curves", draw_curves)  # empty ones have room
    monkeypatch.setattr(Checkpointer, "check", Checkpointer.wait)  # so that earlier checkpoints are written by then
    settings = ["max_updates=8", "save_every=3", "eval_every=8"]
    folder, roomy = tmp_path / "full", tmp_path / "roomy"
    checkpoints = folder / "checkpoints"
    faults = [
        (100_000, 5, checkpoints / "update-00000006", 3),  # at update 5; the last one saved is 3
        (300_000, 2, checkpoints / "update-00000006", 3),
        (20_000, 5, folder / "curves.png", 6),
        (100_000, 2, folder / "model", 6),
    ]
    for num_bytes, call, path, saved in faults:
        with little_room(num_bytes, loop, "train_step", call):
            message = error_of("train.py", tone_data / "tones.yaml", f"output_dir={folder}", *settings)
        assert says_no_room(message, path), message
        assert max(checkpoints.iterdir()).name == f"update-0000000{saved}"
        assert not path.exists() and not list(folder.rglob(".partial*/*"))
    for output_dir in (folder, roomy):
        train(load_config(tone_data / "tones.yaml", [f"output_dir={output_dir}", *settings]))
    assert_equal_bits(folder, roomy)


def test_a_row_of_metrics_for_which_there_is_no_room(tone_data, tmp_path):
    """A resumed run drops the part of the row that was written."""
    config = load_config(tone_data / "tones.yaml")
    log = TrainingLog(tmp_path, config, 0, True)
    log.log_window(1, 0.1, None)
    with little_room(100, log, "log_window"), pytest.raises(OSError) as caught:
        log.log_window(2, 0.2, None)
    assert says_no_room(str(caught.value), tmp_path / "metrics.jsonl")
    assert (tmp_path / "metrics.jsonl").stat().st_size == 100
    assert [row["update"] for row in TrainingLog(tmp_path, config, 2, True).rows] == [1]


def test_labelling_goes_on_when_there_is_room_again(
    error_of, tone_data, tone_run, two_processes, tmp_path, monkeypatch
):
    monkeypatch.setattr(labelling, "SHARD_SIZE", SHARD_SIZE)
    folder = tmp_path / "labels"
    command = labelling_command(tone_data, tone_run, folder)
    with little_room(2000, labelling, "scores", call=12):
        assert says_no_room(error_of(*command), folder / "shards" / "00002.arrow")
    written = {path: path.stat().st_mtime_ns for path in (folder / "shards").iterdir()}
    assert sorted(path.name for path in written) == ["00000.arrow", "00001.arrow"]
    with little_room(2000, shared_job, "join_shards"):
        assert says_no_room(error_of(*command), folder / "labels.parquet")
    assert run_command(*command) == 0
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert_equal_labels(folder, two_processes / "labels")


def test_one_process_without_room_ends_the_other(tone_data, tmp_path):
    command = ["train.py", tone_data / "tones.yaml", f"output_dir={tmp_path / 'run'}", "save_every=1", "dev=[]"]
    (status, stderr), other = run_on_two(tmp_path, *command, max_bytes=100_000)
    assert (status, other[0]) == (1, 1) and errors(other[1]) == []
    [message] = errors(stderr)
    assert says_no_room(message.removeprefix("error: "), tmp_path / "run" / "checkpoints" / "update-00000001")


def test_no_room_for_the_cache_of_datasets(tone_data, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    with little_room(1000, Dataset, "from_parquet"), pytest.raises(OSError) as caught:
        read_utterances([tone_data / "train.parquet"])
    assert says_no_room(str(caught.value), tmp_path)
    assert len(read_utterances([tone_data / "train.parquet"])) == 64


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs the device that is always full")
def test_a_device_without_space(tmp_path):
    (tmp_path / "a").write_text("before")
    with pytest.raises(OSError, match="a: there is no room to write it .No space left on device.; make room"):
        with atomic_write(tmp_path / "a") as partial:
            partial.symlink_to("/dev/full")
            partial.write_text("after")
    assert (tmp_path / "a").read_text() == "before" and os.listdir(tmp_path) == ["a"]


# ---- no speech


def test_nothing_to_evaluate_on(error_of, tone_run, tmp_path):
    write_utterances([], tmp_path / "empty.parquet")
    command = ["evaluate.py", "--model", tone_run / "model", "--data", tmp_path / "empty.parquet"]
    message = error_of(*command, "--output", tmp_path / "results.json", "--num-workers", 0)
    assert message.startswith("there are no utterances to score; is the test split empty")
    assert not (tmp_path / "results.json").exists()
