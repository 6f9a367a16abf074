"""Compares what thresholds keep with what filters keep, and orders of labels with a plain sort."""

import jiwer
import numpy as np
import pyarrow as pa
import pytest

from hf_mlpl.data.utterances import write_utterances
from hf_mlpl.labels.files import scored_blocks
from hf_mlpl.labels.filters import DEFAULT_FILTERS, LabelFilter, filter_masks
from hf_mlpl.labels.schema import LABEL_FEATURES, SCORES
from hf_mlpl.labels.thresholds import (
    DIGITS,
    FEWEST_COMPARED,
    OPERATORS,
    SHARES,
    Kept,
    ThresholdCounts,
    best_order,
    condition,
    thresholds,
)

from .test_filters import made_label

WORDS = "ena dva tri štiri pet šest sedem osem devet deset".split()


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    """Writes 400 labels with scores at, between and beyond the thresholds, and some null; returns rows and references.

    Some labels are empty, others have no reference.
    """
    random, path = np.random.default_rng(0), tmp_path_factory.mktemp("thresholds") / "labels.parquet"
    rows, references = [], []
    for number in range(400):
        scores = {
            score: float(random.normal(thresholds(score).mean(), np.ptp(thresholds(score)) / 3)) for score in SCORES
        }
        if number % 3 == 0:  # on a threshold, as Python parses it
            scores = {score: float(f"{value:.{DIGITS[score]}f}") for score, value in scores.items()}
        if number % 7 == 0:
            scores |= dict.fromkeys(random.choice(list(SCORES), 3).tolist())
        if number % 11 == 0:
            scores["agreement"] = float("nan")  # as numpy writes no value
        reference = random.choice(WORDS, 4).tolist()
        text = " ".join(random.choice(WORDS) if random.random() < 0.3 else word for word in reference)
        values = {"text": "" if number % 13 == 0 else text, "duration_seconds": float(random.uniform(1, 9))}
        values["predicted_language"] = [None, "sl", "fi"][number % 3]
        rows.append(made_label(number, **scores, **values))
        references.append(None if number % 5 == 0 else " ".join(reference))
    write_utterances(rows, path, LABEL_FEATURES)
    return path, rows, references


def counted(path, references) -> ThresholdCounts:
    counts = ThresholdCounts()
    for block in scored_blocks(path):
        counts.add(block, pa.array(references, pa.string()))
    return counts


def test_thresholds_keep_what_their_conditions_keep(labels):
    path, rows, references = labels
    counts, [block] = counted(path, references), scored_blocks(path)
    texts = dict(zip((row["id"] for row in rows), references, strict=True))

    def check(condition: str, kept: Kept) -> None:
        masks = filter_masks(block, [*DEFAULT_FILTERS, LabelFilter(condition)])
        table = block.filter(pa.array(masks["kept"])).to_pylist()
        assert kept.labels == len(table), condition
        assert kept.hours == pytest.approx(sum(row["duration_seconds"] for row in table) / 3600)
        pairs = [(texts[row["id"]], row["text"]) for row in table if texts[row["id"]] is not None]
        assert kept.cer == (pytest.approx(jiwer.cer(*map(list, zip(*pairs, strict=True)))) if pairs else None)

    for score, operators in OPERATORS.items():
        for operator in operators:
            for number in (0, len(thresholds(score)) - 1):
                check(condition(score, operator, number), counts.kept_at(score, operator, number))
            for share in (0.6, 0.2):
                [number] = counts.settings(score, operator, [share])
                kept = counts.kept_at(score, operator, number)
                stricter = counts.kept_at(score, operator, number + (1 if operator == ">=" else -1))
                assert kept.hours >= share * counts.total[1] > stricter.hours
                check(condition(score, operator, number), kept)
    check("language agrees", Kept.of(counts.agreeing))
    check("characters >= 0", Kept.of(counts.total))
    empty = sum(not row["text"] for row in rows)
    assert counts.everything[0] - counts.total[0] == empty > 0
    both = ThresholdCounts()
    for _ in range(2):
        both.add_counts(counts)
    number = next(counts.settings("blank_ratio", "<=", [0.5]))
    once, twice = (each.kept_at("blank_ratio", "<=", number) for each in (counts, both))
    assert twice.labels == 2 * once.labels and twice.cer == once.cer and both.compared == 2 * counts.compared


def test_histograms_hold_all_labels_that_have_the_score(labels):
    path, rows, references = labels
    counts = counted(path, references)
    for score in SCORES:
        values = [row[score] for row in rows if row["text"] and row[score] is not None and row[score] == row[score]]
        numbers, edges = counts.histogram(score)
        assert numbers.sum() == len(values) == counts.known[score][0] and 20 <= len(numbers) <= 40
        assert np.diff(edges) == pytest.approx(np.full(len(numbers), edges[1] - edges[0]))
        inside, _ = np.histogram(values, edges)
        assert numbers[1:-1].tolist() == pytest.approx(inside[1:-1].tolist(), abs=2)  # values on an edge
        median = counts.quantiles(score, [0.5])[0]
        clipped = np.clip(values, *thresholds(score)[[0, -1]])
        assert abs(median - np.median(clipped)) <= 0.03 * np.ptp(thresholds(score))


def test_labels_are_ordered_by_the_score_that_follows_their_errors(tmp_path):
    """Twenty labels of equal length each, at distances that every threshold tells apart."""
    random, rows, references = np.random.default_rng(1), [], []
    quality = random.permutation(FEWEST_COMPARED * 2) / 200
    for number, share in enumerate(quality.tolist()):
        text = "".join(random.choice(["a", "b"], 40, p=[1 - share, share]).tolist())
        scores = dict.fromkeys(SCORES) | {"mean_log_prob": float(random.uniform(-1, 0)), "blank_ratio": share}
        rows.append(made_label(number, **scores, text=text, duration_seconds=2.0))
        references.append("a" * 40)
    write_utterances(rows, tmp_path / "labels.parquet", LABEL_FEATURES)
    counts = counted(tmp_path / "labels.parquet", references)
    assert best_order([counts]) == (("blank_ratio", "<="), True)
    by_quality = sorted(rows, key=lambda row: row["blank_ratio"])
    for share, rate in zip(SHARES, counts.error_rates("blank_ratio", "<="), strict=True):
        best = by_quality[: round(share * len(rows))]
        assert rate == pytest.approx(jiwer.cer(["a" * 40] * len(best), [row["text"] for row in best]))
    without = counted(tmp_path / "labels.parquet", [None] * len(rows))
    assert best_order([without]) == (("mean_log_prob", ">="), False)
    few = counted(
        tmp_path / "labels.parquet", [references[0]] * (FEWEST_COMPARED - 1) + [None] * (FEWEST_COMPARED + 1)
    )
    assert best_order([few]) == (("mean_log_prob", ">="), False)
    assert best_order([few, counts]) == (("blank_ratio", "<="), True)
    assert best_order([ThresholdCounts()]) == (None, False)


def test_labels_without_the_score_are_the_worst(tmp_path):
    rows = [
        made_label(number, text="a" * 10, blank_ratio=None if number < 30 else 0.5, duration_seconds=1.0)
        for number in range(60)
    ]
    write_utterances(rows, tmp_path / "labels.parquet", LABEL_FEATURES)
    counts = counted(tmp_path / "labels.parquet", ["b" * 10 if number < 30 else "a" * 10 for number in range(60)])
    rates = counts.error_rates("blank_ratio", "<=")
    assert rates[SHARES <= 0.5].max() == 0 and rates[-1] == pytest.approx(0.5)
    assert list(counts.settings("blank_ratio", "<=", (0.6,))) == []
