"""Draws the scores of pseudo-labels, and what filters on them keep."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .style import COLORS, GRAY, distinct_lines, new_figure, our_style, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 3  # of panels beside each other, in pictures of their own
KEPT, ERRORS = COLORS[0], COLORS[3]
STYLES = {">=": "-", "<=": "--"}  # of the conditions on one score
NAMES = {">=": "at least", "<=": "at most"}
MOST_POINTS = 80  # of a line
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)  # that `draw_score_range` draws
PANEL_WIDTH = 3.1  # inches: a telephone shows a panel in its full size, a screen three side by side


@dataclass(frozen=True)
class ScorePanel:
    """Holds what a picture shows of a score, in per cent.

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
def draw_score(panel: ScorePanel) -> Figure:
    """Draws the histogram of a score, and below it what every threshold would keep, and the error rate of that."""
    lines = [("hours kept, %", panel.kept, KEPT), ("CER, %", panel.errors, ERRORS)]
    lines = [each for each in lines if each[1]]
    figure = new_figure(PANEL_WIDTH, 1.4 + 1.1 * len(lines))
    top, *others = figure.subplots(1 + len(lines), sharex=True)
    top.stairs(panel.labels, panel.edges, fill=True, color=GRAY)
    top.set(title=panel.name.replace("_", " "), ylabel="labels, %")
    low, high = panel.edges[0], panel.edges[-1]
    inside = np.flatnonzero((panel.thresholds >= low) & (panel.thresholds <= high))
    drawn = inside[:: max(len(inside) // MOST_POINTS, 1)]
    for axes, (name, values, color) in zip(others, lines, strict=True):
        for operator, rates in values.items():
            style = STYLES[operator] if len(values) > 1 else "-"
            axes.plot(panel.thresholds[drawn], rates[drawn], color=color, linestyle=style, label=NAMES[operator])
        highest = max((rate for rates in values.values() for rate in rates[drawn] if rate > 0), default=1)
        axes.set(ylabel=name, ylim=(0, 1.1 * highest))
        if len(values) > 1:
            axes.legend(handlelength=1.6, fontsize=7)
    others[-1].set(xlim=(low, high), xlabel=f"threshold, {NAMES[next(iter(panel.kept))]}" * (len(panel.kept) == 1))
    others[-1].xaxis.set_major_locator(_few_ticks())
    figure.align_ylabels()
    return figure


def _few_ticks():
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4)


@our_style()
def draw_error_rates(rates: Mapping[str, np.ndarray], shares: np.ndarray, chosen: str | None = None) -> Figure:
    """Draws the error rates of the best labels by each score, over the share of the hours that they are.

    Args:
        rates: by the name of the order, (S,) error rates in per cent.
        shares: (S,) in per cent.
        chosen: the order whose line is bold.
    """
    figure = new_figure(4.6, 3.9)
    axes = figure.subplots()
    lines = dict(zip(sorted(rates, key=lambda name: name != chosen), distinct_lines(len(rates)), strict=True))
    for name in sorted(rates, key=lambda name: rates[name].mean(), reverse=True):
        width, label = 3 if name == chosen else 1.3, name.replace("_", " ")
        axes.plot(shares, rates[name], linewidth=width, label=label, **lines[name])
    axes.set(xlabel="hours that are kept, %", ylabel="CER of what is kept, %", ylim=(0, None), xlim=(0, 100))
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@our_style()
def draw_score_range(score: str, ranges: Mapping[str, np.ndarray]) -> Figure:
    """Draws the scores of languages below each other: thin lines hold 90 % of the labels, thick ones 50 %.

    Args:
        ranges: by language, from the top, the five values of `QUANTILES`; none for a language without the score.
    """
    figure = new_figure(PANEL_WIDTH, 0.7 + 0.18 * len(ranges))
    axes = figure.subplots()
    for place, values in enumerate(ranges.values()):
        if len(values):
            low, lower, median, upper, high = values
            axes.plot([low, high], [-place] * 2, color=COLORS[0], linewidth=1)
            axes.plot([lower, upper], [-place] * 2, color=COLORS[0], linewidth=4, alpha=0.5, solid_capstyle="butt")
            axes.plot(median, -place, "o", color=COLORS[0], markersize=4)
    axes.set(title=score.replace("_", " "), ylim=(-len(ranges) + 0.4, 0.6))
    axes.set_yticks(range(0, -len(ranges), -1), list(map(short, ranges)))
    axes.xaxis.set_major_locator(_few_ticks())
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
    rows = max(math.ceil(len(histograms) / COLUMNS), 1)
    figure = new_figure(12, 3.5 * rows)
    cells = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    for axes in cells[len(histograms) :]:
        axes.set_axis_off()
    handles = {}
    for axes, (score, lines) in zip(cells, histograms.items(), strict=False):
        for language, (percents, edges) in lines.items():
            handles[language] = axes.stairs(percents, edges, label=language, **styles[language])
        axes.set(xlabel=score.replace("_", " "), ylabel="% of the labels", ylim=(0, None))
    named = [handles[language] for language in languages if language in handles]
    figure.legend(handles=named, loc="outside lower center", ncols=10)
    return figure
