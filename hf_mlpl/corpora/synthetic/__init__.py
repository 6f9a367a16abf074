"""Writes the corpus of the demo: espeak-ng reads out sentences of dates, numbers and names."""

from ...lazy import lazy_names

__all__, __getattr__, __dir__ = lazy_names(__name__, {"corpus": "write_demo_corpus", "sentences": "DemoLanguage"})
