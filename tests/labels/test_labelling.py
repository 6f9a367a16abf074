"""Tests pseudo-labels: equal to greedy decoding one by one, each utterance once, however a job is interrupted."""

import copy
import hashlib
import json
import logging
import math
import shutil
import time
import zlib
from collections import Counter
from itertools import groupby
from statistics import median
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import torch
from accelerate import Accelerator
from rapidfuzz.distance import Levenshtein

from hf_mlpl import MlplForCTC, MlplProcessor
from hf_mlpl.audio.reading import load_audio
from hf_mlpl.cli.pseudo_label import _default_dtype
from hf_mlpl.data.utterances import FEATURES, read_utterances, write_utterances
from hf_mlpl.folder_lock import InUseError, claimed
from hf_mlpl.inference import decoding, recognition, shard_stream
from hf_mlpl.inference.precision import convert
from hf_mlpl.labels import claims, labelling, shared_job
from hf_mlpl.labels import folder as folder_module
from hf_mlpl.labels.folder import unreadable_of
from hf_mlpl.labels.schema import SCORES
from hf_mlpl.labels.shards import read_shard, write_shard
from hf_mlpl.sharing.model_card import teacher_revision
from hf_mlpl.training.loop import train
from hf_mlpl.training_config import load_config

from ..two_processes import SHARD_SIZE

pytestmark = pytest.mark.usefixtures("one_thread")

TEACHER = "teacher@1"


@pytest.fixture(scope="module")
def teacher(tone_run):
    return MlplForCTC.from_pretrained(tone_run / "model").eval(), MlplProcessor.from_pretrained(tone_run / "model")


@pytest.fixture(scope="module")
def unlabelled(tone_data):
    return read_utterances([tone_data / "unlabelled.parquet"])


@pytest.fixture
def label(teacher, unlabelled, tmp_path, monkeypatch):
    """Returns a function that labels into a folder of `tmp_path`, in shards of 5, and returns the folder."""
    monkeypatch.setattr(labelling, "SHARD_SIZE", SHARD_SIZE)

    def label(name, dataset=unlabelled, models=teacher, revision=TEACHER, max_batch_seconds=3.0, num_workers=None):
        folder, batching = tmp_path / name, (max_batch_seconds, num_workers)
        summary = labelling.pseudo_label(Accelerator(cpu=True), *models, dataset, folder, revision, *batching)
        assert summary == json.loads((folder / "complete.json").read_text())
        return folder

    return label


def labels(folder):
    """Returns id -> row of labels.parquet."""
    table = pq.read_table(folder / "labels.parquet").to_pylist()
    rows = {row["id"]: row for row in table}
    assert len(rows) == len(table)
    return rows


def by_hand(teacher, tokens, utterance):
    """Computes text, language and scores of one utterance step by step."""
    model, processor = teacher
    samples = load_audio(utterance["audio"], 16_000)
    features = processor.feature_extractor(samples, sampling_rate=16_000, return_tensors="pt")["input_features"]
    with torch.no_grad():
        output = model(features)
    probabilities = output.logits[0].softmax(-1).max(-1).values.tolist()
    path = output.logits[0].argmax(-1).tolist()
    runs = [(label, list(frames)) for label, frames in groupby(range(len(path)), lambda frame: path[frame])]
    text, words = "", [[]]  # frames of each word, from its first letter to its last
    for label, frames in runs:
        if label < len(tokens):
            text += tokens[label].replace("|", " ")
            if tokens[label] == "|":
                words.append([])
            else:
                words[-1] += range(words[-1][0] if words[-1] else frames[0], frames[-1] + 1)
    spans = [sorted(set(word)) for word in words if word]
    seconds = len(samples) / 16_000
    text = " ".join(text.split())
    languages = output.language_log_probs[0].exp().tolist()
    letters, before = [label for label, _ in runs if label < len(tokens)], [0.0] * (len(tokens) + 1)
    expected = 0.0
    for frame in output.logits[0].double().softmax(dim=-1).tolist():
        expected += sum(p * (1 - q) for p, q in zip(frame[: len(tokens)], before[: len(tokens)], strict=True))
        before = frame
    return {
        "text": text,
        "predicted_language": model.config.languages[languages.index(max(languages))],
        "mean_log_prob": sum(map(math.log, probabilities)) / len(probabilities),
        "letter_log_prob": sum(map(math.log, probabilities)) / len(letters),
        "length_ratio": len(letters) / expected,
        "lowest_word_confidence": min(
            math.prod(probabilities[frame] for frame in span) ** (1 / len(span)) for span in spans
        ),
        "blank_ratio": path.count(len(tokens)) / len(path),
        "characters_per_second": len(text) / seconds,
        "compression_ratio": len(text.encode()) / len(zlib.compress(text.encode())),
        "repetition": 0.0,  # of texts of few words; test_generating_teachers.py has others
        "language_probability": languages[model.config.languages.index(utterance["language"])],
    }


def test_labels_are_those_of_one_by_one_decoding(label, teacher, unlabelled, tone_data, tone_corpus):
    made = labels(label("a"))
    assert list(made) and sorted(made) == sorted(unlabelled["id"])
    tokens = (tone_data / "tokens-all.lst").read_text().split()
    spoken, edits = json.loads((tone_corpus / "spoken.json").read_text()), 0
    for utterance in unlabelled:
        row, expected = made[utterance["id"]], by_hand(teacher, tokens, utterance)
        for name in ("text", "predicted_language"):
            assert row[name] == expected[name]
        assert {name: row[name] for name in SCORES if row[name] is not None} == {
            name: pytest.approx(expected[name], rel=1e-3, abs=1e-5) for name in SCORES if name in expected
        }
        assert (row["source"], row["error"]) == (TEACHER, None)
        for name in ("audio", "duration_seconds", "language", "speaker"):
            assert row[name] == utterance[name]
        edits += Levenshtein.distance(row["text"], spoken[utterance["id"]])
    assert edits < 0.1 * sum(map(len, spoken.values()))  # each segment got its own text
    assert len({row["lowest_word_confidence"] for row in made.values()}) > 20


def test_the_size_of_batches_changes_the_speed_only(label):
    one, another = labels(label("a", max_batch_seconds=0.1)), labels(label("b", max_batch_seconds=100))
    assert [(row["id"], row["text"]) for row in one.values()] == [(r["id"], r["text"]) for r in another.values()]
    for name in SCORES:
        values = [[row[name] for row in rows.values()] for rows in (one, another)]
        if values != [[None] * len(one)] * 2:
            assert values[0] == pytest.approx(values[1], rel=1e-4, abs=1e-6), name


def test_two_processes_label_the_same(label, two_processes):
    one, two = label("a"), two_processes / "labels"
    assert sorted(path.name for path in (two / "shards").iterdir()) == [f"{i:05d}.arrow" for i in range(5)]
    assert pq.read_table(two / "labels.parquet").equals(pq.read_table(one / "labels.parquet"))
    assert (two / "complete.json").read_text() == (one / "complete.json").read_text()


def test_one_set_of_workers_serves_a_job(label, unlabelled, monkeypatch, caplog):
    """Also for audio that is long, or longer than stated, and after a failed batch; few shards are claimed ahead."""
    whole, load, write = (
        contents(label("whole", max_batch_seconds=0.1)),
        shard_stream.DataLoader,
        shared_job.write_shard,
    )
    loaders, claimed, best_paths, calls = [], [], decoding.best_paths, []

    def write_later(rows, path, *arguments):
        claimed.append(len(list(path.parent.glob(".*.claim-0"))))
        time.sleep(0.05)
        write(rows, path, *arguments)

    def best_paths_but_once(*arguments, **options):
        calls.append(1)
        if len(calls) == 12:  # in the third shard
            raise MemoryError("too little")
        return best_paths(*arguments, **options)

    monkeypatch.setattr(shard_stream, "DataLoader", lambda *args, **kwargs: loaders.append(1) or load(*args, **kwargs))
    monkeypatch.setattr(shared_job, "write_shard", write_later)
    assert contents(label("a", max_batch_seconds=0.1, num_workers=2)) == whole
    assert len(loaders) == 1 and len(claimed) == 5 and 1 < max(claimed) <= 4
    with monkeypatch.context() as patch:
        patch.setattr(shard_stream, "MOST_BATCHES", 0)
        patch.setattr(recognition, "LONGEST_SECONDS", median(unlabelled["duration_seconds"]))
        patch.setattr(recognition, "LONG_SHARE", 0.9)
        assert contents(label("b", max_batch_seconds=0.1, num_workers=1)) == whole
    monkeypatch.setattr(decoding, "best_paths", best_paths_but_once)
    assert contents(label("c", max_batch_seconds=0.1, num_workers=1)) == whole
    assert [record.getMessage() for record in caplog.records] == [
        "too little; the shards in work are labelled again, one after another"
    ]


def test_a_job_of_an_older_version_keeps_its_order(label, unlabelled, tmp_path):
    """What it has made stays; a job of a newer version is refused."""
    (tmp_path / "a").mkdir()
    job = labelling._job(unlabelled, TEACHER, "float32", "duration", labelling.ORDERS["duration"](unlabelled))
    assert job.pop("order") == "duration"
    (tmp_path / "a" / "job.json").write_text(json.dumps(job))
    expected, made = unlabelled.select(sorted(range(24), key=lambda i: -unlabelled[i]["duration_seconds"])), label("a")
    assert pq.read_table(made / "labels.parquet")["id"].to_pylist() == expected["id"]
    (tmp_path / "a" / "shards" / "00001.arrow").unlink()
    for name in ("complete.json", "labels.parquet"):
        (tmp_path / "a" / name).unlink()
    before = contents(made)
    assert before.items() < contents(label("a")).items()
    assert sorted(labels(label("b"))) == sorted(expected["id"])
    (tmp_path / "b" / "job.json").write_text(json.dumps(job | {"order": "by the moon"}))
    with pytest.raises(ValueError, match="holds labels in the order 'by the moon', which a newer hf_mlpl has begun"):
        label("b")


class Killed(Exception):
    pass


def label_and_die(monkeypatch, label, num_shards: int) -> list:
    """Labels into folder `a` until a process would be killed in the middle of a shard; returns the paths before it."""
    write, shards = shared_job.write_shard, []

    def write_or_die(rows, path, transcripts):
        if len(shards) == num_shards:
            next(rows)
            raise Killed
        shards.append(path)
        return write(rows, path, transcripts)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(shared_job, "write_shard", write_or_die)
        label("a")
    return shards


def test_interrupted_equals_uninterrupted(label, tmp_path, monkeypatch):
    shards = label_and_die(monkeypatch, label, num_shards=2)
    folder = tmp_path / "a"
    assert sorted(path.name for path in folder.iterdir()) == ["job.json", "shards"]
    written = {path: path.stat().st_mtime_ns for path in (folder / "shards").glob("[0-9]*")}
    assert set(written) == set(shards) and len(shards) == 2
    label("a")
    assert {path: path.stat().st_mtime_ns for path in written} == written
    uninterrupted = label("b")
    for name in ("labels.parquet", *(f"shards/{i:05d}.arrow" for i in range(5))):
        assert read_shard(folder / name).equals(read_shard(uninterrupted / name)), name
    assert (folder / "complete.json").read_text() == (uninterrupted / "complete.json").read_text()


def test_processes_of_other_machines_share_a_job(label, tmp_path, monkeypatch):
    """One brings a shard late, one is silent; the labels are those of one process, and nothing of theirs is left."""
    monkeypatch.setattr(claims, "LEASE_SECONDS", 0.6)
    monkeypatch.setattr(shared_job, "PATIENCE", 1e9)
    whole, folder, waits = contents(label("whole")), tmp_path / "a", []
    (folder / "shards").mkdir(parents=True)
    slow, silent = claims.Claims(), claims.Claims()
    with monkeypatch.context() as patch:
        patch.setattr(claims, "machine", lambda: "elsewhere")
        late = slow._take(folder / "shards" / "00001.arrow")
        silent._take(folder / "shards" / "00003.arrow")

    def sleep(seconds):
        """Lets the slow machine bring its shard when there is nothing else to do."""
        waits.append(sorted(path.name for path in (folder / "shards").glob("[0-9]*")))
        if len(waits[-1]) == 4:
            shutil.copy(tmp_path / "whole" / "shards" / "00001.arrow", folder / "shards")
            slow._release(late)
        time.sleep(seconds)

    monkeypatch.setattr(shared_job, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    with slow:
        assert contents(label("a")) == whole
    assert waits[-1] == [f"{number:05d}.arrow" for number in (0, 2, 3, 4)]


def test_a_process_that_hangs_is_not_waited_for(label, tmp_path, monkeypatch):
    """It renews its claims, but brings nothing; this process makes its shards when nothing else is left."""
    whole, folder = contents(label("whole")), tmp_path / "a"
    (folder / "shards").mkdir(parents=True)
    with claims.Claims() as hanging:
        for number in (1, 3):
            assert hanging._take(folder / "shards" / f"0000{number}.arrow")
        assert contents(label("a")) == whole


def test_a_process_that_was_stopped_drops_its_shard(label, tmp_path, monkeypatch, caplog):
    """Another one has claimed it meanwhile, and may have made it, or not yet."""
    whole, folder, scores = contents(label("whole")), tmp_path / "a", labelling.scores
    other, calls = claims.Claims(), []

    def stopped(*arguments):
        calls.append(1)
        if len(calls) in (3, 13):  # in shards 0 and 2
            number = 0 if len(calls) == 3 else 2
            newer = folder / "shards" / f".{number:05d}.arrow.claim-1"
            assert newer.with_name(f".{number:05d}.arrow.claim-0").exists()
            newer.write_text("of another machine")
            other.held[newer] = "of another machine"
            if number == 0:
                shutil.copy(tmp_path / "whole" / "shards" / "00000.arrow", folder / "shards")
        return scores(*arguments)

    def sleep(seconds):  # the other machine gives shard 2 up
        for claim in list(other.held):
            other._release(claim)

    monkeypatch.setattr(labelling, "scores", stopped)
    monkeypatch.setattr(shared_job, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    assert contents(label("a")) == whole
    lost = [record.getMessage() for record in caplog.records]
    assert len(lost) == 2 and all("another process has claimed this" in line for line in lost)
    assert len(calls) == 24 + 5  # only shard 2 twice


def test_a_job_that_another_process_joins(label, tmp_path, monkeypatch):
    whole, folder = contents(label("whole")), tmp_path / "a"
    folder.mkdir()
    joining = claims.Claims()
    with monkeypatch.context() as patch:
        patch.setattr(claims, "machine", lambda: "elsewhere")
        claim = joining._take(folder / "complete.json")

    def sleep(seconds):
        for name in ("labels.parquet", "complete.json"):
            shutil.copy(tmp_path / "whole" / name, folder)
        joining._release(claim)

    def join_shards(*arguments):
        raise AssertionError("it is joined already")

    monkeypatch.setattr(shared_job, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    monkeypatch.setattr(shared_job, "join_shards", join_shards)
    assert contents(label("a")) == whole


def test_two_jobs_that_begin_at_once(tmp_path, monkeypatch):
    """The first one has the folder, even if both see an empty one."""
    jobs = [{"teacher": name, "utterances": 1, "ids_sha256": "", "dtype": "float32"} for name in ("a@1", "b@1")]
    write = folder_module.write_json

    def write_later(path, content, keep):
        if content == jobs[1]:
            assert folder_module.begin(tmp_path, jobs[0], logging.DEBUG) is None
        write(path, content, keep)

    monkeypatch.setattr(folder_module, "write_json", write_later)
    with pytest.raises(ValueError, match="another job's labels: teacher was 'a@1', is 'b@1'. Choose another folder"):
        folder_module.begin(tmp_path, jobs[1], logging.DEBUG)
    assert json.loads((tmp_path / "job.json").read_text()) == jobs[0]


@pytest.mark.parametrize(("small", "expected"), [(6, [5, 5, 5, 5, 4]), (3, [4] * 6), (1, [4] * 6)])
def test_a_small_job_has_shards_for_several_processes(label, small, expected, monkeypatch):
    monkeypatch.setattr(labelling, "SMALL_SHARD_SIZE", small)
    monkeypatch.setattr(labelling, "MIN_SHARDS", 6)
    folder = label("a")
    assert [len(read_shard(path)) for path in sorted((folder / "shards").iterdir())] == expected


def test_a_complete_job_is_not_done_again(label, teacher):
    folder = label("a")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert label("a", models=(teacher[0], None)) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_another_job_does_not_get_into_the_folder(label, unlabelled, tmp_path):
    label("a")
    with pytest.raises(ValueError, match="another job's labels: teacher was 'teacher@1', is 'teacher@2'. Choose anot"):
        label("a", revision="teacher@2")
    with pytest.raises(ValueError, match="utterances was 24, is 23; ids_sha256 was "):
        label("a", unlabelled.select(range(23)))
    other_order = "labels: ids_sha256 was '[0-9a-f]{64}', is '[0-9a-f]{64}' .other ids, or other durations .*. Choose"
    with pytest.raises(ValueError, match=other_order):
        label("a", unlabelled.select([1, 0, *range(2, 24)]))
    # The same ids that would be in other shards, of which one process cannot know what others have made.
    (tmp_path / "a" / "complete.json").unlink()
    for change in ({"duration_seconds": 20.0}, {"audio": {"path": "elsewhere.ogg", "start": 0.0, "end": 1.0}}):
        rows = unlabelled.to_list()
        rows[5] |= change
        write_utterances(rows, tmp_path / "changed.parquet")
        with pytest.raises(ValueError, match=other_order):
            label("a", read_utterances([tmp_path / "changed.parquet"]))
    rows = [row | {"audio": row["audio"] | {"path": "/z" + row["audio"]["path"]}} for row in unlabelled.to_list()]
    write_utterances(rows, tmp_path / "mounted.parquet")
    with pytest.raises(ValueError, match="none of the last 5 utterances could be used"):  # it goes on, on no disk
        shutil.rmtree(tmp_path / "a" / "shards")
        label("a", read_utterances([tmp_path / "mounted.parquet"]))


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def zeroed(content: bytes) -> bytes:
    """Overwrites a page inside a file with zeros, as a faulty disk may."""
    return content[:4] + bytes(400) + content[404:]


def test_damaged_shards_are_labelled_again(label, tmp_path, caplog):
    """Each with a line in the log; the undamaged shards stay unchanged."""
    folder = label("a")
    whole = label("b")
    paths = sorted((folder / "shards").iterdir())
    damages = (half, zeroed, lambda content: b"", lambda content: bytes(len(content)))
    for path, damage in zip(paths[:4], damages, strict=True):
        path.write_bytes(damage(path.read_bytes()))
    inode = paths[4].stat().st_ino
    for name in ("complete.json", "labels.parquet"):
        (folder / name).unlink()
    label("a")
    for name in ("labels.parquet", *(f"shards/{path.name}" for path in paths)):
        assert read_shard(folder / name).equals(read_shard(whole / name)), name
    assert paths[4].stat().st_ino == inode
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition(": damaged (")[0] for line in lines] == [str(path) for path in paths[:4]]
    assert all(line.endswith("); it is labelled again") and "\n" not in line for line in lines)


def test_a_job_that_an_older_version_began_goes_on(label, tmp_path):
    """Its shards are Parquet."""
    folder, whole = label("a"), label("b")
    paths = sorted((folder / "shards").iterdir())
    for path in paths[:3]:
        pq.write_table(read_shard(path), path.with_suffix(".parquet"))
    for path in [*paths[:4], folder / "labels.parquet", folder / "complete.json"]:
        path.unlink()
    times = {path: path.stat().st_mtime_ns for path in (folder / "shards").iterdir()}
    label("a")
    found = {path: path.stat().st_mtime_ns for path in (folder / "shards").iterdir()}
    assert found.keys() == {*times, paths[3]} and found.items() >= times.items()
    assert pq.read_table(folder / "labels.parquet").equals(pq.read_table(whole / "labels.parquet"))
    assert (folder / "complete.json").read_text() == (whole / "complete.json").read_text()


def test_shards_of_other_labels_are_labelled_again(label, unlabelled, tmp_path, caplog):
    folder = label("a")
    first, second = sorted((folder / "shards").iterdir())[:2]
    expected = pq.read_table(folder / "labels.parquet")
    first.write_bytes(second.read_bytes())
    write_shard([row | {"source": "teacher@2"} for row in read_shard(second).to_pylist()], second, keep=False)
    third = second.with_name("00002.arrow")
    pq.write_table(read_shard(third).drop(["error"]), third)
    (folder / "complete.json").unlink()
    label("a")
    assert pq.read_table(folder / "labels.parquet").equals(expected)
    reasons = [record.getMessage().partition(": damaged (")[2] for record in caplog.records]
    others = ["it holds other labels); it is labelled again"] * 2
    assert reasons[:2] == others and "has no column error" in reasons[2]


NO_JSON = ("", "null", "7", "[]", "{", "{}", '{"teacher": null}')


def test_a_complete_json_that_is_damaged_is_made_anew(label, caplog):
    """Damaged labels.parquet likewise; no shard is labelled again."""
    folder = label("a")
    expected, shards = contents(folder), {path: path.stat().st_mtime_ns for path in (folder / "shards").iterdir()}
    for content in NO_JSON:
        (folder / "complete.json").write_text(content)
        label("a")
        assert contents(folder) == expected
    for damage in (half, lambda content: b"", lambda content: bytes(100)):
        (folder / "labels.parquet").write_bytes(damage(expected["labels.parquet"]))
        label("a")
        assert contents(folder) == expected
    assert {path: path.stat().st_mtime_ns for path in shards} == shards
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == len(NO_JSON) + 3 and not [line for line in lines if "\n" in line]
    assert all(line.startswith(f"{folder}/complete.json: damaged") for line in lines[:-3])
    assert all(line.startswith(f"{folder}/labels.parquet: damaged") for line in lines[-3:])
    assert all(line.endswith("; it is made anew of the shards") for line in lines)


def test_a_job_json_that_is_damaged_is_one_line(label):
    folder = label("a")
    expected = contents(folder)
    message = "job.json: damaged .*; delete it if the labels beside it are of this job, or choose another folder"
    for content in NO_JSON:
        (folder / "job.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            label("a")
    (folder / "job.json").unlink()
    (folder / "complete.json").unlink()
    label("a")
    assert contents(folder) == expected


def contents(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_that_is_claimed(label, tmp_path):
    """No job begins in it; a complete folder is only read, and needs no claim."""
    with claimed(tmp_path / "a"):
        with pytest.raises(InUseError, match="a: another job works there .*, process"):
            label("a")
        assert [path.name for path in (tmp_path / "a").iterdir()] == [".lock"]
    folder = label("a")
    with claimed(folder):
        label("a")


def test_a_model_whose_outputs_are_nan(label, tone_run, teacher, caplog):
    """Its labels are errors, not texts."""
    broken = MlplForCTC.from_pretrained(tone_run / "model")
    with torch.no_grad():
        broken.ctc_head.bias[0] = float("nan")
    folder = label("a", models=(broken, teacher[1]))
    summary = json.loads((folder / "complete.json").read_text())
    assert (summary["labels"], summary["errors"]) == (0, 24) and len(caplog.records) == 24
    assert "the model's outputs are not finite; it gets no label" in caplog.records[0].getMessage()


def test_labels_of_a_model_that_computes_in_another_dtype(label, tone_run, teacher, tmp_path):
    exact = labels(label("exact"))
    for dtype in ("bfloat16", "int8"):
        models = (convert(MlplForCTC.from_pretrained(tone_run / "model"), dtype), teacher[1])
        with pytest.raises(ValueError, match=f"labels: dtype was 'float32', is '{dtype}'. Choose another folder"):
            label("exact", models=models)
        made = labels(label(dtype, models=models))
        assert json.loads((tmp_path / dtype / "complete.json").read_text())["dtype"] == dtype
        assert [row["text"] for row in made.values()] == [row["text"] for row in exact.values()]
        values = [[row["mean_log_prob"] for row in rows.values()] for rows in (made, exact)]
        assert values[0] == pytest.approx(values[1], abs=0.05) and values[0] != values[1]
    another = labels(label("one by one", models=models, max_batch_seconds=0.1))
    assert [row["text"] for row in another.values()] == [row["text"] for row in made.values()]


def test_the_precision_of_labels_by_default(tmp_path, monkeypatch):
    """That of the labels that are begun; else bfloat16 on a GPU that has it."""
    has_gpu, has_bfloat16 = [False], [False]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu[0])
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16[0])
    for has_gpu[0], has_bfloat16[0], expected in [(0, 0, "float32"), (1, 0, "float32"), (1, 1, "bfloat16")]:
        assert _default_dtype(tmp_path) == expected
    job = {"teacher": TEACHER, "utterances": 1, "ids_sha256": ""}
    (tmp_path / "job.json").write_text(json.dumps(job))  # of an older version
    assert _default_dtype(tmp_path) == "float32"
    (tmp_path / "job.json").write_text(json.dumps(job | {"dtype": "int8"}))
    assert _default_dtype(tmp_path) == "int8"


def test_a_job_of_a_version_that_knew_one_dtype_goes_on(label, tmp_path):
    whole = labels(label("a"))
    job = json.loads((tmp_path / "a" / "job.json").read_text())
    assert job.pop("dtype") == "float32"
    (tmp_path / "a" / "job.json").write_text(json.dumps(job))
    for name in ("complete.json", "labels.parquet", "shards/00002.arrow"):
        (tmp_path / "a" / name).unlink()
    assert labels(label("a")) == whole


def test_complete_json(label, unlabelled):
    folder = label("a")
    rows = list(labels(folder).values())
    ids = hashlib.sha256("\n".join(unlabelled["id"]).encode()).hexdigest()  # all that older versions write
    order = labelling.ORDERS["duration bucket, recording"](unlabelled)
    assert json.loads((folder / "complete.json").read_text()) == {
        "teacher": TEACHER,
        "utterances": 24,
        "ids_sha256": hashlib.sha256(ids.encode() + order.astype("<i8").tobytes()).hexdigest(),
        "dtype": "float32",
        "order": "duration bucket, recording",
        "labels": 24,
        "errors": 0,
        "languages": {
            "sv-SE": {
                "labels": 24,
                "empty": 0,
                "errors": 0,
                "hours": pytest.approx(sum(unlabelled["duration_seconds"]) / 3600),
                "mean_log_prob": pytest.approx(sum(row["mean_log_prob"] for row in rows) / 24),
                "cer": None,
                "commonest": Counter(row["text"] for row in rows).most_common(1)[0][1] / 24,
                "length_ratio": None,
                "convention": {
                    "texts": 24,
                    "cased": sum(row["text"].swapcase() != row["text"] for row in rows),
                    "capitals": sum(row["text"].lower() != row["text"] for row in rows),
                    "punctuation": 0,
                    "digits": 0,
                },
            }
        },
        "sources": [],
    }


def test_labels_are_compared_with_the_texts_that_are_known(label, unlabelled, tmp_path):
    made = labels(label("a"))
    rows = unlabelled.to_list()
    rows[3]["text"] = made[rows[3]["id"]]["text"] + "ABCD"
    for row in rows[4:13]:
        row["text"] = made[row["id"]]["text"]
    write_utterances(rows, tmp_path / "known.parquet")
    folder = label("b", read_utterances([tmp_path / "known.parquet"]))
    assert labels(folder) == made
    counts = json.loads((folder / "complete.json").read_text())["languages"]["sv-SE"]
    characters = sum(len(row["text"]) for row in rows[3:13])
    assert (counts["cer"], counts["length_ratio"]) == (4 / characters, (characters - 4) / characters)
    rows[3]["text"] = None
    write_utterances(rows, tmp_path / "known.parquet")
    folder = label("c", read_utterances([tmp_path / "known.parquet"]))
    counts = json.loads((folder / "complete.json").read_text())["languages"]["sv-SE"]
    assert (counts["cer"], counts["length_ratio"]) == (0.0, None)  # nine are too few to judge the length


def test_unreadable_segments_are_counted_and_get_no_label(label, unlabelled, tmp_path, caplog):
    rows = unlabelled.to_list()
    rows[3]["audio"] = {"path": str(tmp_path / "lost.ogg"), "start": 1.0, "end": 2.0}
    rows[9]["audio"] |= {"start": 900.0, "end": 901.0}
    write_utterances(rows, tmp_path / "damaged.parquet")
    with caplog.at_level(logging.WARNING, logger="hf_mlpl"):
        folder = label("a", read_utterances([tmp_path / "damaged.parquet"]))
    made = labels(folder)
    assert sorted(made) == sorted(row["id"] for i, row in enumerate(rows) if i not in (3, 9))
    summary = json.loads((folder / "complete.json").read_text())
    assert (summary["utterances"], summary["labels"], summary["errors"]) == (24, 22, 2)
    assert summary["languages"]["sv-SE"]["labels"] == 22
    lines = sorted(record.getMessage() for record in caplog.records)
    for row, file, line in zip(sorted([rows[3]["id"], rows[9]["id"]]), ("lost.ogg", ".ogg"), lines, strict=True):
        assert row in line and file in line and line.endswith("; it gets no label") and "\n" not in line


def test_a_disk_that_comes_back_is_read_again(label, unlabelled, tmp_path, monkeypatch, caplog):
    """The labels are then those of a job that could read everything at once; nothing else is labelled again."""
    rows = unlabelled.to_list()
    disk = tmp_path / "disk"
    disk.mkdir()
    for i, row in enumerate(rows):  # each is a recording, wherever it lies
        row["audio"]["path"] = str(shutil.copy(row["audio"]["path"], tmp_path / f"{i}.ogg"))
    write_utterances(rows, tmp_path / "data.parquet")
    order = labelling.ORDERS["duration bucket, recording"](read_utterances([tmp_path / "data.parquet"])).tolist()
    lost = [*order[5:8], order[14]]  # in shards of 5 rows
    for row in lost:
        shutil.copy(rows[row]["audio"]["path"], disk / f"{row}.ogg")
        rows[row]["audio"] = rows[row]["audio"] | {"path": str(disk / f"{row}.ogg")}
    write_utterances(rows, tmp_path / "data.parquet")
    dataset = read_utterances([tmp_path / "data.parquet"])
    whole = contents(label("whole", dataset))
    disk.rename(tmp_path / "away")
    folder = label("a", dataset)
    summary = json.loads((folder / "complete.json").read_text())
    assert (summary["labels"], summary["errors"]) == (20, 4) and unreadable_of(summary) == {}
    listed = (folder / "unreadable.tsv").read_text().splitlines()
    assert listed[0] == "id\tlanguage\treason" and len(listed) == 5
    assert {line.split("\t")[0] for line in listed[1:]} == {rows[row]["id"] for row in lost}
    before = contents(folder)
    assert contents(label("a", dataset)) == before  # still away
    (tmp_path / "away").rename(disk)
    decoded = []
    monkeypatch.setattr(labelling, "_labels", lambda *args, label=labelling._labels: decoded.append(1) or label(*args))

    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # between the shards and their join
        patch.setattr(shared_job, "join_shards", interrupted)
        label("a", dataset)
    assert len(decoded) == 2 and "can be read now; it is labelled again" in caplog.text
    for _ in range(2):
        assert contents(label("a", dataset)) == whole and len(decoded) == 2
    assert "unreadable.tsv" not in whole


def test_without_any_audio_a_job_stops_and_can_go_on(label, unlabelled, tmp_path, caplog):
    rows = unlabelled.to_list()
    for row in rows:
        row["audio"]["path"] += ".away.ogg"
    write_utterances(rows, tmp_path / "data.parquet")
    with pytest.raises(
        ValueError, match="none of the last 5 utterances could be used, for example: .*away.ogg.*; see"
    ):
        label("a", read_utterances([tmp_path / "data.parquet"]))
    assert len(caplog.records) == 5 and not list((tmp_path / "a" / "shards").glob("*.arrow"))
    assert contents(label("a")) == contents(label("b"))  # its ids are the same


def test_only_the_utterance_that_exceeds_memory_is_an_error(label, teacher, unlabelled, caplog):
    """The others of its batch are labelled as usual; if no utterance can be labelled, the job ends with the error."""
    whole, (model, processor) = labels(label("whole")), teacher
    lengths = [round(16_000 * seconds) for seconds in unlabelled["duration_seconds"]]
    failing = max(lengths, key=lambda length: (lengths.count(length) == 1, length))

    class Extractor(type(processor.feature_extractor)):
        def __call__(self, samples, **options):
            if everything_fails or len(samples) == failing:
                raise MemoryError
            return super().__call__(samples, **options)

    other = copy.deepcopy(processor)
    other.feature_extractor.__class__ = Extractor
    everything_fails = False
    made = labels(label("a", models=(model, other)))
    [lost] = whole.keys() - made.keys()
    assert lost == unlabelled["id"][lengths.index(failing)]
    assert {name: row["text"] for name, row in made.items()} == {name: whole[name]["text"] for name in made}
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if line.endswith("utterances are labelled one by one")]) == 1
    assert [line for line in lines if f"utterance {lost}: " in line and line.endswith("; it gets no label")]
    assert not [line for line in lines if "\n" in line]
    everything_fails = True
    with pytest.raises(MemoryError):
        label("b", models=(model, other))


def test_nothing_heard_is_an_empty_label(label, tone_run, teacher, tone_data, tmp_path):
    silent = MlplForCTC.from_pretrained(tone_run / "model")
    with torch.no_grad():
        silent.ctc_head.bias[silent.config.blank_token_id] = 1e4
    folder = label("a", models=(silent, teacher[1]))
    assert {row["text"] for row in labels(folder).values()} == {""}
    assert json.loads((folder / "complete.json").read_text())["languages"]["sv-SE"]["empty"] == 24
    settings = [f"output_dir={tmp_path / 'run'}", f"train=[{folder / 'labels.parquet'}]", "languages=[de, sv-SE]"]
    with pytest.raises(
        ValueError, match="^train: sv-SE: 100% of 24 pseudo-labels are empty: .*; allow_collapsed=true"
    ):
        train(load_config(tone_data / "tones.yaml", settings))
    with pytest.raises(ValueError, match="none of 24 utterances can be used for training: {'no text': 24}"):
        train(load_config(tone_data / "tones.yaml", [*settings, "allow_collapsed=true"]))


def test_labels_are_utterances_to_train_on(label, tone_data, tmp_path):
    made = label("a") / "labels.parquet"
    dataset = read_utterances([tone_data / "train.parquet", made])
    assert dataset.column_names == list(FEATURES) and len(dataset) == 64 + 24
    assert set(dataset["source"]) == {"human", TEACHER}
    settings = [f"output_dir={tmp_path / 'run'}", f"train=[{tone_data / 'train.parquet'}, {made}]", "max_updates=2"]
    assert MlplForCTC.from_pretrained(train(load_config(tone_data / "tones.yaml", settings)))


def test_no_utterances_make_no_labels(label, unlabelled):
    folder = label("a", unlabelled.select([]))
    assert labels(folder) == {}
    summary = json.loads((folder / "complete.json").read_text())
    assert (summary["utterances"], summary["labels"], summary["languages"]) == (0, 0, {})


def test_revision_of_a_teacher(tone_run, teacher):
    model = MlplForCTC.from_pretrained(tone_run / "model")
    revision = teacher_revision(model, str(tone_run / "model"))
    name, _, digest = revision.partition("@")
    assert name == "run/model" and len(digest) == 12 and int(digest, 16)
    assert teacher_revision(teacher[0], f"{tone_run}/model/") == revision
    with torch.no_grad():
        model.lid_head.bias[0] += 1e-3
    assert teacher_revision(model, str(tone_run / "model")) != revision
    model.config._commit_hash = "0123abcd"  # as from_pretrained sets it for a model from the Hub
    assert teacher_revision(model, "user/name") == "user/name@0123abcd"
