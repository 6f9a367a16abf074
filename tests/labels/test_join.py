"""Tests joins of labels with local audio by id: nothing is lost, mixed up or half written."""

import csv
import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_mlpl.audio.reading import load_audio
from hf_mlpl.data.summary import file_summary
from hf_mlpl.data.utterances import read_utterances, write_utterances
from hf_mlpl.labels.filters import LabelFilter
from hf_mlpl.labels.join import find_label_set, join_labels, join_own_audio
from hf_mlpl.labels.publishing import write_label_set
from hf_mlpl.labels.schema import SCORES

from .test_publishing import made_in, rows_of


@pytest.fixture(scope="module")
def label_set(tone_labels, tmp_path_factory) -> Path:
    """Writes a folder with both languages; of sv-SE, the filter keeps 16 of 24 labels."""
    folder = tmp_path_factory.mktemp("label-set")
    bound = sorted(row["mean_log_prob"] for row in made_in(tone_labels["sv-SE"]).values())[8]
    write_label_set(tone_labels["sv-SE"], "sv-SE", folder, [LabelFilter(f"mean_log_prob >= {bound!r}")])
    write_label_set(tone_labels["de"], "de", folder)
    return folder


@pytest.fixture
def local(tone_data, tone_labels):
    """Reads the utterances of both languages."""
    return read_utterances([tone_data / "unlabelled.parquet", tone_labels["de"].parent / "de.parquet"])


def joined(path: Path) -> dict[str, dict]:
    rows = pq.read_table(path).to_pylist()
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row for row in rows}


def unmatched(path: Path) -> dict[str, tuple[str, str]]:
    with open(path.with_suffix(".unmatched.tsv"), newline="") as file:
        return {row["id"]: (row["language"], row["what"]) for row in csv.DictReader(file, delimiter="\t")}


def test_joined_labels_are_those_that_were_written(tone_labels, label_set, local, tmp_path):
    report = join_labels(find_label_set(str(label_set)), local, tmp_path / "all.parquet", keep_all=True)
    assert joined(tmp_path / "all.parquet") == made_in(tone_labels["de"]) | made_in(tone_labels["sv-SE"])
    assert (report.joined, report.left_out, report.no_audio, report.no_label) == (24 + 31, 0, 0, 1)
    assert file_summary(pq.read_metadata(tmp_path / "all.parquet")).languages == ["de", "sv-SE"]
    # its recording could not be read
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
    reasons = unmatched(output)
    assert {language for language, _ in reasons.values()} == {"sv-SE"}
    assert {name: reason for name, (_, reason) in reasons.items() if name != names[7]} == {
        **dict.fromkeys(names[5:7], "no audio"),
        **dict.fromkeys(own, "no label"),
    }
    seconds = rows[7]["duration_seconds"]
    assert reasons[names[7]][1] == f"{seconds:.2f} s, its label {seconds - 0.2:.2f} s"
    assert joined(output)[names[7]]["duration_seconds"] == seconds  # of the local audio


def test_ids_with_equal_hashes_are_distinguished(tone_labels, label_set, local, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_mlpl.labels.matching.id_hashes", lambda names: np.zeros(len(names), np.uint64))
    join_labels(find_label_set(str(label_set)), local, tmp_path / "all.parquet", keep_all=True)
    assert joined(tmp_path / "all.parquet") == made_in(tone_labels["de"]) | made_in(tone_labels["sv-SE"])


def test_joins_are_the_same_block_by_block(tone_labels, label_set, local, tmp_path, monkeypatch):
    for module in ("data.rows", "labels.files", "data.utterances"):
        monkeypatch.setattr(f"hf_mlpl.{module}.BLOCK", 5)
    join_labels(find_label_set(str(label_set)), local, tmp_path / "all.parquet", keep_all=True)
    assert joined(tmp_path / "all.parquet") == made_in(tone_labels["de"]) | made_in(tone_labels["sv-SE"])


def test_audio_of_the_label_set(tone_labels, tmp_path):
    write_label_set(tone_labels["de"], "de", tmp_path, with_audio=True)
    report = join_own_audio(find_label_set(str(tmp_path)), tmp_path / "a.parquet")
    made, found = made_in(tone_labels["de"]), joined(tmp_path / "a.parquet")
    assert report.joined == len(found) == 31
    for name, row in found.items():
        audio, expected = row.pop("audio"), made[name].pop("audio")
        assert np.array_equal(load_audio(audio), load_audio(expected))  # which has 16 bits and 16 kHz
        assert row == made[name] | {"speaker": None}


def test_inputs_that_cannot_be_joined(label_set, tone_labels, local, tmp_path):
    files, output = find_label_set(str(label_set)), tmp_path / "out" / "a.parquet"

    def error(run, *arguments) -> str:
        with pytest.raises(ValueError) as caught:
            run(*arguments)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def changed(**values) -> dict[str, list[Path]]:
        """Writes a file of labels with one changed row."""
        table = pq.read_table(files["de"][0])
        rows = table.to_pylist()
        rows[1] |= values
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), tmp_path / "changed.parquet")
        return {"de": [tmp_path / "changed.parquet"]}

    assert "no labels of fi" in error(find_label_set, str(label_set), ["fi", "de"])
    assert "no labels, which are files such as sl/train" in error(find_label_set, str(tmp_path))
    for path in (tmp_path / "set" / "sl" / f"train-{number:05d}-of-00003.parquet" for number in (0, 2)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files["de"][0].read_bytes())
    assert "set/sl: lacks some of the shards" in error(find_label_set, str(tmp_path / "set"))
    assert "name that with --audio" in error(join_own_audio, files, output)
    pq.write_table(pa.table({"text": ["b"]}), tmp_path / "mine.parquet")
    foreign = local.map(
        lambda row: {"id": f"other/{row['id']}/x", "audio": row["audio"] | {"path": "other.ogg"}}, keep_in_memory=True
    )
    message = error(join_labels, files, foreign, output)
    assert "ids of the labels are like 'common_voice_de_train0', those of the audio like 'other/" in message
    assert "there is no audio" in error(join_labels, files, local.select([]), output)
    message = error(join_labels, changed(id="common_voice_de_train0", text="other"), local, output)
    assert "changed.parquet: has a second label of 'common_voice_de_train0'" in message
    assert "a duration that is none" in error(join_labels, changed(duration_seconds=float("inf")), local, output)
    for path in (tmp_path / "mine.parquet", tmp_path / "mine.csv"):
        path.touch()
        assert "mine.*: its labels are without audio; name" in error(join_own_audio, {None: [path]}, output).replace(
            path.suffix, ".*"
        )
    (tmp_path / "no.parquet").write_bytes(b"PAR1 is not enough")
    damaged = {"de": [tmp_path / "no.parquet"]}
    assert "damaged; download it again" in error(join_labels, damaged, local, output)
    write_label_set(tone_labels["de"], "de", tmp_path / "none", [LabelFilter("mean_log_prob >= 1")])
    none = find_label_set(str(tmp_path / "none"))
    assert "none of 31 labels is kept by its filters, or has a text; --all" in error(join_labels, none, local, output)
    assert not list(output.parent.iterdir())  # no partial file


def written(path: Path, rows: list[dict]) -> Path:
    """Writes a table in the format that its suffix names; nulls are left out, or empty."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        lines = [json.dumps({name: value for name, value in row.items() if value is not None}) for row in rows]
        path.write_text("\n".join(lines))
    else:
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], delimiter={".csv": ";", ".tsv": "\t"}[path.suffix])
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv", ".jsonl"])
def test_labels_of_anyone_need_no_more_than_ids_and_texts(suffix, local, tmp_path):
    """Missing columns come from the audio, or are null; the source is the name of the table."""
    texts = dict(zip(local["id"], itertools.cycle(["nan", "007", "ja  , \\u00e4\u0308", ""])))
    rows = [{"text": text, "id": name} for name, text in texts.items()]
    path = written(tmp_path / f"mine{suffix}", [*rows, {"text": "x", "id": "other"}])
    report = join_labels(find_label_set(str(path)), local, tmp_path / "out.parquet")
    made = joined(tmp_path / "out.parquet")
    normalized = {name: " ".join(text.split()) for name, text in texts.items()}
    assert {name: row["text"] for name, row in made.items()} == {
        name: text for name, text in normalized.items() if text
    }
    for utterance in local.filter(lambda utterance: utterance["id"] in made, keep_in_memory=True):
        row = made[utterance["id"]]
        for name in ("audio", "duration_seconds", "language", "speaker"):
            assert row[name] == utterance[name]
        assert row["source"] == path.name and not [name for name in SCORES if row[name] is not None]
    assert (report.joined, report.left_out, report.no_audio, report.no_label) == (42, 14, 1, 0)
    assert report.languages == {"de", "sv-SE"} and unmatched(tmp_path / "out.parquet") == {"other": ("", "no audio")}
    report = join_labels(find_label_set(str(path)), local, tmp_path / "out.parquet", keep_all=True)
    assert {name: row["text"] for name, row in joined(tmp_path / "out.parquet").items()} == normalized
    assert (report.joined, report.empty, report.left_out) == (56, 14, 0)


def test_other_columns_of_anyone_are_used_if_present(local, tmp_path):
    more = {"kept": "TRUE", "duration_seconds": "3.5", "mean_log_prob": "-0.5", "teacher": "me/t"}
    rows = [{"id": name, "text": "a"} | more for name in local["id"][:4]]
    rows[1]["kept"] = "false"
    rows[2]["mean_log_prob"] = "high"  # only this row is refused
    rows[3] |= dict.fromkeys(more, "")
    path = written(tmp_path / "mine.csv", rows)
    with open(path, "ab") as file:
        file.write(b"a;b;c\n\xff;;;;;;\n")
    report = join_labels(find_label_set(str(tmp_path)), local, tmp_path / "out" / "out.parquet")
    made = list(joined(tmp_path / "out" / "out.parquet").values())
    assert [(row["id"], row["mean_log_prob"], row["source"]) for row in made] == [
        (local["id"][0], -0.5, "me/t"),
        (local["id"][3], None, "mine.csv"),
    ]
    assert (report.joined, report.left_out, report.unreadable, report.other_duration) == (2, 1, 3, 1)
    reasons = unmatched(tmp_path / "out" / "out.parquet")
    assert reasons[f"{path}:4"] == ("", "mean_log_prob is 'high'")
    assert reasons[f"{path}:6"][1] == "wrong number of columns"
    assert reasons[local["id"][0]] == (local[0]["language"], f"{local[0]['duration_seconds']:.2f} s, its label 3.50 s")


@pytest.mark.parametrize(("suffix", "row"), [(".jsonl", 2), (".parquet", 1)])
def test_rows_without_a_text_are_listed(suffix, row, local, tmp_path):
    rows = [{"id": name, "text": None if number == 1 else f"a {number}"} for number, name in enumerate(local["id"])]
    path = written(tmp_path / f"mine{suffix}", rows)
    report = join_labels(find_label_set(str(path)), local, tmp_path / "out.parquet")
    assert (report.joined, report.unreadable, report.no_label) == (55, 1, 1)
    reasons = {f"{path}:{row}": ("", "no text"), local["id"][1]: (local[1]["language"], "no label")}
    assert unmatched(tmp_path / "out.parquet") == reasons


def test_tables_of_anyone_without_labels(local, tone_data, error_of, tmp_path):
    audio = ["--audio", tone_data / "unlabelled.parquet", "--output", tmp_path / "out.parquet"]

    def error(path: Path) -> str:
        return error_of("join_labels.py", "--labels", path, *audio).removeprefix(f"{path}: ")

    for suffix in (".csv", ".jsonl", ".parquet"):
        rows = [{"utt": name, "text": "a"} for name in local["id"]]
        message = error(written(tmp_path / f"no-id{suffix}", rows))
        assert message == "no labels, it has no column id; it has utt, text; --id-column names it"
        rows = [{"id": name, "text": f"a {n}"} for n, name in enumerate([*local["id"], local["id"][0]])]
        message = error(written(tmp_path / f"twice{suffix}", rows))
        assert message == f"has a second label of {local['id'][0]!r}, with another text; leave one of them out"
        (tmp_path / f"empty{suffix}").write_bytes(b"")
        assert error(tmp_path / f"empty{suffix}")
    assert error(written(tmp_path / "null.jsonl", [{"id": name, "text": None} for name in local["id"]])).startswith(
        "no labels, it has no column text; it has id"
    )
    rows = [{"id": name, "text": "a", "mean_log_prob": "-0,5"} for name in local["id"]]
    path = written(tmp_path / "commas.csv", rows)
    assert error(path) == f"{path}:2: mean_log_prob is '-0,5'; none of 56 rows is a label".removeprefix(f"{path}: ")
    rows = [{"id": name, "text": ""} for name in local["id"]]
    for path in (written(tmp_path / "silent.csv", rows), written(tmp_path / "silent.parquet", rows)):
        message = error(path)
        assert (
            message.startswith("sv-SE: 100% of 24 pseudo-labels are empty: ") and "--allow-collapsed joins" in message
        )
    rows = [{"id": name, "text": "  the the "} for name in local["id"]]
    assert error(written(tmp_path / "loop.csv", rows)).startswith(
        "sv-SE: 100% of 24 pseudo-labels are the same text: "
    )
    assert not [path for path in tmp_path.iterdir() if path.name.startswith((".", "out"))]
