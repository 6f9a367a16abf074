"""A claim on an output folder, or on an output file, so that two jobs cannot write the same one at once.

The claim is a lock of the operating system (`flock`) on a small hidden file, which says who works there. The kernel
gives it back when the process ends, however it ends: what a killed job leaves behind refuses nobody. Processes that a
job forks, such as those that decode audio, do not keep it.

On a network disk the lock holds between machines where the file system carries locks over: NFS since version 4, NFS 3
with its lock service, Lustre mounted with `flock`, CephFS. NFS mounted with `nolock` or `local_lock`, and Lustre with
`localflock`, keep it to one machine. Where a machine dies, the server gives its lock back after a while that is set
there. Where the file system has no locks at all, a warning says so, and the job goes on.
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

logger = logging.getLogger(__name__)

LOCK = ".lock"  # ends the names of lock files
PATIENCE = 1.0  # seconds; a killed job may take a moment to end
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


class InUseError(OSError):
    """An output that another job is writing; its text says who, and what to do."""


@contextmanager
def claimed(folder: str | os.PathLike) -> Iterator[None]:
    """Keeps other jobs out of an output folder, which is made where it is not there, while the block runs.

    The lock file `FOLDER/.lock` goes when the block ends. A finished folder that is only read needs no claim.

    Raises:
        InUseError: where another job has claimed the folder, also one of this process.
        OSError: where no file can be written there.
    """
    folder = Path(folder)
    with _locked(folder / LOCK, folder, "folder"):
        yield


@contextmanager
def claimed_file(path: str | os.PathLike) -> Iterator[None]:
    """Keeps other jobs from writing an output file while the block runs, by a lock file `.NAME.lock` beside it.

    Raises:
        InUseError, OSError: as `claimed` does.
    """
    path = Path(path)
    with _locked(path.with_name(f".{path.name}{LOCK}"), path, "file"):
        yield


def is_lock(path: Path) -> bool:
    """Tells a lock file from what belongs to a folder's content."""
    return path.name.startswith(".") and path.name.endswith(LOCK)


@contextmanager
def _locked(lock_file: Path, output: Path, kind: str) -> Iterator[None]:
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_file, fallback_to_soft=False)  # whose file a killed job leaves behind as a claim
    try:
        lock.acquire(timeout=PATIENCE)
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
    """Reads who has the lock, as ` (COMMAND, process ID on HOST, since TIME)`; empty where it does not say."""
    try:
        holder = json.loads(lock_file.read_text(encoding="utf-8"))
        return " ({command}, process {process} on {host}, since {since})".format(**holder)
    except (OSError, ValueError, TypeError, KeyError):
        return ""
