"""Common Voice beyond train, dev and test: spontaneous speech, delta releases, validated and other clips, links."""

import csv
import json
import shutil
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_mlpl.cli.main import main
from hf_mlpl.corpora.readers.common_voice import SPLITS, find_locales, read_common_voice
from hf_mlpl.corpora.reading import ReadingReport
from hf_mlpl.corpora.sources import common_voice_sources
from hf_mlpl.data.utterances import read_utterances

from .test_corpora import write_clip

SPONTANEOUS = "sps-corpus-1.0-2025-09-05"
COLUMNS = {  # of https://github.com/common-voice/cv-dataset, datasets/spontaneous-speech
    "1.0": "client_id audio_id audio_file duration_ms prompt_id prompt transcription votes age gender language split "
    "char_per_sec quality_tags",
    "3.0": "client_id audio_id audio_file duration_ms prompt_id prompt transcription votes age gender accents variant "
    "language prompt_upvotes prompt_reports is_edited split char_per_sec quality_tags",
}
ROWS = [  # speaker, transcription, votes, split, and the text that is expected
    ("a", "[um]Da [noise], pa[laugh]seveda[disfluency].", "2", "train", "Da, pa seveda."),
    ("b", 'Rekel je "ne" in šel.', "1", "dev", 'Rekel je "ne" in šel.'),
    ("c", '"Ne," je rekla.', "1", "test", '"Ne," je rekla.'),
    ("d", "", "0", "", None),
    ("c", " ", "", "unassigned", None),
    ("e", "Nihče ni poslušal.", "0", "unassigned", "Nihče ni poslušal."),
    ("e", "Nekdo je\nposlušal.", "2.0", "unassigned", "Nekdo je poslušal."),
    ("c", "Glas s preizkusa.", "1", "unassigned", "Glas s preizkusa."),
    ("f", 'Rekel je "ne" in šel.', "1", "", 'Rekel je "ne" in šel.'),
    ("a", "[laugh] [um]", "1", "train", ""),
]
EXPECTED = {
    "train": [0],
    "dev": [1],
    "test": [2],
    "unlabelled": [3, 4],
    "other": [5],
    "validated": [6, 7, 8],
}


def write_spontaneous(folder: Path, locale: str, generation: str = "1.0", quoting: int = csv.QUOTE_MINIMAL) -> Path:
    """Writes a release as the project's own scripts do, with quotes where a field needs them, and a reported audio."""
    rows = [
        {
            "client_id": speaker,
            "audio_file": f"spontaneous-speech-{locale}-{number}.mp3",
            "prompt": 'Kaj je "sreča"?',
            "transcription": text,
            "votes": votes,
            "language": "Slovene",
            "split": split,
        }
        for number, (speaker, text, votes, split, _) in enumerate([*ROWS, ("g", "Sporno.", "1", "train", "")])
    ]
    for number, row in enumerate(rows):
        write_clip(folder / "audios" / row["audio_file"], 0.3 + 0.1 * number, rate=32000)
    columns = COLUMNS[generation].split()
    with open(folder / f"ss-corpus-{locale}.tsv", "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, columns, restval="", delimiter="\t", lineterminator="\n", quoting=quoting)
        table.writeheader()
        table.writerows(rows)
    (folder / f"ss-reported-audios-{locale}.tsv").write_text(
        f"client_id\taudio_id\taudio_file\treason\nx\t10\t{rows[-1]['audio_file']}\tother\n"
    )
    return folder


def read_all(root, report=None) -> dict[str, list[dict]]:
    report = report or ReadingReport()
    return {split: list(read_common_voice(root, split, report)) for split in SPLITS}


def without_audio(rows: dict[str, list[dict]]) -> dict[str, list[dict]]:
    return {split: [row | {"audio": None} for row in split_rows] for split, split_rows in rows.items()}


def test_spontaneous_speech_in_every_layout(tmp_path):
    folder = write_spontaneous(tmp_path / "extracted" / f"{SPONTANEOUS}-sl", "sl", "1.0")
    report = ReadingReport()
    rows = read_all(folder, report)
    for split, numbers in EXPECTED.items():
        assert [row["id"] for row in rows[split]] == [f"spontaneous-speech-sl-{number}" for number in numbers]
        for number, row in zip(numbers, rows[split], strict=True):
            speaker, *_, text = ROWS[number]
            assert (row["speaker"], row["text"], row["language"]) == (speaker, text, "sl")
            assert row["source"] == ("human" if text else None)
            assert row["duration_seconds"] == pytest.approx(0.3 + 0.1 * number, abs=2e-3)
    assert report.dropped == {"empty sentence": 1, "reported by a listener": 1} and report.read == 11
    table = folder / "ss-corpus-sl.tsv"
    assert report.notes == [
        f"{table}: tags are removed from transcripts of train: 2 [um], 2 [laugh], 1 [noise], 1 [disfluency]",
        f"{table}: 4 transcribed rows are in none of train, dev and test: 3 with votes, which are called validated, "
        "and 1 without, which are called other",
    ]

    greek = write_spontaneous(tmp_path / "extracted" / f"{SPONTANEOUS}-el-CY", "el-CY", "3.0")
    assert find_locales(folder.parent) == ["el-CY", "sl"]
    texts = {split: [row["text"] for row in split_rows] for split, split_rows in rows.items()}
    assert {split: [row["text"] for row in split_rows] for split, split_rows in read_all(greek).items()} == texts
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    for name, archive in {"sl": "common-voice-spontaneous-speech-4-0-slov-c643378f.tar.gz", "el-CY": "b.tar"}.items():
        with tarfile.open(downloads / archive, "w:gz" if archive.endswith("gz") else "w") as tar:
            tar.add(tmp_path / "extracted" / f"{SPONTANEOUS}-{name}", f"{SPONTANEOUS}-{name}")
    expected = without_audio(read_all(folder.parent))
    assert without_audio(read_all(downloads)) == expected and len(expected["train"]) == 2
    (archive,) = downloads.glob("*.gz")
    assert without_audio(read_all(archive)) == without_audio(rows)
    assert common_voice_sources(downloads)("sl").name == f"Common Voice, {SPONTANEOUS}"

    (folder / "audios").rename(tmp_path / "disk")  # links that users have put there are followed
    (folder / "audios").symlink_to(tmp_path / "disk")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "anything").symlink_to(folder)
    (tmp_path / "linked.tar.gz").symlink_to(archive)
    assert without_audio(read_all(tmp_path / "linked")) == without_audio(rows)
    assert without_audio(read_all(tmp_path / "linked.tar.gz")) == without_audio(rows)
    (folder / "audios").unlink()
    with pytest.raises(ValueError, match="ss-corpus-sl.tsv: has no folder audios beside it"):
        read_all(folder)


def test_damage_of_a_table_of_spontaneous_speech(tmp_path):
    folder = write_spontaneous(tmp_path / "any name", "sv")  # called sv-SE by us
    table = folder / "ss-corpus-sv.tsv"
    assert find_locales(folder) == ["sv-SE"]
    good, lines = read_all(folder), table.read_text(encoding="utf-8").split("\n")
    row = lines[1].split("\t")

    def line(text: str, clip: str = row[2]) -> str:
        return "\t".join([*row[:2], clip, *row[3:6], text, *row[7:]])

    added = [
        line('"Ne" je rekla'),
        "too\tshort",
        line('"odprto'),
        line('konec"'),
        line("x", "../../secret.mp3"),
        line("x", "lost.mp3"),
    ]
    table.write_text("\n".join([*lines[:2], *added, *lines[2:]]), encoding="utf-8")
    report = ReadingReport()
    found = read_all(folder, report)
    assert [row["text"] for row in found["train"][1:]] == ['"Ne" je rekla', '"odprto', 'konec"']
    assert found | {"train": found["train"][:1]} == good
    assert report.dropped == {
        "empty sentence": 1,
        "reported by a listener": 1,
        "wrong number of columns": 1,
        "audio_file is not a file name": 1,
        "unreadable audio": 1,
    }
    table.write_text("client_id\taudio_file\n", encoding="utf-8")
    report = ReadingReport()
    assert not any(read_all(folder, report).values())
    assert report.notes == [f"{table}: column transcription is missing; the header has client_id, audio_file"]


SCRIPTED = {  # speaker and sentence by clip
    "train": {"t1": ("a", "Ena."), "t2": ("b", "Dve.")},
    "dev": {"d1": ("c", "Tri.")},
    "test": {"e1": ("d", "Štiri.")},
    "validated": {
        **{"t1": ("a", "Ena."), "t2": ("b", "Dve."), "d1": ("c", "Tri."), "e1": ("d", "Štiri.")},
        **{
            "v1": ("a", "Pet."),
            "v2": ("x", "Šest."),
            "v3": ("d", "Sedem."),
            "v4": ("y", "Štiri."),
            "v5": ("z", "Ena."),
        },
    },
    "other": {"o1": ("d", "Osem."), "o2": ("x", "Devet."), "t2": ("b", "Dve.")},
    "invalidated": {"i1": ("q", "Deset.")},
}


def write_scripted(folder: Path, tables: dict[str, dict[str, tuple[str, str]]]) -> Path:
    for split, clips in tables.items():
        for clip in clips:
            write_clip(folder / "clips" / f"{clip}.mp3", 0.3)
        lines = [f"{speaker}\t{clip}.mp3\t{text}" for clip, (speaker, text) in clips.items()]
        (folder / f"{split}.tsv").write_text("\n".join(["client_id\tpath\tsentence", *lines, ""]), encoding="utf-8")
    return folder


def write_mirror(folder: Path, tables: dict[str, dict[str, tuple[str, str]]], names: dict[str, str]) -> Path:
    (folder / "sl").mkdir(parents=True)
    content = write_clip(folder.parent / "mirrored.mp3", 0.3).read_bytes()
    for split, clips in tables.items():
        rows = [
            {"client_id": speaker, "path": f"{clip}.mp3", "sentence": text, "audio": {"bytes": content, "path": None}}
            for clip, (speaker, text) in clips.items()
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / "sl" / names.get(split, f"{split}-00000-of-00001.parquet"))
    return folder


@pytest.mark.parametrize("layout", ["folder", "archive", "mirror"])
def test_validated_and_other_clips(layout, tmp_path):
    """Validated clips are training data, but none of a speaker or a sentence of dev or test."""
    root = write_scripted(tmp_path / "cv" / "sl", SCRIPTED).parent
    if layout == "archive":
        root = tmp_path / "a.tar"
        with tarfile.open(root, "w") as tar:
            tar.add(tmp_path / "cv", "cv-corpus-6.1-2020-12-11")
    elif layout == "mirror":
        root = write_mirror(tmp_path / "mirror", SCRIPTED, {"dev": "validation-00000-of-00001.parquet"})
    report = ReadingReport()
    rows = {split: list(read_common_voice(root, split, report, None, True)) for split in ("validated", "other")}
    assert [(row["id"], row["text"]) for row in rows["validated"]] == [("v1", "Pet."), ("v2", "Šest."), ("v5", "Ena.")]
    assert [(row["id"], row["text"], row["source"]) for row in rows["other"]] == [
        (i, None, None) for i in ("o1", "o2")
    ]
    assert report.dropped == {"speaker of dev or test": 1, "sentence of dev or test": 1} and report.read == 7
    assert len(list(read_common_voice(root, "validated", ReadingReport()))) == 9  # as it stands

    if layout != "folder":
        return

    def prepare(*also) -> dict[str, list[str]]:
        output = tmp_path / "-".join(["data", *also])
        arguments = ["--common-voice-also", *also] if also else []
        assert main(["prepare-data", "--common-voice", str(root), "--output", str(output), *arguments]) == 0
        return {path.stem: read_utterances([path])["id"] for path in sorted(output.glob("*.parquet"))}

    assert prepare() == {"train": ["t1", "t2"], "dev": ["d1"], "test": ["e1"]}
    assert prepare("validated", "other") == {
        "train": ["t1", "t2", "v1", "v2", "v5"],
        "dev": ["d1"],
        "test": ["e1"],
        "unlabelled": ["o1", "o2"],
    }


def test_a_delta_release(tmp_path, capsys):
    """A delta has no splits of its own; beside a full release, clips of speakers of its dev and test are left out."""
    delta = tmp_path / "cv-corpus-25.0-delta-2026-03-09"
    write_scripted(
        delta / "sl", {"validated": {"n1": ("n", "Nova."), "n2": ("c", "Stara.")}, "other": {"n3": ("n", "?")}}
    )
    (delta / "sl" / "clips").rename(tmp_path / "disk")
    (delta / "sl" / "clips").symlink_to(tmp_path / "disk")
    command = ["prepare-data", "--common-voice", str(delta), "--output", str(tmp_path / "data")]
    assert main(command) == 1
    assert (
        "sl: is a delta release, without train, dev and test; --common-voice-also validated other"
        in capsys.readouterr().err
    )
    assert main([*command, "--common-voice-also", "validated", "other"]) == 0
    assert read_utterances([tmp_path / "data" / "train.parquet"])["id"] == ["n1", "n2"]
    assert read_utterances([tmp_path / "data" / "unlabelled.parquet"])["id"] == ["n3"]

    write_scripted(tmp_path / "cv-corpus-24.0-2025-12-05" / "sl", SCRIPTED)
    write_spontaneous(tmp_path / f"{SPONTANEOUS}-sl", "sl")
    command[2] = str(tmp_path)
    assert main([*command, "--common-voice-also", "validated"]) == 0
    spoken = [f"spontaneous-speech-sl-{number}" for number in range(10)]
    report = json.loads((tmp_path / "data" / "report.json").read_text())
    assert sum("is a delta release, without train, dev and test" in note for note in report["notes"]) == 1
    assert read_utterances([tmp_path / "data" / "dev.parquet"])["id"] == ["d1", spoken[1]]
    assert set(read_utterances([tmp_path / "data" / "train.parquet"])["id"]) == {
        *("t1", "t2", "v1", "v2", "v5", "n1", spoken[0], spoken[6])
    }
    assert report["dropped"]["speaker of dev or test"] == 3  # one of each release
    (source,) = report["splits"]["train"]["sources"]
    names = f"cv-corpus-24.0-2025-12-05 and {SPONTANEOUS} and {delta.name}"
    assert (source["name"], source["license"]) == (f"Common Voice, {names}", "cc0-1.0")
    shutil.copytree(tmp_path / "cv-corpus-24.0-2025-12-05", tmp_path / "cv-corpus-23.0-2025-09-05")
    with pytest.raises(ValueError, match="holds two releases of sl"):
        find_locales(tmp_path)


def test_longer_names_of_splits_in_a_mirror(tmp_path):
    """They are that split, or are named; noisy speech does not go into a test set that has files of its own."""
    names = {"other": "train_other.parquet", "validated": "test_noisy-00000-of-00001.parquet", "dev": "val_0.parquet"}
    names |= {"invalidated": "noisy.parquet", "test": "test-00000-of-00001-a1b2c3d4e5f60718.parquet"}
    root = write_mirror(tmp_path / "mirror", SCRIPTED, names)
    report = ReadingReport()
    rows = {split: [row["id"] for row in read_common_voice(root, split, report)] for split in ("train", "dev", "test")}
    assert rows == {"train": ["t1", "t2", *SCRIPTED["other"]], "dev": ["d1"], "test": ["e1"]}
    place = root / "sl"
    assert sorted(report.notes) == [
        f"{place}/noisy.parquet: neither its name nor its folder's is that of a split, such as train or test",
        f"{place}/test_noisy-00000-of-00001.parquet: is not read, because test has files of its own",
        f"{place}/train_other.parquet: is read as train",
    ]
    (place / names["test"]).unlink()
    assert [row["id"] for row in read_common_voice(root, "test", report)] == list(SCRIPTED["validated"])
    assert report.notes[-1] == f"{place}/test_noisy-00000-of-00001.parquet: is read as test"
