"""Forms in which data sets come: each is read as `datasets` means it, without torchcodec, or one line says why not."""

import io
import json
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
from datasets import Audio, Dataset, DatasetDict, IterableDataset, List, Translation, Value, load_dataset
from huggingface_hub import HfApi

from hf_mlpl.audio.reading import load_audio
from hf_mlpl.cli.main import main
from hf_mlpl.corpora.readers.dataset_forms import language_configs
from hf_mlpl.corpora.readers.hf_datasets import read_dataset
from hf_mlpl.corpora.reading import ReadingReport

from .test_own_tables import RATE, write_lines, write_noise

TEXTS = ["nula", "ena", "dva"]


@pytest.fixture(autouse=True)
def datasets_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


@pytest.fixture
def paths(tmp_path) -> list[Path]:
    return [write_noise(tmp_path / "clips" / f"{i}.wav", 0.05 + 0.01 * i) for i in range(3)]


@pytest.fixture
def dataset(paths) -> Dataset:
    return Dataset.from_dict({"audio": list(map(str, paths)), "text": TEXTS})


def read(source, report: ReadingReport | None = None, **settings) -> list[dict]:
    return list(read_dataset(source, report or ReadingReport(), **({"language": "sl"} | settings)))


def assert_rows(rows: list[dict], paths: list[Path], numbers) -> None:
    """Checks texts and samples of the rows that have these numbers."""
    assert [row["text"] for row in rows] == [TEXTS[number] for number in numbers]
    for row, number in zip(rows, numbers, strict=True):
        np.testing.assert_array_equal(load_audio(row["audio"]), load_audio(paths[number]))


# ---- splits


@pytest.mark.parametrize("form", ["saved", "Parquet", "in memory"])
def test_parts_of_splits(dataset, paths, tmp_path, form):
    splits = DatasetDict(train=dataset, test=dataset.select([2]))
    source = tmp_path / "talks" if form != "in memory" else splits
    if form == "saved":
        splits.save_to_disk(source)
    elif form == "Parquet":
        for name, part in splits.items():
            part.to_parquet(source / f"{name}-00000-of-00001.parquet")
    for split, numbers in {
        "train[:2]": [0, 1],
        "train[-1:]": [2],
        "train[:34%]": [0],  # as `load_dataset` rounds
        "train[1:]+test": [1, 2, 2],
        "train + test": [0, 1, 2, 2],
    }.items():
        assert_rows(read(source, split=split), paths, numbers)
    last = read(source, split="train[-1:]")[0]["id"]
    assert last == read(source)[2]["id"]  # a row has one name in all parts
    with pytest.raises(ValueError, match="no split dev; there are train, test"):
        read(source, split="dev[:1]")
    with pytest.raises(ValueError, match="Unrecognized instruction format: train\\[1"):
        read(source, split="train[1")


@pytest.mark.parametrize("table", ["metadata.csv", "data/metadata.csv", "metadata.jsonl"])
def test_a_table_above_the_folders_of_splits(paths, tmp_path, table):
    """Its rows are in the split of their folder: a test set must not be trained on."""
    table = tmp_path / "talks" / table
    names = ["train/0.wav", "train/1.wav", "./test/2.wav"]
    for path, name in zip(paths, names, strict=True):
        (table.parent / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, table.parent / name)
    rows = [{"file_name": name, "text": text} for name, text in zip(names, TEXTS, strict=True)]
    if table.suffix == ".csv":
        write_lines(table, "file_name,text", *(",".join(row.values()) for row in rows))
    else:
        write_lines(table, *map(json.dumps, rows))
    for split, numbers in {"train": [0, 1], "test": [2]}.items():
        assert_rows(read(tmp_path / "talks", split=split), paths, numbers)
    with pytest.raises(ValueError, match="no split validation; there are train, test"):
        read(tmp_path / "talks", split="validation")


@pytest.mark.parametrize("names", ["{}/a.wav", "data/{}/a.wav", "{}_1.wav", "clips/{}-1.wav"])
def test_recordings_of_splits(tmp_path, names):
    for split, seconds in {"train": 0.05, "test": 0.06}.items():
        write_noise(tmp_path / "talks" / names.format(split), seconds)
    for split, seconds in {"train": 0.05, "test": 0.06}.items():
        (row,) = read(tmp_path / "talks", split=split)
        assert row["duration_seconds"] == seconds


@pytest.mark.parametrize("form", ["table", "folder", "saved"])
def test_one_split_is_not_several(dataset, tmp_path, capsys, form):
    source = tmp_path / "talks"
    if form == "saved":
        dataset.save_to_disk(source)
    else:
        table = source / ("metadata.csv" if form == "folder" else "talks.csv")
        source.mkdir()
        dataset.rename_column("audio", "file_name").to_csv(table)
        source = table if form == "table" else source
    command = ["prepare-data", "--dataset", str(source), "--language", "sl", "--output", str(tmp_path / "data")]
    assert main([*command, "--split", "train", "test"]) == 1
    assert f"error: {source}: is one split, which cannot be train and test; give one" in capsys.readouterr().err
    assert len(read(source, split="test", copies=tmp_path)) == 3


def test_recordings_behind_links_to_folders(paths, tmp_path, monkeypatch):
    """The library follows no links to folders, and finds no file here."""
    folder = tmp_path / "talks"
    (folder / "train").mkdir(parents=True)
    (folder / "train" / "sl").symlink_to(paths[0].parent)
    monkeypatch.chdir(folder)
    for source in (folder, "."):
        rows = read(source)
        assert [(row["id"], row["text"]) for row in rows] == [(f"talks/train/{number}", None) for number in range(3)]
        np.testing.assert_array_equal(load_audio(rows[2]["audio"]), load_audio(paths[2]))
    with pytest.raises(ValueError, match="talks/test: the data set has no rows"):
        read(folder, split="test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: The directory at .* doesn't contain any data files"):
        read(tmp_path / "empty")


def test_a_table_beside_recordings_that_is_not_read_is_told(paths, tmp_path):
    """It would be `metadata.csv`; its texts must not be lost in silence."""
    write_lines(paths[0].parent / "Metadata.CSV", "file_name,text", "0.wav,nula")
    report = ReadingReport()
    assert [row["text"] for row in read(paths[0].parent, report)] == [None] * 3
    line = f"{paths[0].parent}: these tables are not read, and its recordings have no texts: Metadata.CSV; "
    assert line in "\n".join(report.notes)


def test_dev_and_validation_are_one_split(dataset, tmp_path):
    DatasetDict(train=dataset, validation=dataset.select([1])).save_to_disk(tmp_path / "saved")
    dataset.select([1]).to_parquet(tmp_path / "files" / "dev-00000-of-00001.parquet")
    for name, split in ("saved", "dev"), ("files", "dev"), ("files", "validation"):
        assert [row["text"] for row in read(tmp_path / name, split=split)] == TEXTS[1:2]


def test_configurations_of_languages(dataset, tmp_path):
    for config, part in {"sl": [0, 1], "sv_SE": [2], "all": [0, 1, 2]}.items():
        dataset.select(part).to_parquet(tmp_path / "talks" / config / "train.parquet")
    card = [f"- {{config_name: {config}, data_files: {config}/*}}" for config in ("sl", "sv_SE", "all")]
    write_lines(tmp_path / "talks" / "README.md", "---", "configs:", *card, "---")
    assert language_configs(tmp_path / "talks") == ["sl", "sv_SE"]
    assert language_configs(tmp_path / "talks", ["sv-SE"]) == ["sv_SE"]
    (row,) = read_dataset(tmp_path / "talks", ReadingReport(), config="sv_SE")
    assert (row["id"], row["language"]) == ("talks/sv_SE/train/0", "sv-SE")
    with pytest.raises(ValueError, match="talks: no configuration of de; there are sl, sv_SE, all"):
        language_configs(tmp_path / "talks", ["de"])
    with pytest.raises(ValueError, match="talks: BuilderConfig 'de' not found. Available: .'sl'") as error:
        read(tmp_path / "talks", config="de")
    assert "\n" not in str(error.value)
    write_lines(tmp_path / "talks" / "README.md", "---", "configs:", *card, card[0].replace("sl,", "clean,"), "---")
    with pytest.raises(ValueError, match="talks: has the configurations sl, sv_SE, all, clean; name one"):
        language_configs(tmp_path / "talks")
    write_lines(tmp_path / "clips" / "README.md", "---", "license: cc0-1.0", "---", "# Clips")
    assert language_configs(tmp_path / "clips") == [None]
    card[1] = card[1].replace("}", ", default: true}")
    write_lines(tmp_path / "talks" / "README.md", "---", "configs:", *card, "---")
    assert language_configs(tmp_path / "talks") == ["sv_SE"]


# ---- files


def write_webdataset(path: Path, paths: list[Path], form: str, numbers) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:

        def add(name: str, content: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))

        for number in numbers:
            stem, text = f"talks/a.b/{number:04}", TEXTS[number]
            add(f"{stem}.wav", paths[number].read_bytes())
            if form == "json":
                add(f"{stem}.json", json.dumps({"text": text, "language": "sl", "speaker_id": number}).encode())
            else:
                add(f"{stem}.cls", b"1")
                add(f"{stem}.txt", f"{text}\n".encode())
    return path


@pytest.mark.parametrize("form", ["json", "txt"])
@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_webdataset(paths, tmp_path, form, suffix):
    shards = [tmp_path / "talks" / f"train-{number:05}{suffix}" for number in range(2)]
    write_webdataset(shards[0], paths, form, [0, 1])
    write_webdataset(shards[1], paths, form, [2])
    language = {"language": None} if form == "json" else {}
    if suffix == ".tar":
        rows = read(tmp_path / "talks", **language)
        assert_rows(rows, paths, [0, 1, 2])
        assert [row["id"] for row in rows] == [f"talks/train/{number}" for number in range(3)]
        assert [row["audio"]["path"] for row in rows] == [str(shards[0])] * 2 + [str(shards[1])]  # in place
        assert [row["speaker"] for row in rows] == (["0", "1", "2"] if form == "json" else [None] * 3)
    assert_rows(read(shards[0], **language), paths, [0, 1])
    os.truncate(shards[0], 3000 if suffix == ".tar" else 2500)
    report = ReadingReport()
    assert len(read(shards[0], report)) < 2 and "is damaged or cut off after" in report.notes[0]


def test_webdataset_with_two_recordings_of_a_row(paths, tmp_path):
    with tarfile.open(tmp_path / "talks.tar", "w") as tar:
        (tmp_path / "features.npy").write_bytes(b"\x93NUMPY\xff")  # is no text
        files = {"0.clean.wav": paths[0], "0.noisy.wav": paths[1], "0.npy": tmp_path / "features.npy"}
        for name, path in files.items():
            tar.add(path, name)
        tar.add(write_lines(tmp_path / "bad.json", "{"), "1.json")
        tar.add(paths[2], "1.wav")
        tar.add(write_lines(tmp_path / "good.json", '{"text": "nula", "audio": "0.mp3"}'), "0.json")  # behind others
    for columns, number in ({}, 0), ({"audio": "noisy.wav"}, 1):
        report = ReadingReport()
        (row,) = read(tmp_path / "talks.tar", report, columns=columns)
        assert row["text"] == "nula"
        np.testing.assert_array_equal(load_audio(row["audio"]), load_audio(paths[number]))
        assert report.dropped == {"its json cannot be read": 1}


def test_arrow_files(dataset, paths, tmp_path):
    DatasetDict(train=dataset).save_to_disk(tmp_path / "saved")
    (tmp_path / "talks").mkdir()
    file = shutil.copy(next((tmp_path / "saved" / "train").glob("*.arrow")), tmp_path / "talks" / "train.arrow")
    for source in (tmp_path / "talks", file):
        assert_rows(read(source), paths, [0, 1, 2])


def test_archives_of_a_folder_are_refused_with_the_way_out(paths, tmp_path):
    (tmp_path / "talks").mkdir()
    with zipfile.ZipFile(tmp_path / "talks" / "train.zip", "w") as archive:
        archive.write(paths[0], "0.wav")
    with pytest.raises(ValueError, match="talks/train.zip: recordings are not read from such an archive; unpack it"):
        read(tmp_path / "talks")


def test_a_loading_script_in_a_folder_is_told_in_one_line(dataset, tmp_path):
    dataset.to_csv(tmp_path / "talks" / "train.csv")
    write_lines(tmp_path / "talks" / "talks.py", "raise OSError")
    with pytest.raises(ValueError, match="talks: Dataset scripts are no longer supported, but found talks.py"):
        read(tmp_path / "talks")


@pytest.mark.slow
def test_files_on_the_hub(paths, tmp_path, local_hub):
    """Recordings with a table for each split, and WebDataset; the repositories are private."""
    for split, numbers in {"train": [0, 1], "test": [2]}.items():
        folder = tmp_path / "folder" / split
        (folder / "clips").mkdir(parents=True)
        for number in numbers:
            shutil.copy(paths[number], folder / "clips")
        lines = [f"clips/{number}.wav,{TEXTS[number]}" for number in numbers]
        write_lines(folder / "metadata.csv", "file_name,text", *lines)
        write_webdataset(tmp_path / "shards" / f"{split}-00000.tar", paths, "txt", numbers)
    for form in ("folder", "shards"):
        HfApi().create_repo(form, repo_type="dataset", private=True)
        HfApi().upload_folder(repo_id=f"me/{form}", repo_type="dataset", folder_path=tmp_path / form)
        for split, numbers in {"train": [0, 1], "test": [2]}.items():
            rows = read(f"me/{form}", split=split)
            assert_rows(rows, paths, numbers)
            assert all("/snapshots/" in row["audio"]["path"] for row in rows)  # in the Hub's cache, without copies


# ---- values


@pytest.mark.parametrize("form", ["data set", "stream", "torch", "Parquet", "JSON"])
@pytest.mark.parametrize("kind", ["int16", "float32", "channels first", "channels last", "dict"])
def test_samples_of_every_type(paths, tmp_path, kind, form):
    samples = [soundfile.read(path, dtype="int16" if kind == "int16" else "float32")[0] for path in paths]
    if kind.startswith("channels"):
        samples = [np.stack([array] * 2, axis=kind.endswith("last")).tolist() for array in samples]
    rows = {"audio": samples, "sampling_rate": [RATE] * 3}
    if kind == "dict":
        rows = {"audio": [{"array": array, "sampling_rate": RATE} for array in samples]}
    source = Dataset.from_dict(rows | {"text": TEXTS})
    if kind == "int16":
        source = source.cast_column("audio", List(Value("int16")))
    if form == "Parquet":
        source.to_parquet(source := tmp_path / "talks.parquet")
    elif form == "JSON":
        source.to_json(source := tmp_path / "talks.jsonl")
    elif form == "stream":
        source = source.to_iterable_dataset()
    elif form == "torch":
        source = source.with_format("torch")
    report = ReadingReport()
    rows = read(source, report, copies=tmp_path / "copies")
    if (kind, form) == ("int16", "JSON"):  # which does not say what its numbers are
        assert not rows and "divide 16-bit samples by 32768" in report.lines[0]
    else:
        assert_rows(rows, paths, [0, 1, 2])


def test_streams_without_columns_and_of_files(dataset, paths, tmp_path):
    stream = IterableDataset.from_generator(lambda: iter(dataset))
    assert stream.features is None
    assert_rows(read(stream), paths, [0, 1, 2])
    write_lines(
        paths[0].parent / "metadata.csv", "file_name,text", *(f"{i}.wav,{text}" for i, text in enumerate(TEXTS))
    )
    folder = load_dataset("audiofolder", data_dir=str(paths[0].parent), split="train", streaming=True)
    assert_rows(read(folder), paths, [0, 1, 2])
    archive = write_webdataset(tmp_path / "talks.tar", paths, "txt", range(3))
    shards = load_dataset("webdataset", data_files=str(archive), split="train", streaming=True)
    assert_rows(read(shards, columns={"text": "txt"}, copies=tmp_path / "copies"), paths, [0, 1, 2])


def test_two_columns_of_audio(dataset, paths, tmp_path):
    noisy = [str(path) for path in reversed(paths)]
    two = dataset.add_column("noisy", noisy).cast_column("audio", Audio()).cast_column("noisy", Audio())
    assert_rows(read(two), paths, [0, 1, 2])
    clean = two.rename_column("audio", "clean")
    clean.to_parquet(tmp_path / "talks.parquet")
    for source in (clean, tmp_path / "talks.parquet"):
        with pytest.raises(ValueError, match="has several columns of audio, (clean, noisy|noisy, clean); name one"):
            read(source)
        rows = read(source, columns={"audio": "noisy"}, copies=tmp_path / "copies")
        np.testing.assert_array_equal(load_audio(rows[0]["audio"]), load_audio(paths[2]))
    write_lines(paths[0].parent / "metadata.csv", "speech_file_name,text", "0.wav,nula")
    assert_rows(read(paths[0].parent), paths, [0])


def test_texts_of_several_languages(dataset, paths):
    texts = [{"sv": text, "de": "nein"} for text in TEXTS]
    several = dataset.remove_columns("text").add_column("translation", texts)
    for source in (several, several.cast_column("translation", Translation(["de", "sv"]))):
        assert_rows(read(source, language="sv-SE"), paths, [0, 1, 2])
        assert [row["text"] for row in read(source, language="hr")] == [None] * 3


def test_a_text_that_is_not_found_is_told(dataset):
    report = ReadingReport()
    assert [row["text"] for row in read(dataset.rename_column("text", "words"), report)] == [None] * 3
    assert report.notes == [
        "dataset/train: no column is known to be the text, so all rows are without one; --text-column names it "
        "if it is one of words"
    ]
    assert [row["text"] for row in read(dataset.rename_column("text", "raw_transcription"))] == TEXTS
    report = ReadingReport()
    read(dataset.remove_columns("text"), report)
    assert not report.notes
