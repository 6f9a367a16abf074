"""Reads speech corpora as utterances of one schema: tools that readers, preparation and the synthetic corpus share."""

from ..lazy import lazy_names

__all__, __getattr__, __dir__ = lazy_names(
    __name__, {"locales": "to_locale", "reading": "ReadingReport", "sources": "Source sources_of"}
)
