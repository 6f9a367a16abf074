"""Shares arrays between the processes of a machine: one computes, and all map the same file into their memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from filelock import FileLock

from ..atomic import atomic_write
from ..error_line import error_line

logger = logging.getLogger(__name__)


class SharedArrays:
    """Keeps arrays by name in the files of a folder on this machine; without one, each process computes its own.

    All processes that map a file share its pages in the system's cache, so an array is in memory once. Where the
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
        path, array = self.folder / f"{name}.npy", None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _lock(path):
                if not path.exists():
                    if not len(array := compute()):  # no file of 0 bytes can be mapped
                        return array
                    with atomic_write(path) as partial, open(partial, "wb") as file:
                        np.save(file, array)
                return np.asarray(np.load(path, mmap_mode="r"))
        except (OSError, NotImplementedError) as error:  # of file systems without locks
            reason = error_line(error.__cause__ or error)
            logger.warning(
                "%s: %s; each process has its own in memory, unless TMPDIR names another folder", path, reason
            )
            self.folder = None  # it is not tried, and the warning not repeated, for each pass
            return compute() if array is None else array

    def remove_all_but_last(self, pattern: str, kept: int) -> None:
        """Removes files of arrays, but for the last names of those that match; who has mapped them keeps them."""
        if self.folder is not None:
            for path in sorted(self.folder.glob(f"{pattern}.npy"))[:-kept]:
                with suppress(OSError), _lock(path):  # another process removes it, too; Windows removes no mapped file
                    path.unlink()


def _lock(path: Path) -> FileLock:
    """Returns a file's lock, which the system releases when its process is killed."""
    return FileLock(path.with_suffix(".lock"), fallback_to_soft=False)
