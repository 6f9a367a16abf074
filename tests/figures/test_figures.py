"""Pictures: inline SVG that a page can hold, curves of any length, and colours that colour-blind people tell apart."""

import re
from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import pytest

from hf_mlpl.figures import COLORS, distinct_lines, draw_confusion, draw_intervals, draw_lines, draw_rates, to_svg
from hf_mlpl.figures.curves import MOST_POINTS, thin

NAMES = ["a$b$", "<script>", "stroke: #000000"]  # names of runs can be anything


@pytest.fixture(scope="module")
def svg() -> str:
    lines = {name: ([1, 2, 3], [number, 2, 30]) for number, name in enumerate(NAMES, 1)}
    return to_svg(draw_lines(lines, "loss $", log=True), "Loss & <rate>")


def test_svg_is_part_of_a_page(svg):
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == "Loss & <rate>" and root.get("role") == "img"
    texts = ["".join(element.itertext()) for element in root.iter() if element.tag.endswith("text")]
    assert {*NAMES, "loss $"} <= set(texts)  # as text, and no formula
    assert not {element.tag.rpartition("}")[2] for element in root.iter()} & {"style", "metadata", "script"}
    styles = " ".join(element.get("style", "") for element in root.iter())
    assert "#000000" not in styles and "stroke: currentColor" in styles and "fill: currentColor" in styles
    assert "fill: #ffffff" not in styles  # no background, which would be white on a dark page
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    used = re.findall(r"url\(#([^)]+)\)|href=\"#([^\"]+)\"", svg)
    assert len(ids) == len(set(ids)) and {a or b for a, b in used} == set(ids)


def test_ids_of_two_pictures_differ(svg):
    other = to_svg(draw_lines({"a": ([1, 2], [1, 2])}, "loss"), "Loss")
    assert other == to_svg(draw_lines({"a": ([1, 2], [1, 2])}, "loss"), "Loss")
    ids = [set(re.findall(r' id="([^"]+)"', picture)) for picture in (svg, other)]
    assert ids[0] and ids[1] and not ids[0] & ids[1]


def test_long_lines_become_means():
    values = np.random.default_rng(0).random(12_345)
    short = thin(values)
    assert len(short) == MOST_POINTS and short.mean() == pytest.approx(values.mean(), rel=1e-3)
    assert short[0] == pytest.approx(values[:31].mean())
    assert (thin(values[:MOST_POINTS]) == values[:MOST_POINTS]).all()


def test_a_run_of_60_languages_and_1000_evaluations_is_a_small_picture():
    languages = {f"l{number}": {"cer": number / 100, "language_accuracy": None} for number in range(60)}
    rows = [{"update": update, "dev": {"languages": languages, "macro": {"cer": 0.3}}} for update in range(1000)]
    figure = draw_rates(rows, "cer", "CER, %")
    [axes] = figure.axes
    assert len([line for line in axes.get_lines() if len(line.get_xdata())]) == 61
    assert list(axes.get_lines()[0].get_xdata()[[0, -1]]) == [0, 999]  # the last one is always there
    assert len(to_svg(figure)) < 300_000
    assert not draw_rates(rows[:2], "language_accuracy", "%").axes[0].get_lines()  # not known


def test_intervals_and_confusions_show_what_they_are_given():
    figure = draw_intervals(
        ["sl", "fi"], {"a": {"sl": (20, 15, 30)}, "b": {"sl": (10, 9, 11), "fi": (5, 4, 6)}}, "CER"
    )
    [axes] = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["sl", "fi"]
    bars = [segment[:, 0].tolist() for collection in axes.collections for segment in collection.get_segments()]
    assert [15, 30] in bars and [9, 11] in bars and [4, 6] in bars
    [axes] = draw_confusion(np.array([[9, 1], [0, 4]]), ["sl", "hr"], ["sl", "hr"]).axes
    assert sorted((text.get_position(), text.get_text()) for text in axes.texts) == [
        ((0, 0), "9"),
        ((1, 0), "1"),
        ((1, 1), "4"),
    ]
    alphas = {patch.get_xy(): patch.get_alpha() for patch in axes.patches}
    assert alphas[0.5, 0.5] > alphas[-0.5, -0.5] > alphas[0.5, -0.5]


@pytest.mark.filterwarnings("error")
def test_long_names_leave_room_for_the_picture():
    names = ["l" * 99, "日本\x01"]
    for figure in (
        draw_confusion(np.array([[1]]), names[:1], names[1:]),
        draw_intervals(names, {"": {names[0]: (20, 15, 30)}}, "CER"),
    ):
        texts = "".join(ElementTree.fromstring(to_svg(figure)).itertext())
        assert f"{'l' * 19}…" in texts and "l" * 20 not in texts and "日本\N{REPLACEMENT CHARACTER}" in texts


# What people without one kind of cones see: Machado, Oliveira and Fernandes, 2009, severity 1.0; on linear RGB
VISIONS = {
    "usual": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(color: str, vision) -> np.ndarray:
    rgb = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    x, y, z = np.cbrt(np.clip(XYZ @ np.clip(np.asarray(vision) @ linear, 0, 1) / XYZ.sum(1), 0.008856, None))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISIONS)
def test_colour_blind_people_tell_the_colours_apart(vision):
    """A difference of 2.3 can just be seen; red and green of equal brightness have less than that for some."""
    distances = {
        pair: np.linalg.norm(np.subtract(*(lab(c, VISIONS[vision]) for c in pair))) for pair in combinations(COLORS, 2)
    }
    assert min(distances.values()) > 10, min(distances, key=distances.get)
    lines = [tuple(line.values()) for line in distinct_lines(24)]
    assert len(set(lines)) == 24
