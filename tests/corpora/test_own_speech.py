"""LibriSpeech, plain folders, and data sets of the `datasets` library: every layout gives the same utterances."""

import os
import subprocess
import tarfile
from collections import Counter
from itertools import chain
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
from datasets import Audio, ClassLabel, Dataset, DatasetDict
from huggingface_hub import HfApi

from hf_mlpl.audio.reading import load_audio
from hf_mlpl.cli.main import main
from hf_mlpl.corpora.readers.folders import read_folder
from hf_mlpl.corpora.readers.hf_datasets import read_dataset
from hf_mlpl.corpora.readers.librispeech import read_librispeech
from hf_mlpl.corpora.readers.lists import read_fl_lists
from hf_mlpl.corpora.reading import ReadingReport
from hf_mlpl.corpora.sources import sources_of
from hf_mlpl.data.utterances import FEATURES, read_utterances, write_utterances

from ..commands import ROOT
from ..packing import pack_archives
from .test_voxpopuli import write_transcribed

RATE = 16_000


@pytest.fixture(autouse=True)
def datasets_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


def write_noise(path: Path, seconds: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(round(1000 * seconds)).normal(scale=0.1, size=round(seconds * RATE))
    soundfile.write(path, noise.astype(np.float32), RATE)
    return path


def listed(rows) -> list[tuple]:
    return [(row["id"], row["language"], row["text"], row["speaker"], row["source"]) for row in rows]


def assert_same_samples(rows, expected) -> None:
    assert [row["duration_seconds"] for row in rows] == [row["duration_seconds"] for row in expected]
    for row, other in zip(rows, expected, strict=True):
        np.testing.assert_array_equal(load_audio(row["audio"]), load_audio(other["audio"]))


# ---- LibriSpeech

CHAPTERS = {"1089/134686": ["HE HOPED THERE WOULD BE STEW", "TURNIPS AND CARROTS"], "61/70968": ["HE BEGAN"]}


@pytest.fixture
def librispeech(tmp_path) -> Path:
    """Writes the folder `LibriSpeech` as test-clean.tar.gz contains it."""
    root = tmp_path / "LibriSpeech"
    for chapter, texts in CHAPTERS.items():
        name, lines = chapter.replace("/", "-"), []
        for i, text in enumerate(texts):
            write_noise(root / "test-clean" / chapter / f"{name}-{i:04d}.flac", 0.3 + 0.1 * i)
            lines.append(f"{name}-{i:04d} {text}\n")
        (root / "test-clean" / chapter / f"{name}.trans.txt").write_text("".join(lines))
    (root / "SPEAKERS.TXT").write_text(";ID  |SEX| SUBSET           |MINUTES| NAME\n")
    return root


def pack(root: Path, archive: Path, mode: str) -> Path:
    archive.parent.mkdir()
    with tarfile.open(archive, mode) as tar:
        tar.add(root, "LibriSpeech")
    return archive


def test_librispeech(librispeech):
    report = ReadingReport()
    rows = list(read_librispeech(librispeech, "test-clean", report))
    assert listed(rows) == [
        ("1089-134686-0000", "en", "HE HOPED THERE WOULD BE STEW", "1089", "human"),
        ("1089-134686-0001", "en", "TURNIPS AND CARROTS", "1089", "human"),
        ("61-70968-0000", "en", "HE BEGAN", "61", "human"),
    ]
    assert [row["duration_seconds"] for row in rows] == [0.3, 0.4, 0.3]
    assert (report.read, report.lines) == (3, [])
    assert list(read_librispeech(librispeech.parent, "test-clean", report)) == rows


@pytest.mark.parametrize("mode", ["w:gz", "w"])
def test_librispeech_in_its_archive(librispeech, tmp_path, mode):
    archive = pack(librispeech, tmp_path / "downloads" / f"test-clean.tar{'.gz' * (mode == 'w:gz')}", mode)
    report = ReadingReport()
    rows = list(read_librispeech(archive.parent, "test-clean", report))
    expected = list(read_librispeech(librispeech, "test-clean", ReadingReport()))
    assert sorted(listed(rows)) == listed(expected)
    assert_same_samples(sorted(rows, key=lambda row: row["id"]), expected)
    assert {row["audio"]["path"] for row in rows} == {str(archive)} and report.lines == []


def test_librispeech_that_is_incomplete(librispeech, tmp_path):
    chapter = librispeech / "test-clean" / "61" / "70968"
    write_noise(chapter / "61-70968-0009.flac", 0.3)
    (chapter / "61-70968-0002.flac").write_bytes(b"fLaC")
    with open(chapter / "61-70968.trans.txt", "a") as file:
        file.write("61-70968-0001 LOST\n61-70968-0002 BROKEN\n61-70968-0000\n")
    report = ReadingReport()
    assert len(list(read_librispeech(librispeech, "test-clean", report))) == 3
    assert report.dropped == dict.fromkeys(
        ["no recording", "unreadable audio", "empty sentence", "not in a transcript"], 1
    )
    assert report.kept == 3 and "61-70968.trans.txt:2: no recording: 61/70968/61-70968-0001.flac" in report.lines[0]
    with pytest.raises(ValueError, match="no split dev-clean of LibriSpeech; there are test-clean"):
        read_librispeech(librispeech.parent, "dev-clean", report)
    with pytest.raises(ValueError, match="no split dev-clean of LibriSpeech; there are none"):
        read_librispeech(tmp_path / "nowhere", "dev-clean", report)


@pytest.mark.parametrize("mode", [None, "w"])
def test_librispeech_in_other_formats(librispeech, tmp_path, mode):
    """Recordings as wav, suffixes in another case, files that macOS adds; and lines that cannot be used."""
    expected = list(read_librispeech(librispeech, "test-clean", ReadingReport()))
    for path in sorted(librispeech.rglob("*.flac")):
        samples, rate = soundfile.read(path, dtype="int16")
        soundfile.write(path.with_suffix(".WAV"), samples, rate)
        path.with_name(f"._{path.name}").write_bytes(b"Mac OS X")
        path.unlink()
    for path in sorted(librispeech.rglob("*.trans.txt")):
        path.with_name(f"._{path.name}").write_bytes(b"Mac OS X")
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
        path.rename(path.with_name(path.name.upper()))
    with open(librispeech / "test-clean" / "61" / "70968" / "61-70968.TRANS.TXT", "ab") as file:
        file.write(b"61-70968-0000 AGAIN\r\n61-70968-0001 CAF\xc9\r\n61-70968-0002 A\0B\r\n")
    write_noise(librispeech / "test-clean" / "61" / "70968" / "61-70968-0000.mp3", 0.3)
    root = pack(librispeech, tmp_path / "downloads" / "test-clean.tar", mode).parent if mode else librispeech
    report = ReadingReport()
    rows = sorted(read_librispeech(root, "test-clean", report), key=lambda row: row["id"])
    assert listed(rows) == listed(expected) and [row["duration_seconds"] for row in rows] == [0.3, 0.4, 0.3]
    assert report.dropped == {
        "a second line of an utterance": 1,
        "is not UTF-8 text": 2,
        "a second recording of an utterance": 1,
    }
    assert report.kept == 3 and not report.notes


def test_librispeech_behind_links(librispeech, tmp_path):
    (tmp_path / "disk").mkdir()
    (librispeech / "test-clean" / "1089").rename(tmp_path / "disk" / "1089")
    (librispeech / "test-clean" / "1089").symlink_to(tmp_path / "disk" / "1089")
    (librispeech / "test-clean" / "1089" / "again").symlink_to(librispeech / "test-clean")  # leads round in a circle
    report = ReadingReport()
    assert len(list(read_librispeech(librispeech, "test-clean", report))) == 3 and not report.lines


# ---- folders


@pytest.fixture
def folder(tmp_path) -> Path:
    root = tmp_path / "speech"
    for name, text in [
        ("sl/ana/1.wav", "Da.\n"),
        ("sl/ana/2.FLAC", None),
        ("sv-SE/3.ogg", "\ufeffgod  natt"),
        ("de/4.mp3", " "),
    ]:
        path = write_noise(root / name, 0.5)
        if text is not None:
            path.with_suffix(".lab" if name.startswith("sv") else ".txt").write_text(text, encoding="utf-8")
    (root / "README.md").write_text("my speech")
    return root


def test_folder(folder):
    report = ReadingReport()
    rows = list(read_folder(folder, report))
    assert listed(rows) == [
        ("de/4.mp3", "de", None, None, None),
        ("sl/ana/1.wav", "sl", "Da.", None, "human"),
        ("sl/ana/2.FLAC", "sl", None, None, None),
        ("sv-SE/3.ogg", "sv-SE", "god natt", None, "human"),
    ]
    assert all(row["audio"]["path"] == str(folder / row["id"]) for row in rows)
    assert report.summary() == "4 rows read, 4 kept"
    assert list(read_folder(folder, ReadingReport(), locales=["sl"])) == rows[1:3]
    one_language = list(read_folder(folder / "sl", ReadingReport(), "hr"))
    assert listed(one_language) == [("ana/1.wav", "hr", "Da.", None, "human"), ("ana/2.FLAC", "hr", None, None, None)]
    assert_same_samples(one_language, rows[1:3])


def test_folder_with_files_that_cannot_be_used(folder, tmp_path):
    write_noise(folder / "top.wav", 0.5)
    (folder / "sl" / "phone.m4a").write_bytes(b"\0\0\0\x20ftypM4A ")
    write_noise(folder / "sl" / "latin.wav", 0.5).with_suffix(".txt").write_bytes(b"\xe8as")
    soundfile.write(folder / "sl" / "silence.wav", np.zeros(0), RATE)
    os.rename(write_noise(folder / "sl" / "a.wav", 0.5), os.fsencode(folder / "sl") + b"/\xe8.wav")
    report = ReadingReport()
    assert len(list(read_folder(folder, report))) == 4
    once = ["in no folder of a language", "text cannot be read", "no samples"]
    assert report.dropped == dict.fromkeys(once, 1) | {"unreadable audio": 2}
    "\n".join(report.lines).encode()
    with pytest.raises(ValueError, match="no folder of the language fr; there are de, sl, sv-SE"):
        list(read_folder(folder, report, locales=["fr"]))
    assert {row["language"] for row in read_folder(folder, report, locales=["fr", "sv"])} == {"sv-SE"}
    assert report.notes[-1] == f"{folder}: no folder of the language fr; there are de, sl, sv-SE"
    (tmp_path / "empty").mkdir()
    for nowhere in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(ValueError, match="no recordings, such as .*/sl/a.wav"):
            list(read_folder(nowhere, ReadingReport()))


# ---- lists of flashlight


def test_lists_of_flashlight(folder, tmp_path):
    lines = [
        "a sl/ana/1.wav 1.0 Da ,  gospa .",
        f"b {folder}/sl/ana/2.FLAC 99",
        "",
        "c lost.wav 1 Ne",
        "d de/4.mp3",
        "e sv-SE/3.ogg zero Ne",
    ]
    (tmp_path / "speech" / "train.lst").write_text("\n".join(lines))
    report = ReadingReport()
    rows = list(read_fl_lists(["train.lst"], "sl", report, tmp_path / "speech"))
    assert listed(rows) == [("a", "sl", "Da , gospa .", None, "human"), ("b", "sl", None, None, None)]
    expected = list(read_folder(folder, ReadingReport(), locales=["sl"]))
    assert [row["audio"] for row in rows] == [row["audio"] for row in expected]
    assert_same_samples(rows, expected)
    assert (report.read, report.kept) == (5, 2)
    assert report.dropped == {"not a line of a list": 2, "unreadable audio": 1}
    assert all(line.startswith(f"{tmp_path / 'speech' / 'train.lst'}, line ") for line in report.lines)


def test_lists_of_flashlight_by_the_command(folder, tmp_path, capsys):
    """The name of a list shows its split."""
    speech, output = tmp_path / "speech", tmp_path / "data"
    (speech / "train.lst").write_text("a sl/ana/1.wav 1.0 Da\nb sl/ana/2.FLAC 99\n")
    (speech / "sl_test.lst").write_text("c de/4.mp3 1 Ne\nd sv-SE/3.ogg 1\n")
    command = ["prepare-data", "--datadir", speech, "--output", output, "--flashlight-lists", "train.lst"]
    command = [*map(str, command), "sl_test.lst"]
    assert main([*command, "--language", "sl"]) == 0, capsys.readouterr().err
    splits = {path.stem: listed(read_utterances([path])) for path in output.glob("*.parquet")}
    assert splits == {
        "train": [("a", "sl", "Da", None, "human")],
        "unlabelled": [("b", "sl", None, None, None)],
        "test": [("c", "sl", "Ne", None, "human")],
    }
    assert "dropped: 1 empty sentence" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(command)
    assert "--flashlight-lists needs --language" in capsys.readouterr().err


# ---- data sets


@pytest.fixture
def recordings(tmp_path) -> list[Path]:
    return [write_noise(tmp_path / "clips" / f"{i}.flac", 0.3 + 0.1 * i) for i in range(3)]


def kinds_of_columns(paths: list[Path]) -> dict[str, Dataset]:
    names = list(map(str, paths))
    contents = [path.read_bytes() for path in paths]
    both = [{"path": path.name, "bytes": content} for path, content in zip(paths, contents, strict=True)]
    rest = {"sentence": ["Da.", "", "Ne  vem."], "locale": ["sl", "sl", "hr"], "client_id": [7, 7, None]}

    def of(column, **kind):
        return (
            Dataset.from_dict({"audio": column, **rest}).cast_column("audio", Audio(**kind))
            if kind
            else (Dataset.from_dict({"audio": column, **rest}))
        )

    return {
        "path": of(names),
        "bytes": of(contents),
        "dict": of(both),
        "Audio of paths": of(names, decode=True),
        "Audio, not decoded": of(names, decode=False),
        "Audio of bytes": of(both, decode=True),
        "Audio at another rate": of(names, sampling_rate=8000),
        "named otherwise": of(names, decode=True).rename_columns({"audio": "speech", "locale": "language"}),
        "streaming": of(names, decode=True).to_iterable_dataset(),
        "streaming bytes": of(both).to_iterable_dataset(2),
    }


KINDS = [
    *("path", "bytes", "dict", "Audio of paths", "Audio, not decoded", "Audio of bytes", "Audio at another rate"),
    *("named otherwise", "streaming", "streaming bytes"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_dataset(recordings, tmp_path, kind):
    report, copies = ReadingReport(), tmp_path / "copies"
    rows = list(read_dataset(kinds_of_columns(recordings)[kind], report, copies=copies))
    assert listed(rows) == [
        ("dataset/train/0", "sl", "Da.", "7", "human"),
        ("dataset/train/1", "sl", None, "7", None),
        ("dataset/train/2", "hr", "Ne vem.", None, "human"),
    ]
    assert report.summary() == "3 rows read, 3 kept"
    paths = [row["audio"]["path"] for row in rows]
    if "bytes" in kind or kind == "dict":
        assert sorted(map(str, copies.iterdir())) == sorted(paths)
    else:
        assert paths == list(map(str, recordings)) and not copies.exists()
    for row, path in zip(rows, recordings, strict=True):
        np.testing.assert_array_equal(load_audio(row["audio"]), load_audio(path))
    write_utterances(rows, tmp_path / "rows.parquet")
    assert read_utterances([tmp_path / "rows.parquet"]).features == FEATURES


def test_dataset_saved_and_loaded(recordings, tmp_path):
    dataset = kinds_of_columns(recordings)["Audio of paths"].remove_columns("locale")
    dataset.save_to_disk(tmp_path / "saved")
    DatasetDict(train=dataset, test=dataset.select([2])).save_to_disk(tmp_path / "mine")
    copies = tmp_path / "copies"  # save_to_disk puts what is in the files into the data set
    for folder, split, count in (("saved", "train", 3), ("mine", "train", 3), ("mine", "test", 1)):
        rows = list(read_dataset(tmp_path / folder, ReadingReport(), language="sl", split=split, copies=copies))
        assert [row["id"] for row in rows] == [f"{folder}/{split}/{i}" for i in range(count)]
        for row, path in zip(rows, recordings[3 - count :], strict=True):
            np.testing.assert_array_equal(load_audio(row["audio"]), load_audio(path))
    assert len(list(copies.iterdir())) == 3
    with pytest.raises(ValueError, match="mine: no split dev; there are train, test"):
        list(read_dataset(tmp_path / "mine", ReadingReport(), language="sl", split="dev"))
    # `audiofolder` of the library, which load_dataset finds by itself
    (tmp_path / "clips" / "metadata.csv").write_text("file_name,text\n0.flac,Da.\n1.flac,Ne.\n2.flac,\n")
    rows = list(read_dataset(tmp_path / "clips", ReadingReport(), language="sl"))
    assert {row["audio"]["path"]: row["text"] for row in rows} == dict(
        zip(map(str, recordings), ["Da.", "Ne.", None], strict=True)
    )


def test_a_dataset_by_the_command(recordings, tmp_path, local_hub, capsys):
    """A folder of `save_to_disk` that contains its recordings, and Parquet files on the Hub."""
    dataset = kinds_of_columns(recordings)["Audio of bytes"].rename_columns({"sentence": "words", "locale": "lang"})
    DatasetDict(train=dataset, validation=dataset.select([0, 1, 2])).save_to_disk(tmp_path / "saved")
    HfApi().create_repo("saved", repo_type="dataset")
    for split in ("train", "validation"):
        part = dataset.rename_columns({"lang": "spoken"}).cast_column("audio", Audio(decode=False))
        part.to_parquet(tmp_path / "hub" / "data" / f"{split}-00000-of-00001.parquet")
    HfApi().upload_folder(repo_id="me/saved", repo_type="dataset", folder_path=tmp_path / "hub")
    for name, columns in ((str(tmp_path / "saved"), []), ("me/saved", ["--language-column", "spoken"])):
        output = tmp_path / f"data{len(columns)}"
        command = ["prepare-data", "--dataset", name, "--split", "train", "validation", "--text-column", "words"]
        assert main([*command, *columns, "--languages", "sl", "--output", str(output)]) == 0, capsys.readouterr().err
        rows = {path.stem: read_utterances([path]) for path in output.glob("*.parquet")}
        assert {split: listed(split_rows) for split, split_rows in rows.items()} == {
            "train": [("saved/train/0", "sl", "Da.", "7", "human")],
            "unlabelled": [("saved/train/1", "sl", None, "7", None)],
            "dev": [("saved/validation/0", "sl", "Da.", "7", "human")],
        }
        np.testing.assert_array_equal(load_audio(rows["dev"][0]["audio"]), load_audio(recordings[0]))
        assert (output / "recordings").is_dir() == (not columns)  # Parquet files stay where they are
        printed = capsys.readouterr().out
        assert "4 rows read, 3 kept; dropped: 1 empty sentence" in printed
    (source,) = sources_of([output / "train.parquet"])
    assert (source.name, source.url) == ("me/saved", "https://huggingface.co/datasets/me/saved")
    assert main(["prepare-data", "--dataset", "me/saved", "--split", "eval", "--output", str(tmp_path / "none")]) == 1
    assert "me/saved: no split eval; there are train, validation" in capsys.readouterr().err


def test_parquet_files_are_read_in_place(recordings, tmp_path, local_hub):
    """Data sets in a folder, and on the Hub, whose files are downloaded into its cache."""
    dataset = kinds_of_columns(recordings)["dict"]
    dataset = dataset.add_column("spoken", [0, 1, 1]).cast_column("spoken", ClassLabel(names=["sl", "hr"]))
    columns = {"language": "spoken"}
    folder = tmp_path / "mine" / "data"
    folder.mkdir(parents=True)
    for shard in range(2):
        part = dataset.select(range(2 * shard, min(2 * shard + 2, 3)))
        part.to_parquet(folder / f"test-{shard:05}-of-00002.parquet")
    HfApi().create_repo("mine", repo_type="dataset")
    commit = HfApi().upload_folder(repo_id="me/mine", repo_type="dataset", folder_path=folder.parent)
    rows = list(read_dataset(folder.parent, ReadingReport(), columns, split="test"))
    from_hub = list(read_dataset("me/mine", ReadingReport(), columns, split="test"))
    assert (
        listed(rows)
        == listed(from_hub)
        == [
            ("mine/test/0", "sl", "Da.", "7", "human"),
            ("mine/test/1", "hr", None, "7", None),
            ("mine/test/2", "hr", "Ne vem.", None, "human"),
        ]
    )
    assert [Path(row["audio"]["path"]).parent for row in rows] == [folder] * 3
    assert all(commit.oid in row["audio"]["path"] for row in from_hub)
    for found in (rows, from_hub):
        for row, path in zip(found, recordings, strict=True):
            np.testing.assert_array_equal(load_audio(row["audio"]), load_audio(path))
    with pytest.raises(ValueError, match="mine: no split dev; there are test"):
        list(read_dataset(folder.parent, ReadingReport(), split="dev"))


def test_columns_of_a_dataset(recordings):
    dataset = kinds_of_columns(recordings)["path"].add_column("name", ["a", "b", "c"])
    dataset = dataset.add_column("spoken", [0, 1, 1]).cast_column("spoken", ClassLabel(names=["sl", "hr"]))
    columns = {"id": "name", "language": "spoken", "text": "locale"}
    rows = list(read_dataset(dataset, ReadingReport(), columns))
    assert listed(rows) == [
        ("a", "sl", "sl", "7", "human"),
        ("b", "hr", "sl", "7", "human"),
        ("c", "hr", "hr", None, "human"),
    ]
    assert [row["language"] for row in read_dataset(dataset, ReadingReport(), language="de")] == ["de"] * 3
    mistakes = [
        ({"sentence": "name"}, {}, "an utterance has no sentence from a column; it has id, audio, text, language, sp"),
        (
            {"text": "words"},
            {},
            "the data set has no column words; it has audio, sentence, locale, client_id, name, sp",
        ),
    ]
    for wrong, settings, message in mistakes:
        with pytest.raises(ValueError, match=message):
            list(read_dataset(dataset, ReadingReport(), wrong, **settings))
    with pytest.raises(ValueError, match="is known to be language: give --language-column or --language; it has aud"):
        list(read_dataset(dataset.remove_columns("locale"), ReadingReport()))
    with pytest.raises(ValueError, match="is known to be audio: give --audio-column; it has sentence, locale"):
        list(read_dataset(dataset.remove_columns("audio"), ReadingReport()))


def test_rows_of_a_dataset_that_cannot_be_used(recordings, tmp_path):
    good = recordings[0].read_bytes()
    audio = [{"path": None, "bytes": content} for content in (good, None, b"", b"noise", good)]
    rows = {"audio": audio, "language": ["sl"] * 4 + [None], "text": [None] * 5}
    report = ReadingReport()
    assert len(list(read_dataset(Dataset.from_dict(rows), report, copies=tmp_path / "copies"))) == 1
    assert report.dropped == {"no path and no bytes of audio": 1, "unreadable audio": 2, "no language": 1}
    with pytest.raises(ValueError, match="recordings are inside of the data set; name a folder for copies of them"):
        list(read_dataset(Dataset.from_dict(rows), report))
    lost = Dataset.from_dict({"path": [str(tmp_path / "lost.wav"), str(recordings[1])]})
    report = ReadingReport()
    assert len(list(read_dataset(lost, report, language="sl"))) == 1
    assert report.lines[0].startswith("dataset/train:0: unreadable audio: ") and len(report.lines) == 1


def test_every_corpus_in_one_command(tone_corpus, librispeech, folder, quick_python, tmp_path):
    """Corpora as they are downloaded: archives, a subset, transcribed speech, LibriSpeech, and own recordings."""
    archives = pack_archives(tone_corpus / "common-voice", tmp_path / "archives", ".tar.gz")
    write_transcribed(tmp_path / "transcribed", packed=True)
    given = {
        "--common-voice": archives,
        "--voxpopuli": tone_corpus / "voxpopuli",
        "--voxpopuli-subset": "sv_v2",
        "--voxpopuli-asr": tmp_path / "transcribed",
        "--librispeech": librispeech,
        "--folder": folder,
        "--output": tmp_path / "data",
    }
    command = [quick_python, ROOT / "recipes" / "prepare_data.py", *map(str, chain.from_iterable(given.items()))]
    done = subprocess.run([*command, "--workers", "2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = {path.stem: list(read_utterances([path])) for path in (tmp_path / "data").glob("*.parquet")}
    languages = {split: dict(Counter(row["language"] for row in split_rows)) for split, split_rows in rows.items()}
    assert languages == {
        "train": {"de": 32, "sv-SE": 33, "sl": 2},
        "dev": {"de": 8, "sv-SE": 8, "sl": 1},
        "test": {"de": 8, "sv-SE": 8, "sl": 1, "en": 3},
        "unlabelled": {"sv-SE": 24, "sl": 1, "de": 1},
    }
    for row in chain.from_iterable(rows.values()):
        assert abs(len(load_audio(row["audio"])) / 16000 - row["duration_seconds"]) < 0.1
