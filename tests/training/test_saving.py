"""Tests that checkpoints are written while training goes on, that signals save a run, and that patience has no end."""

import os
import signal
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_mlpl.cli.language_finetune import _run_command
from hf_mlpl.data.drops import DropFile
from hf_mlpl.stop_signal import STOPPED, StoppedError
from hf_mlpl.training import checkpoints, loop, saved_model
from hf_mlpl.training.checkpoint_files import write_manifest
from hf_mlpl.training.loop import train, train_step
from hf_mlpl.training.trained_weights import host_copy
from hf_mlpl.training_config import load_config

from ..commands import run_command
from ..ranks import Death, run_on_two
from ..two_processes import OVERRIDES, slimipl_overrides
from .test_loop import assert_equal_bits, rows

pytestmark = pytest.mark.usefixtures("one_thread")

write_weights = saved_model.write_weights


def test_training_goes_on_while_a_checkpoint_is_written(tone_data, tmp_path, monkeypatch):
    """The first save ends only during update 4; what it holds is what a save that nothing disturbs holds."""

    def settings(name):
        overrides = ["max_updates=9", "dev=[]", "save_every=2", "save_total_limit=3", "optimizer=adagrad"]
        return load_config(tone_data / "tones.yaml", [f"output_dir={tmp_path / name}", *overrides])

    train(settings("undisturbed"))
    is_released, updates, first = threading.Event(), [], tmp_path / "slow" / "checkpoints" / "update-00000002"

    def noted_step(*arguments):
        updates.append(arguments[-1])
        if len(updates) == 4:
            assert not first.exists()
            is_released.set()
        if len(updates) == 5:  # the second save has waited for the first one
            assert first.exists()
        return train_step(*arguments)

    def write_manifest_late(folder):
        assert is_released.wait(timeout=60)
        write_manifest(folder)

    monkeypatch.setattr(loop, "train_step", noted_step)
    monkeypatch.setattr(checkpoints, "write_manifest", write_manifest_late)
    train(settings("slow"))
    assert updates == list(range(1, 10))
    assert_equal_bits(tmp_path / "slow", tmp_path / "undisturbed")
    saved, expected = (tmp_path / name / "checkpoints" for name in ("slow", "undisturbed"))
    names = [f"update-0000000{update}" for update in (4, 6, 8)]
    assert sorted(os.listdir(saved)) == sorted(os.listdir(expected)) == names
    for name in names:
        weights, other = (load_file(folder / name / "model.safetensors") for folder in (saved, expected))
        torch.testing.assert_close(weights, other, rtol=0, atol=0)
        optimizer, other = (torch.load(folder / name / "optimizer.bin") for folder in (saved, expected))
        torch.testing.assert_close(optimizer, other, rtol=0, atol=0)
        random, other = ((folder / name / "random_states_0.pkl").read_bytes() for folder in (saved, expected))
        assert random == other


def test_a_copy_keeps_what_is_shared():
    tensor = torch.arange(6.0).reshape(2, 3)
    state = {
        "a": tensor,
        "tied": tensor.detach(),
        "part": tensor[:1],
        "list": [{"step": 3, "b": tensor}],
        "beta": (0.9,),
    }
    copied = host_copy(state)
    torch.testing.assert_close(copied, state, rtol=0, atol=0)
    assert copied["a"].data_ptr() == copied["tied"].data_ptr() == copied["list"][0]["b"].data_ptr()
    tensor.zero_()
    assert copied["a"].sum() == 15 and copied["part"].sum() == 3


@pytest.fixture
def slimipl(tone_data, tone_run, tmp_path):
    """Settings of slimIPL with rows of metrics over several updates; the command that trains with them."""
    overrides = slimipl_overrides(tone_run / "model", tone_data / "unlabelled.parquet")
    overrides += ["log_every=4", "eval_every=8", "max_updates=9", "slimipl.ema_decay=0.9"]
    return lambda name: ["train.py", tone_data / "tones.yaml", f"output_dir={tmp_path / name}", *overrides]


def test_sigterm_saves_and_the_same_command_goes_on(slimipl, tmp_path, monkeypatch, capsys):
    """It comes in the middle of a row of metrics, then before an evaluation; every number is the same in the end.

    The first time there is no memory for a copy of the state, and training waits until it is written.
    """
    assert run_command(*slimipl("undisturbed")) == 0
    for update, number, memory in ((6, signal.SIGTERM, 1000), (8, signal.SIGUSR1, 1e9)):
        copies = []
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, "free_memory", lambda memory=memory: memory)
            patch.setattr(checkpoints, "host_copy", lambda state, copies=copies: copies.append(1) or host_copy(state))
            patch.setattr(loop, "train_step", lambda *a, at=update, number=number: signalled(at, number, *a))
            capsys.readouterr()
            assert run_command(*slimipl("stopped")) == STOPPED
        line = capsys.readouterr().err.replace("\r", "\n").splitlines()[-1]
        assert line == f"{number.name} came: update {update} of 9 is saved, and the same command goes on from it"
        assert (tmp_path / "stopped" / "checkpoints" / f"update-{update:08d}").is_dir()
        assert signal.getsignal(number) == signal.SIG_DFL and len(copies) == (memory > 1000)
    assert [row["update"] for row in rows(tmp_path / "stopped") if "dev" in row] == []
    assert run_command(*slimipl("stopped")) == 0
    assert [row["update"] for row in rows(tmp_path / "stopped") if "probe" not in row] == [4, 8, 8, 9]
    assert_equal_bits(tmp_path / "stopped", tmp_path / "undisturbed")


def signalled(at, number, *arguments):
    if arguments[-1] == at:
        os.kill(os.getpid(), number)
    return train_step(*arguments)


def test_a_language_that_is_stopped_ends_the_others_too(tmp_path):
    """Its launcher dies at once, and what that has started takes a moment to save."""
    training = f'trap "sleep 0.5; touch {tmp_path}/saved; exit {STOPPED}" TERM; while :; do sleep 0.1; done'
    threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(StoppedError):
        _run_command(["sh", "-c", f"sh -c '{training}'; true"], "sl")
    assert (tmp_path / "saved").exists()
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(StoppedError, match="^stopped while sl was in work; the same command goes on from there$"):
        _run_command(["sleep", "60"], "sl")
    with pytest.raises(StoppedError):
        _run_command(["sh", "-c", f"exit {STOPPED}"], "sl")
    assert _run_command(["sh", "-c", "exit 3"], "sl") == 3


@pytest.mark.slow
def test_a_signal_to_one_process_and_its_loaders_stops_all(tone_data, tone_run, two_processes, tmp_path):
    overrides = slimipl_overrides(tone_run / "model", tone_data / "unlabelled.parquet")
    command = ["train.py", tone_data / "tones.yaml", f"output_dir={tmp_path / 'run'}", *overrides, "num_workers=1"]
    death = Death(1, "training.loop", "train_step", 8, signal.SIGTERM)
    ended = run_on_two(tmp_path, *command, death=death)
    assert [status for status, _ in ended] == [STOPPED, STOPPED], ended
    said = [line for _, stderr in ended for line in stderr.splitlines() if "is saved" in line]
    assert len(said) == 1 and said[0].endswith("update 8 of 12 is saved, and the same command goes on from it")
    assert [status for status, _ in run_on_two(tmp_path, *command)] == [0, 0]
    assert_equal_bits(tmp_path / "run", two_processes / "slimipl")


SHORT, LONG = timedelta(seconds=6), 7.0  # the timeout of collectives, and what a piece of work takes: seconds


def slow_manifest(folder: Path) -> None:
    time.sleep(LONG)
    write_manifest(folder)


def slow_weights(*arguments) -> None:
    time.sleep(LONG)
    write_weights(*arguments)


class SlowShare(DropFile):
    """Makes one of two processes slow in an evaluation."""

    def log_rest(self, *arguments) -> None:
        if os.environ["RANK"] == "1":
            time.sleep(LONG)
        super().log_rest(*arguments)


@pytest.mark.slow
def test_no_collective_waits_for_a_save_an_evaluation_or_the_model(tone_data, two_processes, tmp_path):
    """Each takes longer than the timeout of the process group, and the second save waits for the first one."""
    slow = {"training.checkpoints": {"write_manifest": slow_manifest}, "evaluation.scoring": {"DropFile": SlowShare}}
    slow |= {"training.saved_model": {"write_weights": slow_weights}, "main_process": {"TIMEOUT": SHORT}}
    command = ["train.py", tone_data / "tones.yaml", f"output_dir={tmp_path / 'run'}", *OVERRIDES, "save_every=3"]
    ended = run_on_two(tmp_path, *command, **slow)
    assert [status for status, _ in ended] == [0, 0], ended
    assert_equal_bits(tmp_path / "run", two_processes / "run")
