"""Files of a corpus: what is below a folder, and whether it has changed since it was read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

# Files whose content shapes what is read, beside recordings.
READ_WHOLE = (".tsv", ".csv", ".gz", ".tgz", ".tar", ".parquet", ".json", ".jsonl", ".txt", ".lab", ".lst", ".yaml")


def is_hidden(name: str) -> bool:
    """Tells what systems put beside files, such as `._a.mp3` and `__MACOSX`, from what users have made."""
    return name.startswith(".") or name in ("__MACOSX", "lost+found")


def folders_below(
    root: str | Path, failed: Callable[[OSError], object] | None = None
) -> Iterator[tuple[str, list[str]]]:
    """Yields `root` and all folders below it, in the order of their names, each with the sorted names of its files.

    Hidden files and folders are left out. Symbolic links are followed, but into no folder twice.

    Args:
        failed: called with the error of each folder that cannot be read.
    """
    seen = set()
    for folder, folders, names in os.walk(root, onerror=failed, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        yield folder, sorted(name for name in names if not is_hidden(name))


def parquet_files_below(root: str | Path) -> list[Path]:
    """Returns the Parquet files below a folder, sorted; raises OSError for a folder in it that cannot be read."""

    def refuse(error: OSError) -> None:
        raise error

    return sorted(
        Path(folder, name)
        for folder, names in (folders_below(root, refuse) if os.path.isdir(root) else ())
        for name in names
        if name.lower().endswith(".parquet") and os.path.isfile(os.path.join(folder, name))
    )


def state_of(path: Path, below: bool = False, besides: Path | None = None) -> str:
    """Returns a short text that changes when a file does, or when a folder gets or loses an entry.

    Args:
        below: whether to look into a folder and those below it, at the names of all files, and at the sizes and times
            of tables, archives and texts. Recordings are not looked at one by one: there may be millions.
        besides: a folder in it that does not count.
    """
    if not below or not path.is_dir():
        return str(_status(path))
    digest, besides = hashlib.sha256(), besides and besides.resolve()
    for folder, names in folders_below(path):
        if besides is None or besides not in (here := Path(folder).resolve(), *here.parents):
            # Not the index files that reading makes beside archives.
            states = [(name, _state_in(folder, name)) for name in names if not name.endswith(".npz")]
            digest.update(os.fsencode(repr((os.path.relpath(folder, path), states))))
    return digest.hexdigest()[:16]


def _state_in(folder: str, name: str) -> tuple[int, int] | None:
    return _status(os.path.join(folder, name)) if name.lower().endswith(READ_WHOLE) else None


def _status(path: str | Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: of a name that cannot be
        return None
    return status.st_size, status.st_mtime_ns
