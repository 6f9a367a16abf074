"""Reports runs and label sets as self-contained HTML pages."""
