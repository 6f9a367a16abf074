"""Kills training, as `kill -9` does, before its file-system events, twice in a row, and compares what it comes to.

Supervised training and slimIPL with a teacher of its own, on the tones: a run is killed before an event, its
continuation before another one, and the next continuation has to leave the files, weights and metrics of a run that
nobody killed. Events are spread over the run; as many are tried as fit into `SECONDS` for each kind of training.

    OMP_NUM_THREADS=1 python -m pytest -m slow -s tests/campaigns/test_killed_training.py
"""

import os
import random
import runpy
import shutil
import sys
import time
from pathlib import Path

import pytest
import torch

from hf_mlpl.folder_lock import is_lock

from ..commands import run_command
from ..training.test_loop import assert_equal_bits
from ..two_processes import slimipl_overrides
from .killing import FORKS, HOOK, KILLED, spread
from .killing_hook.sitecustomize import RECORD

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

SECONDS = 150
MOST = 200  # events


def run_until(number: int, folder: Path, *arguments) -> tuple[int, int]:
    """Trains in a process that is killed before event `number` below `folder`, 0 for none.

    Returns its exit status and how many events there were.
    """
    log = folder.with_suffix(".events")
    log.unlink(missing_ok=True)
    process = FORKS.Process(target=_run, args=(number, str(folder), str(log), list(map(str, arguments))))
    process.start()
    process.join(timeout=300)
    assert process.exitcode is not None
    return process.exitcode, log.stat().st_size // RECORD


def _run(number: int, folder: str, log: str, arguments: list[str]) -> None:
    os.setsid()  # the hook kills its group
    told = os.open(f"{log}.told", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(told, 1)
    os.dup2(told, 2)
    sys.stdout, sys.stderr = (open(i, "w", buffering=1, closefd=False) for i in (1, 2))
    torch.set_num_threads(1)
    os.environ |= {"KILLING_FOLDER": folder, "KILLING_LOG": log, "KILLING_AT": str(number)}
    runpy.run_path(str(HOOK / "sitecustomize.py"))
    sys.exit(run_command("train.py", *arguments))


def files(folder: Path) -> list[Path]:
    """Without the lock file, which stays where a run is killed that is finished, and refuses nobody."""
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if not is_lock(path))


@pytest.mark.parametrize("kind", ["supervised", "slimipl"])
def test_killed_training_comes_to_the_same_end(tone_data, tone_run, tmp_path, kind):
    settings = [tone_data / "tones.yaml", "max_updates=8", "save_every=3", "eval_every=4"]
    if kind == "slimipl":
        settings += slimipl_overrides(tone_run / "model", tone_data / "unlabelled.parquet")
        settings += ["slimipl.ema_decay=0.9", "max_updates=9", "save_every=3", "eval_every=4"]
    folder = tmp_path / "run"
    command = [*settings, f"output_dir={folder}"]
    status, count = run_until(0, folder, *command)
    assert status == 0, (tmp_path / "run.events.told").read_text()
    whole = shutil.move(folder, tmp_path / "whole")
    expected = files(whole)

    end, tried, second = time.monotonic() + SECONDS, 0, random.Random(0)
    numbers = spread(count, MOST)
    second.shuffle(numbers)
    for number in numbers:
        if time.monotonic() > end:
            break
        assert run_until(number, folder, *command)[0] == KILLED
        again = second.randint(1, count - 1)
        assert run_until(again, folder, *command)[0] in (KILLED, 0)
        status, _ = run_until(0, folder, *command)
        assert status == 0, (number, again, (tmp_path / "run.events.told").read_text()[-2000:])
        assert_equal_bits(folder, whole)
        assert files(folder) == expected, (number, again)
        shutil.rmtree(folder)
        tried += 1
    print(f"\n{kind}: {tried} of {count} events: each time killed twice, and then come to the same end")
    assert tried > 2
