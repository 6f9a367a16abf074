"""Draws the pictures of runs, labels and cards with matplotlib."""

from ..lazy import lazy_names

__all__, __getattr__, __dir__ = lazy_names(
    __name__, {"curves": "draw_curves", "style": "COLORS GRAY distinct_lines new_figure", "svg": "to_svg"}
)
