"""Holds modules for the library `evaluate`, one folder each: `evaluate.load(str(folder))` needs no network."""
