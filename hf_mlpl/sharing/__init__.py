"""Pushes folders to the Hub, with retries, and renders the cards of models."""

from ..lazy import lazy_names

__all__, __getattr__, __dir__ = lazy_names(
    __name__, {"hub": "push_folder", "model_card": "converted_model_card teacher_revision"}
)
