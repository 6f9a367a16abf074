"""Tests arrays that the processes of a machine share, and the passes over the data that they plan in them."""

import errno
import itertools
import json
import logging
import os
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mlpl.data import batches
from hf_mlpl.data.batches import BatchPlan, stable_order
from hf_mlpl.data.shared_arrays import SharedArrays
from hf_mlpl.main_process import job_state, machine_folder

from ..quick_python import start

# Differences that words of a key and a position keep, that they lose, and none.
KEYS = st.sampled_from([-7.0, -1.0, 0.0, 1e-30, 2e-30, 3e-30, 1.0, 1.0 + 2**-52, 1.0 + 2**-51, 1.5, 30.0])


@settings(max_examples=100, deadline=None)
@given(st.lists(KEYS | st.floats(-1e30, 1e30), max_size=40), st.sampled_from([1, 7, 100_000]))
def test_the_quick_order_is_that_of_a_stable_sort(keys, part):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "PART", part)
        expected = sorted(range(len(keys)), key=keys.__getitem__)
        assert stable_order(np.array(keys, float)).tolist() == expected


def count_and_compute(folder: Path, kills: bool = False) -> None:
    """Asks for an array in a process of its own, which notes that it computes it, and what it gets."""

    def compute() -> np.ndarray:
        with open(folder / "computed", "a") as file:
            file.write("x")
        if kills:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.arange(5)

    array = SharedArrays(folder / "arrays").within("train").get("numbers", compute)
    (folder / f"got-{os.getpid()}").write_text(json.dumps(array.tolist()))


def test_one_of_several_processes_computes_an_array(tmp_path):
    """Kills one meanwhile, which leaves nothing that the others would wait for."""
    assert start(count_and_compute, tmp_path, True).wait() == -signal.SIGKILL
    processes = [start(count_and_compute, tmp_path) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert (tmp_path / "computed").read_text() == "xx"
    assert [json.loads(path.read_text()) for path in tmp_path.glob("got-*")] == [[0, 1, 2, 3, 4]] * 4
    array = SharedArrays(tmp_path / "arrays" / "train").get("numbers", None)
    assert isinstance(array.base, np.memmap) and not array.flags.writeable


@pytest.fixture(scope="module")
def durations():
    return np.random.default_rng(1).uniform(1, 10, size=101)


def test_processes_with_the_same_folder_have_the_plan_of_one(durations, tmp_path, monkeypatch):
    planned, plan = [], BatchPlan._plan
    monkeypatch.setattr(BatchPlan, "_plan", lambda self, epoch: planned.append(epoch) or plan(self, epoch))
    means = np.random.default_rng(2).uniform(1, 3, size=101)
    short = {"is_short": durations < 4, "num_short": 40}
    alone = BatchPlan(durations, 30, 5, means, **short)
    expected = [alone[number] for number in range(300)]
    epochs = [alone.epoch(number) for number in range(300)]
    assert planned == sorted(set(epochs)) and len(planned) > 5
    planned.clear()
    first, second = (BatchPlan(durations, 30, 5, means, SharedArrays(tmp_path), **short) for _ in range(2))
    for number in range(300):
        leader, follower = (first, second) if number % 2 else (second, first)
        assert leader[number] == expected[number] == follower[number]
    assert planned == sorted(set(epochs))  # by one of both
    assert [path.name for path in sorted(tmp_path.glob("*.npy"))] == [
        f"pass-{epoch:08d}.npy" for epoch in planned[-2:]
    ]


@pytest.mark.parametrize("num_short", [0, 50])
def test_a_run_that_goes_on_plans_no_earlier_pass(durations, num_short, monkeypatch):
    short = {"is_short": durations < 4, "num_short": num_short}
    whole = BatchPlan(durations, 30, 5, **short)
    expected = [whole[number] for number in range(1000)]
    planned, plan = [], BatchPlan._plan
    monkeypatch.setattr(BatchPlan, "_plan", lambda self, epoch: planned.append(epoch) or plan(self, epoch))
    boundary = whole.first_numbers[20]
    for number in (boundary - 1, boundary, boundary + 1, 900):
        state = json.loads(json.dumps(whole.state_dict(number)))  # of a plan that is read ahead
        assert state == BatchPlan(durations, 30, 5, **short).state_dict(number)
        resumed = BatchPlan(durations, 30, 5, **short)
        resumed.load_state_dict(state)
        planned.clear()
        assert [resumed[later] for later in range(number, 1000)] == expected[number:]
        assert planned == list(range(whole.epoch(number), whole.epoch(999) + 1))
        assert resumed.state_dict(1000) == whole.state_dict(1000)
    for numbers in ([], [3], [0, 9, 9]):
        with pytest.raises(ValueError, match="numbers that ascend from 0 are accepted"):
            whole.load_state_dict(state | {"first_numbers": numbers})


def test_passes_of_another_plan_are_not_believed(durations):
    whole = BatchPlan(durations, 30, 5, 1.5)
    state, longer = whole.state_dict(900), durations.copy()
    longer[7] += 1e-9
    for other in ((longer, 30, 5, 1.5), (durations, 31, 5, 1.5), (durations, 30, 6, 1.5), (durations, 30, 5, 1.6)):
        plan = BatchPlan(*other)
        plan.load_state_dict(state)
        assert plan.first_numbers == [0]
    for curriculum in ((durations < 4, 9), (durations < 5, 9), (durations < 4, 10)):
        plan = BatchPlan(durations, 30, 5, 1.5, is_short=curriculum[0], num_short=curriculum[1])
        plan.load_state_dict(state)
        assert plan.first_numbers == [0]
        state = plan.state_dict(900)
    plan, state = BatchPlan(durations, 30.0, 5, 1.5), whole.state_dict(900)
    plan.load_state_dict(state)
    assert len(plan.first_numbers) > 5


def test_a_folder_that_cannot_be_used_costs_a_line_and_not_the_run(durations, tmp_path, caplog):
    (tmp_path / "file").touch()
    arrays = SharedArrays(tmp_path / "file" / "folder")
    plan, alone = BatchPlan(durations, 30, 5, 1.0, arrays), BatchPlan(durations, 30, 5)
    with caplog.at_level(logging.WARNING, logger="hf_mlpl"):
        assert [plan[number] for number in range(9)] == [alone[number] for number in range(9)]
    [line] = caplog.messages
    assert str(tmp_path / "file") in line and "\n" not in line
    assert line.endswith("; each process has its own in memory, unless TMPDIR names another folder")


def test_an_array_that_was_computed_is_kept_where_the_disk_is_full(tmp_path, monkeypatch, caplog):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    arrays, computed = SharedArrays(tmp_path), []
    for name in ("pass-0", "pass-1"):
        array = arrays.get(name, lambda: computed.append("x") or np.arange(3))
        assert array.tolist() == [0, 1, 2]
    assert len(computed) == 2 and not list(tmp_path.glob("*.npy"))
    [line] = caplog.messages
    assert line.startswith(f"{tmp_path / 'pass-0.npy'}: [Errno {errno.ENOSPC}] No space left on device; each")


def test_an_array_of_nothing_and_the_end_of_a_job(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_mlpl.main_process.gettempdir", lambda: str(tmp_path))
    process = subprocess.Popen(["true"])
    process.wait()
    job_state()
    with machine_folder() as folder:
        arrays = SharedArrays(folder)
        assert arrays.get("nothing", lambda: np.empty(0)).shape == (0,)
        array = arrays.within("train").get("numbers", lambda: np.arange(3))
        left = folder.with_name(folder.name.replace(str(os.getpid()), str(process.pid)))
        shutil.copytree(folder, left)  # as of a job that was killed
    assert array.tolist() == [0, 1, 2] and [*tmp_path.iterdir()] == [left]
    monkeypatch.setattr("hf_mlpl.atomic._cleaned", set())  # as in a new process
    with machine_folder():
        assert not left.exists()
    assert not list(tmp_path.iterdir())


def test_parts_change_nothing(durations, monkeypatch):
    plan = BatchPlan(durations, 30, 5, 1.5)
    expected = [plan[number] for number in range(100)]
    monkeypatch.setattr(batches, "PART", 7)
    again = BatchPlan(durations, 30, 5, 1.5)
    assert [again[number] for number in range(100)] == expected
    assert len(list(itertools.chain(*expected))) > 101
