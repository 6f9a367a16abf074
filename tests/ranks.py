"""Starts two processes like `accelerate launch`, without the seconds that each one's imports would take."""

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest
import torch
from tqdm import tqdm

from .commands import run_command
from .quick_python import start
from .tones import without_pictures


@dataclass(frozen=True)
class Death:
    """Describes a signal to a process and its children, before its `call`-th call of a function of `hf_mlpl.MODULE`.

    Args:
        after: waits until this exists.
    """

    rank: int
    module: str
    function: str
    call: int
    signal: int = signal.SIGKILL
    after: Path | None = None


def run_on_two(folder: Path, script: str, *arguments, **options) -> list[tuple[int, str]]:
    """Returns the exit status and stderr of each process that runs a command, with the options of `run_all_on_two`."""
    return run_all_on_two(folder, [(script, *arguments)], **options)


def run_all_on_two(
    folder: Path, commands: list[tuple], *, death: Death | None = None, max_bytes: int | None = None, **constants
) -> list[tuple[int, str]]:
    """Runs commands one after another; returns the highest exit status and stderr of each process.

    Neither process is ended because the other has ended, and a command that fails does not end the others.

    Args:
        folder: for files of their stderr.
        commands: a script of `recipes/` and its arguments.
        max_bytes: limit of the size of files; by default there is none.
        constants: module of `hf_mlpl` -> {name: value}, set in both processes.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    logs = [folder / f"stderr-{rank}.txt" for rank in range(2)]
    job = (port, [list(map(str, command)) for command in commands], death, max_bytes, constants)
    processes = [start(_run, rank, str(logs[rank]), *job) for rank in range(2)]
    try:
        for process in processes:
            process.wait(timeout=300)
    except subprocess.TimeoutExpired:
        pytest.fail(str([path.read_text() for path in logs]))
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, path.read_text()) for process, path in zip(processes, logs, strict=True)]


def _run(rank, log, port, commands, death, max_bytes, constants) -> None:
    with open(log, "w") as file:
        os.dup2(file.fileno(), 2)
    sys.stderr = open(2, "w", buffering=1, closefd=False)
    sys.stdout = open(os.devnull, "w")
    for name in ("RANK", "LOCAL_RANK"):
        os.environ[name] = str(rank)
    os.environ |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # tqdm's own is a semaphore, which a killed process does not release
    without_pictures(pytest.MonkeyPatch())
    for module, values in constants.items():
        for name, value in values.items():
            setattr(import_module(f"hf_mlpl.{module}"), name, value)
    if death and death.rank == rank:
        _die_in(death)
    if max_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    sys.exit(max([run_command(*command) for command in commands]))


def _die_in(death: Death) -> None:
    module, calls = import_module(f"hf_mlpl.{death.module}"), 0
    function = getattr(module, death.function)

    def function_or_death(*arguments, **named):
        nonlocal calls
        calls += 1
        if calls == death.call:
            while death.after and not death.after.exists():
                time.sleep(0.01)
            os.killpg(0, death.signal)
        return function(*arguments, **named)

    setattr(module, death.function, function_or_death)
