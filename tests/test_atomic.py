"""Files appear complete: several processes write at once, and killed ones leave partial files."""

import errno
import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack

import pytest

from hf_mlpl import atomic
from hf_mlpl.atomic import (
    OWN,
    STALE_SECONDS,
    atomic_write,
    own_path,
    read_json,
    temporary_folder,
    write_json,
    write_text,
)
from hf_mlpl.data import utterances
from hf_mlpl.remote_path import as_path

WRITE = """
import sys
from hf_mlpl.atomic import temporary_folder, atomic_write
with atomic_write(sys.argv[1] + "/a.txt") as partial, temporary_folder(sys.argv[1], "pushing") as folder:
    partial.write_text("other")
    (folder / "b.txt").write_text("b")
    print(partial.name, folder.name, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def writer(tmp_path):
    """Yields a process in the middle of writing `a.txt`, and the names of its partial files."""
    command = [sys.executable, "-c", WRITE, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process, process.stdout.readline().split()
        process.kill()


@pytest.fixture(autouse=True)
def no_folder_cleaned(monkeypatch):
    """Restores the state of a process that has not cleaned any folder."""
    monkeypatch.setattr(atomic, "_cleaned", set())


def test_two_writers_of_one_file(writer, tmp_path):
    """Neither has the other's file; the last complete one stays."""
    process, names = writer
    with atomic_write(tmp_path / "a.txt") as partial:
        partial.write_text("one")
        assert {partial.name, *names} == set(os.listdir(tmp_path))
    assert (tmp_path / "a.txt").read_text() == "one" and set(os.listdir(tmp_path)) == {"a.txt", *names}
    process.stdin.close()
    assert process.wait() == 0
    assert (tmp_path / "a.txt").read_text() == "other" and os.listdir(tmp_path) == ["a.txt"]


def test_the_next_file_removes_files_of_a_killed_process(writer, tmp_path):
    process, names = writer
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, but is still in the list of processes
    assert set(os.listdir(tmp_path)) == set(names)
    write_json(tmp_path / "b.json", {})
    assert os.listdir(tmp_path) == ["b.json"]


def test_files_of_another_machine_are_removed_after_a_week(tmp_path):
    name = own_path(tmp_path, "labels", "a.txt").name
    others = [re.sub(r"-[0-9a-f]{8}-\d+-", f"-{'0' * 8}-{process}-", name) for process in (1, 2)]
    old, new = (tmp_path / other for other in others)
    before = tmp_path / ".pushing-ab_cd123"  # a former name of such folders
    for path in (old, new, before, tmp_path / ".partial-mine", tmp_path / ".pushing-notes.txt"):
        path.mkdir()
        (path / "a").write_text("a")
    for path in (tmp_path / ".partial-mine", tmp_path / ".pushing-notes.txt", old, before):
        for each in (path / "a", path):
            os.utime(each, (1, os.stat(each).st_mtime - STALE_SECONDS - 60))
    os.utime(new, (1, 1))  # but not its content
    write_json(tmp_path / "b.json", {})
    assert sorted(os.listdir(tmp_path)) == [new.name, ".partial-mine", ".pushing-notes.txt", "b.json"]


@pytest.mark.parametrize("name", ["x" * 250 + ".wav", "č" * 120 + ".wav"])
def test_long_names_keep_their_suffix(name, tmp_path):
    with atomic_write(tmp_path / name) as partial:
        assert partial.suffix == ".wav"
        partial.write_bytes(b"")
    assert os.listdir(tmp_path) == [name]


def test_a_folder_that_fails_is_gone(tmp_path):
    with pytest.raises(ZeroDivisionError):
        with temporary_folder(tmp_path, "pushing") as other, atomic_write(tmp_path / "a") as partial:
            for folder in (other, partial / "b"):
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "c").write_text("c")
            raise ZeroDivisionError
    assert not os.listdir(tmp_path)


def test_files_on_their_way_to_object_storage_go_with_a_killed_process(tmp_path, monkeypatch):
    """So do copies of utterance files of a store without versions; other people cannot read either."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    url = "memory://atomic/a.parquet"
    with ExitStack() as copies:
        monkeypatch.setattr(utterances, "_own_caches", copies)
        with atomic_write(as_path(url)) as partial:
            [folder] = tmp_path.iterdir()
            assert partial.parent == folder and OWN.fullmatch(folder.name) and folder.stat().st_mode & 0o77 == 0
            utterances.write_utterances([], partial)
        assert not list(tmp_path.iterdir())
        assert len(utterances.read_utterances([url])) == 0
        utterances._local_copy(as_path(url))
        [folder] = tmp_path.iterdir()
        assert OWN.fullmatch(folder.name) and folder.stat().st_mode & 0o77 == 0
    assert not list(tmp_path.iterdir())


DAMAGED = {
    "": "Expecting value",
    "{": "Expecting property name",
    "null": "it holds null and not fields",
    "[1, 2]": "it holds [1, 2] and not fields",
    '"' + 99 * "x" + '"': 'it holds "' + 39 * "x" + " and not fields",
    "7": "it holds 7 and not fields",
    "{}": "it has no labels",
    '{"labels": true}': "labels is true",
    '{"labels": "7"}': 'labels is "7"',
    '{"labels": 1.5}': "labels is 1.5",
    '{"labels": 7, "hours": null}': "hours is null",
    '{"labels": 7, "hours": NaN}': "NaN is no JSON",
    99999 * "[": "",
    "\0" * 7: "Expecting value",
    '{"labels": 7, "hours": 1, "cer": 0': "Expecting ',' delimiter",
}


@pytest.mark.parametrize("content", DAMAGED)
def test_json_that_is_damaged_is_one_line(content, tmp_path):
    path = tmp_path / "complete.json"
    path.write_text(content)
    with pytest.raises(ValueError) as caught:
        read_json(path, labels=int, hours=float, cer=(float, type(None)))
    assert str(caught.value).startswith(f"{path}: damaged ({DAMAGED[content]}") and "\n" not in str(caught.value)


def test_json_of_other_encodings_is_one_line(tmp_path):
    (tmp_path / "a").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ValueError, match="a: damaged .*codec can't decode"):
        read_json(tmp_path / "a")
    (tmp_path / "a").write_text('{"labels": 7, "hours": 1, "cer": null}')
    assert read_json(tmp_path / "a", labels=int, hours=float, cer=(float, type(None)))["hours"] == 1


@pytest.mark.parametrize("has_links", [True, False])
def test_of_two_writers_the_first_one_keeps_the_file(has_links, tmp_path, monkeypatch):
    """Also on a disk without hard links; the other one leaves nothing."""

    def no_link(*paths):
        raise OSError(errno.EPERM, "Operation not permitted")

    if not has_links:
        monkeypatch.setattr(os, "link", no_link)
    with atomic_write(tmp_path / "a", keep=True) as late:
        late.write_text("late")
        write_text(tmp_path / "a", "first", keep=True)
    assert (tmp_path / "a").read_text() == "first" and os.listdir(tmp_path) == ["a"]
