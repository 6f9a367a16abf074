"""Labels in object storage are those of a folder, byte by byte, whoever makes them and however often one is killed."""

import json
import sys
import threading
from pathlib import Path

import pytest
from accelerate import Accelerator
from fsspec.implementations.memory import MemoryFileSystem

from hf_mlpl import MlplForCTC, MlplProcessor
from hf_mlpl.atomic import write_json
from hf_mlpl.data.utterances import read_utterances
from hf_mlpl.labels import claims, labelling, shared_job
from hf_mlpl.labels.claims import Claims
from hf_mlpl.labels.disk import disk_of
from hf_mlpl.remote_path import RemotePath, as_path, output_path
from hf_mlpl.storage import StorageError

from ..commands import run_command

pytestmark = pytest.mark.usefixtures("one_thread")


class Killed(BaseException):
    """Ends a job as `kill -9` does."""


@pytest.fixture(scope="module")
def models(tone_run):
    return MlplForCTC.from_pretrained(tone_run / "model").eval(), MlplProcessor.from_pretrained(tone_run / "model")


@pytest.fixture
def label(models, tone_data, monkeypatch):
    """Returns a function that labels into a folder, in shards of 5, and returns the summary."""
    monkeypatch.setattr(labelling, "SHARD_SIZE", 5)
    utterances = read_utterances([tone_data / "unlabelled.parquet"])

    def label(folder):
        return labelling.pseudo_label(Accelerator(cpu=True), *models, utterances, folder, "teacher@1", 3.0)

    return label


def contents(folder: Path | RemotePath) -> dict[str, bytes]:
    """Returns name -> content of all files below a folder."""
    if isinstance(folder, Path):
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    key = f"/{folder.url.partition('://')[2]}/"
    return {name[len(key) :]: file.getvalue() for name, file in MemoryFileSystem.store.items() if name.startswith(key)}


def kill_after(monkeypatch, num_shards: int) -> None:
    """Lets a job die when it has written so many shards, in the middle of the next one, which it has claimed."""
    write, written = shared_job.write_shard, []

    def write_or_die(rows, path, *others):
        if len(written) == num_shards:
            next(iter(rows))
            raise Killed
        written.append(path)
        write(rows, path, *others)

    monkeypatch.setattr(shared_job, "write_shard", write_or_die)
    monkeypatch.setattr(claims, "machine", lambda: "elsewhere")
    monkeypatch.setattr(Claims, "_release", lambda self, claim: None)


def test_a_job_equals_that_of_a_folder(label, bucket, tmp_path, monkeypatch):
    """It is killed after two shards, two threads go on, and a third call finds it complete."""
    folder, summary = bucket / "labels", label(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_after(patch, 2)
        label(folder)
    assert {"job.json", "shards/00000.arrow", "shards/.00002.arrow.claim-0"} <= contents(folder).keys()
    monkeypatch.setattr(claims, "LEASE_SECONDS", 1.0)
    summaries: list[dict] = []
    threads = [threading.Thread(target=lambda: summaries.append(label(folder))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [*summaries, label(folder)] == [summary] * 3
    assert contents(folder) == contents(tmp_path)


def test_what_is_damaged_or_unread_is_made_again(label, bucket, tmp_path, monkeypatch):
    """A shard whose bytes were lost; one that cannot be had is not taken for damaged."""
    folder = bucket / "labels"
    label(folder)
    whole = contents(folder)
    (folder / "complete.json").unlink()
    (folder / "labels.parquet").unlink()
    (folder / "shards" / "00001.arrow").write_bytes(b"")
    (folder / "shards" / "00002.arrow").write_bytes(whole["shards/00002.arrow"][:500])
    get = MemoryFileSystem.cat_file

    def unavailable(self, path, *arguments, **options):
        if path.endswith("00003.arrow"):
            raise RuntimeError("503 please slow down")
        return get(self, path, *arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(StorageError, match="00003.arrow: .*503 please slow down$"):
        patch.setattr(MemoryFileSystem, "cat_file", unavailable)
        label(folder)
    assert "shards/00003.arrow" in contents(folder)
    label(folder)
    assert contents(folder) == whole


def test_a_claim_whose_answer_was_lost(bucket, monkeypatch):
    """The storage has created the file, and refuses the second request: the claim is this process's all the same."""
    pipe_file, other = MemoryFileSystem.pipe_file, Claims(disk_of(bucket))

    def twice(self, *arguments, **options):
        pipe_file(self, *arguments, **options)
        pipe_file(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "pipe_file", twice)
        mine = Claims(disk_of(bucket))
        claim = mine._take(bucket / "work")
    assert mine.is_held(claim) and other._take(bucket / "work") is None
    mine._release(claim)
    assert other._take(bucket / "work") == claim


@pytest.mark.parametrize(("answer", "is_there"), [("409 ConditionalRequestConflict", False), ("412", True)])
def test_a_creation_that_the_storage_refuses_in_its_own_words(bucket, monkeypatch, answer, is_there):
    """Where there is no file after all, as after a conflict of two, it is tried again."""
    pipe_file, refusals = MemoryFileSystem.pipe_file, []

    def refusing(self, path, value, **options):
        if not refusals or is_there:
            refusals.append(1)
            raise OSError(22, answer)
        pipe_file(self, path, value, **options)

    if is_there:
        (bucket / "file").write_bytes(b"first")
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", refusing)
    assert (bucket / "file").create(b"second") is not is_there
    assert (bucket / "file").read_bytes() == (b"first" if is_there else b"second") and len(refusals) == 1


def test_storage_that_cannot_be_shared(label, bucket, monkeypatch):
    pipe_file = MemoryFileSystem.pipe_file

    def replacing(self, path, value, mode="overwrite"):
        pipe_file(self, path, value)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", replacing)
    with pytest.raises(OSError, match="claim-0: this storage replaces a file where it is asked not to, so that proc"):
        label(bucket / "labels")
    assert contents(bucket / "labels").keys() == {"job.json"}
    for url, line in {
        "hf://datasets/user/labels": "are not written to the Hub.*`hf-mlpl publish-labels` pushes them$",
        "ftp://host/labels": "ftp:// cannot be written to.* gs, s3, s3a and local folders are accepted$",
        "memory://": "^memory://: names no bucket; give memory://BUCKET/FOLDER$",
        "s3:/bucket/labels": "a URL has two slashes, as in s3://bucket/labels",
    }.items():
        with pytest.raises(ValueError, match=line):
            labelling.pseudo_label(None, None, None, None, url, "")
        assert not Path(url.partition("/")[0]).exists()
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(StorageError, match="^gs://bucket/labels: needs a package: `pip install gcsfs`$"):
        output_path("gs://bucket/labels")


def test_paths_of_object_storage(bucket, tmp_path):
    assert as_path("s3://bucket/labels/") == RemotePath("s3://bucket/labels") and as_path(str(tmp_path)) == tmp_path
    path = bucket / "sl" / "labels.parquet"
    assert (path.name, path.suffix, str(path.parent)) == ("labels.parquet", ".parquet", "memory://bucket/sl")
    assert path.with_suffix(".unmatched.tsv") == bucket / "sl" / "labels.unmatched.tsv"
    assert RemotePath("s3://bucket").parent == RemotePath("s3://bucket") and output_path(path) is path
    assert not RemotePath("s3://bucket").exists()  # it is no file, and S3 refuses to read it
    with pytest.raises(TypeError):
        Path(path)  # nothing may take it for a folder `memory:` of this one
    assert not path.exists() and path.names() == [] and not bucket.is_dir()
    path.write_bytes(b"")
    assert path.exists() and path.read_bytes() == b"" and (bucket / "sl").names() == ["labels.parquet"]
    write_json(bucket / "a.json", {"a": 1}, keep=True)
    write_json(bucket / "a.json", {"a": 2}, keep=True)
    assert json.loads((bucket / "a.json").read_text()) == {"a": 1}
    path.unlink()
    path.unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError, match="^memory://bucket/sl/labels.parquet: no such file$"):
        path.unlink()


def test_commands_take_labels_of_object_storage(label, bucket, tone_data, tmp_path, monkeypatch, capsys):
    """They print and write what they do for a folder; an upload that fails leaves what was there."""
    copy = tmp_path / "labels"
    label(bucket / "labels")
    for name, content in contents(bucket / "labels").items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(content)

    def run(*arguments) -> str:
        assert run_command(*arguments) == 0, capsys.readouterr().err
        return capsys.readouterr().out.replace("memory://bucket", str(tmp_path))

    kept = run("filter_labels.py", bucket / "*" / "labels.parquet", "--output", bucket / "kept.parquet")
    assert kept == run("filter_labels.py", copy / "labels.parquet", "--output", tmp_path / "kept.parquet")
    joining = "join_labels.py", "--audio", tone_data / "unlabelled.parquet", "--labels"
    joined = run(*joining, bucket / "labels", "--output", bucket / "joined.parquet")
    assert joined == run(*joining, copy, "--output", tmp_path / "joined.parquet")
    voted = run("vote_labels.py", bucket / "labels", bucket / "kept.parquet", "--output", bucket / "voted.parquet")
    again = run("vote_labels.py", copy, tmp_path / "kept.parquet", "--output", tmp_path / "voted.parquet")
    assert voted.split() == again.split()  # columns are as wide as names
    for name in ("kept.parquet", "joined.parquet", "voted.parquet"):
        assert (bucket / name).read_bytes() == (tmp_path / name).read_bytes()
        assert len(read_utterances([str(bucket / name)])) == 24
    run("report.py", bucket / "labels", "--output", tmp_path / "bucket.html")
    run("report.py", copy, "--output", tmp_path / "folder.html")
    page = (tmp_path / "folder.html").read_text().replace(str(tmp_path), "memory://bucket")
    assert (tmp_path / "bucket.html").read_text() == page.replace(f"{tmp_path.name}/labels", "bucket/labels")

    def failing(self, *arguments, **options):
        raise RuntimeError("the network is gone")

    monkeypatch.setattr(MemoryFileSystem, "put_file", failing)
    before = contents(bucket)
    assert run_command("filter_labels.py", bucket / "labels" / "labels.parquet", "--output", bucket / "kept.parquet")
    assert "memory://bucket/kept.parquet: " in capsys.readouterr().err and contents(bucket) == before
