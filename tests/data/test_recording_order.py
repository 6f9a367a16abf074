"""Tests the order of recordings, by sorting utterances one by one, and which utterances are of the same recording."""

import random
from itertools import pairwise

import numpy as np
import pytest

from hf_mlpl.data import rows as rows_module
from hf_mlpl.data.rows import blocks, recording_of, recording_order, speakers_of
from hf_mlpl.data.utterances import FEATURES, read_utterances, write_utterances
from hf_mlpl.labels.labelling import BUCKET_RATIO, ORDERS


def utterances(count: int, seed: int) -> list[dict]:
    """Returns parts of recordings, whole ones, members of tars and rows of Parquet files, in any order."""
    rng, made = random.Random(seed), []
    for number in range(count):
        kind = rng.choice(["part", "part", "whole", "tar", "parquet"])
        audio = dict.fromkeys(FEATURES["audio"]) | {"path": f"/{kind}/{rng.randrange(4)}"}
        if kind == "part":
            audio |= {"start": rng.choice([None, *map(float, range(9))]), "end": 10.0}
        elif kind != "whole":
            audio |= {"offset": rng.randrange(50), "size": 7 if kind == "tar" else None}
        row = {"id": str(number), "audio": audio, "duration_seconds": rng.choice([0.0, rng.uniform(0.3, 40)])}
        made.append(row | {"language": "de"} | dict.fromkeys(["text", "speaker", "source"]))
    return made


def by_hand(made: list[dict]) -> list[int]:
    """Returns row numbers in the order of recordings."""
    paths = [row["audio"]["path"] for row in made]

    def key(row: int) -> tuple:
        audio = made[row]["audio"]
        return paths.index(paths[row]), audio["offset"] or 0, audio["start"] or 0.0, row

    return sorted(range(len(made)), key=key)


@pytest.mark.parametrize("block", [7, 10_000])
def test_utterances_of_a_recording_follow_each_other(block, tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "BLOCK", block)
    made = utterances(200, block)
    write_utterances(made, tmp_path / "a.parquet")
    expected, dataset = by_hand(made), read_utterances([tmp_path / "a.parquet"])
    assert np.argsort(recording_order(dataset)).tolist() == expected
    ordered = dataset.select(expected)
    assert recording_order(ordered) is None and recording_order(dataset.select([])) is None

    order = ORDERS["duration bucket, recording"](dataset).tolist()
    assert sorted(order) == list(range(200))
    buckets = [0]  # where another begins: only there do places go back
    for i in range(1, 200):
        if expected.index(order[i]) < expected.index(order[i - 1]):
            buckets.append(i)
    seconds = [max(made[row]["duration_seconds"], 1.0) for row in order]
    spans = [seconds[first:end] for first, end in pairwise([*buckets, 200])]
    assert 5 <= len(spans) <= 10 and all(max(span) < BUCKET_RATIO * min(span) for span in spans)
    assert all(min(longer) > max(shorter) for longer, shorter in pairwise(spans))
    in_order = ORDERS["duration bucket, recording"](ordered).tolist()
    assert [expected[row] for row in in_order] == order


def test_durations_at_the_edges_of_buckets(tmp_path):
    """Finds them in the same bucket on every processor, whatever its logarithms are."""
    made = utterances(200, 0)[:6]
    for row, seconds in zip(made, [0.2, 1.5, np.nextafter(1.5, 0), 3.375, 2.25, 1e9], strict=True):
        row["duration_seconds"] = seconds
        row["audio"]["path"] = "a.wav"
        row["audio"] |= {"offset": None, "size": None, "start": 0.0, "end": seconds}
    write_utterances(made, tmp_path / "a.parquet")
    order = ORDERS["duration bucket, recording"](read_utterances([tmp_path / "a.parquet"]))
    assert order.tolist() == [5, 3, 4, 1, 0, 2]


def test_each_recording_in_a_container_is_one_of_its_own(tmp_path):
    """And parts of a file are of one recording; utterances with a speaker are the speaker's."""
    made = utterances(200, seed=3)
    for row in made[::4]:
        row["speaker"] = "ana"
    write_utterances(made, tmp_path / "all.parquet")
    dataset = read_utterances([tmp_path / "all.parquet"])
    speakers = [name for block in blocks(dataset, ["audio", "speaker"]) for name in speakers_of(block).to_pylist()]
    assert speakers == [row["speaker"] or recording_of(row["audio"]) for row in made]
    places = {(row["audio"]["path"], row["audio"]["offset"]) for row in made}
    assert len({recording_of(row["audio"]) for row in made}) == len(places) > 50
    assert recording_of(made[0]["audio"] | {"path": "a.wav", "offset": None, "start": 3.0}) == "a.wav"
