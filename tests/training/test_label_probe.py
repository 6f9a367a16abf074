"""Tests that probes of slimIPL's labels are what they say, change nothing, and end a run that they should end."""

import json
from pathlib import Path

import jiwer
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from hf_mlpl import MlplForCTC, MlplProcessor
from hf_mlpl.data.rows import choose_rows
from hf_mlpl.data.utterances import read_utterances, write_utterances
from hf_mlpl.inference.decoding import transcribe
from hf_mlpl.report.run_folder import read_runs
from hf_mlpl.sharing.model_card import model_card
from hf_mlpl.training import label_probe
from hf_mlpl.training.label_probe import LabelProbes, agreement, length_change, plan_probes
from hf_mlpl.training.loop import train
from hf_mlpl.training.resume import STATE_FILES
from hf_mlpl.training.run_pusher import STATE
from hf_mlpl.training_config import load_config

from ..ranks import run_on_two
from .test_loop import Killed, assert_equal_bits, kill_at, rows, weights

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def run(tone_data, tone_run, tmp_path):
    """Trains on from the model of the tones with slimIPL; returns the run's folder."""

    def run(name, *overrides):
        return train(
            load_config(tone_data / "tones.yaml", settings(tone_data, tone_run, tmp_path / name, *overrides))
        ).parent

    return run


def settings(tone_data, tone_run, folder, *overrides) -> list[str]:
    slimipl = {"start_update": 2, "cache_size": 2, "unsupervised_updates": 2, "cache_update_probability": 0.5}
    given = [f"output_dir={folder}", f"model={tone_run / 'model'}", "tokens=null", "learning_rate=0.002"]
    given += ["language=sv-SE", f"unlabelled=[{tone_data / 'unlabelled.parquet'}]", f"slimipl={json.dumps(slimipl)}"]
    return [*given, "max_updates=10", "eval_every=10", "save_every=4", *overrides]


@pytest.fixture
def wrong_texts(tone_data, references, tmp_path):
    """Returns settings of a run whose transcripts are wrong, so that it becomes worse on dev at once."""
    table = pq.read_table(tone_data / "train.parquet").to_pylist()
    write_utterances([row | {"text": "d"} for row in table], tmp_path / "wrong.parquet")
    slimipl = ["slimipl.start_update=0", "slimipl.unsupervised_updates=1", "slimipl.auto_stop=true"]
    return [
        f"train=[{tmp_path / 'wrong.parquet'}]",
        f"dev=[{references}]",
        "learning_rate=0.02",
        "warmup_updates=0",
        "max_updates=20",
        *slimipl,
    ]


def probes(folder) -> dict[int, dict]:
    return {row["update"]: row["probe"] for row in rows(folder) if "probe" in row}


def outcome(folder) -> dict:
    return json.loads((folder / "run.json").read_text())["slimipl"]


def test_numbers_of_the_last_probe(run, references, tone_data):
    """Those of the trained model, whose texts are transcribed again, and scored by jiwer."""
    folder = run("a", f"unlabelled=[{references}]", "learning_rate=0.01")
    series = probes(folder)
    assert list(series) == [2, 4, 6, 8, 10] and series[2]["learned"] == 0 < series[10]["learned"] < 8

    def texts(model: Path, file: Path) -> tuple[list[str], list[str], float, float]:
        """Returns texts and references, the mean log-probability of a frame, and the seconds."""
        dataset = read_utterances([file], ["sv-SE"])
        loaded = MlplForCTC.from_pretrained(model).eval(), MlplProcessor.from_pretrained(model)
        made = sorted(transcribe(*loaded, dataset), key=lambda label: label.row)
        frames = sum(label.num_frames for label in made)
        confidence = sum(label.mean_log_prob * label.num_frames for label in made) / frames
        return [label.text for label in made], dataset["text"][:], confidence, sum(dataset["duration_seconds"])

    made, references, confidence, seconds = texts(folder / "model", references)
    last, scores = series[10], jiwer.process_characters(references, made)
    human = read_utterances([tone_data / "train.parquet"], ["sv-SE"])
    rate = sum(map(len, human["text"])) / sum(human["duration_seconds"])
    assert last["labels"] == len(made) == 24
    assert last["length_ratio"] == pytest.approx(sum(map(len, made)) / (rate * seconds))
    assert last["mean_log_prob"] == pytest.approx(confidence, rel=1e-4)
    assert last["empty"] == sum(not text for text in made) / 24
    assert last["cer"] == pytest.approx(scores.cer)
    assert last["deletions"] == pytest.approx(scores.deletions / sum(map(len, references)))
    spoken_on_dev = texts(folder / "model", tone_data / "dev.parquet")
    assert last["dev_cer"] == pytest.approx(jiwer.cer(spoken_on_dev[1], spoken_on_dev[0]))
    assert last["length"] == pytest.approx(last["length_ratio"] / series[2]["length_ratio"])
    assert series[2]["length"] == 1 and series[2]["agreement"] is None
    assert all(0 <= series[update]["agreement"] <= 1 for update in (4, 6, 8, 10))
    assert series[4]["agreement"] == series[4]["agreement_with_first"]

    assert outcome(folder) == {
        "update": 10,
        "of": 10,
        "start": 2,
        "is_stopped": False,
        "result": 10,
        "verdict": None,
        "line": "slimIPL made all of 10 updates",
    }
    [read] = read_runs([folder])
    assert read.scalars()["probe.cer"][1][-1] == pytest.approx(100 * scores.cer)


def test_probing_changes_no_weight_and_no_random_number(run, monkeypatch):
    probed = run("probed")
    monkeypatch.setattr(LabelProbes, "is_due", lambda self, update: False)
    plain = run("plain")
    assert probes(probed) and not probes(plain)
    torch.testing.assert_close(weights(plain), weights(probed), rtol=0, atol=0)
    assert [row for row in rows(probed) if "probe" not in row] == rows(plain)
    states = [
        torch.load(folder / "checkpoints/update-00000008/random_states_0.pkl", weights_only=False)
        for folder in (probed, plain)
    ]
    assert states[0].keys() == states[1].keys() and states[0]["random_state"] == states[1]["random_state"]
    assert torch.equal(states[0]["torch_manual_seed"], states[1]["torch_manual_seed"])
    assert np.array_equal(states[0]["numpy_random_seed"][1], states[1]["numpy_random_seed"][1])


def test_a_run_that_becomes_worse_goes_back_to_where_it_began(run, wrong_texts, tone_run, monkeypatch):
    """Also one that is interrupted; then it is finished."""
    folder = run("a", *wrong_texts)
    ended, series = outcome(folder), probes(folder)
    assert ended["is_stopped"] and ended["verdict"]["kind"] == "dev" and ended["result"] == ended["start"] == 0
    assert ended["update"] == ended["verdict"]["update"] == max(series) < 20
    assert ended["line"].startswith(f"slimIPL ended at update {ended['update']} of 20 because CER on dev is ")
    assert ended["line"].endswith("the model is the teacher of update 0, before slimIPL")
    torch.testing.assert_close(weights(folder), weights(tone_run), rtol=0, atol=0)
    dev = json.loads((folder / "results.json").read_text())
    assert dev["update"] == ended["update"] and dev["macro"]["cer"] == pytest.approx(series[0]["dev_cer"])
    assert "is not finished" not in (card := str(model_card(folder))) and ended["line"] in card
    before = (folder / "run.json").read_bytes()
    assert run("a", *wrong_texts) == folder and (folder / "run.json").read_bytes() == before

    kill_at(monkeypatch, 6)
    with pytest.raises(Killed):
        run("b", *wrong_texts)
    monkeypatch.undo()
    other = run("b", *wrong_texts)
    assert (other / "checkpoints" / "update-00000004" / label_probe.BEST).is_file()
    assert_equal_bits(other, folder)
    assert outcome(other) == ended


def test_without_auto_stop_a_line_warns(run, wrong_texts, caplog):
    folder = run("a", *wrong_texts, "slimipl.auto_stop=false")
    ended = outcome(folder)
    [line] = [record.getMessage() for record in caplog.records if "auto_stop" in record.getMessage()]
    reason, update = ended["verdict"]["reason"], ended["verdict"]["update"]
    assert line == f"update {update}: {reason}; slimipl.auto_stop=true would keep the teacher of update 0"
    assert ended["update"] == ended["result"] == 20 and not ended["is_stopped"] and max(probes(folder)) == 20
    assert ended["line"] == f"slimIPL made all of 20 updates, though at update {update} {reason}"
    assert not list(folder.rglob(label_probe.BEST))


@pytest.mark.slow
def test_two_processes_go_back_too(run, wrong_texts, tone_data, tone_run, tmp_path):
    """The one that keeps no copy gets the weights."""
    wrong_texts = [*wrong_texts, "slimipl.ema_decay=0.5"]
    arguments = settings(tone_data, tone_run, tmp_path / "two", *wrong_texts)
    two = run_on_two(tmp_path, "train.py", tone_data / "tones.yaml", *arguments)
    assert [status for status, _ in two] == [0, 0], two
    one = run("one", *wrong_texts)
    assert outcome(one)["is_stopped"] and outcome(tmp_path / "two") == outcome(one)
    torch.testing.assert_close(weights(tmp_path / "two"), weights(one), rtol=0, atol=0)
    assert json.loads((tmp_path / "two" / "results.json").read_text())["macro"]["cer"] == pytest.approx(
        json.loads((one / "results.json").read_text())["macro"]["cer"]
    )


def test_changes_by_hand():
    first = {"a": "abcd", "b": "", "c": "xy"}
    now = {"a": "abd", "b": "", "d": "zzzz"}  # c cannot be read, d is new
    assert agreement(now, first) == 1 - 1 / 4 and length_change(now, first) == 3 / 4
    assert agreement({"a": "abcd"}, {"a": ""}) == 0 and agreement({"a": ""}, {"a": ""}) is None
    assert length_change({"a": "b"}, {"a": ""}) is None


def test_the_sample_depends_on_ids_alone(tone_data):
    dataset = read_utterances([tone_data / "unlabelled.parquet"])
    chosen = choose_rows(dataset, 7, max_seconds=60)
    assert len(chosen) == 7 and list(chosen) == sorted(chosen)
    order = np.random.default_rng(0).permutation(len(dataset))
    shuffled = dataset.select(order)
    assert {shuffled["id"][row] for row in choose_rows(shuffled, 7, 60)} == {dataset["id"][row] for row in chosen}
    assert len(choose_rows(dataset, 200, 60)) == 24
    shortest = sorted(dataset["duration_seconds"])[:5]
    assert len(choose_rows(dataset, 200, shortest[-1])) == 5


@pytest.mark.parametrize(
    ("overrides", "mean_seconds", "expected"),
    [
        (["max_updates=100000", "slimipl.start_update=20000"], 10.0, (200, 8000)),  # of the paper's size
        (["max_updates=250", "slimipl.start_update=80"], 3.0, (50, 43)),  # of the demo's: the fewest
        (["max_updates=1000", "slimipl.start_update=0"], 1.0, (163, 100)),
    ],
)
def test_probes_cost_little(tone_data, overrides, mean_seconds, expected):
    given = [f"unlabelled=[{tone_data / 'unlabelled.parquet'}]", "max_batch_seconds=10", *overrides]
    config = load_config(tone_data / "tones.yaml", given)
    count, interval = plan_probes(config, mean_seconds)
    assert (count, interval) == expected
    num_probes = 1 + (config.max_updates - config.slimipl.start_update) / interval
    seconds = config.max_updates * config.micro_batches_per_update * config.max_batch_seconds
    assert num_probes * count * mean_seconds <= (0.03 if count > 50 else 0.06) * 3 * seconds


def test_the_state_comes_from_the_hub():
    assert all(STATE_FILES.fullmatch(f"{STATE}/{name}") for name in (label_probe.STATE, label_probe.BEST))
