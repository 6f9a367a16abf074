"""Tests which model labels a language, by the files that a run has left."""

import dataclasses
import json

import pytest

from hf_mlpl.training.teacher_choice import choose_teacher, is_before_slimipl, is_comparable
from hf_mlpl.training_config import SlimIplConfig, TrainingConfig

VERDICT = {"kind": "drift", "reason": "labels are short", "update": 80, "best": 40}
OUTCOME = {"update": 100, "of": 100, "start": 40, "is_stopped": False, "result": 100, "verdict": None}


@pytest.fixture
def config(tmp_path):
    settings = {"model": "runs/supervised/model", "train": ["a"], "unlabelled": ["b"], "slimipl": SlimIplConfig()}
    return TrainingConfig(output_dir=str(tmp_path), max_updates=100, language="sl", **settings)


@pytest.fixture
def leave(tmp_path):
    """Writes the record of a run, and results on dev of its model and of the one that it began from."""

    def leave(start=None, slimipl=None, **outcome):
        record = OUTCOME | outcome | {"line": "so it went"}
        (tmp_path / "run.json").write_text(json.dumps({"updates": record["update"], "slimipl": record}))
        for name, rate in {"start.json": start, "results.json": slimipl}.items():
            if rate is not None:
                scores = {"sl": {"cer": rate}, "de": {"cer": 0.0}}
                (tmp_path / name).write_text(json.dumps({"languages": scores}))

    return leave


def test_the_better_one_on_dev_labels(config, leave, tmp_path):
    leave(start=0.2, slimipl=0.15)
    choice = choose_teacher(config)
    assert (choice.model, choice.labels_by) == (f"{tmp_path}/model", "slimIPL update 100")
    line = "so it went; labels by slimIPL update 100 (CER on dev: start 20.0%, slimIPL 15.0%)"
    assert choice.describe() == line and choice.record()["dev_cer"] == {"start": 0.2, "slimIPL": 0.15}
    leave(start=0.14, slimipl=0.15, is_stopped=True, result=40, verdict=VERDICT)
    choice = choose_teacher(config)
    assert (choice.model, choice.labels_by) == ("runs/supervised/model", "start")
    leave(start=0.16, slimipl=0.15, verdict=VERDICT)  # dev decides, and no longer the verdict
    assert choose_teacher(config).labels_by == "slimIPL update 100"


def test_without_dev_the_probes_decide(config, leave, tmp_path):
    leave()
    assert choose_teacher(config).describe() == "so it went; labels by slimIPL update 100"
    leave(verdict=VERDICT, is_stopped=True, result=40)
    assert choose_teacher(config).labels_by == "slimIPL update 40"
    leave(verdict=VERDICT)
    assert choose_teacher(config).model == "runs/supervised/model"
    new = dataclasses.replace(config, model="tiny", tokens="tokens.lst")  # there is no model before
    assert choose_teacher(new).model == f"{tmp_path}/model" and not is_comparable(new)


def test_who_has_learned_no_label_of_slimipl(config, leave):
    def is_before() -> bool:
        return is_before_slimipl(choose_teacher(config), config)

    assert not is_before()  # a run of an earlier version
    leave()
    assert not is_before()
    leave(verdict=VERDICT, is_stopped=True, result=70)
    assert not is_before()
    leave(verdict=VERDICT, is_stopped=True, result=40)  # the update at which slimIPL began
    assert is_before()
    leave(start=0.1, slimipl=0.2)
    assert is_before()


def test_runs_of_earlier_versions_and_other_languages(config, leave, tmp_path):
    assert choose_teacher(config).describe() == "labels by slimIPL update 100"
    (tmp_path / "run.json").write_text('{"updates": 100}')
    assert choose_teacher(config).slimipl is None
    leave(slimipl=0.15)
    assert is_comparable(config) and not is_comparable(dataclasses.replace(config, language="fi"))
    assert choose_teacher(config).labels_by == "slimIPL update 100"  # the start is not evaluated


def test_labels_that_were_there_before(config, leave, tmp_path):
    leave(start=0.1, slimipl=0.15)
    choice = choose_teacher(config)
    assert choice.of_labels("supervised/model@0123456789ab") is choice
    other = choice.of_labels(f"{tmp_path.name}/model@0123456789ab")
    assert other.describe() == f"so it went; labels by {tmp_path.name}/model@0123456789ab"
    on_hub = dataclasses.replace(choice, model="me/teacher")
    assert on_hub.of_labels("me/teacher@" + 40 * "0") is on_hub


def test_damaged_files(config, leave, tmp_path):
    leave(start=0.1, slimipl=0.15)
    (tmp_path / "start.json").write_text("{")
    with pytest.raises(ValueError, match="start.json: damaged"):
        choose_teacher(config)
    (tmp_path / "run.json").write_text('{"updates": 100, "slimipl": {"line": 3}}')
    with pytest.raises(ValueError, match=r"run.json: damaged \(slimipl: line is 3\)"):
        choose_teacher(config)
