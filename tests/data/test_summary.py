"""Summaries in the footers of utterance files, compared with plain Python on each row."""

import hashlib
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_mlpl.data import utterances
from hf_mlpl.data.collapse import visible
from hf_mlpl.data.rows import select_rows
from hf_mlpl.data.summary import (
    KEY,
    _end_of_rows,
    file_summary,
    ids_sha256,
    joined,
    known_summary,
    rows_sha256,
    seconds_by_source,
    summary_of,
)
from hf_mlpl.data.utterances import languages_of, read_utterances, speech_totals, write_utterances
from hf_mlpl.model.text import normalize_text

from ..corpora.test_scale import odd_texts


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch, tmp_path):
    monkeypatch.setattr("hf_mlpl.data.utterances.BLOCK", 7)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets-cache")


def rows_of(described) -> list[dict]:
    audio = {"path": "a.wav", "offset": None, "size": None, "start": None, "end": None}
    return [
        {"id": name, "audio": audio, "language": language, "source": source, "text": text, "duration_seconds": seconds}
        for name, language, source, text, seconds in described
    ]


described = st.tuples(
    st.text("abö\0", max_size=3),
    st.sampled_from(["de", "sl", "fr"]),
    st.sampled_from(["human", "reference", "t@1", "t@2", None]),
    odd_texts | st.sampled_from(["same", ""]),
    st.integers(0, 64).map(lambda number: number / 4),
)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(described, max_size=30))
def test_a_file_says_what_its_rows_are(tmp_path, described):
    rows = rows_of(described)
    write_utterances(rows, tmp_path / "speech.parquet")
    summary, ids = file_summary(pq.read_metadata(tmp_path / "speech.parquet")), [row["id"] for row in rows]
    assert (summary.ids is not None) == (len(set(ids)) == len(ids) > 0)
    assert summary.ids in (None, (min(ids, default=""), max(ids, default="")))
    assert summary.ids_sha256 == hashlib.sha256("\n".join(ids).encode()).hexdigest()
    text = "".join(f"{row['id']}\0{row['text']}\0" for row in rows)
    assert summary.rows_sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert summary.is_normalized == all(row["text"] == normalize_text(row["text"]) for row in rows if row["text"])
    assert summary.groups.keys() == {(row["language"], row["source"]) for row in rows}
    for key, group in summary.groups.items():
        those = [row for row in rows if (row["language"], row["source"]) == key]
        seconds = [row["duration_seconds"] for row in those]
        assert (group.utterances, group.seconds, group.longest) == (len(those), sum(seconds), max(seconds))
        assert group.squared_seconds == sum(number**2 for number in seconds)
        texts = [row["text"] for row in those if row["text"] is not None]
        seen = visible(pa.array(texts, pa.string())).to_pylist()
        assert group.texts == (
            len(texts),
            seen.count(""),
            max(Counter(seen).values(), default=0),
            sum(map(len, seen)),
            sum(row["duration_seconds"] for row in those if row["text"] is not None),
        )
        normalized = " ".join(["", *map(normalize_text, texts)])
        assert set(group.alphabet) | {" "} == {" ", *normalized} and list(group.alphabet) == sorted(group.alphabet)
    if summary.ids:
        dataset = read_utterances([tmp_path / "speech.parquet"])
        assert known_summary(dataset) == summary
        computed = summary_of(dataset.select(range(len(dataset))))  # not known of a new data set
        assert computed.groups == summary.groups and computed.is_normalized == summary.is_normalized


GOOD = [(str(i), "sl" if i % 3 else "de", "human", "dober dan", 1.0 + i) for i in range(20)]


def refuse(*_, **__):
    raise AssertionError("a row was looked at")


def test_starting_reads_the_footer(tmp_path, monkeypatch):
    files = [tmp_path / "one.parquet", tmp_path / "other.parquet"]
    write_utterances(rows_of(GOOD), files[0])
    write_utterances(rows_of([(f"x{name}", *rest) for name, *rest in GOOD]), files[1])
    plain = tmp_path / "plain.parquet"  # as a file of an earlier version
    pq.write_table(pq.read_table(files[0]), plain)
    expected = languages_of([plain]), speech_totals([plain]), rows_sha256(read_utterances([plain]))
    expected_ids = ids_sha256(read_utterances([plain]))
    sl = read_utterances([plain], ["sl"])["id"][:]
    for name in ("_check_rows", "read_columns", "duplicated_ids"):
        monkeypatch.setattr(utterances, name, refuse)
    monkeypatch.setattr("hf_mlpl.data.summary.blocks", refuse)
    dataset = read_utterances(files[:1])
    assert (languages_of(files[:1]), speech_totals(files[:1]), rows_sha256(dataset)) == expected
    assert ids_sha256(dataset) == expected_ids
    both, chosen = read_utterances(files), read_utterances(files[:1], ["sl"])  # the ids of the files lie apart
    assert summary_of(both).totals()["sl"] == expected[1]["sl"] + expected[1]["sl"]
    assert chosen["id"][:] == sl and summary_of(chosen).languages == ["sl"]
    with pytest.raises(AssertionError, match="a row was looked at"):
        read_utterances([plain])
    with pytest.raises(AssertionError, match="a row was looked at"):  # whose ids may be those of the other
        read_utterances([files[0], files[0]])
    assert len(read_utterances([plain], is_checked=True)) == 20


def test_what_all_rows_say_is_remembered(tmp_path, monkeypatch):
    """Of rows that were selected, whose hashes no footer has: until the files change, or others are selected."""
    monkeypatch.setattr("hf_mlpl.data.remembered.FEWEST_ROWS", 1)
    files = [tmp_path / "one.parquet", tmp_path / "other.parquet"]
    more = [
        (f"x{name}", "sl", "t@1", None if i % 2 else text, seconds) for i, (name, *_, text, seconds) in enumerate(GOOD)
    ]

    def known(rows: range) -> tuple:
        dataset = select_rows(read_utterances(files), np.array(rows))
        return ids_sha256(dataset), rows_sha256(dataset), sorted(seconds_by_source(dataset))

    def expected(described: list) -> tuple:
        ids, seconds = "\n".join(name for name, *_ in described), Counter()
        texts = "".join(f"{name}\0{text}\0" for name, *_, text, _ in described)
        for _, language, source, _, duration in described:
            seconds[language, source] += duration
        hashes = (hashlib.sha256(text.encode()).hexdigest() for text in (ids, texts))
        return *hashes, sorted((*key, total) for key, total in seconds.items())

    for path, rows in zip(files, (GOOD, more), strict=True):
        write_utterances(rows_of(rows), path)
    both = GOOD + more
    assert known(range(1, 40)) == expected(both[1:]) != expected(both[:39]) == known(range(39))
    with monkeypatch.context() as patch:
        patch.setattr("hf_mlpl.data.summary.blocks", refuse)
        assert known(range(1, 40)) == expected(both[1:])
        with pytest.raises(AssertionError, match="a row was looked at"):
            known(range(2, 40))
    for path in (tmp_path / "datasets-cache" / "hf_mlpl").iterdir():
        path.write_text("[]")
    assert known(range(1, 40)) == expected(both[1:])
    more[3] = ("x3", "sl", "t@1", "nasvidenje", 1.5)
    write_utterances(rows_of(more), files[1])
    assert known(range(1, 40)) == expected((GOOD + more)[1:])


def test_a_file_that_another_tool_has_changed(tmp_path):
    """Tests another tool that drops the metadata, one that keeps it, and rows that no reader accepts."""
    path = tmp_path / "speech.parquet"
    write_utterances(rows_of(GOOD), path)
    metadata = pq.read_metadata(path).metadata[KEY]
    table = pq.read_table(path)
    changed = table.set_column(
        table.column_names.index("language"), "language", pc.replace_substring(table["language"], "sl", "hr")
    )
    for new in (changed, table.slice(1), table):
        pq.write_table(new, path)
        assert file_summary(pq.read_metadata(path)) is None
        with pq.ParquetWriter(path, new.schema) as writer:
            writer.write_table(new)
            writer.add_key_value_metadata({KEY: metadata})
        assert file_summary(pq.read_metadata(path)) is None
        assert languages_of([path]) == sorted(set(new["language"].to_pylist()))
    for damaged in (b"{}", b"[]", b"no JSON", metadata.replace(b'"version": 1', b'"version": 2'), metadata[:-9]):
        write_utterances(rows_of(GOOD), path)
        with pq.ParquetWriter(path, table.schema, write_page_checksum=True) as writer:
            for first in range(0, 20, 7):
                writer.write_table(table.slice(first, 7))
            writer.add_key_value_metadata({KEY: damaged})
        assert file_summary(pq.read_metadata(path)) is None and len(read_utterances([path])) == 20
    write_utterances(rows_of([*GOOD, ("bad", "sl", None, None, -1.0)]), path)
    assert file_summary(pq.read_metadata(path)) is None
    with pytest.raises(ValueError, match=r"row 20 \(id bad\): duration_seconds is -1"):
        read_utterances([path])
    write_utterances(rows_of([*GOOD, GOOD[3]]), path)
    with pytest.raises(ValueError, match="1 ids stand for more than one utterance, 3 among them"):
        read_utterances([path])


def test_a_letter_that_changes_no_size(tmp_path):
    """Tests that pyarrow, which passes the metadata on, changes a text, and all sizes stay."""
    path, other = tmp_path / "speech.parquet", tmp_path / "other.parquet"
    write_utterances(rows_of(GOOD), path)
    with pq.ParquetFile(path) as file:
        table = file.read()
    assert KEY in table.schema.metadata
    texts = pc.replace_substring(table["text"], "dan", "dam")
    changed = table.set_column(table.column_names.index("text"), "text", texts)
    with pq.ParquetWriter(
        other, changed.schema, write_page_checksum=True, use_dictionary=utterances.REPEATED
    ) as writer:
        for first in range(0, 20, 7):
            writer.write_table(changed.slice(first, 7))
    before, after = map(pq.read_metadata, (path, other))
    assert before.metadata[KEY] == after.metadata[KEY] and _end_of_rows(before) == _end_of_rows(after)
    assert file_summary(before) is not None and file_summary(after) is None
    dataset = read_utterances([other])
    assert rows_sha256(dataset) != rows_sha256(read_utterances([path])) and "m" in summary_of(dataset).alphabet


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(described, max_size=20, unique_by=lambda row: row[0]), st.integers(0, 20))
def test_summaries_are_joined(tmp_path, described, place):
    rows, summaries = rows_of(described), []
    for part in (rows, rows[:place], rows[place:]):
        write_utterances(part, tmp_path / "speech.parquet")
        summaries.append(file_summary(pq.read_metadata(tmp_path / "speech.parquet")))
    whole, both = summaries[0], joined(summaries[1:])
    assert joined([*summaries[1:], None]) is None
    assert both.groups.keys() == whole.groups.keys()
    for key, group in both.groups.items():
        other = whole.groups[key]
        assert group.texts.commonest >= other.texts.commonest
        assert group.texts._replace(commonest=0) == other.texts._replace(commonest=0)
        assert (group.utterances, group.seconds, group.longest, group.alphabet) == (
            *(other.utterances, other.seconds, other.longest, other.alphabet),
        )
        assert {**dict.fromkeys(other.conventions, 0), **group.conventions} == dict(
            other.conventions
        ) or not other.texts.texts
    assert both.ids in (None, whole.ids) and joined(summaries[1:], is_distinct=True).ids == whole.ids
    assert both.is_normalized == whole.is_normalized
