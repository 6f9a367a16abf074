"""Says what a labelling job asks of the disk with its folder, and how file systems and object storage do it.

A claim is created by one process alone, however many try. Its holder renews it, and others see that it has changed,
without a look at any clock. What else jobs do with files, `Path`, `RemotePath` and `atomic_write` do on every disk.
"""

from __future__ import annotations

import os
from collections.abc import Hashable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from ..atomic import remove_left
from ..remote_path import AnyPath, RemotePath, output_path


class Disk(Protocol):
    """Lists what is asked; a path is a `Path` or a `RemotePath`."""

    def create(self, path: Any, content: str) -> bool:
        """Creates a file that did not exist; returns whether it was this call that did.

        Raises:
            OSError: if it cannot be written.
        """

    def renew(self, path: Any, content: str) -> None:
        """Changes the version of a file that has this content."""

    def read(self, path: Any) -> tuple[Hashable, str]:
        """Returns the version of a file, which each renewal changes, and its content.

        Raises:
            FileNotFoundError: if there is none.
        """

    def stamp(self, path: Any) -> Hashable | None:
        """Returns what changes whenever a file is written again, None if it is not there."""

    def names(self, folder: Any) -> list[str]:
        """Returns the names of the files in a folder, none if there is no folder."""

    def remove_left(self, folder: Any) -> None:
        """Removes what killed processes have not written to the end."""


class LocalDisk:
    """Keeps claims on a disk that creates files exclusively (O_EXCL).

    Local disks do, and so do NFS since version 3, Lustre, CephFS, GPFS and SMB.
    """

    def create(self, path: Path, content: str) -> bool:
        try:
            file = open(path, "x", encoding="utf-8")  # noqa: SIM115
        except FileExistsError:
            return False
        try:
            with file:
                file.write(content)
        except OSError:  # a full disk
            path.unlink(missing_ok=True)
            raise
        return True

    def renew(self, path: Path, content: str) -> None:
        os.utime(path)

    def read(self, path: Path) -> tuple[Hashable, str]:
        with open(path, encoding="utf-8", errors="replace") as file:  # on NFS only what is opened is fresh
            return os.fstat(file.fileno()).st_mtime_ns, file.read()

    def stamp(self, path: Path) -> Hashable | None:
        with suppress(FileNotFoundError):
            status = path.stat()
            return status.st_mtime_ns, status.st_ino
        return None

    def names(self, folder: Path) -> list[str]:
        with suppress(FileNotFoundError):
            return os.listdir(folder)
        return []

    def remove_left(self, folder: Path) -> None:
        remove_left(folder, again=True)


class ObjectStorage:
    """Keeps claims in object storage that writes a file only where there is none, if it is asked to (`If-None-Match`).

    A renewal writes the claim again, with the next number in a last line. When a process has created its first file,
    it tries whether the storage really refuses to create it again.
    """

    def __init__(self):
        self.has_refused = False

    def create(self, path: RemotePath, content: str) -> bool:
        if not path.create(content.encode()):
            self.has_refused = True
            return False
        if not self.has_refused and path.create(content.encode()):
            path.unlink(missing_ok=True)
            raise OSError(
                f"{path}: this storage replaces a file where it is asked not to, so that processes cannot share work "
                "there; give --output a local folder, and copy it when it is complete"
            )
        self.has_refused = True
        return True

    def renew(self, path: RemotePath, content: str) -> None:
        number, there = self.read(path)
        if there == content:  # else it was lost, and must not come back
            path.write_bytes(f"{content}\n{int(number or 0) + 1}".encode())

    def read(self, path: RemotePath) -> tuple[str, str]:
        content, _, number = path.read_text(errors="replace").partition("\n")
        return number, content

    def stamp(self, path: RemotePath) -> Hashable | None:
        with suppress(FileNotFoundError):
            return path.stamp()
        return None

    def names(self, folder: RemotePath) -> list[str]:
        return folder.names()

    def remove_left(self, folder: RemotePath) -> None:
        """Does nothing, as an upload that is interrupted leaves no file."""


def disk_of(folder: AnyPath) -> Disk:
    """Returns the disk with a folder; raises a ValueError for object storage that jobs cannot share."""
    return ObjectStorage() if isinstance(output_path(folder), RemotePath) else LocalDisk()
