"""Finds the checkpoints of a run, notes what is in each when it is written, and sets damaged ones aside."""

from __future__ import annotations

import json
import logging
import shutil
import zipfile
import zlib
from pathlib import Path

from safetensors import safe_open

from ..atomic import write_json

logger = logging.getLogger(__name__)

CHECKPOINTS_KEPT = 2
RUN_FILES = ("config.yaml", "metrics.jsonl", "run.json")  # of a run's folder; each checkpoint has them as they were
MANIFEST = "manifest.json"
BLOCK_BYTES = 1 << 22
FSDP_FOLDERS = ("pytorch_model_fsdp_0", "optimizer_0")  # parts of weights and of optimiser state that FSDP has spread
# Without a manifest: one of each pair is there, the second where FSDP has spread weights and optimiser state.
NEEDED = (("model.safetensors", f"{FSDP_FOLDERS[0]}/.metadata"), ("optimizer.bin", f"{FSDP_FOLDERS[1]}/.metadata"))


def checkpoints(output_dir: Path) -> list[Path]:
    """Returns the checkpoints of a run, the oldest first."""
    return sorted((output_dir / "checkpoints").glob("update-????????"))


def checkpoint_path(output_dir: Path, update: int) -> Path:
    return output_dir / "checkpoints" / f"update-{update:08d}"


def update_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def newest_whole(output_dir: Path, instead: str | None = None) -> Path | None:
    """Returns the newest checkpoint that is not damaged; sets newer ones aside, with a warning for each.

    A checkpoint `damaged-NNNNNNNN` is kept until the run has come beyond it.

    Args:
        instead: what the run can go on from where all are damaged.

    Raises:
        ValueError: where all of them are damaged, and there is nothing `instead`.
    """
    damaged = {}
    for path in reversed(checkpoints(output_dir)):
        if not (problem := damage_of(path)):
            instead = path.name
            break
        damaged[path] = problem
    else:
        path = None
    if damaged and not instead:
        raise ValueError(
            f"{'; '.join(damaged.values())}; no checkpoint is whole: restore one from a backup, or remove "
            f"{output_dir / 'checkpoints'} to begin anew"
        )
    for other, problem in damaged.items():
        logger.warning("%s; set aside as damaged-%08d, going on from %s", problem, update_of(other), instead)
        _set_aside(other)
    return path


def _set_aside(checkpoint: Path) -> None:
    target = checkpoint.with_name(f"damaged-{update_of(checkpoint):08d}")
    if target.exists():
        shutil.rmtree(target)
    checkpoint.replace(target)


def remove_old(output_dir: Path, update: int) -> None:
    """Removes all but the newest checkpoints, and damaged ones that the run has come beyond."""
    damaged = [path for path in (output_dir / "checkpoints").glob("damaged-????????") if update_of(path) <= update]
    for old in [*checkpoints(output_dir)[:-CHECKPOINTS_KEPT], *damaged]:
        shutil.rmtree(old)


def write_manifest(folder: Path) -> None:
    """Notes sizes and CRC-32 of all files of a folder; the manifest is the last file to be written into it."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "crc32": _crc32(path)} for path in paths
    }
    write_json(folder / MANIFEST, {"files": files})


def damage_of(folder: Path) -> str | None:
    """Names the first file of a checkpoint that is not as it was written, and why; returns None if all are whole.

    A checkpoint of an earlier version has no manifest: its files are opened, which finds those that are cut off.
    """
    path = folder / MANIFEST
    try:
        if not path.exists():
            return _damage_without_manifest(folder)
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        for check in (_wrong_size, _wrong_content):  # the quick one first, for all of them
            for name, written in files.items():
                if reason := check(folder / name, written):
                    return f"{folder / name} is damaged ({reason})"
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return f"{path} is damaged ({first_line(error)})"
    return None


def _wrong_size(path: Path, written: dict) -> str | None:
    if not path.is_file():
        return "it is not there"
    size = path.stat().st_size
    return None if size == written["bytes"] else f"{size} bytes instead of {written['bytes']}"


def _wrong_content(path: Path, written: dict) -> str | None:
    try:
        return None if _crc32(path) == written["crc32"] else "other bytes than were written"
    except OSError as error:
        return error.strerror or str(error)


def _crc32(path: Path) -> str:
    """Returns the checksum of a file's bytes, 8 hexadecimal digits; zlib has the fastest of the standard library."""
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            checksum = zlib.crc32(block, checksum)
    return f"{checksum:08x}"


def _damage_without_manifest(folder: Path) -> str | None:
    for names in NEEDED:
        if not any((folder / name).is_file() for name in names):
            return f"{folder / names[0]} is damaged (it is not there)"
    for path in sorted(folder.rglob("*")):
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt"):
                    pass
            elif path.suffix in (".bin", ".pkl"):  # as torch.save writes them, with a checksum for each tensor
                with zipfile.ZipFile(path) as archive:
                    if damaged := archive.testzip():
                        return f"{path} is damaged (in {damaged})"
            elif path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
        except Exception as error:  # of safetensors' own kind, too
            return f"{path} is damaged ({first_line(error)})"
    return None


def first_line(error: Exception) -> str:
    """Returns the first line of an error whose other lines list all that torch found."""
    return (str(error) or type(error).__name__).splitlines()[0]
