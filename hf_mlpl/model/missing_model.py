"""Checks that a model or checkpoint exists, and otherwise names two ways to one."""

from __future__ import annotations

import os

RELEASED_FILES = "https://dl.fbaipublicfiles.com/wav2letter/mling_pl/"
RELEASED_CHECKPOINT = f"{RELEASED_FILES}checkpoint_cv_finetune.bin"
RELEASED_TOKENS = f"{RELEASED_FILES}tokens-all.lst"
RELEASED_ON_HUB = "speechbrain/m-ctc-t-large"
TWO_WAYS = (
    "train one, as `make demo` does in 17 minutes, in runs/demo/final/model, or take the "
    f"released one: {RELEASED_ON_HUB} from the Hub by that name, or {RELEASED_CHECKPOINT} with `hf-mlpl convert`"
)


def check_model(name_or_path: str | os.PathLike) -> None:
    """Raises `OSError`, with the two ways to a model, for anything but a model's folder or its name on the Hub."""
    from .model_files import find_file  # not at the top: it takes seconds, for which --help need not wait

    if os.path.isfile(name_or_path):
        raise OSError(f"{name_or_path}: is a file, and a model is a folder or a name on the Hub; {TWO_WAYS}")
    try:
        path = find_file(name_or_path, "config.json")
    except (OSError, ValueError):  # a missing repository, or an invalid name of one
        path = None
    if path is None:
        lack = "has no config.json, so it is no model's folder"
        problem = lack if os.path.isdir(name_or_path) else "no such folder, and no reachable model on the Hub"
        raise OSError(f"{name_or_path}: {problem}; {TWO_WAYS}")


def check_checkpoint(path: str | os.PathLike, tokens: str | os.PathLike) -> None:
    """Raises `OSError`, with the address of the released file, for a missing flashlight checkpoint or tokens file."""
    for file, released in ((path, RELEASED_CHECKPOINT), (tokens, RELEASED_TOKENS)):
        if not os.path.isfile(file):
            problem = "is a folder" if os.path.isdir(file) else "no such file"
            raise OSError(f"{file}: {problem}; the released one is {released}")
