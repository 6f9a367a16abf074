"""Files and folders that appear under their names only when they are whole, whatever interrupts their writing."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from .error_line import error_line

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
STALE_SECONDS = 7 * 24 * 3600  # a push of many gigabytes may take days, and changes nothing in its folder
LONGEST_NAME = 120  # bytes of a name behind what makes it our own; file systems take 255
# What `own_path` makes, and what the folders of pushes were called before.
OWN = re.compile(
    r"\.(?:partial|pushing|publish)-(?P<machine>[0-9a-f]{8})-(?P<process>\d+)-[0-9a-f]{6}-.*"
    r"|\.(?:pushing|publish)-[a-z0-9_]{8}",
    re.DOTALL,
)
_looked_into: set[Path] = set()


@contextmanager
def atomic_write(path: str | os.PathLike, shared: bool = False) -> Iterator[Path]:
    """Gives a path to write a file or a folder to, which takes the place of `path` when the block ends well.

    A file at `path` is replaced; a folder must not exist there. What a block that fails has written is removed, and so
    is what killed processes have left beside it.

    Args:
        shared: several processes of one job write into the folder at `partial_path(path)`; one of them calls this.
            By default nobody else knows the path that is given.

    Raises:
        OSError: as `writing` does.
    """
    path = Path(path)
    partial = partial_path(path) if shared else own_path(path.parent, "partial", path.name)
    if shared:
        _remove(partial)
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_left(path.parent)
            yield partial
            os.replace(partial, path)
    except BaseException:
        # A full disk needs the room. A shared folder itself stays, because another process may be writing into it.
        for written in partial.iterdir() if shared and partial.is_dir() else [partial]:
            _remove(written)
        raise


@contextmanager
def temporary_folder(parent: str | os.PathLike, purpose: str) -> Iterator[Path]:
    """Makes a hidden folder in `parent` for the time of the block; removes those that killed processes have left."""
    folder = own_path(Path(parent), purpose)
    remove_left(folder.parent)
    folder.mkdir()
    try:
        yield folder
    finally:
        _remove(folder)


def own_path(folder: Path, purpose: str, name: str = "") -> Path:
    """Returns a path `.PURPOSE-MACHINE-PROCESS-RANDOM-NAME` in `folder` that no process on any machine has used.

    Of a long name the end stays: its suffix is what some writers choose the format by.
    """
    name = os.fsencode(name)[-LONGEST_NAME:].decode(errors="ignore") if len(os.fsencode(name)) > LONGEST_NAME else name
    return folder / f".{purpose}-{_machine()}-{os.getpid()}-{secrets.token_hex(3)}-{name}"


def remove_left(folder: Path) -> None:
    """Removes files and folders of `own_path` that processes have left behind which were killed.

    That is so where this machine has no such process any more. What is of another machine, or of this one before it
    was started anew, goes when it has not changed for a week. A process looks once into each folder.
    """
    if folder.absolute() in _looked_into:
        return
    _looked_into.add(folder.absolute())
    entries = []
    with suppress(OSError):  # it need not be there, nor be readable
        entries = [Path(entry) for entry in os.scandir(folder) if OWN.fullmatch(entry.name)]
    for path in entries:
        with suppress(OSError):  # another process may be as far
            if _is_left(path):
                _remove(path)


def _is_left(path: Path) -> bool:
    made = OWN.fullmatch(path.name)
    if made["machine"] == _machine() and os.name == "posix" and not _is_running(int(made["process"])):
        return True
    changed = max(each.lstat().st_mtime for each in (path, *path.rglob("*")))
    return time.time() - changed > STALE_SECONDS


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
        return state not in "ZX"  # it has ended, and nobody has asked how
    except ProcessLookupError:
        return False
    except (OSError, OverflowError, IndexError):
        return True


@cache
def _machine() -> str:
    """Returns 8 digits of this machine since it was started: only here does the number of a process mean anything."""
    facts = [socket.gethostname()]
    with suppress(OSError):  # containers of a host may have its name, and processes of their own
        facts += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:8]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


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
    """Where all processes of a job write a folder before it is whole."""
    return path.with_name(f".partial-{path.name}")


def write_text(path: str | os.PathLike, text: str) -> None:
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, content: dict) -> None:
    write_text(path, json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike, **fields: type | tuple[type, ...]) -> dict:
    """Reads a file that holds a JSON object.

    Args:
        fields: types of those fields that must be there; `float` takes whole numbers too.

    Raises:
        OSError: for a file that cannot be opened.
        ValueError: `PATH: damaged (REASON)`, for one that holds something else.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_refuse)
        if not isinstance(content, dict):
            raise ValueError(f"it holds {json.dumps(content)[:40]} and not fields")
        check_fields(content, fields)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: damaged ({error_line(error)})") from error
    return content


def check_fields(content: dict, types: Mapping[str, type | tuple[type, ...]]) -> None:
    """Raises a ValueError where a field is missing, or is of another type; `float` takes whole numbers too."""
    for name, kind in types.items():
        if name not in content:
            raise ValueError(f"it has no {name}")
        kinds = kind if isinstance(kind, tuple) else (kind,)
        value = content[name]
        is_number = type(value) is int and float in kinds
        if type(value) not in kinds and not is_number:
            raise ValueError(f"{name} is {json.dumps(value)[:40]}")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
