"""Writes files and folders that appear under their names only when complete, whatever interrupts the writing."""

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
from tempfile import gettempdir

from .error_line import error_line
from .remote_path import RemotePath, as_path, output_path

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK}
STALE_SECONDS = 7 * 24 * 3600  # a push of many gigabytes may take days, and changes nothing in its folder
LONGEST_NAME = 120  # bytes of the last part of a name of `own_path`; file systems take 255
# Names that `own_path` makes, and former names of the folders of pushes.
OWN = re.compile(
    r"\.[a-z]+-(?P<machine>[0-9a-f]{8})-(?P<process>\d+)-[0-9a-f]{6}-.*"
    r"|\.(?:pushing|publish)-[a-z0-9_]{8}",
    re.DOTALL,
)
_cleaned: set[Path] = set()


@contextmanager
def atomic_write(path: str | os.PathLike | RemotePath, shared: bool = False, keep: bool = False) -> Iterator[Path]:
    """Yields a path to write a file or a folder to, which is renamed to `path` when the block ends without an error.

    A file at `path` is replaced; a folder must not exist there. After an error the partial output is removed. So are
    partial outputs that killed processes have left beside it. A file of object storage is written to the folder for
    temporary files (`TMPDIR`), and uploaded at the end.

    Args:
        path: a path, or the URL of a file.
        keep: a file that is at `path` by then stays as it is, whoever has written it, and the new one is dropped.
        shared: several processes of one job write into the folder at `partial_path(path)`; one of them calls this.
            By default no other process knows the path.

    Raises:
        OSError: as `writing` does.
        ValueError: as `output_path` does.
    """
    path = output_path(path)
    if isinstance(path, RemotePath):
        with _uploaded(path, keep) as partial:
            yield partial
        return
    partial = partial_path(path) if shared else own_path(path.parent, "partial", path.name)
    if shared:
        _remove(partial)
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_left(path.parent)
            yield partial
            if keep:
                _name_first(partial, path)
            else:
                os.replace(partial, path)
    except BaseException:
        # A full disk needs the space. A shared folder itself stays, because another process may be writing into it.
        for written in partial.iterdir() if shared and partial.is_dir() else [partial]:
            _remove(written)
        raise


@contextmanager
def _uploaded(path: RemotePath, keep: bool) -> Iterator[Path]:
    with writing(gettempdir()), temporary_folder(gettempdir(), "partial") as folder:
        partial = folder / path.name
        yield partial
        if keep:
            path.create(partial.read_bytes())
        else:
            path.upload(partial)


def _name_first(partial: Path, path: Path) -> None:
    """Renames a file unless there is one of the new name; of several processes at once, the first one succeeds."""
    try:
        os.link(partial, path)  # where `path` exists, it fails, and `os.rename` would replace the file
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if not path.exists():  # a disk without hard links: another process may be as quick, and is replaced
            os.rename(partial, path)
            return
    partial.unlink()


@contextmanager
def temporary_folder(parent: str | os.PathLike | RemotePath, purpose: str) -> Iterator[Path]:
    """Makes a hidden folder in `parent` while the block runs; removes those that killed processes have left.

    For a folder of object storage it is made in the folder for temporary files.
    """
    if isinstance(parent, RemotePath):
        parent = gettempdir()
    folder = own_path(Path(parent), purpose)
    remove_left(folder.parent)
    folder.mkdir(0o700)  # others who use the machine must not read it
    try:
        yield folder
    finally:
        _remove(folder)


def own_path(folder: Path, purpose: str, name: str = "") -> Path:
    """Returns a path `.PURPOSE-MACHINE-PROCESS-RANDOM-NAME` in `folder` that no process on any machine has used.

    A long name is cut at its beginning, because some writers choose the format by its suffix.
    """
    name = os.fsencode(name)[-LONGEST_NAME:].decode(errors="ignore") if len(os.fsencode(name)) > LONGEST_NAME else name
    return folder / f".{purpose}-{machine()}-{os.getpid()}-{secrets.token_hex(3)}-{name}"


def remove_left(folder: Path, again: bool = False) -> None:
    """Removes files and folders of `own_path` that killed processes have left, once for each folder, or `again`.

    Those of this machine are removed where their process is no longer running, those of other machines, or of this
    one before it was restarted, when they have not changed for a week.
    """
    if folder.absolute() in _cleaned and not again:
        return
    _cleaned.add(folder.absolute())
    entries = []
    with suppress(OSError):  # it may be missing or not readable
        entries = [Path(entry) for entry in os.scandir(folder) if OWN.fullmatch(entry.name)]
    for path in entries:
        with suppress(OSError):  # another process may remove it at once
            if _is_left(path):
                _remove(path)


def _is_left(path: Path) -> bool:
    owner = OWN.fullmatch(path.name)
    if owner["machine"] and has_ended(owner["machine"], int(owner["process"])):
        return True
    changed = max(each.lstat().st_mtime for each in (path, *path.rglob("*")))
    return time.time() - changed > STALE_SECONDS


def has_ended(machine_id: str, process: int) -> bool:
    """Returns whether a process of this machine is no longer running; False for those of other machines."""
    return machine_id == machine() and os.name == "posix" and not _is_running(process)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
        return state not in "ZX"  # zombie or dead: it has ended
    except ProcessLookupError:
        return False
    except (OSError, OverflowError, IndexError):
        return True


@cache
def machine() -> str:
    """Returns 8 digits for this machine since its start, within which the number of a process has a meaning."""
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
def writing(path: str | os.PathLike | RemotePath) -> Iterator[None]:
    """Raises one OSError, which names `path`, for every error that writers raise on a full disk."""
    try:
        yield
    except Exception as error:
        if reason := _no_room(error):
            message = f"{path}: there is no room to write it ({reason}); make room, then give the same command again"
            raise OSError(message) from error
        raise


def _no_room(error: BaseException | None) -> str | None:
    """Returns the operating system's reason if a full disk has caused an error, else None."""
    if error is None:
        return None
    number = error.errno if isinstance(error, OSError) else None
    if match := re.search(r"\(os error (\d+)\)", str(error)):  # of safetensors
        number = int(match[1])
    if number in NO_ROOM:
        return os.strerror(number)
    if isinstance(error, RuntimeError) and "inline_container" in str(error):  # of torch.save, without the reason
        return "torch.save could not write all of it"
    return _no_room(error.__cause__)


def partial_path(path: Path) -> Path:
    """Returns the path at which all processes of a job write a folder until it is complete."""
    return path.with_name(f".partial-{path.name}")


def write_text(path: str | os.PathLike | RemotePath, text: str, keep: bool = False) -> None:
    with atomic_write(path, keep=keep) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike | RemotePath, content: dict, keep: bool = False) -> None:
    write_text(path, json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False) + "\n", keep)


def read_json(path: str | os.PathLike | RemotePath, **fields: type | tuple[type, ...]) -> dict:
    """Reads a file that holds a JSON object, at a path or a URL.

    Args:
        fields: types of required fields; `float` accepts integers too.

    Raises:
        OSError: for a file that cannot be opened.
        ValueError: `PATH: damaged (REASON)`, for other content.
    """
    try:
        content = json.loads(as_path(path).read_text(encoding="utf-8"), parse_constant=_refuse)
        if not isinstance(content, dict):
            raise ValueError(f"it holds {json.dumps(content)[:40]} and not fields")
        check_fields(content, fields)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: damaged ({error_line(error)})") from error
    return content


def check_fields(content: dict, types: Mapping[str, type | tuple[type, ...]]) -> None:
    """Raises a ValueError for a field that is missing or of another type; `float` accepts integers too."""
    for name, kind in types.items():
        if name not in content:
            raise ValueError(f"it has no {name}")
        kinds = kind if isinstance(kind, tuple) else (kind,)
        value = content[name]
        if type(value) not in kinds and not (type(value) is int and float in kinds):
            raise ValueError(f"{name} is {json.dumps(value)[:40]}")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
