"""Says what a command downloads before it loads a model of the Hub."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch

from ..model.missing_model import check_model

# Files of weights in the root of a repository, of which transformers loads the first kind that there is. Variants,
# such as model.fp32-00001-of-00002.safetensors, are not loaded.
WEIGHTS = (
    "*model.safetensors",  # also adapter_model
    "model-*-of-*.safetensors",
    "*_model.bin",
    "pytorch_model-*-of-*.bin",
)


@contextmanager
def announced(name: str, is_shown: bool = True) -> Iterator[None]:
    """Prints a line on each repository of the Hub whose model the block loads, with the size of its download.

    Adapters and their base may be two. The Hub's client then shows its progress in a terminal. Where the Hub cannot be
    reached, the block loads from the cache at once; else the client would try again for half a minute with each file.

    Args:
        is_shown: whether lines are printed, which one process of a job does.

    Raises:
        OSError: if there is no such model.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import enable_progress_bars

    from ..ctc_models.adapters import base_of

    was_offline, part = constants.HF_HUB_OFFLINE, name
    try:
        while part is not None:
            num_bytes = 0
            if not os.path.exists(part) and not constants.HF_HUB_OFFLINE:
                try:
                    num_bytes = _bytes_to_download(part)
                except ConnectionError as error:
                    if is_shown:
                        print(f"{error}; only models of the cache can be used", file=sys.stderr)
                    constants.HF_HUB_OFFLINE = True
            if part == name:
                check_model(name)
            if is_shown and not os.path.isdir(part):
                size = f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"
                print(f"model: {part}" + (f", {size} to download, once" if num_bytes else ""), file=sys.stderr)
                if num_bytes and not constants.HF_HUB_DISABLE_PROGRESS_BARS:
                    enable_progress_bars()
            part = base_of(part)
        yield
    finally:
        constants.HF_HUB_OFFLINE = was_offline


def _bytes_to_download(repo: str) -> int:
    """Returns the size of a repository's weights that are not in the cache; 0 where the Hub does not tell.

    Raises:
        ConnectionError: in one line, where the Hub cannot be reached.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    from ..sharing.hub import FAILURES, request_problem

    try:
        files = snapshot_download(repo, allow_patterns=[*WEIGHTS], ignore_patterns="*/*", dry_run=True)
    except FAILURES as error:  # the model may be in the cache; if it is not, the error of loading says why
        cause = error.__cause__ or error
        if isinstance(cause, HTTPError) and not isinstance(cause, HfHubHTTPError):  # no answer
            raise ConnectionError(f"{constants.ENDPOINT} cannot be reached ({request_problem(cause)})") from error
        return 0
    for pattern in WEIGHTS:
        if weights := [file for file in files if fnmatch(file.filename, pattern)]:
            return sum(file.file_size or 0 for file in weights if file.will_download)
    return 0
