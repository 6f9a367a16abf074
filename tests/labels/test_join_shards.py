"""Compares the join of shards, which counts in columns, with counts of one row after another."""

import random
import re
from collections import Counter
from dataclasses import astuple
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_mlpl.data import rows as rows_module
from hf_mlpl.data.rows import id_hashes
from hf_mlpl.data.summary import file_summary
from hf_mlpl.data.utterances import TableSummarizer, write_utterances
from hf_mlpl.evaluation.error_rate import ErrorRate
from hf_mlpl.labels.folder import join_shards, shard_path
from hf_mlpl.labels.schema import LABEL_FEATURES, SCORES
from hf_mlpl.labels.shards import COUNTS, ShardCounts, read_shard, write_shard

TEXTS = ["", "dobro jutro", "Dobro jutro.", "20 ljudi", "jutri", "早上好", "ǅ", "a b c d e f"]


def random_label(rng: random.Random, number: int) -> dict:
    row = dict.fromkeys(LABEL_FEATURES) | {"id": f"u{number}", "audio": {"path": f"{number}.ogg"}, "source": "a@1"}
    row |= {"language": rng.choice(["sl", "zh-TW", "de"]), "duration_seconds": rng.uniform(0.5, 30)}
    row |= {"text": rng.choice(TEXTS), "mean_log_prob": rng.choice([None, -rng.random()])}
    return row | ({"error": "no sound", "text": ""} if rng.random() < 0.1 else {})


def test_counts_are_those_of_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "BLOCK", 7)  # rows of a row group: shards end within them
    rng = random.Random(0)
    shards = [[random_label(rng, 100 * i + j) for j in range(rng.randint(1, 30))] for i in range(12)]
    shards[5] = [row | {"error": "no sound"} for row in shards[5]]
    rows = [row for shard in shards for row in shard]
    transcripts = {row["id"]: rng.choice(TEXTS) for row in rows if rng.random() < 0.5}
    for number, shard in enumerate(shards):
        write_utterances(shard, shard_path(tmp_path, number), LABEL_FEATURES)

    def transcripts_of(number: int) -> pa.Table:
        known = [row["id"] for row in reversed(shards[number]) if row["id"] in transcripts]
        schema = LABEL_FEATURES.arrow_schema.empty_table().select(["id", "text"]).schema
        return pa.Table.from_pylist([{"id": name, "text": transcripts[name]} for name in known], schema)

    summary = join_shards(tmp_path, {"teacher": "a@1"}, len(shards), transcripts_of, ())
    made = [row for row in rows if row["error"] is None]
    assert pq.read_table(tmp_path / "labels.parquet").to_pylist() == [
        row | {"audio": dict.fromkeys(("offset", "size", "start", "end")) | row["audio"]} for row in made
    ]
    metadata = pq.read_metadata(tmp_path / "labels.parquet")
    sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    assert sizes == [7] * (len(made) // 7) + [len(made) % 7] * (len(made) % 7 > 0)
    listed = [line.split("\t") for line in (tmp_path / "unreadable.tsv").read_text().splitlines()[1:]]
    assert listed == [[row["id"], row["language"], "no sound"] for row in rows if row["error"]]
    assert (summary["labels"], summary["errors"]) == (len(made), len(rows) - len(made))
    for language, counts in summary["languages"].items():
        labels = [row for row in made if row["language"] == language]
        log_probs = [row["mean_log_prob"] for row in labels if row["mean_log_prob"] is not None]
        pairs = [(row["text"], transcripts[row["id"]]) for row in labels if row["id"] in transcripts]
        rate = ErrorRate()
        for pair in pairs:
            rate.add(*pair)
        written, expected = (sum(map(len, texts)) for texts in zip(*pairs, strict=True))
        there = [row["text"] for row in labels if row["text"]]
        assert counts == {
            "labels": len(labels),
            "empty": len(labels) - len(there),
            "errors": sum(row["language"] == language for row in rows) - len(labels),
            "hours": pytest.approx(sum(row["duration_seconds"] for row in labels) / 3600),
            "mean_log_prob": pytest.approx(sum(log_probs) / len(log_probs)),
            "cer": rate.rate,
            "commonest": Counter(row["text"] for row in labels).most_common(1)[0][1] / len(labels),
            "length_ratio": written / expected,
            "convention": {
                "texts": len(there),
                "cased": sum(text.lower() != text or text.upper() != text for text in there),
                "capitals": sum(text.lower() != text for text in there),
                "punctuation": sum("." in text for text in there),
                "digits": sum("20" in text for text in there),
            },
        }
    assert summary["languages"].keys() == {"sl", "zh-TW", "de"} and SCORES.keys() <= set(LABEL_FEATURES)


def test_counts_lie_in_the_shards(tmp_path, monkeypatch):
    """They equal those of labels that are counted at the join, and are not used for other labels or transcripts."""
    rng = random.Random(1)
    shards = [[random_label(rng, 100 * i + j) for j in range(25)] for i in range(4)]

    def transcripts(number: int, texts: tuple = ("jutri", "20 ljudi")) -> pa.Table:
        known = [{"id": row["id"], "text": texts[i % 2]} for i, row in enumerate(shards[number]) if i % 3]
        return pa.Table.from_pylist(known, pa.schema({"id": pa.string(), "text": pa.string()}))

    def joined(folder, write, *, transcripts_of) -> dict:
        for number, shard in enumerate(shards):
            write(shard, shard_path(folder, number), number)
        return join_shards(folder, {"teacher": "a@1"}, len(shards), transcripts_of, ())

    def write_old(shard, path, number):
        write_utterances(shard, path, LABEL_FEATURES)

    def write_new(shard, path, number):
        write_shard(shard, path, transcripts(number))
        return path

    def write_earlier(shard, path, number):
        """Another version, whose shards were Parquet, has written other counts."""
        pq.write_table(
            read_shard(write_new(shard, path, number)).replace_schema_metadata({COUNTS: '12 {"labels": {}}'}), path
        )

    expected = joined(tmp_path / "old", write_old, transcripts_of=transcripts)
    assert joined(tmp_path / "earlier", write_earlier, transcripts_of=transcripts) == expected
    other = partial(transcripts, texts=("jutro", "2 ljudi"))  # of the same utterances, changed later
    expected_other = joined(tmp_path / "old2", write_old, transcripts_of=other)
    assert joined(tmp_path / "new2", write_new, transcripts_of=other) == expected_other != expected
    uncompared = joined(tmp_path / "old3", write_old, transcripts_of=None)
    assert joined(tmp_path / "new3", write_new, transcripts_of=None) == uncompared
    for number, shard in enumerate(shards):
        write_new(shard, shard_path(tmp_path, number), number)
    for name in ("of_labels", "compare"):
        monkeypatch.delattr(ShardCounts, name)  # nothing is counted again
    assert join_shards(tmp_path, {"teacher": "a@1"}, len(shards), transcripts, ()) == expected
    files = [(tmp_path / name / "labels.parquet").read_bytes() for name in ("new2", "old", "old2", "earlier")]
    assert files[1:] == files[-1:] * 3 and files[0] not in files[1:]  # its footer has a summary

    path, summarizer = tmp_path / "labels.parquet", TableSummarizer()
    assert pq.read_table(path).equals(pq.read_table(tmp_path / "old" / "labels.parquet"))
    summarizer.add(pq.read_table(path))
    summary, computed = file_summary(pq.read_metadata(path)), summarizer.summary()
    assert summary.num_rows == expected["labels"] and summary.groups.keys() == computed.groups.keys()
    assert (summary.ids, summary.is_normalized) == (computed.ids, computed.is_normalized)
    for key, group in computed.groups.items():
        found = summary.groups[key]
        assert (found.conventions, found.alphabet, found.longest) == (group.conventions, group.alphabet, group.longest)
        assert astuple(found)[:3] + found.texts == pytest.approx(astuple(group)[:3] + group.texts)


@pytest.mark.parametrize("write", [write_shard, partial(write_utterances, features=LABEL_FEATURES)])
def test_a_shard_that_is_damaged_when_it_is_joined(write, tmp_path):
    """One line, and nothing is written; the next time it is labelled again."""
    path = shard_path(tmp_path, 0)
    write([random_label(random.Random(0), 0)], path)
    content = path.read_bytes()
    path.write_bytes(content[:4] + bytes(400) + content[404:])
    with pytest.raises(ValueError, match=r"00000.arrow: damaged \(.*\); the same command labels it again$"):
        join_shards(tmp_path, {}, 1, None, ())
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]


def test_every_change_of_a_shard_is_found(tmp_path):
    """Also of its counts, of the names of scores, which would become null, of its checksum, and of its length."""
    path, rng = tmp_path / "00000.arrow", random.Random(0)
    write_shard([random_label(random.Random(number), number) for number in range(5)], path)
    content = path.read_bytes()
    places = {len(content) - 1, 0, *rng.sample(range(len(content)), 300)}
    places |= {match.start() for match in re.finditer(b"letter_log_prob|labels", content)}
    changed = [content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :] for place in places]
    for other in [*changed, content[:-1], content + b"\0", content[:4], b""]:
        path.write_bytes(other)
        with pytest.raises((ValueError, pa.ArrowException)):
            read_shard(path)


def test_hashes_differ_as_texts_do():
    """Also in one bit of the last byte of two words, or only in their length; slices and types do not matter."""
    texts = [
        bytes([a, *b"bcdefg", 64 + b, *b"bcdefg", a, 64 + c]).decode()
        for a in range(30)
        for b in range(30)
        for c in range(30)
    ]
    texts += ["a" * length for length in range(100)] + ["a" + "\0" * length for length in range(1, 100)]
    hashes = id_hashes(pa.array(texts))
    assert len(np.unique(hashes)) == len(texts) and hashes[texts.index("")] == 0
    for same in (pa.array(texts, pa.large_string()), pa.array(["x", *texts])[1:], pa.array([*texts, "x"])[:-1]):
        assert (id_hashes(same) == hashes).all()
    assert not len(id_hashes(pa.array([], pa.string()))) and id_hashes(pa.array(["", ""])).tolist() == [0, 0]
