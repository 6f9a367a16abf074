"""Makes transformers' pipeline name the remedy for a path where neither ffmpeg nor hf_mlpl is installed."""

# Part of hf_mlpl, and copied into every saved model folder. To load such a folder, `pip install hf-mlpl` and
# `import hf_mlpl`; or pass `trust_remote_code=True`, with which transformers runs the copies.

from __future__ import annotations

import sys
from functools import wraps
from typing import Any

PIPELINE = "transformers.pipelines.automatic_speech_recognition"


def name_the_remedy() -> None:
    """Makes the pipeline's `ffmpeg_read` say what to install where ffmpeg, which it needs for files, is missing."""
    pipeline: Any = sys.modules.get(PIPELINE)
    if pipeline is None or hasattr(pipeline.ffmpeg_read, "__wrapped__"):
        return
    read = pipeline.ffmpeg_read

    @wraps(read)
    def ffmpeg_read(*args, **kwargs):
        try:
            return read(*args, **kwargs)
        except ValueError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            raise ValueError(
                "files are read by ffmpeg, which is not installed, or by hf_mlpl, which needs none: `pip install "
                "hf-mlpl` and `import hf_mlpl` before the pipeline is made; arrays of samples need neither"
            ) from error

    pipeline.ffmpeg_read = ffmpeg_read
