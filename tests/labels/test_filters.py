"""Compares filters of pseudo-labels with plain comparisons, row by row."""

import operator as operators
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_mlpl.data.utterances import write_utterances
from hf_mlpl.labels import files as label_files
from hf_mlpl.labels.filtering import filter_labels
from hf_mlpl.labels.filters import DEFAULT_FILTERS, LabelFilter, read_filters
from hf_mlpl.labels.schema import LABEL_FEATURES, SCORES


def made_label(number: int, **values) -> dict:
    """Returns a label whose scores grow with its number, with `values` in other columns."""
    utterance = dict.fromkeys(LABEL_FEATURES)
    audio = {"path": "a.ogg", "start": None, "end": None}
    shares = dict.fromkeys(SCORES, number / 10)
    row = {"id": f"u{number}", "audio": audio, "duration_seconds": 360.0 * (1 + number), "language": "sl", "text": "a"}
    return utterance | row | shares | {"mean_log_prob": -number / 10, "predicted_language": "sl"} | values


@pytest.fixture
def labels(tmp_path):
    rows = [made_label(number) for number in range(8)]
    rows[2]["language"] = rows[2]["predicted_language"] = "fi"
    rows[4] |= {"language": "fi", "predicted_language": "sl"}
    rows[5]["predicted_language"] = None
    rows[6]["lowest_word_confidence"] = None
    write_utterances(rows, tmp_path / "labels.parquet", LABEL_FEATURES)
    return rows, tmp_path / "labels.parquet"


def keep(labels, tmp_path, *conditions):
    filters = [LabelFilter(condition) for condition in conditions]
    hours = filter_labels([labels[1]], filters, tmp_path / "kept.parquet").hours
    return [row["id"] for row in pq.read_table(tmp_path / "kept.parquet").to_pylist()], hours


def test_no_filter_keeps_everything(labels, tmp_path):
    ids, hours = keep(labels, tmp_path)
    assert ids == [row["id"] for row in labels[0]]
    assert pq.read_table(tmp_path / "kept.parquet").equals(pq.read_table(labels[1]))
    assert hours == {
        "fi": {"all": pytest.approx(0.8), "kept": pytest.approx(0.8)},
        "sl": {"all": pytest.approx(2.8), "kept": pytest.approx(2.8)},
    }


def test_labels_of_several_files_are_kept_in_one(labels, tmp_path):
    write_utterances([made_label(8, language="it")], tmp_path / "it.parquet", LABEL_FEATURES)
    hours = filter_labels([labels[1], tmp_path / "it.parquet"], [], tmp_path / "kept.parquet").hours
    assert [row["id"] for row in pq.read_table(tmp_path / "kept.parquet").to_pylist()] == [f"u{n}" for n in range(9)]
    assert list(hours) == ["fi", "it", "sl"] and hours["it"]["kept"] == pytest.approx(0.9)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("operator", [">=", "<=", ">", "<"])
def test_a_filter_compares(labels, tmp_path, name, operator):
    bound = -0.3 if name == "mean_log_prob" else 0.3
    ids, hours = keep(labels, tmp_path, f"{name} {operator} {bound}")

    def holds(value):
        compare = {">=": operators.ge, "<=": operators.le, ">": operators.gt, "<": operators.lt}[operator]
        return value is not None and compare(value, bound)

    kept = [row for row in labels[0] if holds(row[name])]
    assert ids == [row["id"] for row in kept] and 0 < len(ids) < 8
    for language, by_filter in hours.items():
        seconds = sum(row["duration_seconds"] for row in kept if row["language"] == language)
        assert by_filter["kept"] == by_filter[f"{name} {operator} {bound}"] == pytest.approx(seconds / 3600)


def test_filters_hold_together_and_are_counted_alone(labels, tmp_path):
    ids, hours = keep(labels, tmp_path, "language agrees", "blank_ratio <= 0.55", "mean_log_prob >= -1e9")
    assert ids == ["u0", "u1", "u2", "u3"]
    assert hours["sl"] == {
        "all": pytest.approx(2.8),
        "language agrees": pytest.approx((1 + 2 + 4 + 7 + 8) / 10),
        "blank_ratio <= 0.55": pytest.approx((1 + 2 + 4 + 6) / 10),
        "mean_log_prob >= -1e9": pytest.approx(2.8),
        "kept": pytest.approx(0.7),
    }


def test_a_filter_that_is_given_twice_is_counted_once(labels, tmp_path):
    assert keep(labels, tmp_path, "language agrees", "language agrees") == keep(labels, tmp_path, "language agrees")


def test_filters_of_a_file(tmp_path):
    path = tmp_path / "filters.yaml"
    path.write_text("filter: none\n")
    assert read_filters(path) == []
    path.write_text("filter:\n  - mean_log_prob   >=  -0.3\n  - language agrees\n")
    assert read_filters(path) == [*map(LabelFilter, ("characters > 0", "mean_log_prob >= -0.3", "language agrees"))]
    path.write_text("filter: [characters_per_second >= 1]\n")
    assert read_filters(path)[0] == LabelFilter("characters > 0") and len(read_filters(path)) == 2
    path.write_text("filter: [characters >= 0]\n")
    assert read_filters(path) == [LabelFilter("characters >= 0")]


def test_characters_are_those_of_the_text(tmp_path):
    """White space at its ends is none, and a letter of several bytes is one."""
    texts = ["", " \t", "\u00e4", "a", "ab", " ab c "]
    write_utterances([made_label(n, text=text) for n, text in enumerate(texts)], tmp_path / "a", LABEL_FEATURES)
    labels = (None, tmp_path / "a")
    assert keep(labels, tmp_path, "characters > 0")[0] == ["u2", "u3", "u4", "u5"]
    assert keep(labels, tmp_path, "characters >= 2")[0] == ["u4", "u5"]
    assert keep(labels, tmp_path, "characters < 4", "characters <= 2")[0] == ["u0", "u1", "u2", "u3", "u4"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("filter: all\n", "filter is 'all'; it must be none or a list of conditions"),
        ("filters: none\n", "must hold `filter: none`, or `filter:` and a list"),
        ("filter: [confidence >= 0.3]\n", "'confidence >= 0.3' is no filter; write 'language agrees', or a score"),
        ("filter: [mean_log_prob = 0.3]\n", "'mean_log_prob = 0.3' is no filter"),
        ("filter: [characters > = 3]\n", "'characters > = 3' is no filter"),
        ("filter: [mean_log_prob >= nan]\n", "'mean_log_prob >= nan' is no filter"),
        ("[" * 1000, "recursion"),
        ("null\n", "must hold `filter: none`"),
        ("filter: [mean_log_prob >= high]\n", "'mean_log_prob >= high' is no filter.* mean_log_prob, letter_log_prob"),
        ("filter: [3]\n", "it must be none or a list of conditions"),
        ("filter: [\n", "while parsing"),
    ],
)
def test_wrong_files_are_refused_in_one_line(tmp_path, content, message):
    (tmp_path / "filters.yaml").write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_filters(tmp_path / "filters.yaml")
    assert str(tmp_path / "filters.yaml") in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_holds_no_labels_is_refused(tmp_path, tone_data):
    with pytest.raises(
        ValueError, match="dev.parquet: has no column agreement, blank_ratio, .*`hf-mlpl pseudo-label` writes"
    ):
        filter_labels([tone_data / "dev.parquet"], [], tmp_path / "kept.parquet")
    with pytest.raises(ValueError, match="tokens-all.lst: no Parquet file of labels, or damaged"):
        filter_labels([tone_data / "tokens-all.lst"], [], tmp_path / "kept.parquet")
    assert not (tmp_path / "kept.parquet").exists()


def test_labels_of_a_collapsed_teacher(tmp_path, caplog):
    """They are refused, even if those of other languages are fine, unless that is asked for."""
    rows = [made_label(number, text="" if number < 3 else "a") for number in range(5)]
    rows[0]["language"] = rows[1]["language"] = "fi"
    path, kept = tmp_path / "labels.parquet", tmp_path / "kept.parquet"
    write_utterances(rows, path, LABEL_FEATURES)
    with pytest.raises(ValueError, match="^fi: 100% of 2 pseudo-labels are empty: .*; --allow-collapsed filters them"):
        filter_labels([path], [], kept)
    filter_labels([path], DEFAULT_FILTERS, kept, allow_collapsed=True)
    assert [row["id"] for row in pq.read_table(kept).to_pylist()] == ["u3", "u4"]
    message = "fi: the filters keep none of 2 labels: characters > 0 removes 2"
    assert [record.getMessage() for record in caplog.records] == [message]
    filter_labels([path], [], kept, allow_collapsed=True)
    assert pq.read_table(kept).equals(pq.read_table(path))
    write_utterances([], path, LABEL_FEATURES)
    with pytest.raises(ValueError, match=f"^{path}: no labels; --allow-collapsed writes a file without labels$"):
        filter_labels([path], DEFAULT_FILTERS, kept)
    filter_labels([path], DEFAULT_FILTERS, kept, allow_collapsed=True)
    assert not len(pq.read_table(kept))


def test_filters_that_keep_nothing_are_told_one_by_one(labels, tmp_path, caplog):
    rows, path = labels
    filters = [*DEFAULT_FILTERS, LabelFilter("mean_log_prob >= -0.35"), LabelFilter("blank_ratio >= 0.9")]
    removed = "characters > 0 removes 0, mean_log_prob >= -0.35 removes 4, blank_ratio >= 0.9 removes 8"
    with pytest.raises(ValueError, match=f"^the filters keep none of 8 labels: {removed}; relax the filters; "):
        filter_labels([path], filters, tmp_path / "kept.parquet")
    assert os.listdir(tmp_path) == ["labels.parquet"]
    filter_labels([path], filters[:2] + [LabelFilter("blank_ratio <= 0.15")], tmp_path / "kept.parquet")
    removed = "characters > 0 removes 0, mean_log_prob >= -0.35 removes 1, blank_ratio <= 0.15 removes 2"
    assert [record.getMessage() for record in caplog.records] == [f"fi: the filters keep none of 2 labels: {removed}"]


@pytest.mark.parametrize(("share", "collapsed"), [(0.89, False), (0.9, True)])
@pytest.mark.parametrize("text", ["", "a"])
def test_nearly_all_labels_of_one_text_are_a_collapse(share, collapsed, text, tmp_path, monkeypatch):
    """Counted over blocks and files; 9 labels are too few to say, unless all are empty."""
    monkeypatch.setattr(label_files, "BLOCK", 7)
    rows = [made_label(number, text=text if number < 100 * share else f"b{number}") for number in range(100)]
    write_utterances(rows[:40], tmp_path / "1.parquet", LABEL_FEATURES)
    write_utterances(rows[40:], tmp_path / "2.parquet", LABEL_FEATURES)
    paths = [tmp_path / "1.parquet", tmp_path / "2.parquet"]
    if collapsed:
        kind = "the same text" if text else "empty"
        with pytest.raises(ValueError, match=f"^sl: 90% of 100 pseudo-labels are {kind}: "):
            filter_labels(paths, [], tmp_path / "kept.parquet")
    else:
        filter_labels(paths, [], tmp_path / "kept.parquet")
    write_utterances([*rows[:8], rows[-1]], tmp_path / "few.parquet", LABEL_FEATURES)
    filter_labels([tmp_path / "few.parquet"], [], tmp_path / "kept.parquet")


@pytest.mark.parametrize("name", ["language", "text", "duration_seconds", "id"])
def test_rows_that_are_no_labels(name, labels, tmp_path):
    rows, path = labels
    rows[3][name] = None
    write_utterances(rows, path, LABEL_FEATURES)
    with pytest.raises(ValueError, match=f"labels.parquet: has rows without {name}$"):
        filter_labels([path], [], tmp_path / "kept.parquet")


def test_scores_that_are_no_numbers(labels, tmp_path):
    table = pq.read_table(labels[1])
    words = pa.array(["high"] * len(table))
    pq.write_table(table.set_column(table.column_names.index("blank_ratio"), "blank_ratio", words), labels[1])
    with pytest.raises(ValueError, match="labels.parquet: no Parquet file of labels, or damaged .*high"):
        filter_labels([labels[1]], [LabelFilter("blank_ratio <= 1")], tmp_path / "kept.parquet")
