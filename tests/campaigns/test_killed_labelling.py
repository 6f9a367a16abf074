"""Kills labelling, joins, filters and pushes before file-system events, and gives each command again.

The end state must be that of an uninterrupted job, byte by byte, and on the Hub commit by commit; lock files may stay
behind, for the kernel has given their locks back. Labelling is killed before each of its events, the others before up
to `MOST` each. Besides, two jobs meet on one folder, and a job is given again at once when it has been killed.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from hf_mlpl.folder_lock import is_lock
from hf_mlpl.label_sets import write_label_set

from ..commands import ROOT
from ..two_processes import SHARD_SIZE
from .killing import KILLED, events_of, run_killed_at, spread

pytestmark = pytest.mark.slow

MOST = 8
REPO = "me/tones-pl"
# A recipe in small shards, which waits where a file is named until that is there.
RUN = f"""
import os, runpy, sys, time
from hf_mlpl import pseudo_label
pseudo_label.SHARD_SIZE = {SHARD_SIZE}
go, script, sys.argv = sys.argv[1], sys.argv[2], sys.argv[2:]
if go:
    scores, calls = pseudo_label.scores, []
    def waiting(*arguments):
        calls.append(1)
        while len(calls) == 7 and not os.path.exists(go):
            time.sleep(0.05)
        return scores(*arguments)
    pseudo_label.scores = waiting
runpy.run_path(script, run_name="__main__")
"""


def command_of(script: str, *arguments, go: Path | str = "") -> list[str]:
    return [sys.executable, "-c", RUN, str(go), str(ROOT / "recipes" / script), *map(str, arguments)]


def contents(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file() and not is_lock(path)]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def check_kills(command_for, folder_of, most: int, state=contents, env=None) -> None:
    """Runs a command uninterrupted, and killed before its events, each time in a folder of its own."""
    whole = folder_of("whole")
    events = events_of(command_for(whole), whole, env)
    expected, numbers = state(whole), spread(len(events), most)
    print(f"\n{len(events)} events, killed before {len(numbers)}: {[events[n - 1].split()[0] for n in numbers]}")
    for number in numbers:
        folder = folder_of(f"killed-{number}")
        command = command_for(folder)
        assert run_killed_at(command, number, folder, env) == KILLED
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        assert done.returncode == 0, (number, events[number - 1], done.stderr)
        assert state(folder) == expected, (number, events[number - 1])


@pytest.fixture
def labelling(tone_data, tone_run):
    data = ["--model", tone_run / "model", "--data", tone_data / "unlabelled.parquet"]

    def labelling(folder: Path, go: Path | str = "") -> list[str]:
        return command_of("pseudo_label.py", *data, "--output", folder, "--num-workers", 0, go=go)

    return labelling


def test_labelling(labelling, tmp_path):
    check_kills(labelling, lambda name: tmp_path / name, 100)


def test_joins_and_filters(tone_data, tone_labels, tmp_path):
    write_label_set(tone_labels["sv-SE"], "sv-SE", tmp_path / "set")
    (tmp_path / "filters.yaml").write_text("filter:\n  - mean_log_prob >= -0.05\n")
    audio = ["--labels", tmp_path / "set", "--audio", tone_data / "unlabelled.parquet"]
    filters = [tone_labels["sv-SE"] / "labels.parquet", "--filters", tmp_path / "filters.yaml"]
    for script, arguments in {"join_labels.py": audio, "filter_labels.py": filters}.items():
        check_kills(
            lambda folder, script=script, arguments=arguments: command_of(
                script, *arguments, "--output", folder / "a.parquet"
            ),
            lambda name, script=script: tmp_path / script / name,
            MOST,
        )


def test_pushes(tone_labels, local_hub, tmp_path):
    """The labels' folder must be as it was, and the repository as after one push."""

    def folder_of(name: str) -> Path:
        (tmp_path / name).mkdir()
        for file in ("labels.parquet", "complete.json"):
            os.link(tone_labels["de"] / file, tmp_path / name / file)
        HfApi().delete_repo(REPO, repo_type="dataset", missing_ok=True)
        return tmp_path / name

    def state(folder: Path) -> tuple:
        titles = [commit.title for commit in local_hub.commits(REPO, repo_type="dataset")]
        return contents(folder), titles, local_hub.files(REPO, repo_type="dataset")

    env = local_hub.env | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    check_kills(lambda folder: command_of("publish_labels.py", folder, "--repo", REPO), folder_of, MOST, state, env)


def test_two_jobs_on_one_folder(labelling, tmp_path):
    """One works, the other says so; the first is killed, and a third goes on with what it has made."""
    whole, folder, never = tmp_path / "whole", tmp_path / "labels", tmp_path / "never"
    subprocess.run(labelling(whole), check=True, capture_output=True)
    with subprocess.Popen(labelling(folder, go=never), stderr=subprocess.DEVNULL) as first:
        while not (folder / "shards" / "00000.parquet").exists():
            assert first.poll() is None
            time.sleep(0.05)
        second = subprocess.run(labelling(folder), capture_output=True, text=True)
        lines = [line for line in second.stderr.splitlines() if line.startswith("error: ")]
        assert second.returncode == 1 and "Traceback" not in second.stderr
        assert len(lines) == 1 and f"{folder}: another job works there" in lines[0] and str(first.pid) in lines[0]
        made = (folder / "shards" / "00000.parquet").stat().st_mtime_ns
        first.kill()
        third = subprocess.run(labelling(folder), capture_output=True, text=True)
    assert third.returncode == 0, third.stderr
    assert contents(folder) == contents(whole) and (folder / "shards" / "00000.parquet").stat().st_mtime_ns == made
