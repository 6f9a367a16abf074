"""Kills labelling, joins, filters and pushes before file-system events, and gives each command again.

The end state must be that of an uninterrupted job, byte by byte, and on the Hub commit by commit; lock files may stay
behind, for the kernel has given their locks back, and claims of who has ended. Labelling is killed before each of its
events, the others before up to `MOST` each. Besides, two jobs meet on one folder.

Commands are given again in this process, and all but pushes are killed in processes that have imported everything
already: to start Python takes most of the time.
"""

import importlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi

from hf_mlpl import atomic
from hf_mlpl.folder_lock import is_lock
from hf_mlpl.labels import labelling
from hf_mlpl.labels.claims import is_claim
from hf_mlpl.labels.publishing import write_label_set

from ..commands import ROOT, run_command
from ..small_teachers import make_whisper
from ..two_processes import SHARD_SIZE
from .killing import FORKS, KILLED, events_of, run_killed_at, spread
from .killing_hook import sitecustomize

pytestmark = pytest.mark.slow

MOST = 8
REPO = "me/tones-pl"
# A recipe in small shards, which waits in the middle of the second one where a file is named, until that is there.
RUN = f"""
import os, runpy, sys, time
from hf_mlpl.labels import labelling
from hf_mlpl.labels.claims import is_claim
labelling.SHARD_SIZE = {SHARD_SIZE}
go, script, sys.argv = sys.argv[1], sys.argv[2], sys.argv[2:]
if go:
    scores, calls = labelling.scores, []
    def waiting(*arguments):
        calls.append(1)
        while len(calls) == 7 and not os.path.exists(go):
            time.sleep(0.05)
        return scores(*arguments)
    labelling.scores = waiting
runpy.run_path(script, run_name="__main__")
"""


def contents(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file() and not is_lock(path) and not is_claim(path.name)]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def run_recipe(script: str, arguments: list) -> None:
    labelling.SHARD_SIZE = SHARD_SIZE
    torch.set_num_threads(1)
    assert run_command(script, *arguments) == 0


def run_watched(folder: Path, log: Path, at: int, script: str, arguments: list) -> None:
    """Is killed, with what it has started, before its event `at` below a folder; writes its events to `log`."""
    os.setsid()
    os.environ |= {"KILLING_FOLDER": str(folder), "KILLING_LOG": str(log), "KILLING_AT": str(at)}
    for stream in (sys.stdout, sys.stderr):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    importlib.reload(sitecustomize)
    run_recipe(script, arguments)


def watched(folder: Path, at: int, script: str, arguments: list) -> tuple[int, list[str]]:
    """Returns the exit status of a recipe, in a process that has everything imported, and its events."""
    log = folder.with_name(f"{folder.name}.log")
    process = FORKS.Process(target=run_watched, args=(folder, log, at, script, arguments))
    process.start()
    process.join(timeout=300)
    return process.exitcode, log.read_text().splitlines()


def check_kills(script: str, arguments, folder_of, most: int, state=contents, env=None) -> None:
    """Runs a recipe uninterrupted, and killed before its events, each time with a folder of its own.

    Args:
        arguments, folder_of: functions folder -> arguments, and name -> folder.
        state: function folder -> what must be equal in the end.
        env: of processes that are started anew, because libraries read it when they are imported.
    """

    def command(folder: Path) -> list:
        return [sys.executable, ROOT / "recipes" / script, *arguments(folder)]

    def kill(folder: Path, at: int) -> int:
        if env is None:
            return watched(folder, at, script, arguments(folder))[0]
        return run_killed_at(command(folder), at, folder, env)

    whole = folder_of("whole")
    events = events_of(command(whole), whole, env) if env else watched(whole, 0, script, arguments(whole))[1]
    expected, numbers = state(whole), spread(len(events), most)
    print(f"\n{script}: {len(events)} events, killed before {len(numbers)} of them")
    for number in numbers:
        folder = folder_of(f"killed-{number}")
        assert kill(folder, number) == KILLED
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(atomic, "_cleaned", set())  # as in a new process
            patch.setattr(labelling, "SHARD_SIZE", SHARD_SIZE)
            run_recipe(script, arguments(folder))
        assert state(folder) == expected, (number, events[number - 1])


def labelling_arguments(tone_data: Path, tone_run: Path, folder: Path) -> list:
    data = ["--model", tone_run / "model", "--data", tone_data / "unlabelled.parquet"]
    return [*data, "--output", folder, "--num-workers", 0]


def test_labelling(tone_data, tone_run, one_thread, tmp_path):
    arguments = lambda folder: labelling_arguments(tone_data, tone_run, folder)  # noqa: E731
    check_kills("pseudo_label.py", arguments, lambda name: tmp_path / name, 100)


def test_labelling_by_a_model_that_generates(tone_data, one_thread, tmp_path):
    make_whisper(tmp_path / "whisper" / "model")
    arguments = lambda folder: labelling_arguments(tone_data, tmp_path / "whisper", folder)  # noqa: E731
    check_kills("pseudo_label.py", arguments, lambda name: tmp_path / name, MOST)


def test_joins_and_filters(tone_data, tone_labels, one_thread, tmp_path):
    write_label_set(tone_labels["sv-SE"], "sv-SE", tmp_path / "set")
    (tmp_path / "filters.yaml").write_text("filter:\n  - mean_log_prob >= -0.05\n")
    audio = ["--labels", tmp_path / "set", "--audio", tone_data / "unlabelled.parquet"]
    filters = [tone_labels["sv-SE"] / "labels.parquet", "--filters", tmp_path / "filters.yaml"]
    for script, given in {"join_labels.py": audio, "filter_labels.py": filters}.items():

        def arguments(folder: Path, given=given) -> list:
            return [*given, "--output", folder / "a.parquet"]

        def folder_of(name: str, script=script) -> Path:
            (tmp_path / script).mkdir(exist_ok=True)
            return tmp_path / script / name

        check_kills(script, arguments, folder_of, 100)


def test_pushes(tone_labels, local_hub, one_thread, tmp_path):
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

    def run_push(folder: Path) -> list:
        return [folder, "--repo", REPO]

    env = local_hub.env | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    check_kills("publish_labels.py", run_push, folder_of, MOST, state, env)


def test_two_jobs_on_one_folder(tone_data, tone_run, tmp_path):
    """One hangs, and the other makes what the first one does not; a third one, with another dtype, says so."""

    def command(folder: Path, *more: str, go: Path | str = "") -> list[str]:
        script = [str(go), str(ROOT / "recipes" / "pseudo_label.py")]
        return [sys.executable, "-c", RUN, *script, *map(str, labelling_arguments(tone_data, tone_run, folder)), *more]

    whole, folder, never = tmp_path / "whole", tmp_path / "labels", tmp_path / "never"
    subprocess.run(command(whole), check=True, capture_output=True)
    with subprocess.Popen(command(folder, go=never), stderr=subprocess.DEVNULL) as first:
        while not (folder / "shards" / "00000.arrow").exists():
            assert first.poll() is None
            time.sleep(0.05)
        made = (folder / "shards" / "00000.arrow").stat().st_mtime_ns
        third = subprocess.run(command(folder, "--dtype", "bfloat16"), capture_output=True, text=True)
        lines = [line for line in third.stderr.splitlines() if line.startswith("error: ")]
        assert third.returncode == 1 and "Traceback" not in third.stderr
        assert len(lines) == 1 and f"{folder} holds another job's labels: dtype was 'float32', is " in lines[0]
        second = subprocess.run(command(folder), capture_output=True, text=True)
        assert second.returncode == 0 and first.poll() is None, second.stderr
        first.kill()
    files = {path: content for path, content in contents(folder).items() if ".partial-" not in path}  # of the first
    assert files == contents(whole) and (folder / "shards" / "00000.arrow").stat().st_mtime_ns == made
