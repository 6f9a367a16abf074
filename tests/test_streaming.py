"""The stream of utterances: everything once in a pass, for all numbers of ranks and workers, and exact states."""

import json
import pickle
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from hf_mlpl.corpora.streaming import StreamedUtterances
from hf_mlpl.corpora.utterances import FEATURES, read_utterances

LANGUAGES = ["de", "sl", "fr"]
SIZES = [[5, 1, 7], [3, 0], [11], [2, 2, 2]]  # rows of the row groups of each file
COUNT = sum(map(sum, SIZES))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, number, paths = tmp_path_factory.mktemp("stream"), 0, []
    for i, sizes in enumerate(SIZES):
        paths.append(folder / f"{i}.parquet")
        with pq.ParquetWriter(paths[-1], FEATURES.arrow_schema) as writer:
            for size in sizes:
                rows = [
                    {"id": f"u{n}", "audio": {"path": "a"}, "duration_seconds": 1.0, "language": LANGUAGES[n % 3]}
                    for n in range(number, number + size)
                ]
                writer.write_table(pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema), row_group_size=100)
                number += size
    return paths


def ids(stream, count=None) -> list[str]:
    return [row["id"] for row in islice(stream, count)]


def test_rows_are_those_of_the_map_style_data_set(files, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    assert list(StreamedUtterances(files, passes=1)) == list(read_utterances(files))
    assert list(StreamedUtterances(files, ["fr", "de"], passes=1)) == list(read_utterances(files, ["fr", "de"]))


def test_every_pass_is_another_order_of_everything(files):
    stream = StreamedUtterances(files, seed=1, buffer_rows=10)
    passes = [ids(stream, 4 * COUNT)[first : first + COUNT] for first in range(0, 4 * COUNT, COUNT)]
    in_order = [f"u{n}" for n in range(COUNT)]
    for one in passes:
        assert one != in_order and sorted(one) == sorted(in_order)
    assert len(set(map(tuple, passes))) == 4
    assert ids(StreamedUtterances(files, seed=1, buffer_rows=10), COUNT) == passes[0]
    assert ids(StreamedUtterances(files, seed=2, buffer_rows=10), COUNT) != passes[0]
    assert ids(StreamedUtterances(files), 2 * COUNT) == 2 * in_order


@settings(deadline=None, max_examples=20)
@given(
    seed=st.none() | st.integers(0, 9),
    buffer_rows=st.integers(1, 40),
    languages=st.sampled_from([None, ["sl"], ["sl", "fr"]]),
    ranks=st.integers(1, 7),
    ranks_later=st.integers(1, 40),
    taken=st.integers(0, 40),
)
def test_ranks_share_one_order_and_states_are_exact(files, seed, buffer_rows, languages, ranks, ranks_later, taken):
    def stream(rank=0, num_ranks=1):
        return StreamedUtterances(files, languages, seed, buffer_rows, passes, rank, num_ranks)

    passes = 2
    whole = ids(stream())
    taken = min(taken, len(whole) // ranks)
    given_by_all = []
    for rank in range(ranks):
        one = stream(rank, ranks)
        assert ids(one) == whole[rank::ranks]
        assert ids(one, taken) == whole[rank::ranks][:taken]
        if taken:
            state = one.state_dict()
            assert state == one.state_after(taken) and json.loads(json.dumps(state)) == state
            other = stream(rank, ranks)
            other.load_state_dict(state)
            assert ids(other) == whole[rank::ranks][taken:]
    state = stream(0, ranks).state_after(taken)
    for rank in range(ranks_later):
        later = stream(rank, ranks_later)
        later.load_state_dict(state)
        given_by_all += ids(later)
    assert sorted(given_by_all) == sorted(whole[taken * ranks :])


@pytest.mark.parametrize("num_workers", [2])
def test_loader_workers_change_nothing(files, num_workers):
    for rank in range(2):
        one = StreamedUtterances(files, None, 5, 10, 2, rank, 2)
        expected = ids(one)
        assert [row["id"] for row in DataLoader(one, batch_size=None, num_workers=num_workers)] == expected
        one.load_state_dict(one.state_after(7))
        assert [row["id"] for row in DataLoader(one, batch_size=None, num_workers=num_workers)] == expected[7:]
        in_batches = DataLoader(one, batch_size=2, num_workers=num_workers, collate_fn=list)
        assert sorted(row["id"] for batch in in_batches for row in batch) == sorted(expected[7:])
    assert ids(pickle.loads(pickle.dumps(one)), 3) == expected[7:10]


def test_mistakes(files, tmp_path):
    with pytest.raises(ValueError, match="rank 2 of 2; ranks go from 0 to 1"):
        StreamedUtterances(files, rank=2, num_ranks=2)
    with pytest.raises(ValueError, match="no utterances of xx"):
        StreamedUtterances(files, ["xx"])
    with pytest.raises(FileNotFoundError, match="no such utterance file"):
        StreamedUtterances([tmp_path / "none.parquet"])
    with pytest.raises(ValueError, match=f"the state is of {COUNT} utterances, these are 11"):
        StreamedUtterances(files[2:3]).load_state_dict(StreamedUtterances(files).state_dict())


def test_files_of_the_time_before_containers(tmp_path):
    """Whose audio has neither offset nor size."""
    audio = {"path": "a.mp3", "start": None, "end": 2.0}
    row = {"id": "a", "audio": audio, "duration_seconds": 2.0, "language": "sl", "text": "a", "speaker": None}
    pq.write_table(pa.Table.from_pylist([row | {"source": "human"}]), tmp_path / "old.parquet")
    (read,) = StreamedUtterances([tmp_path / "old.parquet"], passes=1)
    assert read == row | {"source": "human", "audio": audio | {"offset": None, "size": None}}
