"""Runs a command and kills it, as `kill -9` does, just before a file-system event of a given number.

Events are what Python is asked to do to files and folders below one folder: opening for writing, renaming, removing,
making folders, linking, truncating. Writers in C++ (Parquet, torch.save to a path) open their files unseen, and are
seen by the renaming that follows. Processes that the command starts count and are killed together with it, as long as
they are in its process group.

    count = len(events_of(command, folder))
    for number in spread(count, 20):
        assert run_killed_at(command, number, folder) == KILLED
        ...  # bring the folder back, give the command again, and compare
"""

import multiprocessing
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from .killing_hook.sitecustomize import RECORD

KILLED = -signal.SIGKILL
HOOK = Path(__file__).with_name("killing_hook")
FORKS = multiprocessing.get_context("forkserver")  # of a process that has imported everything
FORKS.set_forkserver_preload(["hf_mlpl.training.loop", "hf_mlpl.labels.labelling", "tests.ranks"])


def events_of(
    command: Sequence, folder: Path, env: Mapping[str, str] | None = None, timeout: float = 600
) -> list[str]:
    """Runs a command, which must end well, and returns a line for each event below `folder`."""
    code, events, stderr = _run(command, 0, folder, env, timeout)
    assert code == 0, stderr
    return events


def count_events(command: Sequence, folder: Path, env: Mapping[str, str] | None = None, timeout: float = 600) -> int:
    """Runs a command, which must end well, and counts its events below `folder`."""
    return len(events_of(command, folder, env, timeout))


def run_killed_at(
    command: Sequence, number: int, folder: Path, env: Mapping[str, str] | None = None, timeout: float = 600
) -> int:
    """Runs a command and kills it before its event `number`, from 1 on, below `folder`.

    Returns its exit status: `KILLED`, or its own where it had fewer events.
    """
    return _run(command, number, folder, env, timeout)[0]


def spread(count: int, most: int) -> list[int]:
    """Up to `most` numbers of `count` events, evenly spread, the first and the last one among them."""
    most = min(most, count)
    return sorted({1 + round(i * (count - 1) / max(most - 1, 1)) for i in range(most)})


def _run(command, number: int, folder: Path, env, timeout: float) -> tuple[int, list[str], str]:
    env = dict(os.environ if env is None else env)
    paths = [str(HOOK), *filter(None, [env.get("PYTHONPATH")])]
    with tempfile.TemporaryDirectory() as temporary:
        log = Path(temporary, "events")
        env |= {
            "PYTHONPATH": os.pathsep.join(paths),
            "KILLING_FOLDER": str(folder),
            "KILLING_LOG": str(log),
            "KILLING_AT": str(number),
        }
        # A session of its own, so that what is killed is this command and what it has started, and nothing else.
        process = subprocess.run(
            list(map(str, command)),
            env=env,
            capture_output=True,
            text=True,
            errors="replace",
            start_new_session=True,
            timeout=timeout,
        )
        records = log.read_bytes() if log.exists() else b""
    events = [records[i : i + RECORD].decode(errors="replace").strip() for i in range(0, len(records), RECORD)]
    return process.returncode, events, process.stderr
