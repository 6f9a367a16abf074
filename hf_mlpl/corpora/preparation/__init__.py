"""Prepares utterance files from corpora in parts, which several processes read and which survive an interruption."""

from ...lazy import lazy_names

__all__, __getattr__, __dir__ = lazy_names(
    __name__,
    {
        "long_recordings": "Segmentation",
        "normalizer": "Normalizer",
        "parts": "Part",
        "prepare": "Preprocessing read_normalizers read_quarantine",
        "report": "PreparationReport",
        "voice_activity": "SileroDetector",
    },
)
