"""Draws which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .style import COLORS, PANEL, new_figure, our_style, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DARKEST = 0.7  # opacity; black and white numbers can be read on it
CHARACTER = 0.08  # inches: width of one in the names
MOST_NUMBERED = 12  # rows; the counts of more would overlap


@our_style()
def draw_confusion(counts: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> Figure:
    """Draws a matrix (R, C) of counts: the darker a cell, the larger its share of the row.

    The square root of the share is drawn, so that rare confusions can be seen. Small matrices have their counts.

    Args:
        rows: the true classes.
        columns: the predicted classes.
    """
    cell = 0.3 if len(rows) <= MOST_NUMBERED else 0.2
    rows, columns = list(map(short, rows)), list(map(short, columns))
    width, height = (0.7 + CHARACTER * max(map(len, names)) for names in (rows, columns))
    figure = new_figure(min(PANEL[0], width + cell * len(columns)), height + cell * len(rows))
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    for row, column in np.argwhere(counts):
        axes.add_patch(_square(column, row, COLORS[0], DARKEST * float(np.sqrt(shares[row, column]))))
        if len(rows) <= MOST_NUMBERED:
            axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", fontsize=7)
    axes.set(
        xlim=(-0.5, len(columns) - 0.5),
        ylim=(len(rows) - 0.5, -0.5),
        xlabel="predicted",
        ylabel="spoken",
        yticks=range(len(rows)),
        yticklabels=rows,
    )
    axes.set_xticks(range(len(columns)), columns, rotation=90)
    axes.tick_params(length=0)
    return figure


def _square(column: int, row: int, color: str, alpha: float):
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=color, alpha=alpha, linewidth=0)
