"""Local `evaluate` modules, one folder each: `evaluate.load(str(folder))` reads them without a network."""
