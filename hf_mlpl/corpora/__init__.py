"""Reads raw speech corpora as utterances of one schema, and writes a synthetic one."""
