"""Says what a command downloads before it loads a model of the Hub."""

from __future__ import annotations

import os
import sys
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


def announce_model(name: str) -> None:
    """Prints a line on each repository of the Hub whose model is about to be loaded, with the size of its download.

    Adapters and their base may be two. The Hub's client then shows its progress in a terminal.

    Raises:
        OSError: if there is no such model.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import enable_progress_bars

    from ..ctc_models.adapters import base_of

    check_model(name)
    part: str | None = name
    while part is not None:
        if not os.path.isdir(part):
            num_bytes = _bytes_to_download(part)
            size = f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"
            print(f"model: {part}" + (f", {size} to download, once" if num_bytes else ""), file=sys.stderr)
            if num_bytes and not constants.HF_HUB_DISABLE_PROGRESS_BARS:
                enable_progress_bars()
        part = base_of(part)


def _bytes_to_download(repo: str) -> int:
    """Returns the size of a repository's weights that are not in the cache; 0 where the Hub does not answer."""
    from huggingface_hub import snapshot_download

    from ..sharing.hub import FAILURES

    try:
        files = snapshot_download(repo, allow_patterns=[*WEIGHTS], ignore_patterns="*/*", dry_run=True)
    except FAILURES:  # the model may be in the cache; if it is not, the error of loading says why
        return 0
    for pattern in WEIGHTS:
        if weights := [file for file in files if fnmatch(file.filename, pattern)]:
            return sum(file.file_size or 0 for file in weights if file.will_download)
    return 0
