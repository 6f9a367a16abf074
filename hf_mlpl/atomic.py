"""Files and folders that appear under their names only when they are whole, whatever interrupts their writing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a path to write a file or a folder to, which takes the place of `path` when the block ends well.

    A file at `path` is replaced; a folder must not exist there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    if partial.is_dir():
        shutil.rmtree(partial)
    yield partial
    os.replace(partial, path)


def partial_path(path: Path) -> Path:
    """Where `path` is written before it is whole; the suffix stays, because some writers choose the format by it."""
    return path.with_name(f".partial-{path.name}")


def write_text(path: str | os.PathLike, text: str) -> None:
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, content: dict) -> None:
    write_text(path, json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False) + "\n")
