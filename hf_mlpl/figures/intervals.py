"""Draws error rates with their confidence intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .style import COLORS, MARKERS, PANEL, legend_below, new_figure, our_style, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROW_INCHES = 0.24


@our_style()
def draw_intervals(
    names: Sequence[str | None], series: Mapping[str, Mapping[str | None, tuple[float, float, float]]], label: str
) -> Figure:
    """Draws a row of points with error bars for each name, the first one at the top.

    Args:
        names: of languages; None for the macro average.
        series: for each series, the value and the bounds of its interval by name; names may be missing. The legend
            has the names of the series if there are several.
        label: of the axis.
    """
    rows = len(names) * max(1, 0.6 * len(series))
    figure = new_figure(PANEL[0], 0.8 + ROW_INCHES * rows)
    axes = figure.subplots()
    for number, (name, values) in enumerate(series.items()):
        shift = (number - (len(series) - 1) / 2) * 0.7 / len(series)
        places = [place + shift for place, row in enumerate(names) if row in values]
        points = [values[row] for row in names if row in values]
        bars = [[value - low for value, low, _ in points], [high - value for value, _, high in points]]
        axes.errorbar(
            [value for value, _, _ in points],
            places,
            xerr=bars,
            fmt=MARKERS[number % len(MARKERS)],
            color=COLORS[number % len(COLORS)],
            markersize=4,
            linewidth=1.2,
            capsize=2,
            label=name,
        )
    axes.set(xlabel=label, xlim=(0, None), ylim=(len(names) - 0.5, -0.5))
    axes.set_yticks(range(len(names)), [short("macro average" if name is None else name) for name in names])
    axes.grid(axis="x", alpha=0.3)
    if len(series) > 1:
        legend_below(figure, axes, ncols=2)
    return figure
