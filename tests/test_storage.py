"""Files of object storage are opened by fsspec, with few requests and a line for each error."""

import io
import json
import multiprocessing
import os
import random
import re
import tarfile
from collections import Counter
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from fsspec.implementations.memory import MemoryFileSystem
from huggingface_hub import HfApi

from hf_mlpl.audio.reading import AudioError, audio_duration, load_audio
from hf_mlpl.audio.tar_index import tar_index
from hf_mlpl.cli.main import NAMES, command_parser
from hf_mlpl.cli.paths import local_path
from hf_mlpl.corpora import recordings
from hf_mlpl.data.utterances import languages_of, read_utterances, utterance_files, write_utterances
from hf_mlpl.inference.transcription import find_recordings
from hf_mlpl.storage import BLOCK_BYTES, MissingError, StorageError, is_remote, open_remote, parse_location, shown
from hf_mlpl.training_config import TrainingConfig

from .commands import run_command

RATE = 16_000
REQUESTS: Counter = Counter()


class CountingFile(fsspec.spec.AbstractBufferedFile):
    def _fetch_range(self, start: int, end: int) -> bytes:
        REQUESTS["get"] += 1
        return self.fs.cat_file(self.path, start, end)


class CountingFileSystem(MemoryFileSystem):
    """Counts the requests that object storage would answer."""

    protocol = "counted"
    store: dict = {}
    pseudo_dirs = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("counted:").strip("/")

    def info(self, path: str, **options) -> dict:
        REQUESTS["head"] += 1
        return super().info(path, **options)

    def _open(self, path, mode="rb", **options):
        return CountingFile(self, path, mode, **options) if mode == "rb" else super()._open(path, mode, **options)


@pytest.fixture(scope="module", autouse=True)
def stored() -> None:
    fsspec.register_implementation("counted", CountingFileSystem, clobber=True)


@pytest.fixture(autouse=True)
def no_requests() -> None:
    REQUESTS.clear()
    CountingFileSystem.store.clear()


def put(name: str, content: bytes) -> str:
    fsspec.filesystem("counted").pipe_file(name, content)
    REQUESTS.clear()
    return f"counted://{name}"


def sound(seconds: float, form: str = "WAV", seed: int = 0) -> bytes:
    file = io.BytesIO()
    samples = 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    soundfile.write(file, samples, RATE, format=form)
    return file.getvalue()


def test_any_place_of_a_file_is_read_as_from_the_disk():
    content = random.Random(0).randbytes(18 * BLOCK_BYTES + 17)
    file, local = open_remote(put("bucket/long.bin", content)), io.BytesIO(content)
    for i in range(30):
        place, count = random.Random(i).randrange(len(content) + 9), random.Random(-i).choice([1, 9000, 2**21, 2**25])
        assert file.seek(place) == local.seek(place)
        assert file.read(count) == local.read(count)
        assert len(file.blocks) <= 16
    file.seek(0)
    assert file.read() == content
    file, read = open_remote("counted://bucket/long.bin"), []
    REQUESTS.clear()
    while block := file.read(30_000):
        read.append(block)
    assert b"".join(read) == content
    assert REQUESTS["get"] <= 6  # of 1, 2, 4, 8 and 8 blocks
    file.close()
    assert open_remote(put("bucket/empty", b"")).read() == b""


@pytest.mark.parametrize("form", ["WAV", "FLAC", "MP3", "OGG"])
def test_recordings_sound_as_their_files_with_few_requests(form, tmp_path):
    content = sound(6, form)
    (tmp_path / "x").write_bytes(content)
    url = put("bucket/a clip?#[1].x", content)
    np.testing.assert_array_equal(load_audio(url), load_audio(tmp_path / "x"))
    assert REQUESTS == {"head": 1, "get": 1}
    part = {"start": 2.0, "end": 3.5}
    np.testing.assert_array_equal(load_audio({"path": url} | part), load_audio({"path": str(tmp_path / "x")} | part))
    assert audio_duration(url) == audio_duration(tmp_path / "x")


def test_a_part_of_a_long_recording_costs_few_requests(tmp_path):
    content = sound(300)  # 10 MB
    (tmp_path / "x.wav").write_bytes(content)
    audio = {"path": put("bucket/x.wav", content), "start": 200.0, "end": 210.0}
    np.testing.assert_array_equal(load_audio(audio), load_audio(audio | {"path": str(tmp_path / "x.wav")}))
    assert REQUESTS["head"] == 1
    assert REQUESTS["get"] <= 4  # the beginning, the end, where tags may be, and the part, which may cross a block


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_members_of_archives(suffix, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_mlpl.audio.tar_index.HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("hf_mlpl.audio.containers.LOOK_SECONDS", 1e9)
    members = {f"{i}.flac": sound(1 + i, "FLAC", seed=i) for i in range(4)} | {"long.wav": sound(40)}
    archive = tmp_path / f"clips{suffix}"
    with tarfile.open(archive, "w:gz" if suffix == ".tar.gz" else "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    url = put(f"bucket/clips{suffix}", archive.read_bytes())
    index, local = tar_index(url), tar_index(archive)
    assert list(index.names()) == list(local.names()) == list(members)
    load_audio({"path": url, "offset": int(index.offsets[0]), "size": int(index.sizes[0])})
    for number, content in enumerate(members.values()):
        REQUESTS.clear()
        audio = {"path": url, "offset": int(index.offsets[number]), "size": int(index.sizes[number])}
        np.testing.assert_array_equal(load_audio(audio), load_audio(content))
        if suffix == ".tar" and len(content) <= BLOCK_BYTES:
            assert REQUESTS == {"get": 1}  # exactly its bytes
    with pytest.raises(AudioError, match=r"clips\.tar(\.gz)?: ends before the 5 bytes at 1000000000"):
        load_audio({"path": url, "offset": 10**9, "size": 5})


def test_rows_of_parquet(monkeypatch):
    recordings, file = [sound(1, "FLAC", seed=i) for i in range(6)], io.BytesIO()
    pq.write_table(pa.table({"audio": [{"bytes": each, "path": None} for each in recordings]}), file, row_group_size=3)
    url = put("bucket/rows.parquet", file.getvalue())
    for row, content in enumerate(recordings):
        np.testing.assert_array_equal(load_audio({"path": url, "offset": row}), load_audio(content))
    with pytest.raises(AudioError, match=r"^counted://bucket/rows.parquet: has no row 6, it has 6$"):
        load_audio({"path": url, "offset": 6})
    monkeypatch.setattr("hf_mlpl.audio.containers.LOOK_SECONDS", 1e-9)
    pq.write_table(pa.table({"audio": [{"bytes": recordings[5], "path": None}]}), file := io.BytesIO())
    put("bucket/rows.parquet", file.getvalue())  # another file of this name
    np.testing.assert_array_equal(load_audio({"path": url, "offset": 0}), load_audio(recordings[5]))


def utterances(count: int, prefix: str, language: str = "de") -> list[dict]:
    audio = {"path": "counted://bucket/x.wav", "offset": None, "size": None, "start": None, "end": None}
    row = {
        "audio": audio,
        "duration_seconds": 2.0,
        "language": language,
        "text": "ja",
        "speaker": None,
        "source": None,
    }
    return [{"id": f"{prefix}{i}"} | row for i in range(count)]


def test_utterance_files(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for name, rows in {"a b": utterances(3, "a"), "c": utterances(2, "c", "sl"), "[1]": []}.items():
        write_utterances(rows, tmp_path / "x.parquet")
        put(f"bucket/data/{name}.parquet", (tmp_path / "x.parquet").read_bytes())
    pattern = "counted://bucket/data/*.parquet"
    assert [(path.name, count) for path, count in utterance_files([pattern])] == [
        ("[1].parquet", 0), ("a b.parquet", 3), ("c.parquet", 2)
    ]  # fmt: skip
    assert read_utterances([pattern])["id"][:] == ["a0", "a1", "a2", "c0", "c1"]
    assert languages_of([pattern]) == ["de", "sl"]
    write_utterances(utterances(2, "d"), tmp_path / "x.parquet")  # of the same size, in a store without versions
    put("bucket/data/c.parquet", (tmp_path / "x.parquet").read_bytes())
    assert read_utterances(["counted://bucket/data/c.parquet"])["id"][:] == ["d0", "d1"]
    put("bucket/data/no.parquet", b"PAR1 and no more")
    for name, line in {
        "no": "no.parquet: not an utterance file",
        "none": "none.parquet: no such file",
    }.items():
        with pytest.raises((ValueError, MissingError), match=f"^counted://bucket/data/{line}"):
            read_utterances([f"counted://bucket/data/{name}.parquet"])


def in_worker(url: str) -> float:
    return float(abs(load_audio(url)).sum())


def test_forked_workers_read_what_their_parent_has_read():
    url = put("bucket/x.wav", sound(1))
    here = in_worker(url.replace("counted", "COUNTED"))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(in_worker, [url] * 4) == [here] * 4


@pytest.mark.parametrize("url, line", {
    "counted://bucket/none.wav": "no such file",
    "counted://": "no such file",
    "nothing://x/y.wav": "nothing:// is no protocol that fsspec knows; s3, gs, hf and https are some",
    "sftp://me:secret@host/y.wav": "needs a package: `pip install paramiko`",
}.items())  # fmt: skip
def test_errors_are_lines_without_secrets(url, line):
    shown = url.replace("me:secret@", "")
    for open_it in (open_remote, load_audio):
        with pytest.raises((StorageError, AudioError)) as error:
            open_it(url)
        assert str(error.value) == f"{shown}: {line}"


def test_secrets_are_not_shown():
    for url, line in {
        "s3://key:secret@bucket/a@b": "s3://bucket/a@b",
        "s3://bucket/me:you@b": "s3://bucket/me:you@b",
        "HTTPS://token@host/x?sig=secret": "HTTPS://host/x",
        "https://me:p@ss@host:80/x#part": "https://host:80/x",
        "abfs://container@account.dfs.core.windows.net/x": "abfs://container@account.dfs.core.windows.net/x",
        "simplecache::ftp://me:secret@host/x": "simplecache::ftp://host/x",
    }.items():
        assert shown(url) == line


def test_a_failure_while_a_recording_is_read_is_told(monkeypatch):
    def fail(self, start, end):
        raise ConnectionResetError("https://me:secret@host/x?signature=secret is gone")

    url = put("bucket/x.wav", sound(1))
    monkeypatch.setattr(CountingFile, "_fetch_range", fail)
    with pytest.raises(AudioError, match="x.wav: .*ResetError: https://host/x is gone.; when it can") as error:
        load_audio(url)
    assert "secret" not in str(error.value)


def test_what_is_a_url(tmp_path, monkeypatch):
    assert all(map(is_remote, ["s3://b/k", "simplecache::s3://b/k", "memory://x", "HTTPS://host/x"]))
    assert parse_location("S3://B/K") == "s3://B/K"
    assert not any(map(is_remote, ["C://x", "C:/x", "a/b", "file:///a", "s3:/b/k", Path("s3://b/k"), b"s3://b", None]))
    assert parse_location("file:///a%20b/c#1.wav") == parse_location("FILE://localhost/a b/c#1.wav")
    assert parse_location("file:///a%20b/c#1.wav") == Path("/a b/c#1.wav")
    with pytest.raises(ValueError, match="^file://b/c.wav: .* three slashes, as in file:///b/c.wav$"):
        parse_location("file://b/c.wav")
    assert parse_location("a:/b") == Path("a:/b")
    for mangled in ("s3:/b/k", Path("s3://b/k")):
        with pytest.raises(ValueError, match=r"^s3:/b/k: a URL has two slashes, as in s3://b/k$"):
            parse_location(mangled)
    with pytest.raises(AudioError, match=r"^s3:/b/k.wav: a URL has two slashes, as in s3://b/k.wav$"):
        load_audio(Path("s3://b/k.wav"))
    monkeypatch.chdir(tmp_path)
    os.mkdir("s3:")
    assert parse_location("s3:/") == Path("s3:")  # a folder of this name is there


def test_tables_name_recordings_of_object_storage(tmp_path, monkeypatch, capsys):
    assert all(map(recordings.is_object, ["s3://b/x.wav", "GS://b/x.wav", "hf://datasets/me/x/y.wav"]))
    assert not any(
        map(recordings.is_object, ["smb://host/x", "simplecache::file:///etc/passwd", "s3://b/x::file:///y"])
    )
    monkeypatch.setattr(recordings, "OBJECT", re.compile("counted://"))
    url = put("bucket/a.wav", sound(2))
    lines = ["path,text,language", f"{url},hallo,de", "counted://bucket/none.wav,welt,de", "smb://host/x.wav,welt,de"]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    assert run_command("prepare_data.py", "--list", tmp_path / "table.csv", "--output", tmp_path / "data") == 0
    [row] = pq.read_table(tmp_path / "data" / "train.parquet").to_pylist()
    assert (row["id"], row["audio"]["path"], row["duration_seconds"]) == ("bucket/a", url, 2.0)
    printed = capsys.readouterr()
    assert "table.csv:3: unreadable audio: counted://bucket/none.wav: no such file" in printed.out + printed.err
    assert "table.csv:4: its path is an address: 'smb://host/x.wav'" in printed.out + printed.err

    put("bucket/none.wav", sound(3))  # which was missing, so that the list is read again
    assert run_command("prepare_data.py", "--list", tmp_path / "table.csv", "--output", tmp_path / "data") == 0
    assert pq.read_metadata(tmp_path / "data" / "train.parquet").num_rows == 2
    manifest = tmp_path / "manifest.json"
    assert (
        run_command("export_manifest.py", tmp_path / "data" / "train.parquet", "--to", "nemo", "--output", manifest)
        == 0
    )
    assert json.loads(manifest.read_text().splitlines()[0])["audio_filepath"] == url


def test_recordings_to_transcribe():
    url = put("bucket/b.wav", sound(1))
    put("bucket/a.wav", sound(1))
    found, others = find_recordings(["counted://bucket/*.wav", url])
    assert [each.name.rpartition("/")[2] for each in found] == ["a.wav", "b.wav", "b.wav"]
    assert not others


def test_options_and_settings_that_take_no_url():
    for name in NAMES:
        for action in command_parser(name)._actions:
            assert action.type is not Path, f"{name}: {action.dest} would make a folder named `s3:`"
    assert local_path("file:///a/b") == Path("/a/b")
    settings = {"model": "tiny", "tokens": "t", "train": ["s3://b/x.parquet"], "max_updates": 1, "output_dir": "runs"}
    assert TrainingConfig(**settings)
    for wrong, line in (
        ({"output_dir": "s3://b/run"}, "^output_dir is s3://b/run, and checkpoints are written to a local folder;"),
        ({"output_dir": "s3:/b/run"}, "^s3:/b/run: a URL has two slashes"),
        ({"dev": ["https://me:secret@host/x"]}, "^https://host/x is given with a password, .* are published"),
        ({"train": ["https://host/x.parquet?sig=secret"]}, "^https://host/x.parquet is given with a password"),
        ({"train": ["gs:/b/x"]}, "^gs:/b/x: a URL has two slashes"),
        ({"model": "s3://b/model"}, "^model is 's3://b/model'; give a folder or a name on the Hub$"),
    ):
        with pytest.raises(ValueError, match=line):
            TrainingConfig(**settings | wrong)


def test_data_sets_of_the_hub_have_urls(local_hub, tmp_path):
    api = HfApi()
    api.create_repo("me/speech", repo_type="dataset")
    (tmp_path / "a.wav").write_bytes(sound(1))
    write_utterances(utterances(3, "a"), tmp_path / "train.parquet")
    api.upload_folder(
        folder_path=tmp_path, repo_id="me/speech", repo_type="dataset", allow_patterns=["a.wav", "*.parquet"]
    )
    np.testing.assert_array_equal(load_audio("hf://datasets/me/speech/a.wav"), load_audio(tmp_path / "a.wav"))
    for pattern in ("hf://datasets/me/speech/train.parquet", "hf://datasets/me/speech@main/*.parquet"):
        assert read_utterances([pattern])["id"][:] == ["a0", "a1", "a2"]
    for name in ("speech/b.wav", "nothing/a.wav"):
        with pytest.raises(AudioError, match=f"^hf://datasets/me/{name}: no such file$"):
            load_audio(f"hf://datasets/me/{name}")
