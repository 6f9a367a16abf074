"""Compares filters that keep a share of the labels with a plain sort, and reports of filters with plain counts."""

from collections import Counter

import jiwer
import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from hf_mlpl.data.utterances import FEATURES, write_utterances
from hf_mlpl.labels import files as label_files
from hf_mlpl.labels.filtering import filter_labels
from hf_mlpl.labels.filters import DEFAULT_FILTERS, LabelFilter, read_filters
from hf_mlpl.labels.publishing import write_label_set
from hf_mlpl.labels.schema import LABEL_FEATURES

from ..commands import run_command
from .test_filters import made_label

WORDS = "ena dva tri štiri pet šest sedem osem devet deset".split()


@pytest.fixture
def labels(tmp_path, monkeypatch):
    """Writes 150 labels of two languages into two files, read in blocks of 40, some empty, some without scores."""
    monkeypatch.setattr(label_files, "BLOCK", 40)
    random, rows = np.random.default_rng(0), []
    for number in range(150):
        text = "" if number % 17 == 0 else " ".join(random.choice(WORDS, 3))
        values = {name: round(float(random.random()), 2) for name in ("blank_ratio", "length_ratio")}
        values |= {"mean_log_prob": None if number % 7 == 0 else float(-random.random()), "text": text}
        values |= {"language": "sl" if number % 3 else "fi", "duration_seconds": float(random.uniform(1, 9))}
        rows.append(made_label(number, **values))
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    write_utterances(rows[:70], paths[0], LABEL_FEATURES)
    write_utterances(rows[70:], paths[1], LABEL_FEATURES)
    return rows, paths


def best_of(rows, score, operator, share) -> tuple[set[str], float]:
    """Returns the ids of the labels that a share keeps, and the bound: sorted one by one, until it is reached."""
    known = [row for row in rows if row["text"] and row[score] is not None]
    known.sort(key=lambda row: row[score], reverse=operator == ">=")
    total, seconds = sum(row["duration_seconds"] for row in known), 0.0
    for row in known:
        seconds += row["duration_seconds"]
        if seconds >= share * total - 1e-9:
            bound = row[score]
            break
    is_kept = (lambda value: value >= bound) if operator == ">=" else (lambda value: value <= bound)
    return {row["id"] for row in known if is_kept(row[score])}, bound


@pytest.mark.parametrize("share", [50, 12.5, 100, 0.1])
@pytest.mark.parametrize("score, operator", [("mean_log_prob", ">="), ("blank_ratio", "<="), ("blank_ratio", ">=")])
def test_a_share_keeps_the_best_of_each_language(labels, tmp_path, score, operator, share):
    """By hours, among labels with a text and the score; equal values of blank_ratio are kept together."""
    rows, paths = labels
    condition = f"{score} {operator} {share}%"
    report = filter_labels(paths, [*DEFAULT_FILTERS, LabelFilter(condition)], tmp_path / "kept", allow_collapsed=True)
    kept = set()
    for language in ("fi", "sl"):
        ids, bound = best_of([row for row in rows if row["language"] == language], score, operator, share / 100)
        assert report.bounds[condition][language] == bound
        kept |= ids
        seconds = sum(row["duration_seconds"] for row in rows if row["id"] in ids and row["language"] == language)
        assert report.hours[language]["kept"] == pytest.approx(seconds / 3600)
    assert set(pq.read_table(tmp_path / "kept")["id"].to_pylist()) == kept
    if share == 50 and score == "mean_log_prob":
        assert 0.3 * len(rows) < len(kept) < 0.6 * len(rows)


def test_shares_are_of_all_labels_whatever_other_filters_drop(labels, tmp_path):
    rows, paths = labels
    filters = [
        LabelFilter("mean_log_prob >= 30%"),
        LabelFilter("blank_ratio <= 40%"),
        LabelFilter("length_ratio < 0.5"),
    ]
    filter_labels(paths, [*DEFAULT_FILTERS, *filters], tmp_path / "kept")
    expected = set()
    for language in ("fi", "sl"):
        own = [row for row in rows if row["language"] == language]
        expected |= best_of(own, "mean_log_prob", ">=", 0.3)[0] & best_of(own, "blank_ratio", "<=", 0.4)[0]
    expected &= {row["id"] for row in rows if row["length_ratio"] < 0.5}
    assert set(pq.read_table(tmp_path / "kept")["id"].to_pylist()) == expected and len(expected) > 3


def test_a_language_without_the_score_keeps_nothing(labels, tmp_path, caplog):
    rows, _ = labels
    rows = [row | ({"mean_log_prob": None} if row["language"] == "fi" else {}) for row in rows]
    write_utterances(rows, tmp_path / "c.parquet", LABEL_FEATURES)
    report = filter_labels([tmp_path / "c.parquet"], [LabelFilter("mean_log_prob >= 50%")], tmp_path / "kept")
    assert set(report.bounds["mean_log_prob >= 50%"]) == {"sl"} and report.hours["fi"]["kept"] == 0
    assert "fi: the filters keep none of 50 labels: mean_log_prob >= 50% removes 50" in caplog.text


@pytest.mark.parametrize(
    "condition",
    ["mean_log_prob >= 120%", "mean_log_prob >= 0%", "mean_log_prob > 50%", "blank_ratio < 5%", "blank_ratio <= -3%"],
)
def test_shares_that_are_none(condition, tmp_path):
    message = "is no filter; a share of the labels takes >= or <=, and more than 0% up to 100%, as in '.* >= 50%'"
    with pytest.raises(ValueError, match=message):
        LabelFilter(condition)
    (tmp_path / "filters.yaml").write_text(f"filter: ['{condition}']\n")
    with pytest.raises(ValueError, match=f"filters.yaml: '{condition}' {message}"):
        read_filters(tmp_path / "filters.yaml")
    for wrong in ("mean_log_prob >= %", "mean_log_prob >= nan%", "mean_log_prob >= 5%%"):
        with pytest.raises(ValueError, match="is no filter"):
            LabelFilter(wrong)


def test_a_published_set_has_the_same_share(tone_labels, tmp_path):
    condition = "letter_log_prob >= 50%"
    summary = write_label_set(tone_labels["sv-SE"], "sv-SE", tmp_path / "set", [LabelFilter(condition)])
    rows = pq.read_table(tone_labels["sv-SE"] / "labels.parquet").to_pylist()
    [path] = (tmp_path / "set" / "sv-SE").glob("*.parquet")
    kept = {row["id"] for row in pq.read_table(path).to_pylist() if row["kept"]}
    assert kept == best_of(rows, "letter_log_prob", ">=", 0.5)[0] and summary.kept == len(kept) < len(rows)
    assert summary.hours_kept_by[condition] == summary.hours_kept


def test_the_report_has_error_rates_and_lost_words(labels, tmp_path, capsys):
    """Of labels with a reference; the same counts as by jiwer and by plain counters."""
    rows, paths = labels
    random = np.random.default_rng(1)
    spoken = {row["id"]: " ".join(random.choice([*WORDS, "enajst"], 3)) for row in rows[:100]}
    utterances = [dict.fromkeys(FEATURES) | {name: row[name] for name in FEATURES} for row in rows[:100]]
    utterances = [row | {"text": spoken[row["id"]], "source": None} for row in utterances]
    filters = [*DEFAULT_FILTERS, LabelFilter("mean_log_prob >= 10%")]
    references = Dataset.from_list(utterances, features=FEATURES)
    report = filter_labels(paths, filters, tmp_path / "kept", references=references)
    kept = set(pq.read_table(tmp_path / "kept")["id"].to_pylist())
    for language, each in report.languages.items():
        own = [row for row in rows if row["language"] == language]
        for name, chosen in {"all": own, "kept": [row for row in own if row["id"] in kept]}.items():
            pairs = [(spoken[row["id"]], row["text"]) for row in chosen if row["id"] in spoken]
            assert each.cer(name) == pytest.approx(jiwer.cer(*map(list, zip(*pairs, strict=True))))
        assert each.compared == sum(row["id"] in spoken for row in own)
        left = {word for row in own if row["id"] in kept for word in row["text"].split()}
        counts = Counter(word for row in own for word in row["text"].split() if word not in left)
        assert each.lost_words() == counts
        true = Counter(word for row in own if row["id"] in spoken for word in spoken[row["id"]].split())
        assert each.lost_words(of_references=True) == Counter({k: n for k, n in true.items() if k not in left})
        assert each.lost_words(of_references=True)["enajst"] > 0
    assert report.languages["fi"].lost_words()

    write_utterances(utterances, tmp_path / "utterances.parquet")
    (tmp_path / "filters.yaml").write_text("filter: [mean_log_prob>=10%]\n")
    command = ["--filters", tmp_path / "filters.yaml", "--output", tmp_path / "again"]
    references = ["--references", tmp_path / "utterances.parquet"]
    assert run_command("filter_labels.py", *paths, *command, *references) == 0
    printed = capsys.readouterr().out
    bound = report.bounds["mean_log_prob >= 10%"]["fi"]
    assert f"(>= {bound:.4g})" in printed.partition("CER, %")[0]
    assert f"{100 * report.languages['fi'].cer('kept'):.1f}" in printed.partition("CER, %")[2].split("\nfi")[1]
    lost, words = report.languages["fi"].lost_words(), report.languages["fi"].words
    assert f"fi: no kept label has {len(lost)} of the {len(words)} words of labels, which are " in printed
    assert pq.read_table(tmp_path / "again").equals(pq.read_table(tmp_path / "kept"))


def test_references_of_other_utterances_are_refused(labels, tmp_path):
    other = dict.fromkeys(FEATURES) | {
        "id": "x",
        "audio": {"path": "x.ogg", "start": None, "end": None},
        "duration_seconds": 1.0,
        "language": "sl",
    }
    references = Dataset.from_list([other | {"text": "ena"}], features=FEATURES)
    with pytest.raises(ValueError, match="none of 150 labels is of an utterance with a text among the references"):
        filter_labels(labels[1], DEFAULT_FILTERS, tmp_path / "kept", references=references)
    assert not (tmp_path / "kept").exists()


def test_words_without_spaces_are_characters(tmp_path):
    rows = [made_label(0, text="你好", language="zh-CN"), made_label(1, text="好 ok", language="zh-CN")]
    write_utterances(rows, tmp_path / "zh.parquet", LABEL_FEATURES)
    report = filter_labels([tmp_path / "zh.parquet"], [LabelFilter("mean_log_prob < 0")], tmp_path / "kept")
    assert report.languages["zh-CN"].lost_words() == {"你": 1} and pq.read_table(tmp_path / "kept").num_rows == 1
