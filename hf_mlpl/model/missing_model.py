"""Checks that a model or checkpoint exists, and otherwise names two ways to one."""

from __future__ import annotations

import json
import os

OUR_TYPES = ("mlpl", "mctct")  # `model_type` of our models, and of those of the old port

RELEASED_FILES = "https://dl.fbaipublicfiles.com/wav2letter/mling_pl/"
RELEASED_CHECKPOINT = f"{RELEASED_FILES}checkpoint_cv_finetune.bin"
RELEASED_TOKENS = f"{RELEASED_FILES}tokens-all.lst"
RELEASED_ON_HUB = "speechbrain/m-ctc-t-large"
TWO_WAYS = (
    "train one, as `make demo` does in about 11 minutes on two CPU cores, in runs/demo/final/model, or take the "
    f"released one: {RELEASED_ON_HUB} from the Hub by that name, or {RELEASED_CHECKPOINT} with `hf-mlpl convert`"
)


def check_model(name_or_path: str | os.PathLike) -> None:
    """Raises `OSError`, with the ways to a model, for anything but a model's folder or its name on the Hub."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    from .model_files import find_file  # not at the top: it takes seconds, for which --help need not wait

    if os.path.isfile(name_or_path):
        raise OSError(f"{name_or_path}: is a file, and a model is a folder or a name on the Hub; {TWO_WAYS}")
    is_folder, problem = os.path.isdir(name_or_path), "no such folder, and no reachable model on the Hub"
    try:
        if (is_folder or _is_cached_or_reached(name_or_path)) and find_file(name_or_path, "config.json") is not None:
            return
    except (OSError, ValueError) as error:
        if isinstance(error.__cause__, GatedRepoError):
            raise OSError(
                f"{name_or_path}: is gated; accept its terms on https://huggingface.co/{name_or_path}, and give "
                "HF_TOKEN or `hf auth login` a token of the account that has accepted them"
            ) from error
        if isinstance(error.__cause__, RepositoryNotFoundError):
            problem = "no such folder, and no such model on the Hub for this account; a private one needs HF_TOKEN"
    if is_folder:
        problem = "has no config.json, so it is no model's folder"
    raise OSError(f"{name_or_path}: {problem}; {TWO_WAYS}")


def _is_cached_or_reached(name: str | os.PathLike) -> bool:
    """Asks the Hub once for a config.json that is not in the cache; to download it, its client would ask six times."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    if try_to_load_from_cache(os.fspath(name), "config.json") is not None:
        return True
    try:
        get_hf_file_metadata(hf_hub_url(os.fspath(name), "config.json"))
    except HfHubHTTPError:  # an answer
        return True
    except (HTTPError, OfflineModeIsEnabled):
        return False
    return True


def may_be_ours(name_or_path: str | os.PathLike) -> bool:
    """Tells, without the Hub, whether a model may be one of ours; only of a repository's name it is not known."""
    try:
        with open(os.path.join(name_or_path, "config.json"), encoding="utf-8") as file:
            return json.load(file)["model_type"] in OUR_TYPES
    except (OSError, ValueError, TypeError, KeyError):
        return True


def check_checkpoint(path: str | os.PathLike, tokens: str | os.PathLike) -> None:
    """Raises `OSError`, with the address of the released file, for a missing flashlight checkpoint or tokens file."""
    for file, released in ((path, RELEASED_CHECKPOINT), (tokens, RELEASED_TOKENS)):
        if not os.path.isfile(file):
            problem = "is a folder" if os.path.isdir(file) else "no such file"
            raise OSError(f"{file}: {problem}; the released one is {released}")
