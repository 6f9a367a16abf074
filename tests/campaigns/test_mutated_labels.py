"""Damages files of labels by chance, with fixed seeds, and reads them back as the jobs do: rows, or one line.

Parquet files of labels (filters, label sets, shards of labelling), tables of anyone as Parquet, csv and JSON lines
(joins), and `complete.json`, `job.json`, `summary.json` and files of filters. Bytes are changed, zeroed, cut out,
inserted or repeated, and JSON values are replaced by others. It ends after `SECONDS` for each kind of file, and prints
how many were read, refused, and read with other values.
"""

import copy
import csv
import json
import random
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_mlpl.data.utterances import read_utterances, write_utterances
from hf_mlpl.labels.filtering import filter_labels
from hf_mlpl.labels.filters import LabelFilter, read_filters
from hf_mlpl.labels.folder import check_same_job, is_labelled
from hf_mlpl.labels.join import find_label_set, join_labels
from hf_mlpl.labels.publishing import write_label_set
from hf_mlpl.labels.schema import LABEL_FEATURES
from hf_mlpl.labels.shards import read_shard
from hf_mlpl.labels.summary import LabelSummary

pytestmark = pytest.mark.slow

FILES, SECONDS = 300, 60
VALUES = (None, True, 7, -1, 1e999, "", "x", [], [None], {}, {"a": 1}, 2**70, "\ud800")


def mutated(content: bytes, rng: random.Random) -> bytes:
    """One to three places of a file are damaged."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        at, length = rng.randrange(len(data) + 1), rng.choice((1, 1, 4, 50))
        kind = rng.randrange(6)
        if kind == 0:
            del data[at:]
        elif kind == 1:
            del data[at : at + length]
        elif kind == 2:
            data[at : at + length] = bytes(len(data[at : at + length]))
        elif kind == 3:
            data[at:at] = rng.randbytes(length)
        elif kind == 4:
            data[at:at] = data[at : at + length]
        else:
            data[at : at + length] = rng.randbytes(len(data[at : at + length]))
    return bytes(data)


def other_values(content, rng: random.Random):
    """A JSON object of which one value, however deep, is another one, or is not there."""
    content = copy.deepcopy(content)
    place = content
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = rng.choice(list(keys))
        if not isinstance(place[key], (dict, list)) or not place[key] or rng.random() < 0.3:
            break
        place = place[key]
    if rng.random() < 0.2:
        del place[key]
    else:
        place[key] = rng.choice(VALUES)
    return content


def campaign(name: str, write, read, whole=None) -> int:
    """Reads up to `FILES` damaged files, and compares results with `whole`; returns how many files are refused."""
    outcomes, rng, end = Counter(), random.Random(name), time.monotonic() + SECONDS
    for number in range(FILES):
        if time.monotonic() > end:
            break
        write(rng)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                outcomes["read" if read() == whole else "read with other values"] += 1
        except (ValueError, OSError) as error:
            assert "\n" not in str(error) and str(error), (name, number, error)
            outcomes["refused"] += 1
        except Exception as error:
            raise AssertionError(f"{name}, file {number}: {type(error).__name__}: {error}") from error
    print(f"\n{name}: {dict(outcomes)}")
    return outcomes["refused"]


@pytest.fixture(scope="module")
def folder(tone_labels, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mutated") / "labels"
    shutil.copytree(tone_labels["de"], folder)
    return folder


def rows(path: Path, read: Callable[[Path], pa.Table] = pq.read_table) -> list[dict]:
    return sorted(read(path).to_pylist(), key=lambda row: row["id"])


def test_parquet_files_of_labels(folder, tmp_path):
    path, output = folder / "labels.parquet", tmp_path / "kept.parquet"
    content, whole = path.read_bytes(), rows(path)

    def write(rng):
        path.write_bytes(mutated(content, rng))

    def read_filtered():
        filter_labels([path], [LabelFilter("blank_ratio <= 1")], output)
        return rows(output)

    def read_set():
        return write_label_set(folder, "de", tmp_path / "set")

    try:
        assert campaign("labels.parquet, filtered", write, read_filtered, whole)
        path.write_bytes(content)
        assert campaign("labels.parquet, to a label set", write, read_set, read_set())
    finally:
        path.write_bytes(content)


def test_shards_of_labelling(tone_labels, folder, tmp_path):
    """Whatever is taken for whole has exactly the labels that were written."""
    shard = folder / "shards" / "00000.arrow"
    content, whole = shard.read_bytes(), rows(shard, read_shard)
    utterances = read_utterances([tone_labels["de"].parent / "de.parquet"])
    teacher = json.loads((folder / "job.json").read_text())["teacher"]
    damaged = tmp_path / "00000.arrow"

    def read():
        if not is_labelled(damaged, utterances, teacher):
            raise ValueError("it is labelled again")
        assert repr(rows(damaged, read_shard)) == repr(whole)
        return whole

    assert is_labelled(shard, utterances, teacher)
    assert campaign("shard", lambda rng: damaged.write_bytes(mutated(content, rng)), read, whole)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_tables_of_anyone(suffix, tone_labels, tmp_path):
    """Each row is joined, or told."""
    utterances = read_utterances([tone_labels["de"].parent / "de.parquet"])
    table = [{"id": name, "text": f'text, "{n}"', "mean_log_prob": -n} for n, name in enumerate(utterances["id"])]
    path, output = tmp_path / f"mine{suffix}", tmp_path / "joined.parquet"
    if suffix == ".parquet":
        rows_as = [dict.fromkeys(LABEL_FEATURES) | row for row in table]
        write_utterances(rows_as, path, LABEL_FEATURES)
        pq.write_table(pq.read_table(path, columns=["id", "text", "mean_log_prob"]), path)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table))
    else:
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, table[0])
            writer.writeheader()
            writer.writerows(table)
    content = path.read_bytes()

    def read():
        report = join_labels(find_label_set(str(path)), utterances, output)
        assert report.joined == len(rows(output)) and report.joined + report.no_label == len(utterances)
        return [(row["id"], row["text"], row["mean_log_prob"]) for row in rows(output)]

    whole = read()
    assert campaign(f"mine{suffix}", lambda rng: path.write_bytes(mutated(content, rng)), read, whole)


def test_json_and_yaml(folder, tmp_path):
    job = json.loads((folder / "job.json").read_text())
    write_label_set(folder, "de", tmp_path)
    filters = tmp_path / "filters.yaml"
    filters.write_text("filter:\n  - mean_log_prob >= -0.3\n  - language agrees\n")

    def read_set():
        return write_label_set(folder, "de", tmp_path / "set").utterances

    for path, read in {
        folder / "complete.json": read_set,
        folder / "job.json": lambda: check_same_job(folder / "job.json", job),
        tmp_path / "de" / "summary.json": lambda: LabelSummary.read(tmp_path / "de" / "summary.json"),
        filters: lambda: read_filters(filters),
    }.items():
        content, whole = path.read_bytes(), read()

        def write(rng, path=path, content=content):
            if rng.random() < 0.5 and path.suffix == ".json":
                path.write_text(json.dumps(other_values(json.loads(content), rng)))
            else:
                path.write_bytes(mutated(content, rng))

        try:
            assert campaign(path.name, write, read, whole)
        finally:
            path.write_bytes(content)
