"""Tests that curves are legible with any number of languages and evaluations, and that cut rows are dropped."""

import io
import json

import pytest

from hf_mlpl.figures.curves import MOST_NAMED, NAMED, draw_curves
from hf_mlpl.training.log import TrainingLog
from hf_mlpl.training_config import load_config

LOSSES = [{"update": update, "loss": 100 / update} for update in range(10, 70, 10)]


def evaluation(update: int, num_languages: int) -> dict:
    """Returns a row in which the CER of language N is N %, times the remaining share of the updates."""
    languages = {f"l{i:02d}": {"cer": i / 100 * (70 - update) / 60} for i in range(1, num_languages + 1)}
    mean = sum(scores["cer"] for scores in languages.values()) / num_languages
    return {"update": update, "dev": {"languages": languages, "macro": {"cer": mean}}}


def lines(axes) -> dict[str, tuple]:
    """Returns values, width and marker of lines with a label."""
    named = [line for line in axes.get_lines() if not line.get_label().startswith("_")]
    return {line.get_label(): (list(line.get_ydata()), line.get_linewidth(), line.get_marker()) for line in named}


@pytest.mark.parametrize("num_languages", [1, 8, 60])
@pytest.mark.parametrize("updates", [[60], [20, 40, 60]])
def test_curves(num_languages, updates):
    figure = draw_curves([*LOSSES, *(evaluation(update, num_languages) for update in updates)])
    left, right = figure.axes
    assert list(lines(left)) == ["training loss"]
    assert len([line for line in right.get_lines() if len(line.get_xdata())]) == 1 + num_languages
    (average, (values, width, marker)), *others = lines(right).items()
    assert average == f"macro average {(num_languages + 1) / 2 / 6:.1f} %" and len(values) == len(updates)
    assert marker == "o" and all(width > 1.5 * thin and marker == "." for _, (_, thin, marker) in others)
    names = [name.split()[0] for name, _ in others]
    worst_first = [f"l{i:02d}" for i in range(num_languages, 0, -1)]
    if num_languages <= MOST_NAMED:
        assert names == worst_first
    else:
        assert names == [*worst_first[:NAMED], *worst_first[-NAMED:], "50"]
    [legend] = figure.legends
    figure.savefig(io.BytesIO(), dpi=120)
    assert not legend.get_window_extent().overlaps(right.get_window_extent())
    assert figure.bbox.y1 >= legend.get_window_extent().y1 and legend.get_window_extent().y0 >= 0


def test_curves_without_dev():
    [axes] = draw_curves(LOSSES).axes
    assert lines(axes)["training loss"][0] == [row["loss"] for row in LOSSES]
    [axes] = draw_curves(LOSSES[:1]).axes
    assert lines(axes)["training loss"][2] == "."  # a line of one point could not be seen
    draw_curves([{"update": 1, "learning_rate": 0.1}])  # slimIPL that has only filled its cache


@pytest.mark.parametrize("cut", ["", "{", '{"upd', '{"update": 3, "lo', '{"update": 3, "loss": 1.0}'])
def test_a_row_that_was_cut_off_goes(tone_data, tmp_path, cut):
    config, rows = load_config(tone_data / "tones.yaml"), [{"update": update, "loss": 1.0} for update in (1, 2, 3)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "metrics.jsonl").write_text(text + cut)
    assert TrainingLog(tmp_path, config, 2, True).rows == rows[:2]
    assert (tmp_path / "metrics.jsonl").read_text() == "".join(json.dumps(row) + "\n" for row in rows[:2])


@pytest.mark.parametrize("damage", ["\0\0\0", "null\n", "{}\n", '{"update": "1"}\n', "3\n", "\n", '"a\n'])
def test_a_damaged_row_is_reported(tone_data, tmp_path, damage):
    config = load_config(tone_data / "tones.yaml")
    (tmp_path / "metrics.jsonl").write_text('{"update": 1}\n' + damage)
    with pytest.raises(ValueError, match="metrics.jsonl is damaged; remove it to go on without the history of"):
        TrainingLog(tmp_path, config, 2, True)
    assert TrainingLog(tmp_path, config, 0, True).rows == []  # from the beginning on, nothing is lost
