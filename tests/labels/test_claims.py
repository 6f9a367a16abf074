"""Tests claims of work by files, between processes and machines that come, go, stop and come back."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hf_mlpl.labels import claims
from hf_mlpl.labels.claims import Claims, LostClaimError
from hf_mlpl.labels.disk import disk_of

from ..commands import ROOT

LEASE = 0.6


@pytest.fixture(params=["disk", "object storage"])
def folder(request):
    return request.getfixturevalue("tmp_path" if request.param == "disk" else "bucket")


@pytest.fixture
def machines(folder, monkeypatch):
    """Returns a function that makes claims as another machine does, whose processes are unknown here."""
    monkeypatch.setattr(claims, "LEASE_SECONDS", LEASE)
    monkeypatch.setattr(claims, "machine", lambda: "elsewhere")
    made = []

    def machine(renews: bool = True) -> Claims:
        made.append(Claims(disk_of(folder)))
        return made[-1].__enter__() if renews else made[-1]

    yield machine
    for each in made:
        each.__exit__()


def wait_for_claim(machine: Claims, work):
    while (claim := machine._take(work)) is None:
        time.sleep(LEASE / 20)
    return claim


def test_each_piece_of_work_is_claimed_once(machines, folder):
    """By eight at once, which try all of fifty pieces."""
    claimed, barrier = [], threading.Barrier(8)

    def work(machine):
        barrier.wait()
        for number in range(50):
            if machine._take(folder / str(number)):
                claimed.append(number)

    threads = [threading.Thread(target=work, args=(machines(),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == list(range(50))


def test_a_claim_holds_as_long_as_its_process_lives(machines, folder):
    """Whatever its machine's clock says: only whether the time of the last change changes is looked at."""
    living, other, work = machines(), machines(), folder / "work"
    with living.claimed(work) as claim:
        assert claim.name == ".work.claim-0" and claims.is_claim(claim.name)
        if isinstance(claim, Path):
            os.utime(claim, (0, 0))  # 1970: renewed all the same
        end = time.monotonic() + 3 * LEASE
        while time.monotonic() < end:
            assert other._take(work) is None and living.is_held(claim)
            time.sleep(LEASE / 10)
    assert not disk_of(folder).names(folder)
    assert other._take(work)


@pytest.mark.parametrize("clock", [0, 2_000_000_000])
def test_work_of_a_machine_that_is_silent(machines, folder, clock):
    silent, other, third, work = machines(renews=False), machines(), machines(), folder / "work"
    with pytest.raises(LostClaimError, match="work.claim-0: another process has claimed this"):
        with silent.claimed(work) as claim:
            if isinstance(claim, Path):
                os.utime(claim, (clock, clock))
            started = time.monotonic()
            assert other._take(work) is None
            newer = wait_for_claim(other, work)
            assert newer.name == ".work.claim-1" and time.monotonic() - started > LEASE
            assert third._take(work) is None
            silent.check(claim)  # it was stopped, and comes back
    assert other.is_held(newer) and sorted(disk_of(folder).names(folder)) == [".work.claim-0", ".work.claim-1"]
    other._release(newer)
    assert not disk_of(folder).names(folder)


def test_who_comes_back_does_not_take_a_later_claim_for_its_own(machines, folder):
    silent, other, work = machines(renews=False), machines(), folder / "work"
    claim = silent._take(work)
    other._release(wait_for_claim(other, work))
    assert not silent.is_held(claim)
    again = other._take(work)  # a file of the same name
    silent.disk.renew(claim, silent.held[claim])
    assert again == claim and other.is_held(again) and not silent.is_held(claim)
    silent._release(claim)
    assert other.is_held(again)


def test_work_of_a_process_of_this_machine_that_has_ended(tmp_path):
    """It is free at once; a claim of a process whose number is now another one's, when its lease is over."""
    code = "from pathlib import Path; from hf_mlpl.labels.claims import Claims; Claims()._take(Path('work'))"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
    holder = json.loads((tmp_path / ".work.claim-0").read_text())
    mine = Claims()
    assert holder["process"] != os.getpid() and mine._take(tmp_path / "work").name == ".work.claim-1"
    (tmp_path / ".other.claim-0").write_text(json.dumps(holder | {"process": os.getpid()}))
    assert mine._take(tmp_path / "other") is None
    (tmp_path / ".third.claim-0").write_text("")  # not written yet
    assert mine._take(tmp_path / "third") is None
