"""Recordings inside tars, gzipped tars and Parquet files are read in place, from good and damaged files."""

import gzip
import io
import multiprocessing
import os
import random
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from hf_mlpl.audio import containers
from hf_mlpl.audio import tar_index as index_module
from hf_mlpl.audio.containers import ContainerError, open_member
from hf_mlpl.audio.reading import AudioError, audio_duration, audio_format, load_audio
from hf_mlpl.audio.tar_index import tar_index

RATE = 16000
KINDS = ["tar", "tar.gz"]


def recordings() -> dict[str, bytes]:
    """Returns name -> content of files of every format, one of them too long to be read at once."""
    rng, files = np.random.default_rng(0), {}
    kinds = {"wav": ("WAV", None), "flac": ("FLAC", None), "mp3": ("MP3", None), "ogg": ("OGG", "VORBIS")}
    for i, (extension, (form, subtype)) in enumerate(kinds.items()):
        for seconds in (0.3 + i / 10, 40 if extension == "wav" else 2):
            samples = 0.1 * rng.standard_normal(round(seconds * RATE))
            file = io.BytesIO()
            soundfile.write(file, samples, RATE, format=form, subtype=subtype)
            files[f"corpus/sv-SE/clips/{extension}{seconds}.{extension}"] = file.getvalue()
    return files


RECORDINGS = recordings()


def write_tar(path: Path, members: dict[str, bytes | tarfile.TarInfo], form=tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w", format=form) as tar:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                content.name = name
                tar.addfile(content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def special(kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


def content(path, index, name) -> bytes:
    offset, size = index.find(name)
    return open_member(path, offset, size).read()


@pytest.fixture(params=KINDS)
def archive(request, tmp_path) -> Path:
    return write_tar(tmp_path / f"corpus.{request.param}", RECORDINGS)


def test_members_sound_as_their_files(archive, tmp_path):
    index = tar_index(archive)
    assert list(index.names()) == list(RECORDINGS) and len(index) == len(RECORDINGS)
    assert not index.problems
    for name in random.Random(0).sample(list(RECORDINGS), len(RECORDINGS)):
        file = tmp_path / Path(name).name
        file.write_bytes(RECORDINGS[name])
        offset, size = index.find(name)
        audio = {"path": str(archive), "offset": offset, "size": size, "start": None, "end": None}
        np.testing.assert_array_equal(load_audio(audio), load_audio(file))
        assert audio_duration(audio) == audio_duration(file) and audio_format(audio) == audio_format(file)
        part = {"start": 0.1, "end": 0.25}
        np.testing.assert_array_equal(load_audio(audio | part), load_audio({"path": file} | part))
    assert index.find("corpus/sv-SE/clips/lost.mp3") is None


def test_a_long_member_is_read_where_the_decoder_asks(tmp_path):
    archive = write_tar(tmp_path / "a.tar", RECORDINGS)
    name = "corpus/sv-SE/clips/wav40.wav"
    file = open_member(archive, *tar_index(archive).find(name))
    assert not isinstance(file, io.BytesIO)
    assert file.read() == RECORDINGS[name] and file.read(1) == b""
    assert file.seek(-10, os.SEEK_END) == len(RECORDINGS[name]) - 10 and file.tell() == file.seek(0, os.SEEK_CUR)
    assert file.read(100) == RECORDINGS[name][-10:]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_are_data(tmp_path, form):
    long = "/".join(["deep" * 10] * 2) if form == tarfile.USTAR_FORMAT else "/".join(["deep" * 10] * 20)
    names = ["../../escaped.wav", f"{tmp_path}/absolute.wav", "./dot/a.wav", "a\\b.wav", "a\nb", "日本 ö.wav", long]
    archive = write_tar(tmp_path / "a.tar", {name: name.encode() for name in names}, form)
    before = {path for path in tmp_path.parent.rglob("*") if path.is_file()}
    index = tar_index(archive)
    read = [name.removeprefix("./").lstrip("/") for name in names]
    assert [name.lstrip("/") for name in index.names()] == read
    for written, name in zip(names, index.names(), strict=True):
        assert content(archive, index, name) == written.encode()
    assert {path for path in tmp_path.parent.rglob("*") if path.is_file()} - before == {tmp_path / "a.tar.index.npz"}


def test_members_that_are_no_files_are_left_out_with_a_line(tmp_path):
    members = {
        "folder": special(tarfile.DIRTYPE),
        "a": b"first",
        "link": special(tarfile.SYMTYPE, "/etc/passwd"),
        "hard": special(tarfile.LNKTYPE, "a"),
        "device": special(tarfile.CHRTYPE),
        "pipe": special(tarfile.FIFOTYPE),
        "empty": b"",
    }
    archive = write_tar(tmp_path / "a.tar", members)
    with tarfile.open(archive, "a") as tar:  # what is appended takes the place of an earlier member
        info = tarfile.TarInfo("a")
        info.size = 6
        tar.addfile(info, io.BytesIO(b"second"))
    index = tar_index(archive)
    assert list(index.names()) == ["a", "empty", "a"]
    assert content(archive, index, "a") == b"second" and content(archive, index, "empty") == b""
    report = "\n".join(index.problems)
    assert len(index.problems) == 4
    assert "'link' is a link" in report and "'hard' is a link" in report and "'device' is a device, pipe" in report
    with pytest.raises(AudioError, match=r"a\.tar, byte \d+: is empty"):
        load_audio(dict(zip(("path", "offset", "size"), (archive, *index.find("empty")), strict=True)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9, 0.98])
def test_the_beginning_of_an_archive_that_is_cut_off_is_read(tmp_path, kind, kept):
    archive = write_tar(tmp_path / f"a.{kind}", RECORDINGS)
    archive.write_bytes(archive.read_bytes()[: int(kept * archive.stat().st_size)])
    index = tar_index(archive)
    names = list(index.names())
    assert names == list(RECORDINGS)[: len(names)] and len(names) >= (kept > 0.85)
    for name in names:
        assert content(archive, index, name) == RECORDINGS[name]
    (problem,) = index.problems
    assert problem.startswith(f"{archive}: is damaged or cut off after {len(names)} files (") and "\n" not in problem


def test_a_damaged_header_in_the_middle(tmp_path):
    archive = write_tar(tmp_path / "a.tar", RECORDINGS)
    third = tar_index(archive).find(list(RECORDINGS)[2])[0]
    damaged = bytearray(archive.read_bytes())
    damaged[third - 512 : third - 412] = b"x" * 100
    archive.write_bytes(damaged)
    index = tar_index(archive)
    assert list(index.names()) == list(RECORDINGS)[:2]
    assert "after 2 files (a header that is none)" in index.problems[0]


def test_archives_without_an_end_mark(tmp_path):
    archive = write_tar(tmp_path / "a.tar", {"a": b"x" * 512, "b": b"y" * 512})
    archive.write_bytes(archive.read_bytes()[:2048])
    assert len(tar_index(archive)) == 2
    assert "after 2 files (no end mark)" in tar_index(archive).problems[0]


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.tar", b""),
        ("a.tar", b"text" * 1000),
        ("a.tar.gz", gzip.compress(b"text" * 1000, mtime=0)),  # or each process names the case differently
        ("a.tar.gz", b"\x1f\x8bx"),
    ],
)
def test_files_that_are_no_archives(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        ContainerError, match=rf"{name}: not a tar archive, gzipped or not, .*; download it again"
    ) as e:
        tar_index(tmp_path / name)
    assert "\n" not in str(e.value)
    with pytest.raises(ContainerError, match="lost.tar: no such file"):
        tar_index(tmp_path / "lost.tar")


def test_1000_archives_with_flipped_bytes_or_cut_off(tmp_path):
    """Each raises a ContainerError, or has an index whose members can be read."""
    rng = random.Random(0)
    members = {"c/sl/train.tsv": b"text", "c/" + "n" * 200: b"long name", "c/sl/clips/a.mp3": b"s" * 1500}
    archives = {kind: write_tar(tmp_path / f"whole.{kind}", members).read_bytes() for kind in KINDS}
    for i in range(1000):
        kind = KINDS[i % 2]
        damaged = bytearray(archives[kind])
        for _ in range(rng.randint(0, 4)):
            damaged[rng.randrange(min(len(damaged), 4096))] = rng.choice([0, 0xFF, rng.randrange(256)])
        path = tmp_path / f"a.{kind}"
        path.write_bytes(damaged[: rng.randrange(len(damaged)) if rng.random() < 0.3 else None])
        os.utime(path, ns=(i, i))
        try:
            index = tar_index(path)
        except ContainerError as error:
            assert "\n" not in str(error)
            continue
        assert all("\n" not in line for line in index.problems)
        for name in index.names():
            offset, size = index.find(name)
            assert len(open_member(path, offset, size).read()) == size


# ---- the index


def test_the_index_is_made_once_and_again_when_the_archive_changes(archive, monkeypatch):
    scanned = []
    scan = index_module._scan
    monkeypatch.setattr(index_module, "_scan", lambda path: scanned.append(path) or scan(path))
    first = tar_index(archive)
    for _ in range(2):
        index_module._indexes.clear()  # as in another process
        again = tar_index(archive)
        assert list(again.names()) == list(first.names()) and np.array_equal(again.offsets, first.offsets)
    assert len(scanned) == 1
    stored = archive.with_name(f"{archive.name}.index.npz")
    assert sorted(path.name for path in archive.parent.iterdir()) == [archive.name, stored.name]
    for damage in (b"", b"PK nothing", stored.read_bytes()[:-100]):
        stored.write_bytes(damage)
        index_module._indexes.clear()
        assert list(tar_index(archive).names()) == list(RECORDINGS)
    assert len(scanned) == 4
    write_tar(archive, {"other": b"content"})
    assert content(archive, tar_index(archive), "other") == b"content"
    assert len(scanned) == 5


def test_the_index_of_an_archive_in_a_folder_that_cannot_be_written(archive, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setattr(index_module, "HF_HOME", str(cache))
    (tmp_path / f"{archive.name}.index.npz").mkdir()  # also for root, who may write everywhere
    names = list(tar_index(archive).names())
    assert len(list(cache.rglob("*.index.npz"))) == 1 and not list(tmp_path.rglob(".partial*"))
    index_module._indexes.clear()
    monkeypatch.setattr(index_module, "_scan", None)
    assert list(tar_index(archive).names()) == names


def test_nothing_is_unpickled(archive, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trapped"),)

    np.savez(archive.with_name(f"{archive.name}.index"), stamp=np.array([Trap()], dtype=object))
    assert list(tar_index(archive).names()) == list(RECORDINGS)
    assert not (tmp_path / "trapped").exists()


def test_gzip_without_the_library_is_the_same(tmp_path, monkeypatch):
    archive = write_tar(tmp_path / "a.tar.gz", RECORDINGS)
    monkeypatch.setattr(index_module, "CAN_SEEK_IN_GZIP", False)
    index = tar_index(archive)
    for name in [*RECORDINGS, *reversed(RECORDINGS)]:
        assert content(archive, index, name) == RECORDINGS[name]


# ---- threads and processes


def digests(archive: Path, seed: int) -> bool:
    index, rng = tar_index(archive), random.Random(seed)
    names = [rng.choice(list(RECORDINGS)) for _ in range(15)]
    return all(content(archive, index, name) == RECORDINGS[name] for name in names)


@pytest.mark.slow
def test_threads_and_forked_processes_read_at_once(archive):
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(digests, [archive] * 8, range(8)))
    with multiprocessing.get_context("fork").Pool(2) as pool:  # after the parent has opened it
        children = pool.starmap_async(digests, [(archive, seed) for seed in range(8)])
        assert digests(archive, 99)
        assert all(children.get(timeout=60))


def test_a_bounded_number_of_files_stays_open(tmp_path, monkeypatch):
    monkeypatch.setattr(containers._files, "limit", 3)
    for i in range(10):
        path = write_tar(tmp_path / f"{i}.tar.gz", {"a": str(i).encode()})
        assert content(path, tar_index(path), "a") == str(i).encode()
        assert len(containers._files.entries) <= 3
    opened = [Path(f"/proc/self/fd/{number}") for number in range(200)]
    assert sum(str(tmp_path) in os.readlink(link) for link in opened if link.is_symlink()) <= 3


# ---- Parquet


def write_parquet(path: Path, kind: str, column="audio", row_group_size=3) -> Path:
    rows = [None, *RECORDINGS.values()]
    if kind == "struct":
        values = pa.array([{"bytes": row, "path": "a"} for row in rows])
    else:
        values = pa.array(rows, type=pa.large_binary() if kind == "large" else pa.binary())
    table = pa.table({"other": list(range(len(rows))), column: values})
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


@pytest.mark.parametrize("kind, column", [("struct", "audio"), ("binary", "audio"), ("large", "sound")])
def test_rows_of_parquet_sound_as_their_files(tmp_path, kind, column):
    path = write_parquet(tmp_path / "a.parquet", kind, column)
    expected = list(RECORDINGS.values())
    for row in random.Random(0).sample(range(len(expected)), len(expected)):
        audio = {"path": str(path), "offset": row + 1, "size": None}
        np.testing.assert_array_equal(load_audio(audio), load_audio(expected[row]))
        assert audio_duration(audio) == audio_duration(expected[row])
    with pytest.raises(AudioError, match=r"a\.parquet: row 0 has no audio"):
        load_audio({"path": path, "offset": 0})
    for row in (-1, len(expected) + 1):
        with pytest.raises(AudioError, match=rf"has no row {row}, it has {len(expected) + 1}"):
            load_audio({"path": path, "offset": row})


def test_parquet_files_that_cannot_be_read(tmp_path):
    (tmp_path / "cut.parquet").write_bytes(write_parquet(tmp_path / "a.parquet", "struct").read_bytes()[:-100])
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "text.parquet")
    for name, message in {
        "cut.parquet": "no Parquet file, or damaged",
        "text.parquet": "no column `audio` with the bytes of recordings; it has text",
        "lost.parquet": "no such file",
    }.items():
        with pytest.raises(AudioError, match=f"{name}: {message}") as error:
            load_audio({"path": tmp_path / name, "offset": 0})
        assert "\n" not in str(error.value)


def test_an_archive_that_is_not_the_one_that_was_indexed(tmp_path):
    archive = write_tar(tmp_path / "a.tar", RECORDINGS)
    with pytest.raises(AudioError, match=r"a\.tar: ends before the 100 bytes at 99999999"):
        load_audio({"path": archive, "offset": 99999999, "size": 100})
    with pytest.raises(AudioError, match=r"a\.tar, byte 512: is not audio"):
        load_audio({"path": archive, "offset": 512, "size": 3})
    with pytest.raises(AudioError, match=r"lost\.tar: no such file"):
        load_audio({"path": tmp_path / "lost.tar", "offset": 512, "size": 3})
