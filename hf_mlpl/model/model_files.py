"""Reads and checks the files of a model folder; errors name the file, the setting, its value and accepted values."""

# Part of hf_mlpl, and copied into every saved model folder. To load such a folder, `import hf_mlpl` where hf_mlpl is
# installed; or pass `trust_remote_code=True`, with which transformers runs the copies.

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
MAX_HEADER = 100_000_000  # bytes, as safetensors has it
ITEM_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # bytes, by dtype
COPY_AGAIN = "copy or download the file again"

Accepted = tuple[Callable[[Any], bool], str]  # a test of a value, and a description of accepted values


def find_file(name_or_path: str | os.PathLike, file: str, hub: Mapping = {}) -> str | None:
    """Returns the path of a file of a folder or Hub repository, downloaded if necessary; None for a missing file.

    Args:
        hub: arguments of which only `HUB_ARGUMENTS` are used.
    """
    hub = {name: hub[name] for name in HUB_ARGUMENTS if hub.get(name) is not None}
    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    return cached_file(name_or_path, file, **quiet, **hub)


def read_settings(path: str | os.PathLike) -> dict:
    """Reads the JSON object in a file; raises `ValueError` with the file's name for other content."""
    data = Path(path).read_bytes()
    if not data.strip(b"\0\t\n\r "):
        raise ValueError(f"{path}: is empty; {COPY_AGAIN}")
    try:
        settings = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is not JSON in UTF-8 ({error}); {COPY_AGAIN}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: holds {short_repr(settings)}, not a JSON object of settings; {COPY_AGAIN}")
    return settings


def short_repr(value: object) -> str:
    """Represents a value for an error in one line, the start of a long one only."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_settings(file: str | os.PathLike, settings: Mapping, fields: Mapping[str, Accepted]) -> None:
    """Raises `ValueError` for the first setting whose value is not accepted; missing settings are skipped.

    The message begins with `file`, which may be empty.
    """
    for name, (is_accepted, accepted) in fields.items():
        if name in settings and not is_accepted(settings[name]):
            prefix = f"{file}: " if file else ""
            raise ValueError(f"{prefix}{name} is {short_repr(settings[name])}; it must be {accepted}")


def check_file(name_or_path: str | os.PathLike, file: str, fields: Mapping[str, Accepted], hub: Mapping) -> dict:
    """Reads and checks the settings in a file of a folder or repository; returns none for a missing file.

    Raises `ValueError` as `read_settings` and `check_settings` do.
    """
    path = find_file(name_or_path, file, hub)
    settings = {} if path is None else read_settings(path)
    check_settings(path, settings, fields)
    return settings


@contextmanager
def setting_errors(name_or_path: str | os.PathLike, file: str) -> Iterator[None]:
    """Turns the many errors that transformers raises for its own settings in a file into a `ValueError`."""
    try:
        yield
    except (OSError, ValueError):
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())  # error_line is not copied with this file
        raise ValueError(f"{name_or_path}: its {file} has a setting that cannot be used ({reason})") from error


def whole(low: int, high: int) -> Accepted:
    return lambda value: type(value) is int and low <= value <= high, f"a whole number from {low:,} to {high:,}"


def number(low: float, high: float) -> Accepted:
    return (
        lambda value: type(value) in (int, float) and low <= value <= high,  # NaN compares false
        f"a number from {low:g} to {high:g}",
    )


def boolean() -> Accepted:
    return lambda value: isinstance(value, bool), "true or false"


def choice(*values: object) -> Accepted:
    return (
        lambda value: any(type(value) is type(known) and value == known for known in values),
        " or ".join(json.dumps(value) for value in values),
    )


def text(*, or_null: bool = False) -> Accepted:
    return (
        lambda value: (isinstance(value, str) and value != "") or (or_null and value is None),
        "text" + (" or null" if or_null else ""),
    )


def empty(reason: str) -> Accepted:
    return lambda value: value is None or value in ([], {}), f"null, because {reason}"


def list_of_texts() -> Accepted:
    return lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value), "a list of texts"


def dict_of(kind: type | tuple[type, ...], description: str) -> Accepted:
    return (
        lambda value: isinstance(value, dict) and all(isinstance(item, kind) for item in value.values()),
        f"an object with {description} as its values",
    )


AUTO_MAP = dict_of((str, list), "names of classes")


# ---------------------------------------------------------------------------------------------------------- weights


def find_weights(name_or_path: str | os.PathLike, variant: str | None = None, hub: Mapping = {}) -> list[str] | None:
    """Returns the paths of a model's safetensors files, downloaded if necessary; None for a model without them.

    Raises:
        ValueError: for an index that does not name the file of each tensor.
        OSError: for a missing file that the index names.
    """
    path = find_file(name_or_path, _with_variant(SAFE_WEIGHTS_NAME, variant), hub)
    if path is not None:
        return [path]
    index = find_file(name_or_path, _with_variant(SAFE_WEIGHTS_INDEX_NAME, variant), hub)
    if index is None:
        return None
    fields = {"metadata": dict_of(object, "anything"), "weight_map": dict_of(str, "names of files")}
    settings = dict.fromkeys(fields) | read_settings(index)
    check_settings(index, settings, fields)
    files = sorted(set(settings["weight_map"].values()))
    others = [file for file in files if file != os.path.basename(file) or not file.endswith(".safetensors")]
    if others or not files:
        raise ValueError(f"{index}: weight_map names {short_repr(others)}; it must name .safetensors files beside it")
    paths = {file: find_file(name_or_path, file, hub) for file in files}
    for file, path in paths.items():
        if path is None:
            raise OSError(f"{index}: names {file}, which is missing; {COPY_AGAIN}")
    shapes = {file: read_header(path) for file, path in paths.items()}
    for name, file in settings["weight_map"].items():
        if name not in shapes[file]:
            raise ValueError(f"{index}: names {file} as the file of {name}, which is not in it; {COPY_AGAIN}")
    return list(paths.values())


def _with_variant(file: str, variant: str | None) -> str:
    stem, _, rest = file.partition(".")
    return file if variant is None else f"{stem}.{rest.replace('safetensors', f'{variant}.safetensors')}"


def read_header(path: str | os.PathLike) -> dict[str, tuple[int, ...]]:
    """Reads name and shape of each tensor from the header of a safetensors file.

    Raises `ValueError` for a file whose header and length disagree, or that holds other data than weights.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(size - 8, MAX_HEADER):
            raise ValueError(f"{path}: is damaged or no safetensors file ({size} bytes); {COPY_AGAIN}")
        data = file.read(length)
    try:
        header = json.loads(data.decode())
        header.pop("__metadata__", None)
        problem = _damage(header, size - 8 - length)
    except (ValueError, RecursionError, TypeError, AttributeError, KeyError):
        problem = "its header cannot be read"
    if problem is not None:
        raise ValueError(f"{path}: is damaged: {problem}; {COPY_AGAIN}")
    return {name: tuple(tensor["shape"]) for name, tensor in header.items()}


def _damage(header: dict, num_bytes: int) -> str | None:
    """Describes the first contradiction in a header, or between it and the file; None for a sound file."""
    end = 0
    for name, tensor in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape, (start, stop) = tensor["dtype"], tensor["shape"], tensor["data_offsets"]
        if dtype not in ITEM_SIZES:
            return f"{name} is of dtype {short_repr(dtype)}; weights are {', '.join(ITEM_SIZES)}"
        if not all(type(dim) is int and dim >= 0 for dim in [*shape, start, stop]) or isinstance(shape, str):
            return f"{name} has the shape {short_repr(shape)}"
        if start != end or stop - start != ITEM_SIZES[dtype] * math.prod(shape):
            return f"{name} of shape {short_repr(shape)} does not fit its place in the file"
        end = stop
    return None if end == num_bytes else f"its tensors take {end} bytes, and the file has {num_bytes} for them"


def check_shapes(
    source: str,
    found: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
    optional: tuple[str, ...] = (),
    alternative: str = "",
) -> None:
    """Compares the shapes of stored tensors with those that a model needs.

    Args:
        source: file or folder of the stored tensors.
        optional: prefixes of names that may be missing or superfluous.
        alternative: end of the error message, after its remedy.

    Raises:
        ValueError: for tensors that are missing, unknown or of another shape.
    """
    problems = {
        "missing": [name for name in expected if name not in found and not name.startswith(optional)],
        "unknown": [name for name in found if name not in expected and not name.startswith(optional)],
        "of another shape": [
            f"{name} {list(found[name])} instead of {list(shape)}"
            for name, shape in expected.items()
            if name in found and found[name] != tuple(shape)
        ],
    }
    if any(problems.values()):
        report = "; ".join(f"{problem}: {list_names(names)}" for problem, names in problems.items() if names)
        raise ValueError(
            f"{source}: its tensors are not those of the model in config.json; {report}; copy both files again from "
            f"the same place{alternative}"
        )


def list_names(names: Iterable[str]) -> str:
    """Lists the first three names, and counts the others."""
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
