"""Finds the checkpoints of a run, writes their manifests, and sets damaged ones aside."""

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

TRACKED = "trackers.json"  # of runs that are reported to trackers
RUN_FILES = ("config.yaml", "metrics.jsonl", "run.json", TRACKED)  # of a run's folder; each checkpoint has copies
MANIFEST = "manifest.json"
BLOCK_BYTES = 1 << 22
FSDP_FOLDERS = ("pytorch_model_fsdp_0", "optimizer_0")  # with the shards of weights and of optimizer state
# A checkpoint has one file of each pair, the second if FSDP shards weights and optimizer state.
NEEDED = (("model.safetensors", f"{FSDP_FOLDERS[0]}/.metadata"), ("optimizer.bin", f"{FSDP_FOLDERS[1]}/.metadata"))


def checkpoints(output_dir: Path) -> list[Path]:
    """Returns the checkpoints of a run, the oldest first."""
    return sorted((output_dir / "checkpoints").glob("update-????????"))


def checkpoint_path(output_dir: Path, update: int) -> Path:
    return output_dir / "checkpoints" / f"update-{update:08d}"


def update_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def last_intact(output_dir: Path, fallback: str | None = None) -> Path | None:
    """Returns the newest checkpoint that is not damaged; sets newer ones aside, with a warning for each.

    A damaged checkpoint is kept as `damaged-NNNNNNNN` until the run has passed its update.

    Args:
        fallback: name of what the run goes on from if all checkpoints are damaged.

    Raises:
        ValueError: if all checkpoints are damaged, and there is no `fallback`.
    """
    damaged, newest = {}, None
    for checkpoint in reversed(checkpoints(output_dir)):
        if not (problem := find_damage(checkpoint)):
            newest = checkpoint
            break
        damaged[checkpoint] = problem
    start = newest.name if newest else fallback
    if damaged and not start:
        raise ValueError(
            f"{'; '.join(damaged.values())}; no checkpoint is whole: restore one from a backup, or remove "
            f"{output_dir / 'checkpoints'} to begin anew"
        )
    for checkpoint, problem in damaged.items():
        target = checkpoint.with_name(f"damaged-{update_of(checkpoint):08d}")
        logger.warning("%s; set aside as %s, going on from %s", problem, target.name, start)
        if target.exists():
            shutil.rmtree(target)
        checkpoint.replace(target)
    return newest


def remove_old(output_dir: Path, update: int, kept: int) -> None:
    """Removes all but the newest `kept` checkpoints, and damaged ones up to `update`."""
    damaged = [path for path in (output_dir / "checkpoints").glob("damaged-????????") if update_of(path) <= update]
    for old in [*checkpoints(output_dir)[:-kept], *damaged]:
        shutil.rmtree(old)


def write_manifest(folder: Path) -> None:
    """Writes the sizes and CRC-32 of all files of a folder; the manifest is the last file to be written into it."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "crc32": _crc32(path)} for path in paths
    }
    write_json(folder / MANIFEST, {"files": files})


def find_damage(folder: Path) -> str | None:
    """Describes the first file of a checkpoint that differs from its manifest; returns None if there is none.

    Checkpoints of earlier versions have no manifest: their files are opened, which finds those that are cut off.
    """
    path = folder / MANIFEST
    try:
        if not path.exists():
            return _find_damage_without_manifest(folder)
        for name, expected in json.loads(path.read_text(encoding="utf-8"))["files"].items():
            if problem := _compare(folder / name, expected):
                return f"{folder / name} is damaged ({problem})"
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return f"{path} is damaged ({first_line(error)})"
    return None


def _compare(path: Path, expected: dict) -> str | None:
    """Describes how a file differs from its entry in the manifest; returns None if it does not."""
    try:
        if not path.is_file():
            return "it is not there"
        if (size := path.stat().st_size) != expected["bytes"]:
            return f"{size} bytes instead of {expected['bytes']}"
        return None if _crc32(path) == expected["crc32"] else "other bytes than were written"
    except OSError as error:
        return error.strerror or str(error)


def _crc32(path: Path) -> str:
    """Returns a file's checksum as 8 hexadecimal digits; zlib's is the fastest of the standard library."""
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            checksum = zlib.crc32(block, checksum)
    return f"{checksum:08x}"


def _find_damage_without_manifest(folder: Path) -> str | None:
    """Describes the first file that is missing, or that its library cannot open; returns None if there is none."""
    for names in NEEDED:
        if not any((folder / name).is_file() for name in names):
            return f"{folder / names[0]} is damaged (it is not there)"
    for path in sorted(folder.rglob("*")):
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt"):
                    pass
            elif path.suffix in (".bin", ".pkl"):  # zip files of torch.save, with a checksum for each tensor
                with zipfile.ZipFile(path) as archive:
                    if damaged := archive.testzip():
                        return f"{path} is damaged (in {damaged})"
            elif path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
        except Exception as error:  # safetensors has its own kind
            return f"{path} is damaged ({first_line(error)})"
    return None


def first_line(error: Exception) -> str:
    """Returns the first line of an error; the others, from torch, list all parameters that do not fit."""
    return (str(error) or type(error).__name__).splitlines()[0]
