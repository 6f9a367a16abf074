"""Draws the curves of training runs: losses, error rates and other numbers over updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .style import GRAY, PANEL, distinct_lines, legend_below, log_axis, new_figure, our_style, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_NAMED = 12  # languages; if there are more, only the worst and the best are named
NAMED = 5  # of the worst, and of the best
MOST_POINTS = 400  # of a line
MOST_EVALUATIONS = 100  # of each language
MOST_MARKED = 25  # points of a line that have markers, each an element of the picture


@our_style()
def draw_curves(rows: list[dict]) -> Figure:
    """Draws rows of `metrics.jsonl`: the loss on the left axis, CER on dev on the right one.

    The macro average is a bold line, each language a thin one. Named languages have colours, ordered from the worst
    last CER to the best: all languages, or of many only those at either end; the others are gray. The legend beside
    the picture has the order of the lines' ends.
    """
    figure = new_figure(10, 5.5)
    left = figure.subplots()
    losses = [row for row in rows if "loss" in row]
    updates, values = [row["update"] for row in losses], [row["loss"] for row in losses]
    marker = "." if len(losses) == 1 else None
    left.plot(updates, values, color=GRAY, linewidth=1, marker=marker, label="training loss")
    left.set(xlabel="update", ylabel="training loss (gray)")
    log_axis(left, values)
    if evaluations := [row for row in rows if "dev" in row]:
        right = left.twinx()
        _draw_rates(right, evaluations, "cer")
        right.set_ylabel("dev CER, %")
        right.spines["right"].set_visible(True)
        figure.legend(loc="outside right upper")
    return figure


@our_style()
def draw_rates(evaluations: list[dict], rate: str, label: str) -> Figure:
    """Draws a rate of all languages in percent over the updates, as `draw_curves` draws CER.

    Args:
        evaluations: rows of `metrics.jsonl` that have `dev`.
        rate: its name in them, such as `cer`.
        label: of the axis.
    """
    kept = np.linspace(0, len(evaluations) - 1, min(len(evaluations), MOST_EVALUATIONS)).round().astype(int)
    figure = new_figure(*PANEL)
    axes = figure.subplots()
    _draw_rates(axes, [evaluations[i] for i in kept], rate)
    axes.set(xlabel="update", ylabel=label)
    legend_below(figure, axes)
    return figure


@our_style()
def draw_lines(lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], label: str, log: bool = False) -> Figure:
    """Draws numbers over updates.

    A line of more than 400 points shows the means of blocks of them.

    Args:
        lines: updates and numbers of each, by name; the legend has the names if there are several. One without any
            is not drawn, and the others keep their colours.
        label: of the axis.
        log: has a logarithmic axis where the numbers differ enough for it.
    """
    figure = new_figure(*PANEL)
    axes = figure.subplots()
    for (name, (updates, values)), style in zip(lines.items(), distinct_lines(len(lines)), strict=True):
        if len(updates):
            axes.plot(thin(updates), thin(values), label=name, marker="." if len(updates) == 1 else None, **style)
    axes.set(xlabel="update", ylabel=label)
    numbers = [value for _, values in lines.values() for value in values]
    if log:
        log_axis(axes, numbers)
    elif min(numbers) >= 0:
        axes.set_ylim(bottom=0)
    if len(lines) > 1:
        legend_below(figure, axes)
    return figure


def thin(values: Sequence[float]) -> np.ndarray:
    """Returns at most 400 numbers: the values, or means of blocks of them, which differ by one in their lengths."""
    if len(values) <= MOST_POINTS:
        return np.array(values, dtype=float)
    return np.array([block.mean() for block in np.array_split(np.array(values, dtype=float), MOST_POINTS)])


def _draw_rates(axes: Axes, evaluations: list[dict], rate: str) -> None:
    """Draws a rate of the macro average and of each language; leaves out what is not known."""

    def line(language: str | None) -> tuple[list[int], list[float]]:
        """Returns the updates and the rates in percent of a language, or of the macro average."""
        rows = ((row["update"], row["dev"]) for row in evaluations)
        scores = [(update, dev["languages"].get(language) if language else dev["macro"]) for update, dev in rows]
        known = [(update, 100 * row[rate]) for update, row in scores if row and row.get(rate) is not None]
        return [update for update, _ in known], [value for _, value in known]

    names = dict.fromkeys(name for row in evaluations for name in row["dev"]["languages"])
    languages = {language: line(language) for language in names}
    last = {language: values[-1] for language, (_, values) in languages.items() if values}
    highest_first = sorted(last, key=lambda language: (-last[language], language))
    named = highest_first if len(last) <= MOST_NAMED else highest_first[:NAMED] + highest_first[-NAMED:]
    styles = dict(zip(named, distinct_lines(len(named)), strict=True))
    marks = {None: "o", **dict.fromkeys(last, ".")} if len(evaluations) <= MOST_MARKED else {}
    updates, values = line(None)
    if values:
        label = f"macro average {values[-1]:.1f} %"
        axes.plot(updates, values, "k", linewidth=3, marker=marks.get(None), zorder=3, label=label)
    for language in highest_first:
        updates, values = languages[language]
        label, order = (f"{short(language)} {values[-1]:.1f} %", 2) if language in named else (None, 1)
        style = styles.get(language, {"color": GRAY, "alpha": 0.5})
        axes.plot(updates, values, linewidth=0.8, marker=marks.get(language), label=label, zorder=order, **style)
    if unnamed := len(last) - len(named):
        axes.plot([], [], color=GRAY, alpha=0.5, marker="." if marks else None, label=f"{unnamed} more between them")
    axes.set_ylim(0, None)
