"""Shows a model in a browser: recordings with their transcripts, folders of recordings with their labels, a Space."""

from ..lazy import lazy_names

__all__, __getattr__, __dir__ = lazy_names(
    __name__, {"model": "AppModel", "page": "appearance build_app", "server": "serve_app"}
)
