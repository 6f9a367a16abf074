"""Runs work in the main process of a job for all of its processes, which all fail where the work fails.

Collectives of training have a timeout, by which a process that hangs is found. Work of unknown length, such as writing
to a disk or scoring an evaluation, is not waited for in them, but in `patient_group`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from tempfile import gettempdir
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, gather_object

from .atomic import machine, own_path, remove_left
from .folder_lock import claimed

Result = TypeVar("Result")

TIMEOUT = timedelta(minutes=30)  # of a collective in training, all of whose processes have the same work
PATIENCE = timedelta(days=1)  # with work of unknown length


def job_state() -> PartialState:
    """Returns accelerate's state of this process, and joins the process group of its job where there are several."""
    return PartialState(cpu=not torch.accelerator.is_available(), timeout=TIMEOUT)


def patient_group(purpose: str = "work") -> dist.ProcessGroup | None:
    """Returns a process group for waiting on work of unknown length, None for a single process.

    It uses gloo, where a process that is lost is an error at once, by its closed connection. All processes call this
    in the same order.

    Args:
        purpose: a thread needs a group of its own.
    """
    return _patient_group(dist.group.WORLD, purpose) if dist.is_available() and dist.is_initialized() else None


@cache
def _patient_group(world: dist.ProcessGroup, purpose: str) -> dist.ProcessGroup:
    return dist.new_group(backend="gloo", timeout=PATIENCE)


def meet(group: dist.ProcessGroup | None = None) -> None:
    """Waits until all processes of the job have come here, whatever time their work takes."""
    if (group := group or patient_group()) is not None:
        dist.barrier(group)


def on_any_process(accelerator: Accelerator, flag: bool) -> bool:
    """Returns in all processes whether the flag is true in one of them."""
    if accelerator.num_processes == 1:
        return flag
    return bool(accelerator.reduce(torch.tensor(int(flag), device=accelerator.device)))


def on_main_process(accelerator: Accelerator, work: Callable[[], Result]) -> Result:
    """Calls `work` in the main process; all processes return its result, or raise its error."""
    result, error = None, None
    if accelerator.is_main_process:
        try:
            result = work()
        except Exception as raised:
            error = raised
    outcome: list[Any] = [result, error]
    if (group := patient_group()) is not None:
        dist.broadcast_object_list(outcome, group=group)
    else:
        broadcast_object_list(outcome)
    result, error = outcome
    if error is not None:
        raise error
    return result


@contextmanager
def machine_folder() -> Iterator[Path]:
    """Yields a path in the temporary folder for what the processes of a job on this machine share.

    All processes of the job call it together. The first one that needs the folder makes it. It is removed when the
    block ends; that of a killed job is removed when the next one begins.
    """
    own = own_path(Path(gettempdir()), "shared")
    remove_left(own.parent)
    folder = next(path for name, path in gather_object([(machine(), own)]) if name == machine())
    try:
        yield folder
    finally:
        if folder == own:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def claimed_by_job(accelerator: Accelerator, folder: str | os.PathLike) -> Iterator[None]:
    """Claims an output folder for all processes of a job, as `folder_lock.claimed` does for one.

    Raises:
        InUseError: in all processes, where another job has claimed the folder.
    """
    with ExitStack() as claim:
        on_main_process(accelerator, lambda: claim.enter_context(claimed(folder)))
        yield
