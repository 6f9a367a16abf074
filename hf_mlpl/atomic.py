"""Files and folders that appear under their names only when they are whole, whatever interrupts their writing."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a path to write a file or a folder to, which takes the place of `path` when the block ends well.

    A file at `path` is replaced; a folder must not exist there. What a block that fails has written is removed.

    Raises:
        OSError: as `writing` does.
    """
    path = Path(path)
    partial = partial_path(path)
    if partial.is_dir():  # of a process that was killed
        shutil.rmtree(partial)
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            os.replace(partial, path)
    except BaseException:
        # A full disk needs the room. A folder itself stays, because another process may be writing into it.
        for written in partial.iterdir() if partial.is_dir() else [partial]:
            if written.is_dir():
                shutil.rmtree(written)
            else:
                written.unlink(missing_ok=True)
        raise


@contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Makes one OSError, which names `path`, of all that writers raise when there is no room for what they write."""
    try:
        yield
    except Exception as error:
        if reason := _no_room(error):
            told = f"{path}: there is no room to write it ({reason}); make room, then give the same command again"
            raise OSError(told) from error
        raise


def _no_room(error: BaseException | None) -> str | None:
    """Why there is no room, if that is what is behind an error."""
    if error is None:
        return None
    number = error.errno if isinstance(error, OSError) else None
    if match := re.search(r"\(os error (\d+)\)", str(error)):  # as safetensors says it
        number = int(match[1])
    if number in NO_ROOM:
        return os.strerror(number)
    if isinstance(error, RuntimeError) and "inline_container" in str(error):  # torch.save, which keeps the reason back
        return "torch.save could not write all of it"
    return _no_room(error.__cause__)


def partial_path(path: Path) -> Path:
    """Where `path` is written before it is whole; the suffix stays, because some writers choose the format by it."""
    return path.with_name(f".partial-{path.name}")


def write_text(path: str | os.PathLike, text: str) -> None:
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, content: dict) -> None:
    write_text(path, json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False) + "\n")
