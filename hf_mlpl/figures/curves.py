"""Draws the curves of training runs: losses and error rates over updates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .style import GRAY, distinct_lines, new_figure, our_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_NAMED = 12  # languages; if there are more, only the worst and the best are named
NAMED = 5  # of the worst, and of the best


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
    if any(row["loss"] > 0 for row in losses):
        left.set_yscale("log")
    if evaluations := [row for row in rows if "dev" in row]:
        _draw_errors(left.twinx(), evaluations)
        figure.legend(loc="outside right upper")
    return figure


def _draw_errors(axes: Axes, evaluations: list[dict]) -> None:
    last = evaluations[-1]["dev"]["languages"]
    worst_first = sorted(last, key=lambda language: last[language]["cer"], reverse=True)
    named = worst_first if len(last) <= MOST_NAMED else worst_first[:NAMED] + worst_first[-NAMED:]
    lines = dict(zip(named, distinct_lines(len(named)), strict=True))
    updates, rates = zip(*((row["update"], 100 * row["dev"]["macro"]["cer"]) for row in evaluations), strict=True)
    axes.plot(updates, rates, "k", linewidth=3, marker="o", zorder=3, label=f"macro average {rates[-1]:.1f} %")
    for language in worst_first:
        scores = ((row["update"], row["dev"]["languages"].get(language)) for row in evaluations)
        updates, rates = zip(*((update, 100 * score["cer"]) for update, score in scores if score), strict=True)
        label, order = (f"{language} {rates[-1]:.1f} %", 2) if language in named else (None, 1)
        line = lines.get(language, {"color": GRAY, "alpha": 0.5})
        axes.plot(updates, rates, linewidth=0.8, marker=".", label=label, zorder=order, **line)
    if unnamed := len(last) - len(named):
        axes.plot([], [], color=GRAY, alpha=0.5, marker=".", label=f"{unnamed} more between them")
    axes.set(ylabel="dev CER, %", ylim=(0, None))
    axes.spines["right"].set_visible(True)
