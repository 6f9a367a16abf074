"""Reads recordings of any format: files, members of archives, rows of Parquet files, addresses of the web."""

from ..lazy import lazy_names

__all__, __getattr__, __dir__ = lazy_names(
    __name__,
    {"decoders": "AudioError", "reading": "audio_duration encode_flac load_audio looks_like_audio stream_audio"},
)
