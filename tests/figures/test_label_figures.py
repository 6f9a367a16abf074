"""Looks at pictures of labels as matplotlib lays them out: what is drawn, and that no text lies on another."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from hf_mlpl.figures.labels import PANEL_WIDTH, ScorePanel, draw_error_rates, draw_score, draw_score_range

THRESHOLDS = np.arange(0, 1001) / 1000
RISING, FALLING = 100 * THRESHOLDS, 100 - 100 * THRESHOLDS


def texts(figure) -> set[str]:
    """Returns the texts that can be seen, after checking that none lies on another or outside of the picture."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    hidden = set()  # labels of ticks that lie outside of their axis
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = axis.get_view_interval()
        hidden |= {tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high}
    seen = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text() and text not in hidden]
    boxes = [(text.get_text(), text.get_window_extent(canvas.get_renderer())) for text in seen]
    width, height = figure.get_size_inches() * figure.dpi
    for text, box in boxes:
        assert box.x0 > -1 and box.y0 > -1 and box.x1 < width + 1 and box.y1 < height + 1, text
    for (one, box), (other, other_box) in combinations(boxes, 2):
        assert not box.shrunk(0.95, 0.85).overlaps(other_box.shrunk(0.95, 0.85)), (one, other)
    return {text for text, _ in boxes}


def test_a_score_with_two_conditions():
    edges, labels = np.linspace(0.2, 0.7, 11), np.full(10, 10.0)
    errors = np.where(THRESHOLDS > 0.6, np.nan, 20.0)
    kept = {"<=": RISING, ">=": FALLING}
    figure = draw_score(ScorePanel("blank_ratio", edges, labels, THRESHOLDS, kept, dict.fromkeys(kept, errors)))
    assert {"blank ratio", "labels, %", "hours kept, %", "CER, %", "at least", "at most"} <= texts(figure)
    histogram, shares, rates = figure.axes
    assert histogram.patches[0].get_data().values.tolist() == labels.tolist()
    for line, operator in zip(shares.lines, kept, strict=True):
        x, y = line.get_data()
        assert x.min() >= 0.2 and x.max() <= 0.7 and len(x) > 70
        assert y == pytest.approx(np.interp(x, THRESHOLDS, kept[operator]))
    assert rates.get_ylim()[0] == 0 and rates.get_ylim()[1] > 20 and np.nanmax(rates.lines[0].get_ydata()) == 20
    assert figure.get_size_inches()[0] == PANEL_WIDTH
    alone = draw_score(ScorePanel("blank_ratio", edges, labels, THRESHOLDS, {"<=": RISING}))
    assert len(alone.axes) == 2 and "threshold, at most" in texts(alone)


def test_error_rates_with_the_chosen_order_in_bold():
    names = [f"{score} >=" for score in ("agreement", "mean_log_prob", "lowest_word_confidence", "a", "b", "c", "d")]
    shares = np.arange(5, 101, 5)
    rates = {name: np.full(20, 10.0 + number) for number, name in enumerate(names)}
    figure = draw_error_rates(rates, shares, "mean_log_prob >=")
    texts(figure)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert list(lines) == [name.replace("_", " ") for name in reversed(names)]  # as the lines lie, from the top
    assert [label for label, line in lines.items() if line.get_linewidth() > 2] == ["mean log prob >="]
    looks = {(line.get_color(), line.get_linestyle()) for line in lines.values()}
    assert len(looks) == len(names)


def test_scores_of_many_languages():
    ranges = {f"l{number}": np.array([0.1, 0.2, 0.3, 0.4, 0.5]) + number for number in range(24)}
    figure = draw_score_range("mean_log_prob", ranges | {"l7": np.empty(0)})
    assert {"mean log prob", *ranges} <= texts(figure)
    medians = [line.get_data() for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [(x[0], y[0]) for x, y in medians] == [(0.3 + n, -n) for n in range(24) if n != 7]
