"""Serves a model over HTTP, as OpenAI's API for transcription does."""

from ..lazy import lazy_names

__all__, __getattr__, __dir__ = lazy_names(
    __name__, {"app": "build_app", "server": "bind run_server", "transcriber": "Transcriber Transcript"}
)
