"""Estimates n-gram language models of characters or words, and writes them as ARPA files for beam search."""

from ..lazy import lazy_names

__all__, __getattr__, __dir__ = lazy_names(
    __name__,
    {
        "arpa": "write_arpa",
        "estimation": "NgramModel estimate",
        "reading": "read_sentences",
        "sentences": "Sentences characters_units tokens_units words_units",
    },
)
