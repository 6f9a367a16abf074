"""Label sets: what is in them, bit by bit the same each time; joined with audio, as training takes it."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from accelerate import Accelerator
from datasets import Audio, Features

from hf_mlpl import MlplForCTC, MlplProcessor, label_join, label_sets
from hf_mlpl.audio import load_audio
from hf_mlpl.corpora import utterances as utterance_files
from hf_mlpl.corpora.sources import VOXPOPULI
from hf_mlpl.corpora.utterances import read_utterances, write_utterances
from hf_mlpl.label_filters import LabelFilter
from hf_mlpl.label_join import find_label_set, join_labels, join_own_audio
from hf_mlpl.label_sets import LABEL_SET_FEATURES, write_label_set
from hf_mlpl.label_summary import LabelSummary
from hf_mlpl.pseudo_label import LABEL_FEATURES, SCORES, pseudo_label

pytestmark = pytest.mark.usefixtures("one_thread")

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def labels(tone_data, tone_run, tmp_path_factory) -> dict[str, Path]:
    """Folders of pseudo-labels: sv-SE in parts of a long recording; de in files, one of them not there."""
    root = tmp_path_factory.mktemp("labels")
    rows = pq.read_table(tone_data / "train.parquet").to_pylist()
    rows = [row for row in rows if row["language"] == "de"]
    rows[3]["audio"]["path"] = "lost.wav"
    write_utterances(rows, root / "de.parquet")
    models = [kind.from_pretrained(tone_run / "model") for kind in (MlplForCTC, MlplProcessor)]
    for language, path in {"de": root / "de.parquet", "sv-SE": tone_data / "unlabelled.parquet"}.items():
        dataset = read_utterances([path])
        teacher = f"me/teacher@{COMMIT}"
        pseudo_label(Accelerator(cpu=True), *models, dataset, root / language, teacher, 5.0, sources=[VOXPOPULI])
    return {language: root / language for language in ("de", "sv-SE")}


def made_in(folder: Path) -> dict[str, dict]:
    """id -> row of labels.parquet."""
    return {row["id"]: row for row in pq.read_table(folder / "labels.parquet").to_pylist()}


def rows_of(folder: Path) -> list[dict]:
    return [row for path in sorted(folder.rglob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# What is in a label set


def test_rows_are_the_labels_by_id(labels, tmp_path):
    made = made_in(labels["sv-SE"])
    bound = sorted(row["mean_log_prob"] for row in made.values())[8]
    write_label_set(labels["sv-SE"], "sv-SE", tmp_path, [LabelFilter(f"mean_log_prob >= {bound!r}")])
    rows = rows_of(tmp_path)
    assert [row["id"] for row in rows] == sorted(made) and len(rows) == 24
    for row in rows:
        label = made[row["id"]]
        assert (row["start"], row["end"]) == (label["audio"]["start"], label["audio"]["end"])
        assert row["end"] - row["start"] == pytest.approx(row["duration_seconds"])
        for name in ("duration_seconds", "language", "text", "predicted_language", *SCORES):
            assert row[name] == label[name]
        assert (row["teacher"], row["teacher_revision"]) == ("me/teacher", COMMIT)
        assert row["kept"] is (label["mean_log_prob"] >= bound)
        assert set(row) == set(LABEL_SET_FEATURES)
    assert sum(row["kept"] for row in rows) == 16


def test_no_path_leaves_the_machine(labels, tmp_path, tone_corpus):
    for language, folder in labels.items():
        write_label_set(folder, language, tmp_path, with_audio=language == "de")
    for path in tmp_path.rglob("*.parquet"):
        table = pq.read_table(path)
        held = json.dumps(
            [table.drop(["audio"] if "audio" in table.column_names else []).to_pylist(), str(table.schema)]
        )
        assert table.schema.metadata.keys() == {b"huggingface"}
        paths = [row["path"] for row in table["audio"].to_pylist()] if "audio" in table.column_names else []
        assert "/" not in "".join(paths) and str(tone_corpus) not in held and "lost.wav" not in held
    for path in tmp_path.rglob("*.json"):
        assert str(tone_corpus) not in path.read_text() and str(tmp_path.parent) not in path.read_text()


def test_the_same_labels_give_the_same_bytes(labels, tmp_path, monkeypatch):
    """Also if they were labelled in another order."""
    monkeypatch.setattr(label_sets, "SHARD_ROWS", 10)
    write_label_set(labels["sv-SE"], "sv-SE", tmp_path / "a")
    other = tmp_path / "labels"
    rows = pq.read_table(labels["sv-SE"] / "labels.parquet").to_pylist()
    write_utterances(rows[::-1], other / "labels.parquet", LABEL_FEATURES)
    (other / "complete.json").write_bytes((labels["sv-SE"] / "complete.json").read_bytes())
    write_label_set(other, "sv-SE", tmp_path / "b")
    shards = [f"sv-SE/train-0000{number}-of-00003.parquet" for number in range(3)]
    assert sorted(contents(tmp_path / "a")) == ["sv-SE/summary.json", *shards]
    assert [pq.read_metadata(tmp_path / "a" / shard).num_rows for shard in shards] == [10, 10, 4]
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_audio_in_it(labels, tmp_path, monkeypatch, tone_data):
    monkeypatch.setattr(label_sets, "SHARD_SECONDS", 4)
    monkeypatch.setattr(label_sets, "AUDIO_ROWS", 3)
    for language, folder in labels.items():
        write_label_set(folder, language, tmp_path, with_audio=True)
    given = made_in(labels["de"]) | made_in(labels["sv-SE"])
    rows = rows_of(tmp_path)
    assert {row["id"] for row in rows} == set(given) and len(rows) == 24 + 31
    for row in rows:
        samples, rate = soundfile.read(_written(tmp_path / "a.flac", row["audio"]["bytes"]), dtype="float32")
        assert rate == 16_000 and row["audio"]["path"] == f"{row['id']}.flac"
        assert np.abs(samples - load_audio(given[row["id"]]["audio"])).max() <= 0.5 / 2**15 + 1e-7
    for path in tmp_path.glob("*/*.parquet"):
        assert pq.read_schema(path).names == [*LABEL_SET_FEATURES, "audio"]
        assert Features.from_arrow_schema(pq.read_schema(path))["audio"] == Audio(16_000)
    seconds = [sum(pq.read_table(path)["duration_seconds"].to_pylist()) for path in tmp_path.glob("de/*.parquet")]
    assert len(seconds) == math.ceil(sum(seconds) / 4) and max(seconds) < 4 + 1
    write_label_set(labels["de"], "de", tmp_path / "again", with_audio=True)
    assert contents(tmp_path / "again" / "de") == contents(tmp_path / "de")


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_summary_counts(labels, tmp_path):
    made = list(made_in(labels["de"]).values())
    least = sorted(row["lowest_word_confidence"] or 0 for row in made)[10]
    most = sorted(row["compression_ratio"] for row in made)[20]
    filters = [LabelFilter(f"lowest_word_confidence >= {least!r}"), LabelFilter(f"compression_ratio <= {most!r}")]
    summary = write_label_set(labels["de"], "de", tmp_path, filters)
    assert LabelSummary.read(tmp_path / "de" / "summary.json") == summary

    def hours(rows) -> float:
        return pytest.approx(math.fsum(row["duration_seconds"] for row in rows) / 3600, abs=1e-6)

    sure = [row for row in made if (row["lowest_word_confidence"] or 0) >= least]
    full = [row for row in made if row["compression_ratio"] <= most]
    both = [row for row in sure if row in full]
    assert 0 < len(both) < min(len(sure), len(full)) < 31
    assert (summary.utterances, summary.unreadable, summary.kept) == (31, 1, len(both))
    assert (summary.hours, summary.hours_kept) == (hours(made), hours(both))
    assert summary.hours_kept_by == {filters[0].condition: hours(sure), filters[1].condition: hours(full)}
    assert summary.another_language == sum(row["predicted_language"] != "de" for row in made)
    assert summary.empty == sum(not row["text"] for row in made)
    assert summary.cer == json.loads((labels["de"] / "complete.json").read_text())["languages"]["de"]["cer"]
    assert summary.mean_log_prob == pytest.approx(sum(row["mean_log_prob"] for row in made) / 31, abs=1e-6)
    for name, histogram in summary.scores.items():
        edges, counts = histogram["edges"], [0] * 40
        for value in (row[name] for row in made if row[name] is not None):
            bins = [
                number for number in range(40) if edges[number] <= value
            ]  # the first and the last bin take the rest
            counts[bins[-1] if bins else 0] += 1
        assert histogram["counts"] == counts and sum(counts) + histogram["null"] == 31


def test_labels_that_are_not_complete(labels, tmp_path):
    with pytest.raises(ValueError, match="nothing: no complete pseudo-labels; recipes/pseudo_label.py --output"):
        write_label_set(tmp_path / "nothing", "de", tmp_path)
    with pytest.raises(ValueError, match="no labels of fi; there are de"):
        write_label_set(labels["de"], "fi", tmp_path)
    old = tmp_path / "old"
    complete = json.loads((labels["de"] / "complete.json").read_text())
    del complete["languages"]["de"]["errors"]
    write_utterances([], old / "labels.parquet", LABEL_FEATURES)
    (old / "complete.json").write_text(json.dumps(complete))
    with pytest.raises(ValueError, match="complete.json: is of an older hf_mlpl; delete it"):
        write_label_set(old, "de", tmp_path)


# Joining


@pytest.fixture(scope="module")
def label_set(labels, tmp_path_factory) -> Path:
    """A folder with both languages; of sv-SE, the filter keeps 16 of 24 labels."""
    folder = tmp_path_factory.mktemp("label-set")
    bound = sorted(row["mean_log_prob"] for row in made_in(labels["sv-SE"]).values())[8]
    write_label_set(labels["sv-SE"], "sv-SE", folder, [LabelFilter(f"mean_log_prob >= {bound!r}")])
    write_label_set(labels["de"], "de", folder)
    return folder


@pytest.fixture
def local(tone_data, labels):
    """The audio of both languages, as utterances."""
    return read_utterances([tone_data / "unlabelled.parquet", labels["de"].parent / "de.parquet"])


def joined(path: Path) -> dict[str, dict]:
    rows = pq.read_table(path).to_pylist()
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row for row in rows}


def unmatched(path: Path) -> dict[str, tuple[str, str]]:
    with open(path.with_suffix(".unmatched.tsv"), newline="") as file:
        return {row["id"]: (row["language"], row["what"]) for row in csv.DictReader(file, delimiter="\t")}


def test_joined_labels_are_those_that_were_written(labels, label_set, local, tmp_path):
    report = join_labels(find_label_set(str(label_set)), local, tmp_path / "all.parquet", keep_all=True)
    assert joined(tmp_path / "all.parquet") == made_in(labels["de"]) | made_in(labels["sv-SE"])
    assert (report.joined, report.left_out, report.no_audio, report.no_label) == (24 + 31, 0, 0, 1)
    # which could not be read
    assert unmatched(tmp_path / "all.parquet") == {"common_voice_de_train3": ("de", "no label")}
    report = join_labels(find_label_set(str(label_set), ["sv-SE"]), local, tmp_path / "kept.parquet")
    assert (report.joined, report.left_out, report.no_label) == (16, 8, 0)
    assert set(joined(tmp_path / "kept.parquet")) == {row["id"] for row in rows_of(label_set / "sv-SE") if row["kept"]}


def test_ids_on_one_side_alone(label_set, tone_data, tmp_path):
    rows = pq.read_table(tone_data / "unlabelled.parquet").to_pylist()
    names = [row["id"] for row in rows]
    rows[5]["id"], rows[6]["id"] = own = "my\town", "my, own"
    rows[7]["duration_seconds"] += 0.2
    rows[8]["duration_seconds"] += 0.05
    write_utterances(rows, tmp_path / "local.parquet")
    local, output = read_utterances([tmp_path / "local.parquet"]), tmp_path / "a.parquet"
    report = join_labels(find_label_set(str(label_set), ["sv-SE"]), local, output, keep_all=True)
    assert (report.joined, report.no_audio, report.no_label, report.other_duration) == (22, 2, 2, 1)
    assert set(joined(output)) == {*names[:5], *names[7:]}
    told = unmatched(output)
    assert {language for language, _ in told.values()} == {"sv-SE"}
    assert {name: what for name, (_, what) in told.items() if name != names[7]} == {
        **dict.fromkeys(names[5:7], "no audio"),
        **dict.fromkeys(own, "no label"),
    }
    seconds = rows[7]["duration_seconds"]
    assert told[names[7]][1] == f"{seconds:.2f} s, its label {seconds - 0.2:.2f} s"
    assert joined(output)[names[7]]["duration_seconds"] == seconds  # of the audio that is here


def test_ids_whose_hashes_are_equal_are_told_apart(labels, label_set, local, tmp_path, monkeypatch):
    monkeypatch.setattr(label_join, "id_hashes", lambda names: np.zeros(len(names), np.uint64))
    join_labels(find_label_set(str(label_set)), local, tmp_path / "all.parquet", keep_all=True)
    assert joined(tmp_path / "all.parquet") == made_in(labels["de"]) | made_in(labels["sv-SE"])


def test_joins_are_the_same_block_by_block(labels, label_set, local, tmp_path, monkeypatch):
    for module in (label_join, utterance_files):
        monkeypatch.setattr(module, "BLOCK", 5)
    join_labels(find_label_set(str(label_set)), local, tmp_path / "all.parquet", keep_all=True)
    assert joined(tmp_path / "all.parquet") == made_in(labels["de"]) | made_in(labels["sv-SE"])


def test_audio_of_the_label_set(labels, tmp_path):
    write_label_set(labels["de"], "de", tmp_path, with_audio=True)
    report = join_own_audio(find_label_set(str(tmp_path)), tmp_path / "a.parquet")
    made, found = made_in(labels["de"]), joined(tmp_path / "a.parquet")
    assert report.joined == len(found) == 31
    for name, row in found.items():
        audio, expected = row.pop("audio"), made[name].pop("audio")
        assert np.array_equal(load_audio(audio), load_audio(expected))  # which has 16 bits and 16 kHz
        assert row == made[name] | {"speaker": None}


def test_what_cannot_be_joined(label_set, labels, local, tmp_path):
    files, output = find_label_set(str(label_set)), tmp_path / "out" / "a.parquet"

    def error(run, *arguments) -> str:
        with pytest.raises(ValueError) as caught:
            run(*arguments)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def changed(**values) -> dict[str, list[Path]]:
        """Files of labels of which one row is changed."""
        table = pq.read_table(files["de"][0])
        rows = table.to_pylist()
        rows[1] |= values
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), tmp_path / "changed.parquet")
        return {"de": [tmp_path / "changed.parquet"]}

    assert "no labels of fi" in error(find_label_set, str(label_set), ["fi", "de"])
    assert "no labels, which are files such as sl/train" in error(find_label_set, str(tmp_path))
    assert "name that with --audio" in error(join_own_audio, files, output)
    foreign = local.map(lambda row: {"id": f"other/{row['id']}"}, keep_in_memory=True)
    told = error(join_labels, files, foreign, output)
    assert "ids of the labels are like 'common_voice_de_train0', those of the audio like 'other/" in told
    assert "there is no audio" in error(join_labels, files, local.select([]), output)
    told = error(join_labels, changed(id="common_voice_de_train0"), local, output)
    assert "has two labels of 'common_voice_de_train0'" in told
    assert "has rows without text" in error(join_labels, changed(text=None), local, output)
    human = {"de": [labels["de"].parent / "de.parquet"]}
    assert "no labels, it has no column blank_ratio, character" in error(join_labels, human, local, output)
    (tmp_path / "no.parquet").write_bytes(b"PAR1 is not enough")
    damaged = {"de": [tmp_path / "no.parquet"]}
    assert "no Parquet file of labels, or damaged" in error(join_labels, damaged, local, output)
    write_label_set(labels["de"], "de", tmp_path / "none", [LabelFilter("mean_log_prob >= 1")])
    none = find_label_set(str(tmp_path / "none"))
    assert "none of 31 labels is kept by its filters; --all" in error(join_labels, none, local, output)
    assert not list(output.parent.iterdir())  # nothing half-made
