"""Draws the pictures of runs, labels and cards with matplotlib."""

from ..lazy import lazy_names

__all__, __getattr__, __dir__ = lazy_names(
    __name__,
    {
        "confusion": "draw_confusion",
        "curves": "draw_curves draw_lines draw_rates",
        "intervals": "draw_intervals",
        "style": "COLORS GRAY PANEL distinct_lines legend_below new_figure our_style",
        "svg": "to_svg",
    },
)
