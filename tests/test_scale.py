"""Utterances by the million: what goes through them in Arrow's columns gives what plain Python gives of each."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mlpl.corpora import utterances
from hf_mlpl.corpora.utterances import FEATURES, blocks, distinct, durations_of, keep_rows
from hf_mlpl.data import BatchPlan, plan_batches, repetitions


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(utterances, "BLOCK", 7)


def dataset_of(ids, **columns) -> Dataset:
    rows = [{"id": name, "duration_seconds": 1.0 + i % 13, "language": "sl"} for i, name in enumerate(ids)]
    for column, values in columns.items():
        for row, value in zip(rows, values, strict=True):
            row[column] = value
    return Dataset(pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema))


@settings(deadline=None)
@given(st.lists(st.text(alphabet="ab\0é😀", max_size=3), max_size=40))
def test_ids_that_occur_twice_are_found(ids):
    expected = [name for name, count in Counter(ids).items() if count > 1]
    assert utterances._duplicates(dataset_of(ids)) == expected


def test_equal_hashes_of_different_ids_are_no_duplicates(monkeypatch):
    monkeypatch.setattr(utterances, "id_hashes", lambda names: np.zeros(len(names), np.uint64))
    assert utterances._duplicates(dataset_of(map(str, range(30)))) == []
    assert utterances._duplicates(dataset_of([*"abcdefgh", "c"])) == ["c"]


@settings(deadline=None)
@given(st.data())
def test_rows_that_are_kept(data):
    """From a whole data set, a part of it, and one in any order."""
    count = data.draw(st.integers(0, 40))
    languages = data.draw(st.lists(st.sampled_from(["de", "sl", "fr"]), min_size=count, max_size=count))
    dataset = dataset_of(map(str, range(count)), language=languages)
    for _ in range(data.draw(st.integers(0, 2))):
        if len(dataset):
            chosen = data.draw(st.lists(st.integers(0, len(dataset) - 1), unique=True))
            dataset = dataset.select(chosen)
    rows = list(dataset)
    assert distinct(dataset, "language") == sorted({row["language"] for row in rows})
    assert durations_of(dataset).tolist() == [row["duration_seconds"] for row in rows]
    kept = keep_rows(dataset, ["language"], lambda block: pc.equal(block["language"], "sl").to_numpy())
    assert list(kept) == [row for row in rows if row["language"] == "sl"]
    assert list(keep_rows(kept, ["id"], lambda block: np.ones(len(block), bool))) == list(kept)
    if 0 < len(kept) < len(rows):
        assert kept[-1] == list(kept)[-1] and kept[[0]]["id"] == [list(kept)[0]["id"]]


def test_rows_far_apart_come_in_their_order():
    dataset = dataset_of(map(str, range(3000))).shuffle(seed=0)
    assert [name for block in blocks(dataset, ["id"]) for name in block["id"].to_pylist()] == list(dataset["id"])


def plain_plan(durations, max_batch_seconds, rng) -> list[list[int]]:
    """As a list of Python lists; up to 40 batches it is what all models of version 0.1 were trained with."""
    num_batches = max(sum(durations) / max_batch_seconds, 1)
    variation = min(max(2 / num_batches, 0.02), 0.05)
    keys = durations * rng.uniform(1 - variation, 1 + variation, len(durations))
    batches, longest = [], 0.0
    for row in np.argsort(-keys, kind="stable").tolist():
        longest = max(longest, durations[row])
        if not batches or longest * (len(batches[-1]) + 1) > max_batch_seconds:
            batches.append([])
            longest = durations[row]
        batches[-1].append(row)
    rng.shuffle(batches)
    return batches


@pytest.mark.parametrize("count", [0, 1, 2, 100, 3000])
def test_plans_stay_what_they_were(count):
    durations = np.round(np.random.default_rng(count).uniform(0.1, 20, count), 1)
    expected = plain_plan(durations, 60, np.random.default_rng([3, 0]))
    assert list(plan_batches(durations, 60, np.random.default_rng([3, 0]))) == expected
    plan, rng = BatchPlan(durations, 60, 3), np.random.default_rng([3, 0])
    rng.random(count)  # which says how often each occurs
    if expected:
        expected = plain_plan(durations, 60, rng)
        assert [plan[number] for number in range(len(expected))] == expected


def test_repetitions_stay_what_they_were():
    rng = np.random.default_rng(0)
    languages = rng.choice(["de", "sl", "fr"], 500).tolist()
    sources = rng.choice(np.array(["human", "t@1", None], object), 500).tolist()
    dataset = dataset_of(map(str, range(500)), language=languages, source=sources)
    groups = [f"{language} {source == 'human'}" for language, source in zip(languages, sources, strict=True)]
    names, index = np.unique(groups, return_inverse=True)
    hours = np.bincount(index, weights=np.array(dataset["duration_seconds"]), minlength=len(names))
    rates = np.where([name.endswith("True") for name in names], 1.0, 0.3) * hours**-0.5
    np.testing.assert_array_equal(repetitions(dataset, 0.5, 0.3), (rates / rates.min())[index])
    human = [i for i, source in enumerate(sources) if source == "human"]
    assert repetitions(dataset.select(human), 2.0).min() == 1  # a group without utterances needs nothing
