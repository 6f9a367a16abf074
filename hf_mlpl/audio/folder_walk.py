"""Walks through users' folders: follows links, visits no folder twice, and leaves out hidden names."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path


def is_hidden(name: str) -> bool:
    """Returns whether a name is of a file that systems put beside those of users, such as `._a.mp3` or `__MACOSX`."""
    return name.startswith(".") or name in ("__MACOSX", "lost+found")


def walk_folders(
    root: str | Path,
    failed: Callable[[OSError], object] | None = None,
    skipped: Callable[[str], object] | None = None,
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yields each folder with its folders and files, as `os.walk` does, sorted and without hidden names.

    Symbolic links to files and folders are followed, after all other folders, so that a folder is visited once, and
    under its own name if it has one below `root`. Links to a folder around them or around `root` are not followed.
    The caller may remove folders from the list, which are then not visited.

    Args:
        failed: called with the error of each folder that cannot be read.
        skipped: called with a line for each folder that is not visited because of its links.
    """
    seen: set[tuple[int, int]] = set()
    pending = deque([os.fspath(root)])
    while pending:
        for folder, folders, names in os.walk(pending.popleft(), onerror=failed):  # which follows no links itself
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                folders.clear()
                if skipped:
                    skipped(f"{folder}: another name of a folder that is read already, which is not read again")
                continue
            seen.add((status.st_dev, status.st_ino))
            folders[:] = sorted(name for name in folders if not is_hidden(name))
            yield folder, folders, sorted(name for name in names if not is_hidden(name))
            for link in filter(os.path.islink, (os.path.join(folder, name) for name in folders)):
                if not (_is_around(link, folder) or _is_around(link, root)):
                    pending.append(link)
                elif skipped:
                    skipped(f"{link}: a link to a folder around it, which is not followed")


def _is_around(link: str, folder: str | Path) -> bool:
    inner, outer = (os.path.join(os.path.realpath(path), "") for path in (folder, link))
    return inner.startswith(outer)
