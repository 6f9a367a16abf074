"""Tests damaged files of a run: training goes on from intact ones, or reports in one line why it cannot."""

import dataclasses
import json
import logging
import os
import shutil
from pathlib import Path

import pytest

from hf_mlpl.training.checkpoint_files import (
    MANIFEST,
    RUN_FILES,
    TRACKED,
    checkpoints,
    find_damage,
    last_intact,
    write_manifest,
)
from hf_mlpl.training.loop import train
from hf_mlpl.training_config import load_config

from ..two_processes import slimipl_overrides
from .test_loop import Killed, assert_equal_bits, kill_at, rows

pytestmark = pytest.mark.usefixtures("one_thread")

DAMAGES = ("empty", "half", "zeros", "missing", "a bit", "letters")
SETTINGS = ["slimipl.ema_decay=0.9", "max_updates=11", "save_every=3", "eval_every=5", "log_every=1"]


def damage(path: Path, kind: str) -> None:
    content = path.read_bytes()
    path.unlink()
    if kind == "a bit":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif kind != "missing":
        zeros, letters = bytes(len(content)), b"\xffno file of this kind\n" * (len(content) // 20 + 1)
        path.write_bytes(
            {"empty": b"", "half": content[: len(content) // 2], "zeros": zeros, "letters": letters}[kind]
        )


def remove_manifests(folder: Path) -> None:
    """Turns the checkpoints of a run into those of earlier versions, without manifests and copies of its files."""
    for checkpoint in checkpoints(folder):
        for name in (MANIFEST, *RUN_FILES):
            (checkpoint / name).unlink(missing_ok=True)


@pytest.fixture(scope="module")
def runs(tone_data, tone_run, tmp_path_factory):
    """Trains with slimIPL, in `whole`, and in `killed` until its update 9; gives settings for these and others."""
    root = tmp_path_factory.mktemp("runs")
    given = [*slimipl_overrides(tone_run / "model", tone_data / "unlabelled.parquet"), *SETTINGS]

    def settings(name, *overrides):
        return load_config(tone_data / "tones.yaml", [*given, f"output_dir={root / name}", *overrides])

    train(settings("whole"))
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, 9)
        with pytest.raises(Killed):
            train(settings("killed"))
    assert [path.name for path in checkpoints(root / "killed")] == ["update-00000003", "update-00000006"]
    return settings


@pytest.fixture
def killed(runs, tmp_path):
    """Settings and folder of a copy of the run that was killed."""

    def killed(name="copy"):
        shutil.copytree(Path(runs("killed").output_dir), tmp_path / name)
        return runs("", f"output_dir={tmp_path / name}"), tmp_path / name

    return killed


def test_the_manifest_lists_all_files(runs):
    newest = checkpoints(Path(runs("killed").output_dir))[-1]
    files = json.loads((newest / MANIFEST).read_text())["files"]
    assert {*files, MANIFEST} == {path.relative_to(newest).as_posix() for path in newest.rglob("*")}
    assert {
        "model.safetensors",
        "optimizer.bin",
        "random_states_0.pkl",
        "slimipl.json",
        "slimipl-labels-00000.json",
    } < (files.keys())
    assert {"teacher.safetensors", "data.json", *RUN_FILES} - {TRACKED} < files.keys()  # the run has no trackers
    assert find_damage(newest) is None


def test_any_damage_is_found(killed, caplog):
    """Each file is damaged in each way; the older checkpoint is taken, and a warning names the file."""
    _, folder = killed()
    older, newest = checkpoints(folder)
    files = {path.name: path.read_bytes() for path in newest.iterdir()}
    for name, content in files.items():
        for kind in DAMAGES:
            if (name, kind) == (MANIFEST, "missing"):
                continue  # like a checkpoint of an earlier version
            damage(newest / name, kind)
            caplog.clear()
            with caplog.at_level(logging.WARNING, logger="hf_mlpl"):
                assert last_intact(folder) == older, (name, kind)
            [line] = [record.getMessage() for record in caplog.records]
            damaged = newest if name == MANIFEST else newest / name  # a bit may be one of a file's name in the list
            assert str(damaged) in line and "\n" not in line
            assert line.endswith("; set aside as damaged-00000006, going on from update-00000003")
            (older.parent / "damaged-00000006").rename(newest)
            (newest / name).write_bytes(content)
    assert last_intact(folder) == newest


def test_cut_files_of_earlier_versions_are_found(killed):
    _, folder = killed()
    remove_manifests(folder)
    older, newest = checkpoints(folder)
    for path in list(newest.iterdir()):
        content = path.read_bytes()
        for kind in ("empty", "half", "zeros"):
            damage(path, kind)
            assert str(path) in find_damage(newest), (path, kind)
        path.write_bytes(content)
    assert last_intact(folder) == newest


def test_without_a_whole_checkpoint_it_is_one_line(killed):
    config, folder = killed()
    for checkpoint in checkpoints(folder):
        damage(checkpoint / "model.safetensors", "zeros")
    before = sorted(folder.rglob("*"))
    with pytest.raises(ValueError) as caught:
        train(config)
    message = str(caught.value)
    assert "update-00000006/model.safetensors is damaged (other bytes than were written); " in message
    assert message.endswith(f"restore one from a backup, or remove {folder / 'checkpoints'} to begin anew")
    assert "\n" not in message and sorted(folder.rglob("*")) == before


def test_training_goes_on_to_the_same_end(killed, runs):
    """The older checkpoint also has copies of the run's files, which are all damaged at once."""
    config, folder = killed()
    sessions = json.loads((folder / "run.json").read_text())["sessions"]
    damage(checkpoints(folder)[-1] / "slimipl-labels-00000.json", "half")
    for name, kind in (("config.yaml", "half"), ("metrics.jsonl", "zeros"), ("run.json", "empty")):
        damage(folder / name, kind)
    assert_equal_bits(train(config).parent, Path(runs("whole").output_dir))
    assert sorted(os.listdir(folder / "checkpoints")) == ["update-00000006", "update-00000009"]
    assert load_config(folder / "config.yaml") == config
    [session] = json.loads((folder / "run.json").read_text())["sessions"]
    assert session["first_update"] == 1 and session["hours"] > sessions[0]["hours"] / 3


def test_without_copies_their_damage_is_one_line(killed, caplog):
    """Checkpoints of earlier versions have no copies of the run's files."""
    config, folder = killed()
    remove_manifests(folder)
    damage(folder / "run.json", "half")
    for name in ("metrics.jsonl", "config.yaml"):  # as it is read last
        content = (folder / name).read_bytes()
        for kind in ("zeros", "letters"):
            damage(folder / name, kind)
            with pytest.raises(ValueError, match=f"^{folder / name} is damaged.*; remove it") as caught:
                train(config)
            assert "\n" not in str(caught.value)
        (folder / name).write_bytes(content)
    (folder / "config.yaml").write_bytes(content[: content.index(b"max_grad_norm")])
    with pytest.raises(ValueError, match="belongs to a run with other settings: .* was"):
        train(config)
    for name in ("metrics.jsonl", "config.yaml"):
        (folder / name).unlink()
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="hf_mlpl"):
        train(config)
    assert [row["update"] for row in rows(folder) if "probe" not in row] == [7, 8, 9, 10, 10, 11, 11]
    [line] = [record.getMessage() for record in caplog.records]
    assert line == f"{folder / 'run.json'} is damaged: the hours before update 7 are not counted"


def test_a_manifest_knows_files_in_folders(tmp_path):
    """FSDP writes such folders."""
    (tmp_path / "optimizer_0").mkdir()
    for name in (".metadata", "__0_0.distcp", "__1_0.distcp"):
        (tmp_path / "optimizer_0" / name).write_bytes(os.urandom(1000))
    write_manifest(tmp_path)
    assert find_damage(tmp_path) is None
    damage(tmp_path / "optimizer_0" / "__1_0.distcp", "a bit")
    assert find_damage(tmp_path) == f"{tmp_path}/optimizer_0/__1_0.distcp is damaged (other bytes than were written)"
    (tmp_path / "optimizer_0" / "__1_0.distcp").unlink()
    assert find_damage(tmp_path) == f"{tmp_path}/optimizer_0/__1_0.distcp is damaged (it is not there)"


def test_a_checkpoint_that_does_not_fit_the_settings_is_one_line(killed):
    """Settings can differ after config.yaml was removed to go on with other ones."""
    config, folder = killed()
    (folder / "config.yaml").unlink()
    other_model = dataclasses.replace(config, model="tiny", tokens=str(folder.parent / "tokens.lst"), model_fields={})
    (folder.parent / "tokens.lst").write_bytes((Path(config.model) / "tokens-all.lst").read_bytes())
    for other, message in (
        (other_model, "update-00000006 cannot be loaded with these settings"),
        (dataclasses.replace(config, optimizer="adagrad"), "has the state of adamw, and optimizer is 'adagrad'; give"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            train(other)
        assert "\n" not in str(caught.value)
