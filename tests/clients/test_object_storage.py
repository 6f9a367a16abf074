"""Runs jobs on the files of an S3 server (moto), by s3fs, and compares them with those of a folder."""

import json
import logging
import re
import signal
import subprocess
import tarfile
from collections import Counter
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest
import torch
from moto.server import ThreadedMotoServer
from safetensors.torch import load_file

from hf_mlpl.audio.reading import load_audio
from hf_mlpl.audio.tar_index import tar_index
from hf_mlpl.data.utterances import read_utterances, write_utterances
from hf_mlpl.labels import labelling
from hf_mlpl.storage import StorageError, open_remote
from hf_mlpl.training.loop import train
from hf_mlpl.training_config import load_config

from ..commands import run_command

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


class Requests(logging.Handler):
    """Counts the requests that the server answers, by their method."""

    def __init__(self):
        super().__init__()
        self.counts: Counter = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        if match := re.search("(HEAD|GET|PUT|POST|DELETE) /", record.getMessage()):
            self.counts[match[1]] += 1


@pytest.fixture(scope="module")
def server():
    """Starts an S3 server with the bucket `speech`; yields the counts of its requests."""
    requests, log = Requests(), logging.getLogger("werkzeug")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=True)
    with pytest.MonkeyPatch.context() as patch:
        log.addHandler(requests)
        log.setLevel(logging.INFO)
        server.start()
        host, port = server.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIAKEY")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret-key")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3").mkdir("speech")
        yield requests.counts
        log.removeHandler(requests)
        server.stop()


@pytest.fixture(scope="module")
def stored(server, tone_data: Path, tmp_path_factory) -> str:
    """Uploads the utterance files of the tones and their recordings; returns the URL of their folder."""
    folder, fs = tmp_path_factory.mktemp("stored"), fsspec.filesystem("s3")
    for split in ("train", "dev", "unlabelled"):
        rows = pq.read_table(tone_data / f"{split}.parquet").to_pylist()
        for row in rows:
            local = row["audio"]["path"]
            row["audio"]["path"] = f"s3://speech/audio/{Path(local).name}"
            if not fs.exists(row["audio"]["path"]):
                fs.put_file(local, row["audio"]["path"])
        write_utterances(rows, folder / f"{split}.parquet")
        fs.put_file(str(folder / f"{split}.parquet"), f"speech/data/{split}.parquet")
    return "s3://speech/data"


def test_training_is_that_of_a_folder(stored, tone_data, tmp_path):
    """Trains by workers that are forked when this process has read from the storage."""
    assert len(read_utterances([f"{stored}/*.parquet"])) == sum(
        len(read_utterances([tone_data / f"{split}.parquet"])) for split in ("train", "dev", "unlabelled")
    )
    settings = ["max_updates=3", "log_every=1", "eval_every=3", "num_workers=2"]
    runs = {"local": [], "stored": [f"train=[{stored}/train.parquet]", f"dev=[{stored}/dev.parquet]"]}
    for name, data in runs.items():
        train(load_config(tone_data / "tones.yaml", [f"output_dir={tmp_path / name}", *settings, *data]))
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in runs]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in runs]
    assert results[0]["languages"] == results[1]["languages"]


def test_labels_scores_and_transcripts_are_those_of_a_folder(stored, server, tone_data, tone_run, tmp_path, capfd):
    labels = {}
    for name, folder in {"local": tone_data, "stored": stored}.items():
        model = ["--model", tone_run / "model"]
        data = [*model, "--data", f"{folder}/unlabelled.parquet", "--num-workers", 2]
        assert run_command("pseudo_label.py", *data, "--output", tmp_path / name) == 0
        rows = pq.read_table(tmp_path / name / "labels.parquet").to_pylist()
        labels[name] = [{**row, "audio": Path(row["audio"]["path"]).name} for row in rows]
        data = [*model, "--data", f"{folder}/dev.parquet", "--num-workers", 0]
        assert run_command("evaluate.py", *data, "--output", tmp_path / f"{name}.json") == 0
    assert labels["local"] == labels["stored"]
    scores = [json.loads((tmp_path / f"{name}.json").read_text())["languages"] for name in labels]
    assert scores[0] == scores[1]
    recording = Path(read_utterances([tone_data / "dev.parquet"])[0]["audio"]["path"])
    capfd.readouterr()
    for path in (recording, f"s3://speech/audio/{recording.name}"):
        assert run_command("transcribe.py", "--model", tone_run / "model", path) == 0
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 2 and len({line.rpartition("\t")[2] for line in lines}) == 1


def test_a_recording_and_a_member_of_an_archive_cost_few_requests(stored, server, tone_data, tmp_path):
    recording = Path(read_utterances([tone_data / "dev.parquet"])[0]["audio"]["path"])
    server.clear()
    assert (load_audio(f"s3://speech/audio/{recording.name}") == load_audio(recording)).all()
    assert server == {"HEAD": 1, "GET": 1}
    with tarfile.open(tmp_path / "clips.tar", "w") as tar:
        for number in range(3):
            tar.add(recording, f"{number}/{recording.name}")
    fsspec.filesystem("s3").put_file(str(tmp_path / "clips.tar"), "speech/clips.tar")
    offset, size = tar_index("s3://speech/clips.tar").find(f"2/{recording.name}")
    audio = {"path": "s3://speech/clips.tar", "offset": offset, "size": size}
    load_audio(audio)  # opens the archive
    server.clear()
    assert (load_audio(audio) == load_audio(recording)).all()
    assert server == {"GET": 1}


def test_a_file_that_another_process_has_replaced_is_read_anew(stored, tone_data):
    """Tests it also where s3fs has kept a listing, which has the size and the version of the former file."""
    fs, other = fsspec.filesystem("s3"), fsspec.filesystem("s3", skip_instance_cache=True)
    for split in ("train", "dev"):
        other.put_file(str(tone_data / f"{split}.parquet"), "speech/replaced/x.parquet")
        assert read_utterances(["s3://speech/replaced/x.parquet"])["id"][0].startswith(f"common_voice_de_{split}")
        assert fs.ls("speech/replaced") == ["speech/replaced/x.parquet"]


@pytest.mark.parametrize("url, line", [
    ("s3://speech/none.wav", "no such file"), ("s3://nobucket/x.wav", "no such bucket")
])  # fmt: skip
def test_what_is_missing_is_told_in_a_line(server, url, line):
    with pytest.raises(StorageError) as error:
        open_remote(url)
    assert str(error.value) == f"{url}: {line}"


def test_without_credentials(server, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(StorageError, match="^s3://speech/x.wav: no credentials were found ") as error:
        open_remote("s3://speech/x.wav")
    assert "secret" not in str(error.value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()


# Labels in shards of 3, as a process of a machine of its own, which dies after some labels.
MACHINE = """
import os, signal, sys, time
from itertools import count
import torch
from hf_mlpl.cli.main import main
from hf_mlpl.labels import claims, labelling

name, most, *arguments = sys.argv[1:]
claims.machine, claims.LEASE_SECONDS = lambda: name, 4.0
labelling.SHARD_SIZE, labelling.MIN_SHARDS = 3, 0
scores, numbers = labelling.scores, count()

def counted(*given):
    if next(numbers) == int(most):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return scores(*given)

labelling.scores = counted
torch.set_num_threads(1)
sys.exit(main(["pseudo-label", *arguments]))
"""


def stored_files(url: str) -> dict[str, bytes]:
    fs = fsspec.filesystem("s3")
    fs.invalidate_cache()
    return {name.removeprefix(url.removeprefix("s3://") + "/"): fs.cat_file(name) for name in fs.find(url)}


def test_machines_that_are_killed_share_a_label_job(server, tone_data, tone_run, quick_python, tmp_path, monkeypatch):
    """Kills two of four with shards that they have claimed; the labels are those of a folder, byte by byte."""
    given = ["--model", tone_run / "model", "--data", tone_data / "unlabelled.parquet", "--num-workers", "0"]
    monkeypatch.setattr(labelling, "SHARD_SIZE", 3)
    monkeypatch.setattr(labelling, "MIN_SHARDS", 0)
    assert run_command("pseudo_label.py", *given, "--output", tmp_path / "labels") == 0

    def start(most: str) -> subprocess.Popen:
        arguments = [f"machine-{most}", most, *given, "--output", "s3://speech/labels"]
        return subprocess.Popen([quick_python, "-c", MACHINE, *arguments])

    # One after another, so that there is work left when each of them dies
    assert [start(most).wait() for most in ("7", "1")] == [-signal.SIGKILL] * 2
    begun = stored_files("s3://speech/labels")
    assert sum(".claim-" in name for name in begun) == 2 and "labels.parquet" not in begun
    processes = [start(most) for most in ("98", "99")]
    assert [process.wait() for process in processes] == [0, 0]
    local = {p.relative_to(tmp_path / "labels").as_posix(): p for p in (tmp_path / "labels").rglob("*") if p.is_file()}
    assert stored_files("s3://speech/labels") == {name: path.read_bytes() for name, path in local.items()}
    assert len(local) == 8 + 3


def test_a_shard_of_labels_costs_few_requests(server, tone_data, tone_run, monkeypatch):
    """Counts what docs/scale.md says."""
    given = ["--model", tone_run / "model", "--data", tone_data / "unlabelled.parquet", "--num-workers", "0"]
    counts = []
    monkeypatch.setattr(labelling, "MIN_SHARDS", 0)
    for size in (24, 3):
        monkeypatch.setattr(labelling, "SHARD_SIZE", size)
        server.clear()
        assert run_command("pseudo_label.py", *given, "--output", f"s3://speech/labels-{size}") == 0
        counts.append(Counter(server))
    # Of a claim: created, looked at twice with the one that may follow it, and removed. Of a shard: looked for,
    # written, and read to be joined.
    assert counts[1] - counts[0] == {"PUT": 7 * 2, "GET": 7 * 6, "DELETE": 7}
    assert counts[0].total() - 9 <= 40  # of the whole job
