"""Writes the demo's corpus: sentences of dates, numbers and names, which espeak-ng reads out."""

from ...lazy import lazy_names

__all__, __getattr__, __dir__ = lazy_names(__name__, {"corpus": "write_demo_corpus", "sentences": "DemoLanguage"})
