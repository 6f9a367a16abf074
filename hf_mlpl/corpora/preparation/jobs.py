"""Runs the jobs of a preparation in this process, or in several that may die of one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread

from tqdm import tqdm

Tick = Callable[[int], object]  # adds to the progress bar
# A function that is called with a `Tick`, which other processes unpickle, and the file that it writes last.
Job = tuple[Callable[[Tick], None], Path]
_counter = None  # of what the ticks add up to, shared by the processes of a pool


class JobFailed(Exception):
    """Carries a line about an error that is no fault of what the job reads."""


def run_jobs(jobs: Mapping[str, Job], workers: int, progress: tqdm) -> dict[str, str]:
    """Runs jobs, in this process if `workers` is 1; returns a line for each that failed, by its name.

    If a process dies, any of the jobs that were running may have killed it, so each of them then runs alone.
    """
    if workers == 1:
        return _run_here(jobs, progress)
    failed, waiting = {}, dict(jobs)
    while waiting:
        for name in _run_in_pool(workers, waiting, failed, progress):
            progress.write(f"{name}: is read again, because a process has died, perhaps of it")
            if _run_in_pool(1, {name: waiting.pop(name)}, failed, progress):
                failed[name] = f"{name}: its process was killed, perhaps because there is too little memory"
    return failed


def _run_here(jobs: Mapping[str, Job], progress: tqdm) -> dict[str, str]:
    failed = {}
    for name, (run, _) in jobs.items():
        progress.set_postfix_str(name)
        try:
            run(progress.update)
        except JobFailed as error:
            failed[name] = str(error)
    return failed


def _begin(counter) -> None:
    """Prepares a process of the pool, which ends when its parent does: killed, that can end none."""
    global _counter
    _counter = counter
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent_process().join()
    os._exit(1)


def _tick(count: int) -> None:
    with _counter.get_lock():
        _counter.value += count


def _run_in_pool(workers: int, waiting: dict[str, Job], failed: dict[str, str], progress: tqdm) -> list[str]:
    """Runs jobs, and removes each that is done or has failed from `waiting`.

    Returns the jobs that were running when a process died, which ends the whole pool; otherwise none.
    """
    context, names, running, counted = get_context("spawn"), iter(list(waiting)), {}, 0
    counter = context.Value("q", 0)
    with ProcessPoolExecutor(min(workers, len(waiting)), context, _begin, (counter,)) as pool:
        try:
            while True:
                for name in islice(names, workers - len(running)):  # no more, to keep the suspects few
                    running[pool.submit(waiting[name][0], _tick)] = name
                if not running:
                    return []
                done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                progress.update(counter.value - counted)
                counted = counter.value
                for future in done:
                    try:
                        future.result()
                    except JobFailed as error:
                        failed[running[future]] = str(error)
                    del waiting[running.pop(future)]
        except BrokenProcessPool:
            pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    for name in [name for name in running.values() if waiting[name][1].exists()]:
        del waiting[name]
    return [name for name in running.values() if name in waiting]
