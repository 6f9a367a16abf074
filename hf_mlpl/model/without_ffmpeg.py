"""Makes transformers' pipeline say what to install if it is given a path without ffmpeg and without hf_mlpl."""

# Part of hf_mlpl, and copied into every saved model folder. To load such a folder, `import hf_mlpl` where hf_mlpl is
# installed; or pass `trust_remote_code=True`, with which transformers runs the copies.

from __future__ import annotations

import sys
from functools import wraps
from typing import Any

PIPELINE = "transformers.pipelines.automatic_speech_recognition"


def explain_missing_ffmpeg() -> None:
    """Replaces the pipeline's `ffmpeg_read` by one that says what to install when ffmpeg is missing."""
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
                "files are read by ffmpeg, which is not installed, or by hf_mlpl, which does not need it: `import "
                "hf_mlpl`, once installed, before making the pipeline; arrays of samples need neither"
            ) from error

    pipeline.ffmpeg_read = ffmpeg_read
