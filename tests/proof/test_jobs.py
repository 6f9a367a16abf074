"""Running jobs: in order, side by side, once; failures and ^C. The jobs are small real commands."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recipes.proof.jobs import Job, Runner, duration

from ..commands import ROOT


def shell(folder: Path, name: str, script: str, *needs: str, **more) -> Job:
    return Job(name, "shell", ("sh", "-c", script), folder / name, needs, **more)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(jobs, at_once=2):
        return Runner(jobs, at_once, tmp_path / "logs").run()

    return run


def test_jobs_follow_those_they_need_and_run_once(tmp_path, run):
    note = "echo {0} >> order; touch {0}"
    jobs = [
        shell(tmp_path, "first", note.format("first")),
        shell(tmp_path, "second", f"test -e first && {note.format('second')}", "first"),
        shell(tmp_path, "other", note.format("other")),
        shell(tmp_path, "third", f"test -e second && test -e other && {note.format('third')}", "second", "other"),
    ]
    assert run(jobs) == {}
    assert sorted((tmp_path / "order").read_text().split()) == ["first", "other", "second", "third"]
    (tmp_path / "second").unlink()
    assert run(jobs) == {}
    assert (tmp_path / "order").read_text().split()[4:] == ["second"]


def test_three_run_at_the_same_time(tmp_path, run):
    """Each of three jobs waits until all have begun."""
    meet = "touch begun-{0}; while [ $(ls begun-* | wc -l) -lt 3 ]; do sleep 0.01; done; touch {0}"
    assert run([shell(tmp_path, f"{i}", meet.format(i)) for i in range(3)], 3) == {}


def test_no_more_run_than_shall(tmp_path, run):
    alone = "mkdir busy && sleep 0.2 && rmdir busy && touch {0}"  # a second one could not make the folder
    assert run([shell(tmp_path, f"{i}", alone.format(i)) for i in range(3)], 1) == {}


def test_a_failure_is_one_line_and_stops_only_what_needs_it(tmp_path, run, capsys):
    jobs = [
        shell(tmp_path, "0/bad", "echo error: too little speech; echo error: the whole job failed; exit 1"),
        shell(tmp_path, "silent", "true"),
        shell(tmp_path, "killed", "kill -9 $$"),
        shell(tmp_path, "after", "touch after", "0/bad"),
        shell(tmp_path, "later", "touch later", "after"),
        shell(tmp_path, "good", "touch good"),
    ]
    failed = run(jobs)
    log = tmp_path / "logs" / "0-bad.log"
    assert failed["0/bad"] == f"exit status 1: error: too little speech (all output: {log})"
    assert failed["silent"].startswith(f"it wrote no {tmp_path / 'silent'}")
    assert failed["killed"].startswith("ended by signal 9")
    assert failed["after"] == "needs 0/bad, which failed" and failed["later"] == "needs after, which failed"
    assert failed.keys() == {"0/bad", "silent", "killed", "after", "later"} and (tmp_path / "good").exists()
    lines = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("0/bad: failed after ") for line in lines) == 1 and len(lines) == 3
    (tmp_path / "0").mkdir()
    jobs[0] = shell(tmp_path, "0/bad", "echo error: another reason; exit 3")
    assert run(jobs)["0/bad"].startswith("exit status 3: error: another reason")  # not that of the first attempt


def test_a_result_that_is_older_than_its_source_or_a_part_is_made_again(tmp_path, run):
    source = tmp_path / "model"
    job = shell(tmp_path, "result", "echo x >> runs; touch result", sources=(tmp_path / "gone", source))
    for path, seconds in ((source, 100), (tmp_path / "result", 200)):
        path.touch()
        os.utime(path, (seconds, seconds))
    assert job.is_complete()
    os.utime(source, (300, 300))
    assert not job.is_complete() and run([job]) == {} and job.is_complete()
    part = shell(tmp_path, "part", "echo whole > part", is_whole=lambda: "whole" in (tmp_path / "part").read_text())
    (tmp_path / "part").write_text("half")
    assert not part.is_complete() and run([part]) == {} and part.is_complete()


def test_inputs_are_written_before_a_job_begins(tmp_path, run):
    inputs = {tmp_path / "some" / "filters.yaml": "filter: none\n"}
    assert run([shell(tmp_path, "copy", "cp some/filters.yaml copy", inputs=inputs)]) == {}
    assert (tmp_path / "copy").read_text() == "filter: none\n"


def test_one_line_for_each_job_says_what_is_left(tmp_path, run, capsys):
    jobs = [shell(tmp_path, f"{i}", f"touch {i}", *([f"{i - 1}"] if i else [])) for i in range(3)]
    run(jobs)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["0", "1", "2"]
    assert "2 left, about " in lines[0] and lines[2].endswith("nothing is left")


def test_durations_are_readable():
    assert [duration(each) for each in (7.4, 83, 3700)] == ["7 s", "1 min 23 s", "1 h 1 min"]


SLEEPERS = """
import sys
from pathlib import Path
from hf_mlpl.cli.errors import exit_status
from recipes.proof.jobs import Job, Runner
child = "import sys, time; from pathlib import Path; from hf_mlpl.stop_signal import StopSignal\\n" \\
    "with StopSignal() as stop:\\n    Path(sys.argv[1] + '.begun').touch()\\n" \\
    "    while not stop.name: time.sleep(0.01)\\nPath(sys.argv[1] + '.saved').touch()\\nsys.exit(75)"
jobs = [Job(name, "", (sys.executable, "-c", child, name), Path(name)) for name in "ab"]
sys.exit(exit_status(lambda: Runner(jobs, 2, Path("logs")).run()))
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_lets_running_jobs_save_their_work(tmp_path, number, status):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPERS], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    while len(list(tmp_path.glob("*.begun"))) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    assert "stopping a, b; they save their work" in process.communicate()[1]
    assert process.returncode == status and len(list(tmp_path.glob("*.saved"))) == 2
