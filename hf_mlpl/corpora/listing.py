"""Lists the files below a folder, and finds whether they have changed since they were read."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ..audio.folder_walk import walk_folders

# Files whose content shapes what is read, beside recordings.
READ_WHOLE = (".tsv", ".csv", ".gz", ".tgz", ".tar", ".parquet", ".json", ".jsonl", ".txt", ".lab", ".lst", ".yaml")


def parquet_files_below(root: str | Path) -> list[Path]:
    """Returns the Parquet files below a folder, sorted; raises OSError for a folder in it that cannot be read."""

    def refuse(error: OSError) -> None:
        raise error

    return sorted(
        Path(folder, name)
        for folder, _, names in (walk_folders(root, refuse) if os.path.isdir(root) else ())
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
    for folder, _, names in walk_folders(path):
        if besides is None or besides not in (resolved := Path(folder).resolve(), *resolved.parents):
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
