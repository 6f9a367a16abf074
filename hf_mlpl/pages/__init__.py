"""Writes self-contained HTML pages: transcripts with sound, differences between texts."""
