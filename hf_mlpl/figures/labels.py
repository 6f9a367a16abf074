"""Draws the scores of pseudo-labels, and what filters on them keep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from .style import COLORS, GRAY, distinct_lines, new_figure, our_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3  # of panels beside each other
KEPT, ERRORS = COLORS[0], COLORS[3]
MOST_POINTS = 80  # of a line
STYLES = ("-", "--")  # of the conditions on one score
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)  # that `draw_score_ranges` draws


@dataclass(frozen=True)
class ScorePanel:
    """Holds what a panel shows of a score, in per cent.

    Args:
        edges: (B + 1,) of the histogram's bins.
        labels: (B,) share of the labels in each bin.
        thresholds: (T,) of the conditions.
        kept: by operator, (T,) shares of the hours that the condition keeps.
        errors: by operator, (T,) error rates of what is kept; NaN where that is not known.
    """

    name: str
    edges: np.ndarray
    labels: np.ndarray
    thresholds: np.ndarray
    kept: Mapping[str, np.ndarray]
    errors: Mapping[str, np.ndarray] = field(default_factory=dict)


@our_style()
def draw_scores(panels: Sequence[ScorePanel]) -> Figure:
    """Draws for each score the histogram of labels, and what every threshold would keep."""
    figure, cells = _panels(len(panels), 3.2, 2.4)
    for axes, panel in zip(cells, panels, strict=True):
        low, high = panel.edges[0], panel.edges[-1]
        axes.stairs(panel.labels, panel.edges, fill=True, color=GRAY, alpha=0.45)
        inside = np.flatnonzero((panel.thresholds >= low) & (panel.thresholds <= high))
        drawn = inside[:: max(len(inside) // MOST_POINTS, 1)]
        for style, (operator, kept) in zip(STYLES, panel.kept.items(), strict=False):
            axes.plot(panel.thresholds[drawn], kept[drawn], color=KEPT, linestyle=style, label=operator)
            if operator in panel.errors:
                axes.plot(panel.thresholds[drawn], panel.errors[operator][drawn], color=ERRORS, linestyle=style)
        axes.set(title=panel.name.replace("_", " "), ylabel="%", xlim=(low, high), ylim=(0, 103))
        if len(panel.kept) > 1:
            axes.legend(loc="center right", handlelength=1.6)
    _legend(figure, any(panel.errors for panel in panels))
    return figure


def _legend(figure: Figure, with_errors: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Patch(color=GRAY, alpha=0.45, label="labels in each bin, %"),
        Line2D([], [], color=KEPT, label="hours that the threshold keeps, %"),
    ]
    if with_errors:
        handles.append(Line2D([], [], color=ERRORS, label="CER of what it keeps, %"))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))


def _panels(count: int, width: float, height: float, **options) -> tuple[Figure, list[Axes]]:
    """Returns a figure of panels of `width` x `height` inches, three beside each other, and these panels."""
    columns = max(min(count, COLUMNS), 1)
    rows = max(math.ceil(count / columns), 1)
    figure = new_figure(width * columns, height * rows)
    cells = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
    for axes in cells[count:]:
        axes.set_axis_off()
    return figure, cells[:count]


@our_style()
def draw_error_rates(rates: Mapping[str, np.ndarray], shares: np.ndarray, chosen: str | None = None) -> Figure:
    """Draws the error rates of the best labels by each score, over the share of the hours that they are.

    Args:
        rates: by the name of the order, (S,) error rates in per cent.
        shares: (S,) in per cent.
        chosen: the order whose line is bold.
    """
    figure = new_figure(6.8, 3.6)
    axes = figure.subplots()
    by_mean = sorted(rates, key=lambda name: rates[name].mean(), reverse=True)
    for name, line in zip(by_mean, distinct_lines(len(by_mean)), strict=True):
        axes.plot(shares, rates[name], linewidth=3 if name == chosen else 1.3, label=name.replace("_", " "), **line)
    axes.set(xlabel="hours that are kept, %", ylabel="CER of what is kept, %", ylim=(0, None), xlim=(0, 100))
    figure.legend(loc="outside right upper")
    return figure


@our_style()
def draw_score_ranges(ranges: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Draws the scores of many languages beside each other: thin lines hold 90 % of the labels, thick ones 50 %.

    Args:
        ranges: by score, by language, the five values of `QUANTILES`.
    """
    languages = list(dict.fromkeys(chain.from_iterable(ranges.values())))
    places = {language: -number for number, language in enumerate(languages)}
    figure, cells = _panels(len(ranges), 3.2, 0.75 + 0.19 * len(languages), sharey=True)
    for axes, (score, values) in zip(cells, ranges.items(), strict=True):
        y = [places[language] for language in values]
        low, lower, median, upper, high = np.array(list(values.values())).T
        axes.hlines(y, low, high, color=COLORS[0], linewidth=1)
        axes.hlines(y, lower, upper, color=COLORS[0], linewidth=4, alpha=0.5)
        axes.plot(median, y, "o", color=COLORS[0], markersize=4)
        axes.set(title=score.replace("_", " "), ylim=(-len(languages) + 0.4, 0.6))
        axes.set_yticks(list(places.values()), languages)
        axes.grid(axis="x", color=GRAY, alpha=0.3)
    return figure


@our_style()
def draw_histograms(histograms: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]]) -> Figure:
    """Draws the histograms of each score, with a line for each language that has it.

    Args:
        histograms: by score, by language, (B,) per cent of the labels and (B + 1,) edges of the bins.
    """
    languages = sorted({language for lines in histograms.values() for language in lines})
    styles = dict(zip(languages, distinct_lines(len(languages)), strict=True))
    figure, cells = _panels(len(histograms), 4, 3.5)
    handles = {}
    for axes, (score, lines) in zip(cells, histograms.items(), strict=True):
        for language, (percents, edges) in lines.items():
            handles[language] = axes.stairs(percents, edges, label=language, **styles[language])
        axes.set(xlabel=score.replace("_", " "), ylabel="% of the labels", ylim=(0, None))
    named = [handles[language] for language in languages if language in handles]
    figure.legend(handles=named, loc="outside lower center", ncols=10)
    return figure
