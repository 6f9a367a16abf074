"""Lists the files below a folder, and finds out whether they have changed since they were read."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ..audio.folder_walk import walk_folders
from ..storage import StorageError, file_version, is_remote

# Suffixes of files, other than recordings, on whose content the utterances depend.
READ_WHOLE = (
    *(".tsv", ".csv", ".gz", ".tgz", ".tar", ".parquet", ".arrow", ".json", ".jsonl", ".txt", ".lab", ".lst", ".yaml"),
    *(".eaf", ".textgrid", ".vtt", ".srt", ".rttm"),
    *("wav.scp", "segments", "text", "utt2spk", "utt2lang"),  # of Kaldi, which have no suffix
)


def parquet_files_below(root: str | Path) -> list[Path]:
    """Returns the Parquet files below a folder, sorted; raises OSError for a folder below it that cannot be read."""

    def refuse(error: OSError) -> None:
        raise error

    return sorted(
        Path(folder, name)
        for folder, _, names in (walk_folders(root, refuse) if os.path.isdir(root) else ())
        for name in names
        if name.lower().endswith(".parquet") and os.path.isfile(os.path.join(folder, name))
    )


def recording_state(name: str) -> str:
    """Returns a short text that changes when a recording changes, comes or goes, at a path or a URL."""
    if not is_remote(name):
        return state_of(Path(name))
    try:
        return str(file_version(name))
    except StorageError as error:
        return str(error)


def state_of(path: Path, below: bool = False, besides: Path | None = None) -> str:
    """Returns a short text that changes when a file changes, or when a folder gets or loses an entry.

    Args:
        below: whether to include the names of all files below a folder, and the sizes and times of tables, archives
            and texts. Recordings are not examined one by one: there may be millions.
        besides: a folder below it that does not count.
    """
    if not below or not path.is_dir():
        return str(_status(path))
    digest, left_out = hashlib.sha256(), besides and besides.resolve()
    for folder, _, names in walk_folders(path):
        if left_out is None or not Path(folder).resolve().is_relative_to(left_out):
            # Without the index files that readers write beside archives.
            states = [(name, _state_in(folder, name)) for name in names if not name.endswith(".npz")]
            digest.update(os.fsencode(repr((os.path.relpath(folder, path), states))))
    return digest.hexdigest()[:16]


def _state_in(folder: str, name: str) -> tuple[int, int] | None:
    return _status(os.path.join(folder, name)) if name.lower().endswith(READ_WHOLE) else None


def _status(path: str | Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: for an impossible name
        return None
    return status.st_size, status.st_mtime_ns
