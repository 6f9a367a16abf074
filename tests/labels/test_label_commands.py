"""Tests label sets by the recipe's scripts: labelled, pushed, loaded, joined with audio, trained on."""

import json
import re
import shutil
import subprocess

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from datasets import Dataset, load_dataset
from huggingface_hub import DatasetCard, HfApi

from hf_mlpl import MlplForCTC
from hf_mlpl.data.utterances import write_utterances
from hf_mlpl.training.loop import train
from hf_mlpl.training_config import load_config

from ..commands import ROOT, run_command
from .test_publishing import contents, made_in

RECIPES = ROOT / "recipes"
REPO = "me/tones-pl"


@pytest.fixture
def run(capfd):
    """Runs a script's command in this process, because starting one takes seconds; returns what it prints."""

    def run(script, *arguments) -> str:
        capfd.readouterr()
        assert run_command(script, *arguments) == 0
        return capfd.readouterr().out

    return run


def test_from_labels_to_training(tone_data, tone_run, local_hub, run, quick_python, tmp_path):
    filters = tmp_path / "filters.yaml"
    filters.write_text("filter:\n  - mean_log_prob >= -0.05\n")
    data = ["--model", tone_run / "model", "--data", tone_data / "unlabelled.parquet", "--num-workers", "0"]
    command = ["pseudo_label.py", *data, "--output", tmp_path / "labels", "--push-to-hub", REPO, "--filters", filters]
    first = [quick_python, RECIPES / command[0], *command[1:], "--private"]
    done = subprocess.run(first, env=local_hub.env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"\nsv-SE: 24 labels, \d+ of them kept, are in http://.*{REPO}/commit/", done.stdout)
    made = made_in(tmp_path / "labels")
    kept = {name for name, row in made.items() if row["mean_log_prob"] >= -0.05}
    assert 0 < len(kept) < 24
    loaded = load_dataset(REPO, "sv-SE", split="train")
    assert {row["id"] for row in loaded if row["kept"]} == kept and len(loaded) == 24
    assert f"{loaded[0]['teacher']}@{loaded[0]['teacher_revision']}" == made[loaded[0]["id"]]["source"]
    assert f"`{loaded[0]['teacher']}`" in DatasetCard.load(REPO).text  # no link, because it is not on the Hub
    assert str(tmp_path) not in DatasetCard.load(REPO).content

    num_requests = len(local_hub.requests)
    assert "24 labels" in run(*command)  # again
    methods = [(request.method, "/commit/" in request.path) for request in local_hub.requests[num_requests:]]
    assert methods and ("PUT", False) not in methods and ("POST", True) not in methods

    joined = tmp_path / "joined.parquet"
    join = ["--audio", tone_data / "unlabelled.parquet", "--output", joined]
    printed = run("join_labels.py", "--labels", REPO, "--languages", "sv-SE", *join)
    assert printed.startswith(f"{len(kept)} labels with audio, ") and "unmatched" not in printed
    assert f"{24 - len(kept)} labels are not kept" in printed
    rows = {row["id"]: row for row in pq.read_table(joined).to_pylist()}
    assert rows == {name: made[name] for name in kept}
    settings = [f"output_dir={tmp_path / 'run'}", f"train=[{joined}]", "languages=[de, sv-SE]", "max_updates=1"]
    assert MlplForCTC.from_pretrained(train(load_config(tone_data / "tones.yaml", settings)))


@pytest.mark.usefixtures("empty_picture")
def test_labels_of_several_languages_without_a_model(tone_labels, tone_data, local_hub, run, error_of, tmp_path):
    """With audio, which training reads in place; beside the folders lies the summary of language_finetune.py."""
    for language, folder in tone_labels.items():
        shutil.copytree(folder, tmp_path / "labels" / language)
    (tmp_path / "labels" / "complete.json").write_text("{}")
    before = contents(tmp_path / "labels")
    printed = run("publish_labels.py", *sorted((tmp_path / "labels").iterdir()), "--repo", REPO, "--with-audio")
    assert [line[:6] for line in printed.splitlines()] == ["de: 31", "sv-SE:"]
    assert contents(tmp_path / "labels") == before
    printed = run("join_labels.py", "--labels", REPO, "--output", tmp_path / "joined.parquet")
    assert printed.startswith("55 labels with audio, ") and "in de, sv-SE" in printed
    shutil.rmtree(tmp_path / "labels")

    settings = [f"output_dir={tmp_path / 'run'}", f"train=[{tmp_path / 'joined.parquet'}]", "max_updates=1"]
    assert MlplForCTC.from_pretrained(train(load_config(tone_data / "tones.yaml", settings)))

    de = tone_labels["de"]
    printed = error_of("publish_labels.py", de, shutil.copytree(de, tmp_path / "again"), "--repo", REPO)
    assert printed == f"de is in {de} and in {tmp_path / 'again'}; name one of them"
    assert (
        error_of("publish_labels.py", tmp_path / "no", "--repo", REPO) == f"{tmp_path}/no: no folder of pseudo-labels"
    )


def test_a_data_set_of_anyone(tone_data, local_hub, run, tmp_path):
    """Written by the Hub's own tools; nothing else of the repository is downloaded."""
    ids = pq.read_table(tone_data / "unlabelled.parquet")["id"].to_pylist()
    rows = [{"id": name, "text": f"a {number}"} for number, name in enumerate(ids)]
    Dataset.from_list(rows).push_to_hub("me/theirs")
    HfApi().upload_file(path_or_fileobj=b"x", path_in_repo="more/a.csv", repo_id="me/theirs", repo_type="dataset")
    num_requests = len(local_hub.requests)
    audio = ["--audio", tone_data / "unlabelled.parquet", "--output", tmp_path / "a.parquet"]
    assert run("join_labels.py", "--labels", "me/theirs", *audio).startswith("24 labels with audio, ")
    assert pq.read_table(tmp_path / "a.parquet")["text"].to_pylist() == [row["text"] for row in rows]
    assert not [request for request in local_hub.requests[num_requests:] if "more/" in request.path]


@pytest.mark.usefixtures("empty_picture")
def test_languages_on_one_side_alone(tone_labels, tone_data, local_hub, run, error_of, tmp_path):
    run("publish_labels.py", *tone_labels.values(), "--repo", REPO)
    audio = ["--audio", tone_data / "unlabelled.parquet", "--output", tmp_path / "a.parquet"]
    printed = run("join_labels.py", "--labels", REPO, *audio)
    assert printed.startswith("skipped, because there is no such audio: de\n24 labels with audio, ")
    assert error_of("join_labels.py", "--labels", REPO, "--languages", "fi", *audio) == f"{REPO}: no labels of fi"
    printed = error_of("join_labels.py", "--labels", REPO, "--revision", "v9", *audio)
    assert REPO in printed and "v9" in printed
    printed = error_of("join_labels.py", "--labels", REPO, "--output", tmp_path / "a.parquet")
    assert "its labels are without audio; name that with --audio" in printed


@pytest.mark.slow
def test_each_language_is_pushed_when_it_is_labelled(tone_data, tone_run, tone_labels, local_hub, run, tmp_path):
    """For a language that is trained and labelled, only the push is left."""
    settings = yaml.safe_load((tone_data / "tones.yaml").read_text())
    settings |= {"unlabelled": [str(tone_data / "unlabelled.parquet")], "slimipl": {"start_update": 1}}
    settings |= {"output_dir": str(tmp_path / "{language}"), "hub_private_repo": True}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    shutil.copytree(tone_run / "model", tmp_path / "sv-SE" / "model")
    shutil.copytree(tone_labels["sv-SE"], tmp_path / "labels" / "sv-SE")
    command = ["language_finetune.py", tmp_path / "settings.yaml", "--labels", tmp_path / "labels"]
    assert run(*command, "--list") == "# sv-SE: complete\n"
    listed = run(*command, "--push-to-hub", REPO, "--list")
    assert listed.strip().endswith(f"publish-labels {tmp_path}/labels/sv-SE --repo {REPO} --private")
    printed = run(*command, "--push-to-hub", REPO)
    assert "sv-SE: 24 labels, 24 of them kept, are in" in printed
    commits = local_hub.commits(REPO, repo_type="dataset")
    assert len(commits) == 2 and local_hub.repos["dataset", REPO].private
    assert json.loads((tmp_path / "labels" / "complete.json").read_text())["languages"]["sv-SE"]["labels"] == 24


@pytest.mark.usefixtures("empty_picture")
def test_collapsed_labels_stop_every_command(tone_data, tone_run, local_hub, run, error_of, tmp_path, monkeypatch):
    """In one line each, with one option to go on; finished labels stay, and the same command again says the same."""
    model = MlplForCTC.from_pretrained(tone_run / "model")
    with torch.no_grad():
        model.ctc_head.bias[model.config.blank_token_id] += 1000
    teacher, labels, go_on = tmp_path / "run" / "sv-SE" / "model", tmp_path / "labels", "--allow-collapsed"
    shutil.copytree(tone_run / "model", teacher)
    model.save_pretrained(teacher)
    data, folder = tone_data / "unlabelled.parquet", labels / "sv-SE"
    command = ["--model", teacher, "--data", data, "--num-workers", "0", "--output", folder]
    clause = "sv-SE: 100% of 24 pseudo-labels are empty"
    problem = f"{clause}: nothing else can be learned from them; look at their teacher's error rates"
    for _ in range(2):
        assert error_of("pseudo_label.py", *command).startswith(problem)
        assert len(pq.read_table(folder / "labels.parquet")) == 24
    assert error_of("pseudo_label.py", *command, "--push-to-hub", REPO).startswith(f"{folder}: {clause}")
    assert "sv-SE: 24 labels, 0.00 h, 24 empty, " in run("pseudo_label.py", *command, go_on)

    kept = tmp_path / "kept.parquet"
    assert error_of("filter_labels.py", folder / "labels.parquet", "--output", kept).startswith(problem)
    printed = run("filter_labels.py", folder / "labels.parquet", "--output", kept, go_on)
    assert re.search(r"^hours +all +characters > 0 +kept\nsv-SE +0.00 +0.00 +0.00\n", printed) and not len(
        pq.read_table(kept)
    )

    assert error_of("publish_labels.py", folder, "--repo", REPO).startswith(f"{folder}: {clause}")
    assert ("dataset", REPO) not in local_hub.repos
    assert "sv-SE: 24 labels, 0 of them kept, are in" in run("publish_labels.py", folder, "--repo", REPO, go_on)
    assert "| sv-SE | 24 | 0.00 | 0 | 0.00 | 24 |" in DatasetCard.load(REPO).text

    join = ["--labels", REPO, "--audio", data, "--all", "--output", tmp_path / "joined.parquet"]
    assert error_of("join_labels.py", *join).startswith(problem)
    assert run("join_labels.py", *join, go_on).startswith("24 labels with audio, ")

    files = f"train=[{tone_data / 'train.parquet'}, {tmp_path / 'joined.parquet'}]"
    settings = [tone_data / "tones.yaml", f"output_dir={tmp_path / 'final'}", files, "max_updates=1", "dev=[]"]
    assert error_of("train.py", *settings).startswith(f"train: {problem}")
    assert "final/model" in run("train.py", *settings, "allow_collapsed=true")

    monkeypatch.chdir(tmp_path)
    settings = yaml.safe_load((tone_data / "tones.yaml").read_text())
    settings |= {"unlabelled": [str(data)], "slimipl": {"start_update": 1}, "output_dir": "run/{language}"}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    command = ["language_finetune.py", "settings.yaml", "--labels", "labels"]
    assert run(*command, "--list", go_on) == "# sv-SE: complete\n"
    assert error_of(*command).startswith("sv-SE failed, see above; ")
    assert "labels: labels/*/labels.parquet; next: " in run(*command, go_on)
    shutil.rmtree(tmp_path / "run")
    shutil.rmtree(labels)
    train_one, label_one = run(*command, "--list", go_on).split(" && ")
    assert train_one.endswith("language=sv-SE allow_collapsed=true") and label_one.endswith(f" {go_on}\n")


def test_commands_without_their_audio_stop(tone_data, tone_run, run, error_of, tmp_path):
    """Labels and results are not made of a disk that is missing; labels of a part of it are kept, and told."""
    for name in ("dev", "unlabelled"):
        table = pq.read_table(tone_data / f"{name}.parquet").to_pylist()
        for i, row in enumerate(table):
            row["audio"] |= {"path": str(tmp_path / f"lost{i}.wav")} if name == "dev" or i % 8 < 5 else {}
        write_utterances(table, tmp_path / f"{name}.parquet")
    model = ["--model", tone_run / "model", "--num-workers", "0", "--data"]
    message = error_of("evaluate_model.py", *model, tmp_path / "dev.parquet", "--output", tmp_path / "results.json")
    assert re.match("16 of 16 utterances could not be used, for example: .*lost.*; see whether the disk", message)
    assert not (tmp_path / "results.json").exists()
    message = error_of("pseudo_label.py", *model, tmp_path / "dev.parquet", "--output", tmp_path / "none")
    assert re.match("none of the last 16 utterances could be used, for example: .*lost.*; see whether", message)
    command = ["pseudo_label.py", *model, tmp_path / "unlabelled.parquet", "--output", tmp_path / "labels"]
    message = error_of(*command)
    assert message.startswith(f"sv-SE: 15 of 24 utterances could not be used, see {tmp_path}/labels/unreadable.tsv; ")
    assert len(pq.read_table(tmp_path / "labels" / "labels.parquet")) == 9
    message = error_of("evaluate_model.py", *model, tone_data / "unlabelled.parquet", "--output", tmp_path / "a.json")
    assert message == "24 of 24 utterances have no text to compare with"
