"""Labels by a teacher that generates text: shards, scores and resumption are those of any teacher."""

import json
import zlib

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from accelerate import Accelerator

from hf_mlpl.cli.main import main
from hf_mlpl.data.utterances import FEATURES, read_utterances, write_utterances
from hf_mlpl.inference.recognition import load_recognizer, transcriber
from hf_mlpl.labels import labelling
from hf_mlpl.labels.filtering import filter_labels
from hf_mlpl.labels.filters import DEFAULT_FILTERS, LabelFilter
from hf_mlpl.labels.publishing import write_label_set
from hf_mlpl.labels.schema import SCORES
from hf_mlpl.labels.shards import read_shard
from hf_mlpl.labels.text_scores import repetition

from ..ranks import Death, run_on_two
from ..small_teachers import make_whisper
from .test_labelling import label_and_die

pytestmark = pytest.mark.usefixtures("one_thread")

RATE = 16_000
TEACHER = "user/whisper@1"


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whisper") / "model"
    make_whisper(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Writes 12 utterances in two languages: 11 clips, of which one is long, and one that is not audio."""
    folder, rows = tmp_path_factory.mktemp("clips"), []
    for i in range(12):
        rng, seconds = np.random.default_rng(i), 5.0 if i == 7 else 0.3 + 0.15 * i
        time = np.arange(round(RATE * seconds)) / RATE
        clip = 0.1 * (rng.normal(size=len(time)) * np.sin((5 + i) * time) ** 2 + np.sin(6.28 * (200 + 90 * i) * time))
        soundfile.write(folder / f"{i}.wav", clip, RATE)
        row = {"id": f"u{i}", "audio": {"path": str(folder / f"{i}.wav")}, "duration_seconds": seconds}
        rows.append(dict.fromkeys(FEATURES) | row | {"language": ("sv-SE", "fi")[i % 2]})
    (folder / "3.wav").write_bytes(b"no sound")
    write_utterances(rows, folder / "data.parquet")
    return folder / "data.parquet"


@pytest.fixture
def label(whisper, data, tmp_path, monkeypatch):
    """Returns a function that labels into a folder of `tmp_path`, in shards of 4, and returns the folder."""
    monkeypatch.setattr(labelling, "SHARD_SIZE", 4)

    def label(name, models=None, max_batch_seconds=8.0):
        models, dataset = models or load_recognizer(str(whisper)), read_utterances([data])
        folder = tmp_path / name
        labelling.pseudo_label(Accelerator(cpu=True), *models, dataset, folder, TEACHER, max_batch_seconds)
        return folder

    return label


def rows_of(folder) -> dict:
    return {row["id"]: row for row in pq.read_table(folder / "labels.parquet").to_pylist()}


def test_labels_and_their_scores(label, whisper, data):
    """A score that Whisper does not have is null, and a filter on it is refused."""
    folder, dataset = label("a"), read_utterances([data])
    made, transcribe = rows_of(folder), transcriber(*load_recognizer(str(whisper)), dataset)
    assert sorted(made) == sorted(f"u{i}" for i in range(12) if i != 3)
    for hypothesis in transcribe(dataset, 0.0):
        if hypothesis.row == 3:
            continue
        row, text = made[f"u{hypothesis.row}"], hypothesis.text
        assert (row["text"], row["source"], row["error"]) == (text, TEACHER, None)
        expected = {name: getattr(hypothesis, name, None) for name in SCORES} | {
            "characters_per_second": len(text) / hypothesis.seconds,
            "compression_ratio": len(text) / len(zlib.compress(text.encode())),
            "repetition": 0.0,  # of texts of one to three words
        }
        for name, value in expected.items():
            assert row[name] == (None if value is None else pytest.approx(value, abs=1e-4)), name
        assert row["predicted_language"] in ("sv-SE", "sv", "fi", "en")
        assert row["predicted_language"] != ("sv" if row["language"] == "sv-SE" else "fi-FI")
    unscored = {name for name in SCORES if all(row[name] is None for row in made.values())}
    of_frames = {"letter_log_prob", "length_ratio", "lowest_word_confidence", "blank_ratio"}
    assert unscored == of_frames | {"agreement", "expected_cer"}
    summary = json.loads((folder / "complete.json").read_text())
    assert (summary["labels"], summary["errors"], sorted(summary["languages"])) == (11, 1, ["fi", "sv-SE"])
    kept = folder / "kept.parquet"
    with pytest.raises(ValueError, match="blank_ratio"):
        filter_labels([folder / "labels.parquet"], [*DEFAULT_FILTERS, LabelFilter("blank_ratio <= 1")], kept)
    highest = sorted(row["no_speech_probability"] for row in made.values())[7]
    filters = [*DEFAULT_FILTERS, LabelFilter(f"no_speech_probability < {highest!r}"), LabelFilter("repetition <= 0.5")]
    filter_labels([folder / "labels.parquet"], filters, kept, allow_collapsed=True)
    assert len(pq.read_table(kept)) == 7
    published = write_label_set(folder, "fi", folder / "set")
    assert published.mean_log_prob == pytest.approx(summary["languages"]["fi"]["mean_log_prob"], abs=1e-6)
    assert published.scores["blank_ratio"]["null"] == published.utterances == 5
    assert published.scores["no_speech_probability"]["null"] == 0


def test_an_interrupted_job_goes_on(label, tmp_path, monkeypatch):
    label_and_die(monkeypatch, label, num_shards=1)
    [first] = (tmp_path / "a" / "shards").glob("[0-9]*")
    written = first.stat().st_mtime_ns
    label("a", max_batch_seconds=8.0)
    assert first.stat().st_mtime_ns == written
    label("b")
    for name in ("labels.parquet", *(f"shards/{i:05d}.arrow" for i in range(3))):
        assert read_shard(tmp_path / "a" / name).equals(read_shard(tmp_path / "b" / name)), name
    assert (tmp_path / "a" / "complete.json").read_text() == (tmp_path / "b" / "complete.json").read_text()


@pytest.mark.slow
def test_two_processes_of_which_one_is_killed(label, whisper, data, tmp_path):
    """Each one's shards are kept, and one process goes on with them: the labels are those of one process alone."""
    arguments = [
        "pseudo_label.py",
        "--model",
        whisper,
        "--data",
        data,
        "--output",
        tmp_path / "two",
        "--batch-seconds",
        8,
    ]
    constants = {"labels.labelling": {"SHARD_SIZE": 4}}
    death = Death(1, "labels.labelling", "scores", 2)  # in the middle of its first shard
    run_on_two(tmp_path, *arguments, death=death, **constants)  # a quick process may end the job alone
    assert [status for status, _ in run_on_two(tmp_path, *arguments, **constants)] == [0, 0]
    one = pq.read_table(label("one") / "labels.parquet").drop(["source"])
    assert pq.read_table(tmp_path / "two" / "labels.parquet").drop(["source"]).equals(one)


def test_a_text_that_was_cut_off_is_no_label(label, whisper, caplog):
    """It stays in its shard with its scores, and is not made again."""
    model, processor = load_recognizer(str(whisper))
    model.generation_config.exponential_decay_length_penalty = None  # so most texts have no end
    folder = label("a", (model, processor))
    rows = [row for path in sorted((folder / "shards").iterdir()) for row in read_shard(path).to_pylist()]
    cut = [row for row in rows if row["error"] and "cut off" in row["error"]]
    assert 2 < len(cut) < 11 and all(row["text"] and row["mean_log_prob"] < 0 for row in cut)
    listed = [line.split("\t")[0] for line in (folder / "unreadable.tsv").read_text().splitlines()[1:]]
    assert sorted(listed) == sorted(["u3", *(row["id"] for row in cut)])
    assert sorted(rows_of(folder)) == sorted({row["id"] for row in rows} - set(listed))
    assert any("its text was cut off at the model's longest length" in line for line in caplog.messages)
    times = {path: path.stat().st_mtime_ns for path in (folder / "shards").iterdir()}
    label("a", (model, processor))
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_the_commands_take_any_teacher(whisper, data, tmp_path, capsys):
    """`pseudo-label` and `evaluate` with the same model, which has no texts to be wrong about but its own."""
    arguments = ["--model", str(whisper), "--data"]
    assert main(["pseudo-label", *arguments, str(data), "--output", str(tmp_path / "labels"), "--allow-coll"]) == 0
    output = capsys.readouterr().out
    assert "fi: 5 labels" in output and "sv-SE: 6 labels" in output and "by model/model@" not in output
    assert output.endswith(f"next: hf-mlpl report {tmp_path}/labels\n")
    made = rows_of(tmp_path / "labels")
    assert json.loads((tmp_path / "labels" / "job.json").read_text())["teacher"] == made["u0"]["source"]
    assert (
        main(["evaluate", *arguments, str(tmp_path / "labels" / "labels.parquet"), f"--output={tmp_path}/r.json"]) == 0
    )
    results = json.loads((tmp_path / "r.json").read_text())
    assert (results["macro"]["cer"], results["utterances"]) == (0.0, 11)
    known = [str(tmp_path / "labels" / "labels.parquet"), "--languages", "fi", f"--output={tmp_path}/fi labels"]
    assert main(["pseudo-label", *arguments, *known, "--allow-collapsed"]) == 0
    assert capsys.readouterr().out.endswith(f"next: hf-mlpl report '{tmp_path}/fi labels' --utterances {known[0]}\n")
    rows = [row | {"language": "sah"} for row in read_utterances([data]).to_list()[:2]]
    write_utterances(rows, tmp_path / "sah.parquet")
    assert main(["pseudo-label", *arguments, str(tmp_path / "sah.parquet"), f"--output={tmp_path}/sah"]) == 1
    assert (
        "does not know the language sah (it knows en, fi, sv); leave it out with --languages"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "sah").exists()  # the same folder takes what --languages leaves


def test_repetition_is_the_share_of_repeated_4_grams():
    assert repetition("") == repetition("one two three") == repetition("one two three four five") == 0.0
    assert repetition("a a a a a a") == pytest.approx(2 / 3)  # three 4-grams, all the same
    assert repetition("a b c d a b c d") == pytest.approx(1 / 5)
    assert repetition("谢谢大家谢谢大家") == pytest.approx(1 / 5)
    rng = np.random.default_rng(0)
    words = rng.choice(list("abc"), 200).tolist()
    seen, repeated = [], 0
    for i in range(197):
        repeated += words[i : i + 4] in seen
        seen.append(words[i : i + 4])
    assert repetition(" ".join(words)) == pytest.approx(repeated / 197)
