"""Shares one labelling job between four processes, each of which takes itself for a machine of its own.

One works at a tenth of the speed of the others, and is stopped for longer than its lease; another one is killed every
few seconds, and a new one takes its place. Utterances take a fixed time, so that processes do not compete for the
processor. The labels must be those of one process, byte by byte. The time is compared with ideal sharing: as if all
processes had worked for as long as they were there, each at its speed, to the last moment.
"""

import os
import signal
import sys
import time
from itertools import count
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from hf_mlpl.data.utterances import write_utterances
from hf_mlpl.labels import claims, labelling

from ..commands import run_command
from .killing import FORKS
from .test_killed_labelling import contents

pytestmark = pytest.mark.slow

SHARD_SIZE, COPIES = 3, 12
UTTERANCE_SECONDS, SLOWNESS = 0.5, 10
LEASE_SECONDS, KILL_SECONDS = 2.0, 8.0


def take_part(name: str, arguments: list, seconds: float, log: Path) -> None:
    """Labels in shards of `SHARD_SIZE`, at `seconds` for each utterance; writes when it began to `log`."""
    os.setsid()
    for stream in (sys.stdout, sys.stderr):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    claims.machine = lambda: name
    claims.LEASE_SECONDS, labelling.SHARD_SIZE = LEASE_SECONDS, SHARD_SIZE
    labelling.MIN_SHARDS = 0
    scores = labelling.scores

    def slow(*given):
        if not log.exists():
            log.write_text(str(time.time()))
        time.sleep(seconds)
        return scores(*given)

    labelling.scores = slow
    torch.set_num_threads(1)
    os._exit(run_command("pseudo_label.py", *arguments))


def test_processes_that_come_and_go(tone_data, tone_run, one_thread, tmp_path, monkeypatch):
    rows = pq.read_table(tone_data / "unlabelled.parquet").to_pylist()
    data = [row | {"id": f"{row['id']}-{number}"} for number in range(COPIES) for row in rows]
    write_utterances(data, tmp_path / "data.parquet")
    given = ["--model", tone_run / "model", "--data", tmp_path / "data.parquet", "--num-workers", 0, "--output"]
    monkeypatch.setattr(labelling, "SHARD_SIZE", SHARD_SIZE)
    monkeypatch.setattr(labelling, "MIN_SHARDS", 0)
    assert run_command("pseudo_label.py", *given, tmp_path / "one") == 0

    numbers, folder = count(), tmp_path / "many"
    speeds, logs, ends = {}, {}, {}

    def start(seconds: float):
        name = f"machine-{next(numbers)}"
        logs[name], speeds[name] = tmp_path / name, UTTERANCE_SECONDS / seconds
        process = FORKS.Process(
            target=take_part, args=(name, [*given, folder], seconds, logs[name]), name=name, daemon=True
        )
        process.start()
        return process

    steady = [start(UTTERANCE_SECONDS), start(UTTERANCE_SECONDS), start(UTTERANCE_SECONDS * SLOWNESS)]
    victim, slow, num_kills, was_stopped = start(UTTERANCE_SECONDS), steady[2], 0, False
    while not (folder / "complete.json").exists():
        time.sleep(KILL_SECONDS)
        assert all(process.is_alive() or process.exitcode == 0 for process in steady)
        if victim.is_alive():
            os.kill(victim.pid, signal.SIGKILL)
            victim.join()
            ends[victim.name], num_kills = time.time(), num_kills + 1
            victim = start(UTTERANCE_SECONDS)
        if logs[slow.name].exists() and not was_stopped and slow.is_alive():
            os.kill(slow.pid, signal.SIGSTOP)
            time.sleep(2 * LEASE_SECONDS)
            os.kill(slow.pid, signal.SIGCONT)
            was_stopped = True
    end = (folder / "complete.json").stat().st_mtime
    for process in (*steady, victim):
        process.join(timeout=120)
        assert process.exitcode == 0
    assert was_stopped and num_kills > 1
    assert contents(folder) == contents(tmp_path / "one")  # byte by byte, and no file more
    ids = pq.read_table(folder / "labels.parquet")["id"].to_pylist()
    assert sorted(ids) == sorted(row["id"] for row in data)
    begins = {name: float(log.read_text()) for name, log in logs.items() if log.exists()}
    there = sum(speeds[name] * (min(ends.get(name, end), end) - begin) for name, begin in begins.items())
    ratio = there / (len(data) * UTTERANCE_SECONDS)
    print(f"\n{len(data)} utterances, {num_kills} kills, {end - min(begins.values()):.0f} s: {ratio:.2f} of ideal")
    assert ratio < 1.3
