"""Runs work in the main process of a job for all of its processes, which all fail where the work fails."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from .folder_lock import claimed

Result = TypeVar("Result")


def on_main_process(accelerator: Accelerator, work: Callable[[], Result]) -> Result:
    """Calls `work` in the main process; all processes return its result, or raise its error."""
    result, error = None, None
    if accelerator.is_main_process:
        try:
            result = work()
        except Exception as raised:
            error = raised
    result, error = broadcast_object_list([result, error])
    if error is not None:
        raise error
    return result


@contextmanager
def claimed_by_job(accelerator: Accelerator, folder: str | os.PathLike) -> Iterator[None]:
    """Claims an output folder for all processes of a job, as `folder_lock.claimed` does for one.

    Raises:
        InUseError: in all processes, where another job has claimed the folder.
    """
    with ExitStack() as claim:
        on_main_process(accelerator, lambda: claim.enter_context(claimed(folder)))
        yield
