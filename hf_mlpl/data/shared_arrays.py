"""Shares arrays between the processes of a machine: one computes, and all map the same file into their memory."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import gettempdir

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object
from filelock import FileLock

from ..atomic import atomic_write, machine, own_path, remove_left
from ..error_line import error_line

logger = logging.getLogger(__name__)


class SharedArrays:
    """Keeps arrays by name in the files of a folder; without a folder, each process computes its own.

    A file is a page of the system's cache to all processes that map it, so an array is in memory once. Where the
    folder cannot be used, a warning says so, and processes compute their own arrays.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = folder

    def within(self, name: str) -> SharedArrays:
        """Returns the arrays of a folder in this one."""
        return SharedArrays(self.folder and self.folder / name)

    def get(self, name: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """Returns an array that must not be changed; the first process that asks for it computes it, others wait."""
        if self.folder is None:
            return compute()
        path = self.folder / f"{name}.npy"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock"), fallback_to_soft=False):  # a killed process leaves none behind
                if not path.exists():
                    if not len(array := compute()):  # no file of 0 bytes can be mapped
                        return array
                    with atomic_write(path) as partial, open(partial, "wb") as file:
                        np.save(file, array)
            return np.asarray(np.load(path, mmap_mode="r"))
        except (OSError, NotImplementedError) as error:  # of file systems without locks
            logger.warning("%s; each process has its own in memory, unless TMPDIR names a disk", error_line(error))
            return compute()

    def remove_all_but_last(self, pattern: str, kept: int) -> None:
        """Removes files of arrays, but for the last names of those that match; who has mapped them keeps them."""
        if self.folder is not None:
            for path in sorted(self.folder.glob(f"{pattern}.npy"))[:-kept]:
                with suppress(OSError):  # another process removes it, too; Windows removes no mapped file
                    path.unlink()


@contextmanager
def shared_arrays(process: PartialState) -> Iterator[SharedArrays]:
    """Yields the arrays of a job on this machine, in a temporary folder that is removed when the block ends.

    All processes of the job call it together. A killed job's folder is removed by the next one.
    """
    own = own_path(Path(gettempdir()), "shared")
    remove_left(own.parent)
    proposals = gather_object([(machine(), own)])
    folder = next(path for name, path in proposals if name == machine())
    try:
        yield SharedArrays(folder)
    finally:
        if folder == own:
            shutil.rmtree(folder, ignore_errors=True)
