"""A folder's manifest: what each of its files was when it was written, by which a damaged one is found before use."""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path

from safetensors import safe_open

from .atomic import write_json

MANIFEST = "manifest.json"
BLOCK_BYTES = 1 << 22
# Without a manifest: one of each pair is there, the second where FSDP has spread weights and optimiser state.
NEEDED = (("model.safetensors", "pytorch_model_fsdp_0/.metadata"), ("optimizer.bin", "optimizer_0/.metadata"))


def write_manifest(folder: Path) -> None:
    """Notes sizes and CRC-32 of all files of a folder; the last file to be written into it."""
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
        return f"{path} is damaged ({_first_line(error)})"
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
    """Of a file's bytes, as hexadecimal digits; zlib has the fastest checksum of the standard library."""
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
            return f"{path} is damaged ({_first_line(error)})"
    return None


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
