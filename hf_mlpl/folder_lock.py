"""Claims an output folder or an output file, so that two jobs cannot write the same one at once.

A claim is a lock of the operating system (`flock`) on a small hidden file, which names the job. The kernel releases it
when the process ends, however it ends: the file that a killed job leaves blocks nobody. Processes that a job forks,
such as those that decode audio, do not keep the lock.

On a network disk the lock holds between machines where the file system supports that: NFS since version 4, NFS 3 with
its lock service, Lustre mounted with `flock`, CephFS. With NFS mounted with `nolock` or `local_lock`, and Lustre with
`localflock`, it holds on one machine only. When a machine dies, the server releases its locks after a time that is set
on the server. On a file system without locks the job goes on with a warning. Object storage has no locks either: files
appear there as a whole, and of two of the same name the one that is written last stays.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

from filelock import FileLock, Timeout

from .remote_path import AnyPath, RemotePath, as_path

logger = logging.getLogger(__name__)

LOCK = ".lock"  # suffix of lock files
PATIENCE_SECONDS = 1.0  # a killed job may take a moment to end
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


class InUseError(OSError):
    """Refuses an output that another job is writing; its text names the job and the way out."""


@contextmanager
def claimed(folder: str | os.PathLike | RemotePath) -> Iterator[None]:
    """Keeps other jobs out of an output folder while the block runs; makes the folder where it is missing.

    The lock file `FOLDER/.lock` is removed when the block ends. A finished folder that is only read needs no claim.

    Raises:
        InUseError: where another job has claimed the folder, even one of this process.
        OSError: where no file can be written there.
    """
    folder = as_path(folder)
    with _locked(folder / LOCK, folder, "folder"):
        yield


@contextmanager
def claimed_file(path: str | os.PathLike | RemotePath) -> Iterator[None]:
    """Keeps other jobs from writing an output file while the block runs, by a lock file `.NAME.lock` beside it.

    Raises:
        InUseError, OSError: as `claimed` does.
    """
    path = as_path(path)
    with _locked(path.with_name(f".{path.name}{LOCK}"), path, "file"):
        yield


def is_lock(path: Path) -> bool:
    """Returns whether a file is a lock, and not content of its folder."""
    return path.name.startswith(".") and path.name.endswith(LOCK)


@contextmanager
def _locked(lock_file: AnyPath, output: AnyPath, kind: str) -> Iterator[None]:
    if isinstance(lock_file, RemotePath):
        yield
        return
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_file, fallback_to_soft=False)  # the file of a soft lock would outlive a killed job
    try:
        lock.acquire(timeout=PATIENCE_SECONDS)
    except Timeout:
        raise InUseError(
            f"{output}: another job works there{_holder(lock_file)}; wait for its end, or choose another {kind}"
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            reason = error.strerror or error
            raise OSError(f"{output}: cannot be claimed for this job, because of {lock_file} ({reason})") from error
        lock_file.unlink(missing_ok=True)
        logger.warning("%s: its disk has no locks; see to it that no other job writes there meanwhile", output)
        yield
        return
    try:
        _write_holder(lock_file)
        yield
    finally:
        with suppress(OSError):
            lock_file.unlink()  # before the release: afterwards it may be another job's
        lock.release()


def _write_holder(lock_file: Path) -> None:
    holder = {
        "command": Path(sys.argv[0]).name,  # without arguments, which may hold secrets
        "process": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC"),
    }
    with suppress(OSError):  # a full disk, for one; the lock holds without it
        lock_file.write_text(json.dumps(holder), encoding="utf-8")


def _holder(lock_file: Path) -> str:
    """Returns ` (COMMAND, process ID on HOST, since TIME)` from a lock file; an empty text if it has other content."""
    try:
        holder = json.loads(lock_file.read_text(encoding="utf-8"))
        return " ({command}, process {process} on {host}, since {since})".format(**holder)
    except (OSError, ValueError, TypeError, KeyError):
        return ""
