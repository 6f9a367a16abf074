"""Files of a corpus: what is below a folder, and whether it has changed since it was read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

# Files whose content shapes what is read; of recordings, the times of their folders tell which there are.
READ_WHOLE = (".tsv", ".csv", ".gz", ".tgz", ".tar", ".parquet", ".json", ".jsonl", ".txt", ".lab", ".lst", ".yaml")


def is_hidden(name: str) -> bool:
    """Tells what systems keep beside files, such as the `._a.mp3` and `__MACOSX` of macOS, from what users have made."""
    return name.startswith(".") or name == "__MACOSX"


def folders_below(root: str | Path) -> Iterator[tuple[str, list[str]]]:
    """Yields `root` and all folders below it, in the order of their names, each with the sorted names of its files.

    Hidden files and folders are left out. Symbolic links are followed, but into no folder twice.
    """
    seen = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        yield folder, sorted(name for name in names if not is_hidden(name))


def files_below(root: str | Path, suffix: str) -> list[Path]:
    """Returns the files below a folder whose names end in `suffix`, in whatever case, sorted; see `folders_below`."""
    return sorted(
        Path(folder, name)
        for folder, names in folders_below(root)
        for name in names
        if name.lower().endswith(suffix) and os.path.isfile(os.path.join(folder, name))
    )


def state_of(path: Path, below: bool = False) -> str:
    """Returns what changes when a file does, or when a folder gets, loses or renames an entry; short, for comparing.

    Args:
        below: whether the tables, archives and texts in a folder, and the folders below it, count too. Recordings are
            not looked at one by one: there may be millions.
    """
    if not below or not path.is_dir():
        return str(_status(path))
    digest = hashlib.sha256()
    for folder, names in folders_below(path):
        tables = [(name, _status(os.path.join(folder, name))) for name in names if name.lower().endswith(READ_WHOLE)]
        digest.update(os.fsencode(repr((os.path.relpath(folder, path), _status(folder), tables))))
    return digest.hexdigest()[:16]


def _status(path: str | Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
