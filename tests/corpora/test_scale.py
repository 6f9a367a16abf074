"""Functions for millions of utterances in Arrow columns, compared with plain Python on each row."""

import hashlib
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_mlpl import MlplConfig, MlplFeatureExtractor, MlplProcessor, MlplTokenizer
from hf_mlpl.data import drops
from hf_mlpl.data.batches import BatchPlan, plan_batches, repetitions
from hf_mlpl.data.rows import Column, blocks, distinct, duplicated_ids, durations_of, filter_rows
from hf_mlpl.data.selection import OTHER_TOKENS, min_ctc_frames, select_for_training
from hf_mlpl.data.summary import summary_of
from hf_mlpl.data.text_arrays import TextBlock
from hf_mlpl.data.utterances import FEATURES
from hf_mlpl.model.text import normalize_text, unknown_character_report
from hf_mlpl.training.checkpoints import digest
from hf_mlpl.training.model_setup import _human_characters


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr("hf_mlpl.data.rows.BLOCK", 7)


def dataset_of(ids, **columns) -> Dataset:
    rows = [{"id": name, "duration_seconds": 1.0 + i % 13, "language": "sl"} for i, name in enumerate(ids)]
    for column, values in columns.items():
        for row, value in zip(rows, values, strict=True):
            row[column] = value
    table = pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema)
    return Dataset(table, fingerprint="that of a table takes longer than most tests")


@settings(deadline=None)
@given(st.lists(st.text(alphabet="ab\0é😀", max_size=3), max_size=40))
def test_ids_that_occur_twice_are_found(ids):
    expected = [name for name, count in Counter(ids).items() if count > 1]
    assert duplicated_ids(dataset_of(ids)) == expected


def test_equal_hashes_of_different_ids_are_no_duplicates(monkeypatch):
    monkeypatch.setattr("hf_mlpl.data.rows.id_hashes", lambda names: np.zeros(len(names), np.uint64))
    assert duplicated_ids(dataset_of(map(str, range(30)))) == []
    assert duplicated_ids(dataset_of([*"abcdefgh", "c"])) == ["c"]


@settings(deadline=None)
@given(st.data())
def test_rows_that_are_kept(data):
    """Tests a whole data set, a part of one, and one in any order."""
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
    kept = filter_rows(dataset, ["language"], lambda block: pc.equal(block["language"], "sl").to_numpy())
    assert list(kept) == [row for row in rows if row["language"] == "sl"]
    assert list(filter_rows(kept, ["id"], lambda block: np.ones(len(block), bool))) == list(kept)
    if 0 < len(kept) < len(rows):
        assert kept[-1] == list(kept)[-1] and kept[[0]]["id"] == [list(kept)[0]["id"]]


def test_rows_far_apart_come_in_their_order():
    dataset = dataset_of(map(str, range(3000))).shuffle(seed=0)
    assert [name for block in blocks(dataset, ["id"]) for name in block["id"].to_pylist()] == list(dataset["id"])


def plain_plan(durations, max_batch_seconds, rng) -> list[list[int]]:
    """Plans batches as Python lists; up to 40 batches it is the plan of all models of version 0.1."""
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
def test_plans_equal_those_of_version_0_1(count):
    durations = np.round(np.random.default_rng(count).uniform(0.1, 20, count), 1)
    expected = plain_plan(durations, 60, np.random.default_rng([3, 0]))
    assert list(plan_batches(durations, 60, np.random.default_rng([3, 0]))) == expected
    plan, rng = BatchPlan(durations, 60, 3), np.random.default_rng([3, 0])
    rng.random(count)  # for the occurrences of each utterance
    if expected:
        expected = plain_plan(durations, 60, rng)
        assert [plan[number] for number in range(len(expected))] == expected


def test_repetitions_equal_a_plain_computation():
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


# ---- texts

ODD = [" ", "  ", "a", "b", "c", "h", "ch", "B", "é", "e\u0301", "\u0301", "\u0344", "\u212b", "ß", "|", "?", "🙂"]
ODD += ["\u00a0", "\t", "\n", "\0", "\x1c", "\u3000", "가", "ᄀ", "ᅡ", "ᆨ", "க\u0bc6\u0bbe", "กำ", "𑄱", "𑄧", "豈"]
ODD += ["\u200b", "\u200c", "\u00ad", "\ufeff", "\ufe0f", "\u034f", "می", "❤"]
odd_texts = st.none() | st.lists(st.sampled_from(ODD) | st.characters(codec="utf-8"), max_size=12).map("".join)


@settings(deadline=None)
@given(st.lists(odd_texts, max_size=30), st.integers(1, 10))
def test_blocks_of_texts_are_normalised(texts, size):
    chunks = [pa.array(texts[first : first + size], pa.string()) for first in range(0, len(texts), size)]
    block = TextBlock(pa.chunked_array(chunks, pa.string()))
    expected = [normalize_text(text or "") for text in texts]
    assert block.texts.to_pylist() == expected
    assert block.lengths.tolist() == list(map(len, expected))
    assert "".join(map(chr, block.code_points)) == " " + "".join(f"{text} " for text in expected)
    is_a = block.code_points == ord("a")
    assert block.has(is_a).tolist() == ["a" in text for text in expected]
    assert block.count(is_a).tolist() == [text.count("a") for text in expected]


def plain_selection(dataset, processor, config, max_seconds) -> tuple[list[str], Counter, list[str]]:
    """Returns selected ids, counts of reasons, and lines of the log, row by row."""
    kept, dropped, lines, unknown_characters = [], Counter(), [], Counter()
    for row in dataset:
        text, seconds = normalize_text(row["text"] or ""), row["duration_seconds"]
        frames = config.num_output_frames(processor.feature_extractor.num_frames(round(seconds * 16_000)))
        if not text:
            reason = "no text"
        elif unknown := processor.tokenizer.unknown_characters(text):
            unknown_characters.update(unknown)
            reason = "unknown characters"
        elif seconds > max_seconds:
            reason = f"longer than {max_seconds:g} s"
        elif min_ctc_frames(processor.tokenizer(text)["input_ids"]) > frames:
            reason = "more labels than frames"
        else:
            kept.append(row["id"])
            continue
        dropped[reason] += 1
        lines.append(f"utterance {row['id']} dropped: {reason} ({seconds:.2f} s, {row['text']!r})")
    if unknown_characters:
        characters = unknown_character_report(unknown_characters)
        lines.append(f"characters that the tokenizer lacks: {characters}; {OTHER_TOKENS}")
    return kept, dropped, lines


# Entries of several characters: alone on their lines, with others, as long as two others, silent, with a boundary
TOKENS = [
    "|\na\nb\nc\nh\né\n가\n",
    "|\na\nb B\nch\naa\n",
    "|\na ch\nb\nc\nh\nab B\n",
    "|\na\nb\nch\n<x>\n?\n",
    "| a\nb\nc h\n|b\n",
]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    for number, tokens in enumerate(TOKENS):
        (folder / f"{number}.lst").write_text(tokens, encoding="utf-8")

    def tokenizer(number: int, surround: str) -> MlplTokenizer:
        silent = ["<x>", "?"] if "<x>" in TOKENS[number] else []
        return MlplTokenizer(folder / f"{number}.lst", surround=surround, silent_entries=silent)

    return tokenizer


def seconds_of(frames: int) -> float:
    """Returns the duration of the shortest utterance with a number of output frames."""
    return (400 + 160 * 3 * (frames - 1)) / 16_000


def assert_same_selection(
    rows: list[tuple[str | None, float]], tokenizer, max_seconds, caplog, with_summary: bool
) -> None:
    processor, config = MlplProcessor(MlplFeatureExtractor(), tokenizer), MlplConfig.tiny(len(tokenizer), ["sl"])
    texts, durations = zip(*rows, strict=True)
    dataset = dataset_of(map(str, range(len(rows))), text=texts, duration_seconds=durations)
    kept, dropped, lines = plain_selection(dataset, processor, config, max_seconds)
    if with_summary:
        assert summary_of(dataset).is_normalized  # and known from now on
    caplog.clear()
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(drops, "FIRST_LINES", len(rows))
    if kept:
        selected, counts = select_for_training(dataset, processor, config, max_seconds)
        assert list(selected["id"]) == kept
        assert list(counts.items()) == list(dropped.items())
    else:
        with pytest.raises(ValueError, match="can be used for training"):
            select_for_training(dataset, processor, config, max_seconds)
    monkeypatch.undo()
    assert [record.getMessage() for record in caplog.records] == lines


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data(), number=st.integers(0, len(TOKENS) - 1), surround=st.sampled_from(["", "|"]))
def test_training_uses_the_same_utterances_as_a_selection_row_by_row(data, number, surround, tokenizers, caplog):
    likely = st.lists(st.sampled_from(["a", "b", "c", "h", "B", "ch", "ab", " "]), max_size=12).map("".join)
    row = st.tuples(likely | odd_texts, st.integers(1, 40).map(seconds_of) | st.floats(0.01, 1.2))
    rows = data.draw(st.lists(row, min_size=1, max_size=30))
    max_seconds, with_summary = data.draw(st.sampled_from([0.4, 1.0, 5.0])), data.draw(st.booleans())
    if with_summary:
        rows = [(text and normalize_text(text), seconds) for text, seconds in rows]
    assert_same_selection(rows, tokenizers(number, surround), max_seconds, caplog, with_summary)


@pytest.mark.parametrize("surround", ["", "|"])
@pytest.mark.parametrize("number", range(len(TOKENS)))
def test_training_uses_texts_that_just_fit(number, surround, tokenizers, caplog):
    texts = ["a" * 9, "ab" * 6, "ach" * 5, "aa" * 6, "a b " * 4, "chch c h" * 2, "aBbA" * 3, "bb|b"]
    rows = [(text, seconds_of(frames)) for text in texts for frames in range(1, 35)]
    assert_same_selection(rows, tokenizers(number, surround), 1.0, caplog, with_summary=False)
    rows = [(normalize_text(text), seconds) for text, seconds in rows]
    assert_same_selection(rows, tokenizers(number, surround), 1.0, caplog, with_summary=True)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["de", "sl"]), odd_texts, st.sampled_from(["human", "t@1", None]))))
def test_characters_of_languages_are_those_of_their_human_texts(tokenizers, rows):
    languages, texts, sources = zip(*rows, strict=True) if rows else ((), (), ())
    dataset = dataset_of(map(str, range(len(rows))), language=languages, text=texts, source=sources)
    plain, quick = tokenizers(0, ""), tokenizers(0, "")
    for language, text, source in rows:
        if text and source == "human":
            plain.learn_language_characters({language: [text]})
    quick.learn_language_characters(_human_characters(dataset))
    assert quick.language_characters == plain.language_characters


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(st.characters(codec="utf-8"), max_size=5), odd_texts), max_size=30), st.booleans())
def test_digests_equal_those_of_earlier_versions(tokenizers, rows, has_indices):
    """Tests a format that checkpoints of earlier versions contain."""
    ids, texts = zip(*rows, strict=True) if rows else ((), ())
    dataset = dataset_of(ids, text=texts)
    if has_indices and rows:
        dataset, rows = dataset.select(range(len(rows))[::-1]), rows[::-1]
    text = "".join(f"{name}\0{text}\0" for name, text in rows)
    processor = MlplProcessor(MlplFeatureExtractor(), tokenizers(0, ""))
    digests = digest(processor, train=dataset, unlabelled=None)
    tokens = '[["<blank>", 7], ["a", 1], ["b", 2], ["c", 3], ["h", 4], ["|", 0], ["é", 5], ["가", 6]]'
    expected = {"tokens": tokens, "train": text}
    assert digests == {name: hashlib.sha256(content.encode()).hexdigest() for name, content in expected.items()}


def test_columns_are_looked_up_by_row():
    dataset = dataset_of(map(str, range(100)))
    for rows in (range(100), [5, 3, 99, 0]):
        column = Column(dataset.select(rows), "id")
        assert [column[row] for row in range(len(rows))] == list(map(str, rows))
