"""Compares filters of pseudo-labels with plain comparisons, row by row."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_mlpl.data.utterances import write_utterances
from hf_mlpl.labels.filters import LabelFilter, filter_labels, read_filters
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
    hours = filter_labels([labels[1]], [LabelFilter(condition) for condition in conditions], tmp_path / "kept.parquet")
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
    hours = filter_labels([labels[1], tmp_path / "it.parquet"], [], tmp_path / "kept.parquet")
    assert [row["id"] for row in pq.read_table(tmp_path / "kept.parquet").to_pylist()] == [f"u{n}" for n in range(9)]
    assert list(hours) == ["fi", "it", "sl"] and hours["it"]["kept"] == pytest.approx(0.9)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("operator", [">=", "<="])
def test_a_filter_compares(labels, tmp_path, name, operator):
    bound = -0.3 if name == "mean_log_prob" else 0.3
    ids, hours = keep(labels, tmp_path, f"{name} {operator} {bound}")

    def holds(value):
        return value is not None and (value >= bound if operator == ">=" else value <= bound)

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
    assert read_filters(path) == [LabelFilter("mean_log_prob >= -0.3"), LabelFilter("language agrees")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("filter: all\n", "filter is 'all'; it must be none or a list of conditions"),
        ("filters: none\n", "must hold `filter: none`, or `filter:` and a list"),
        ("filter: [confidence >= 0.3]\n", "'confidence >= 0.3' is no filter; write 'language agrees', or a score"),
        ("filter: [mean_log_prob > 0.3]\n", "'mean_log_prob > 0.3' is no filter"),
        ("filter: [mean_log_prob >= nan]\n", "'mean_log_prob >= nan' is no filter"),
        ("[" * 1000, "recursion"),
        ("null\n", "must hold `filter: none`"),
        ("filter: [mean_log_prob >= high]\n", "'mean_log_prob >= high' is no filter.* mean_log_prob, lowest_word"),
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
    with pytest.raises(ValueError, match="dev.parquet: has no column blank_ratio, .*`hf-mlpl pseudo-label` writes"):
        filter_labels([tone_data / "dev.parquet"], [], tmp_path / "kept.parquet")
    with pytest.raises(ValueError, match="tokens-all.lst: no Parquet file of labels, or damaged"):
        filter_labels([tone_data / "tokens-all.lst"], [], tmp_path / "kept.parquet")
    assert not (tmp_path / "kept.parquet").exists()


def test_labels_of_a_collapsed_teacher(tmp_path, caplog):
    """A warning names a language whose labels are all empty; if no text is left at all, that is an error."""
    rows = [made_label(number, text="" if number < 3 else "a") for number in range(5)]
    rows[0]["language"] = rows[1]["language"] = "fi"
    path, kept = tmp_path / "labels.parquet", tmp_path / "kept.parquet"
    write_utterances(rows, path, LABEL_FEATURES)
    filter_labels([path], [], kept)
    assert [record.getMessage() for record in caplog.records] == ["fi: all 2 labels that are kept are empty"]
    kept.unlink()
    few = [LabelFilter("mean_log_prob >= -0.2")]
    message = (
        "of 5 labels the filters keep 3, and none of these has a text; relax the filters, .*; --allow-empty writes"
    )
    with pytest.raises(ValueError, match=message):
        filter_labels([path], few, kept)
    with pytest.raises(ValueError, match="of 5 labels the filters keep 0, and"):
        filter_labels([path], [LabelFilter("blank_ratio >= 2")], kept)
    assert os.listdir(tmp_path) == ["labels.parquet"]
    filter_labels([path], few, kept, allow_empty=True)
    assert [row["text"] for row in pq.read_table(kept).to_pylist()] == ["", "", ""]
    write_utterances([], path, LABEL_FEATURES)  # no utterances at all
    filter_labels([path], few, kept)
    assert not len(pq.read_table(kept))


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
