"""Claims on outputs hold between real processes: one works, the other names it, and a killed one blocks nobody."""

import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from hf_mlpl.folder_lock import InUseError, claimed, claimed_file, is_lock

HOLD = """
import os, sys
from hf_mlpl.folder_lock import claimed, claimed_file
with (claimed if sys.argv[1] == "folder" else claimed_file)(sys.argv[2]):
    if sys.argv[3] == "fork" and not os.fork():
        os.closerange(0, 3)
        import time
        time.sleep(5)
        os._exit(0)
    print("claimed", flush=True)
    sys.stdin.read()
"""


def hold(kind, path, fork="") -> subprocess.Popen:
    """Returns a process that has claimed `path`, and works there until its input ends."""
    command = [sys.executable, "-c", HOLD, kind, str(path), fork]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "claimed\n"
    return process


def test_a_second_job_names_the_first(tmp_path):
    folder = tmp_path / "new" / "labels"
    with hold("folder", folder) as other:
        with pytest.raises(InUseError) as caught, claimed(folder):
            pass
        holder = (
            rf"\(-c, process {other.pid} on {re.escape(socket.gethostname())}, since 2\d\d\d-\d\d-\d\d [\d:]+ UTC\)"
        )
        message = (
            rf"{re.escape(str(folder))}: another job works there {holder}; wait for its end, or choose another folder"
        )
        assert re.fullmatch(message, str(caught.value))
        assert [is_lock(path) for path in folder.iterdir()] == [True]
        with claimed(tmp_path / "new" / "others"), claimed_file(folder / "a.parquet"):  # not claimed
            pass
        other.stdin.close()
    assert other.returncode == 0 and not list(folder.iterdir())
    with claimed(folder):
        pass
    assert not list(folder.iterdir())


def test_a_killed_job_blocks_nobody(tmp_path):
    """This holds while a process that it has forked lives on, and where its lock file is left."""
    with hold("file", tmp_path / "a.parquet", "fork") as other:
        with pytest.raises(InUseError, match="a.parquet: another job works .*, or choose another file$"):
            with claimed_file(tmp_path / "a.parquet"):
                pass
        other.send_signal(signal.SIGKILL)
        with claimed_file(tmp_path / "a.parquet"):
            assert os.listdir(tmp_path) == [".a.parquet.lock"]
    assert not os.listdir(tmp_path)


def test_jobs_of_one_process_refuse_each_other(tmp_path):
    with claimed(tmp_path):
        (tmp_path / ".lock").write_text("not what is written there")
        with pytest.raises(InUseError, match=f"^{re.escape(str(tmp_path))}: another job works there; wait"):
            with claimed(tmp_path):
                pass


def test_each_of_many_jobs_has_the_folder_alone(tmp_path):
    """Each makes and removes the lock file."""
    work = f"""
import os, sys, time
from hf_mlpl.folder_lock import InUseError, claimed
end = time.monotonic() + 30
for _ in range(15):
    while time.monotonic() < end:
        try:
            with claimed({str(tmp_path / "folder")!r}):
                os.mkdir({str(tmp_path / "alone")!r})
                os.rmdir({str(tmp_path / "alone")!r})
            break
        except InUseError:
            pass
print(os.getpid())
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", work], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in processes:
        out, error = process.communicate(timeout=60)
        assert (out, error) == (f"{process.pid}\n", "")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_disk_without_locks(number, tmp_path, monkeypatch, caplog):
    """Lets the system call fail as on such a disk."""

    def no_locks(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with claimed(tmp_path):
        assert not os.listdir(tmp_path)
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: its disk has no locks; see to it that no other job writes there meanwhile"
    ]


def test_a_lock_that_cannot_be_written(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(OSError, match="cannot be claimed for this job, because of .*/.lock .Is a directory"):
        with claimed(tmp_path):
            pass
