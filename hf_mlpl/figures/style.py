"""Defines how all pictures look: one palette that colour-blind people tell apart, sizes, and plain text."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito, https://jfly.uni-koeln.de/color, without black, which is that of text, and yellow, too pale on white
COLORS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9")
MARKERS = "osD^vP"
GRAY = "#8c8c8c"  # can be seen on white and on black
PANEL = (4.6, 2.6)  # inches: two beside each other on a desktop, and on a phone the texts are legible still
LONGEST_NAME = 20  # characters, beside an axis or in a legend
LINE_STYLES = ("-", "--", ":", "-.")
SETTINGS = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "text.parse_math": False,  # names of runs and languages are no formulas
}


@contextmanager
def our_style() -> Iterator[None]:
    """Has all figures, axes and texts that are made within it look like ours."""
    from matplotlib import rc_context

    with rc_context(SETTINGS):
        yield


def new_figure(width: float = 6.5, height: float = 3.2) -> Figure:
    """Returns an empty figure of `width` x `height` inches, whose parts keep clear of each other."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def legend_below(figure: Figure, axes: Axes, ncols: int = 3) -> None:
    """Adds a legend below the axes, for which the figure becomes higher, so that the axes keep their size."""
    handles, labels = axes.get_legend_handles_labels()
    rows = -(-len(handles) // ncols)
    figure.set_figheight(figure.get_figheight() + 0.19 * rows)
    figure.legend(handles, labels, loc="outside lower center", ncols=ncols, fontsize=8)


def short(name: str) -> str:
    """Returns the beginning of a long name, which leaves room for the picture beside it."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def log_axis(axes: Axes, values: Iterable[float]) -> None:
    """Makes the y axis logarithmic, with plain numbers, where the positive values differ enough for it."""
    positive = [value for value in values if value > 0]
    if positive and max(positive) > 5 * min(positive):
        axes.set_yscale("log", subs=())
        is_wide = max(positive) > 100 * min(positive)
        axes.yaxis.set_major_locator(_log_locator((1,) if is_wide else (1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")


def _log_locator(subs: tuple[int, ...]):
    from matplotlib.ticker import LogLocator

    return LogLocator(subs=subs)


def distinct_lines(count: int) -> list[dict[str, Any]]:
    """Returns `color` and `linestyle` of `count` lines; the first 24 differ from each other."""
    return [
        {"color": COLORS[i % len(COLORS)], "linestyle": LINE_STYLES[i // len(COLORS) % len(LINE_STYLES)]}
        for i in range(count)
    ]
