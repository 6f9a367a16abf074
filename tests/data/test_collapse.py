"""Compares counts of labels with plain Python, and tests the files of dropped utterances."""

import csv
import logging
import random
from collections import Counter, defaultdict

import pyarrow as pa
import pytest

from hf_mlpl.data.collapse import LabelTexts, describe_collapse
from hf_mlpl.data.drops import DropFile


def table(rows):
    names = ("language", "text", "duration_seconds")
    return pa.table({name: list(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)})


def test_texts_are_counted_as_plain_python_counts_them():
    rng = random.Random(0)
    texts = ["", "  ", " \u200b", "a", " a", "\ufeffa\u00ad", "\u00e4\u00e4", "a b", "b a"]
    rows = [(rng.choice(["de", "sl"]), rng.choice(texts), rng.uniform(1, 9)) for _ in range(500)]
    human = [(language, "abcd", 2.0) for language in [*["sl"] * 10, *["de"] * 9]]  # nine are too few
    counted, people, expected = LabelTexts(), LabelTexts(), defaultdict(list)
    for first in range(0, 500, 70):
        counted.add(table(rows[first : first + 70]))
    counted.add(table(rows)[:0])
    people.add(table(human))
    for language, text, seconds in rows:
        expected[language].append((text.strip(" \u200b\ufeff\u00ad"), seconds))
    for language, labels in expected.items():
        count = Counter(text for text, _ in labels)
        report = {
            "labels": len(labels),
            "empty": pytest.approx(count[""] / len(labels)),
            "commonest": pytest.approx(max(count.values()) / len(labels)),
        }
        assert counted.report(language) == report
        if language == "sl":  # of which people wrote two characters a second
            ratio = sum(len(text) for text, _ in labels) / sum(2 * seconds for _, seconds in labels)
            report["length_ratio"] = pytest.approx(ratio)
        assert counted.report(language, people) == report


@pytest.mark.parametrize(
    ("report", "clause"),
    [
        ({"labels": 0, "empty": 0.0, "commonest": 0.0}, None),
        ({"labels": 3, "empty": 1.0, "commonest": 1.0}, "100% of 3 pseudo-labels are empty"),
        ({"labels": 9, "empty": 0.0, "commonest": 1.0}, None),
        ({"labels": 10, "empty": 0.9, "commonest": 0.9}, "90% of 10 pseudo-labels are empty"),
        ({"labels": 10, "empty": 0.0, "commonest": 0.89, "length_ratio": 0.1}, None),
        ({"labels": 10, "empty": 0.0, "commonest": 0.2, "length_ratio": None}, None),
        (
            {"labels": 10, "empty": 0.0, "commonest": 0.2, "length_ratio": 0.09},
            "10 pseudo-labels have 9% of the letters",
        ),
    ],
)
def test_a_collapse_is_described(report, clause):
    described = describe_collapse(report)
    assert described is None if clause is None else described.startswith(clause)


def test_dropped_utterances_are_counted_shown_and_listed(tmp_path, caplog):
    path, logger = tmp_path / "dropped.tsv", logging.getLogger("hf_mlpl.test")
    with DropFile(path, ("id", "text")) as drops:
        shown = [drops.add("no text" if n % 10 else "odd", f"u{n}", "a\tb\n") for n in range(30)]
        assert not path.exists()
    assert [number for number, is_shown in enumerate(shown) if is_shown] == [0, 1, 2, 3, 4, 5, 10, 20]
    with open(path, newline="") as file:
        assert list(csv.reader(file, delimiter="\t")) == [["id", "text"], *([f"u{n}", "a\tb\n"] for n in range(30))]
    drops.log_rest(logger, "utterances dropped")
    assert [record.getMessage() for record in caplog.records] == [
        f"30 utterances dropped: 27 no text, 3 odd; all are listed in {path}"
    ]
    with pytest.raises(KeyError), DropFile(path, ("id",)) as drops:  # what was listed stays
        drops.add("odd", "u1")
        raise KeyError
    assert len(path.read_text().splitlines()) > 30
    with DropFile(path, ("id",)) as drops:
        pass
    drops.log_rest(logger, "utterances dropped")
    assert len(caplog.records) == 1 and not list(tmp_path.iterdir())
