"""Raw speech corpora read, or written, as utterances of one schema."""
