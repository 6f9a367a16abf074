"""Draws the pictures of runs, labels and cards with matplotlib."""
