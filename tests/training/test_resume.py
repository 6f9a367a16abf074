"""Tests that pushed runs go on, on a machine where all paths differ, and that bad states are refused."""

import io
import json
import pickle
import shutil
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, Metadata
from transformers import pipeline

from hf_mlpl import MlplProcessor
from hf_mlpl.training.checkpoint_files import FSDP_FOLDERS, checkpoints
from hf_mlpl.training.loop import train
from hf_mlpl.training.resume import _MetadataUnpickler, resume_from_hub
from hf_mlpl.training_config import TrainingConfig, load_config

from ..commands import ROOT, run_command
from ..inference.test_unsharded import launch
from ..two_processes import slimipl_overrides
from .test_loop import Killed, assert_equal_bits, kill_at
from .test_trackers import in_single_precision, in_tensorboard, numbers

pytestmark = pytest.mark.usefixtures("one_thread", "quick_retries")

REPO = "me/tones"
STATE = "last-checkpoint"
SHORT = ["max_updates=6", "save_every=2", "eval_every=3", f"push_to_hub={REPO}", "license=cc0-1.0"]


@pytest.fixture
def settings(tone_data, tmp_path):
    """Settings of a run, whose folder has a name in `tmp_path`."""

    def settings(name, *overrides) -> TrainingConfig:
        return load_config(tone_data / "tones.yaml", [f"output_dir={tmp_path / name}", *SHORT, *overrides])

    return settings


def interrupted(config: TrainingConfig, monkeypatch, update: int = 6) -> None:
    """Ends a run at `update`, after all earlier checkpoints were pushed."""
    with monkeypatch.context() as patch:
        kill_at(patch, update)
        with pytest.raises(Killed):
            train(config)
    while any((Path(config.output_dir) / "hub" / "pending").iterdir()):
        time.sleep(0.01)


@pytest.fixture
def elsewhere(tone_data, tmp_path) -> list[str]:
    """Settings for the same data and the same model in other places."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    names = {name: folder / f"other-{name}" for name in ("train.parquet", "dev.parquet", "unlabelled.parquet")}
    for name, path in names.items():
        shutil.copy(tone_data / name, path)
    train, dev, unlabelled = names.values()
    return [f"train=[{train}]", f"dev=[{dev}]", f"unlabelled=[{unlabelled}]"]


def test_another_machine_gives_the_same_bits(
    local_hub, settings, tone_data, tone_run, tmp_path, elsewhere, monkeypatch
):
    """The state includes slimIPL's plan, cache and labels, the weights of its teacher, and the run of trackers."""
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    slimipl = slimipl_overrides(tone_run / "model", tone_data / "unlabelled.parquet")
    slimipl += ["slimipl.ema_decay=0.9", "eval_every=4", "save_every=4", "report_to=[tensorboard]"]
    uninterrupted = train(settings("uninterrupted", *slimipl, "push_to_hub=null")).parent
    interrupted(settings("interrupted", *slimipl), monkeypatch, update=11)
    tracked = json.loads((tmp_path / "interrupted" / "trackers.json").read_text())
    shutil.rmtree(tmp_path / "interrupted")

    shutil.copytree(tone_run / "model", tmp_path / "teacher")
    config = settings("resumed", *slimipl, *elsewhere, f"model={tmp_path / 'teacher'}")
    assert resume_from_hub(config, REPO) is None
    assert [path.name for path in checkpoints(tmp_path / "resumed")] == ["update-00000008"]
    assert not (tmp_path / "resumed" / "hub" / "download").exists()
    assert_equal_bits(train(config).parent, uninterrupted)
    titles = [commit.title for commit in reversed(local_hub.commits(REPO))][1:]
    assert titles == ["tones: update 4", "tones: update 8", "tones: the result, update 12"]
    sessions = json.loads(local_hub.files(REPO)["run.json"])["sessions"]
    assert sessions[0]["first_update"] == 1  # the clock goes on too
    assert json.loads((tmp_path / "resumed" / "trackers.json").read_text())["id"] == tracked["id"]
    assert in_tensorboard(tmp_path / "resumed") == in_single_precision(numbers(tmp_path / "resumed"))


def test_what_is_newer_here_stays(local_hub, settings, tmp_path, monkeypatch, capsys):
    config = settings("run")
    interrupted(config, monkeypatch, update=4)
    state = local_hub.commits(REPO)[0]
    interrupted(config, monkeypatch, update=4)  # from update 2 on
    local_hub.repos["model", REPO].branches["main"] = state
    here = tmp_path / "run" / "checkpoints"
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["update-00000002", "update-00000004"]
    assert resume_from_hub(config, REPO) is None
    assert f"{REPO} has update 2, which is not newer than {here / 'update-00000004'}" in capsys.readouterr().out
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["update-00000002", "update-00000004"]


def test_a_download_that_is_interrupted(local_hub, settings, tmp_path, monkeypatch):
    interrupted(settings("run"), monkeypatch)
    uninterrupted = train(settings("uninterrupted", "push_to_hub=null")).parent
    local_hub.fail("HEAD", "optimizer.bin", status=403)
    config = settings("resumed")
    with pytest.raises(OSError, match=f"^{REPO}: cannot read it "):
        resume_from_hub(config, REPO)
    assert not checkpoints(tmp_path / "resumed")
    resume_from_hub(config, REPO)
    assert_equal_bits(train(config).parent, uninterrupted)


def test_other_data_and_settings_are_refused(local_hub, settings, tone_data, tmp_path, monkeypatch):
    interrupted(settings("run"), monkeypatch)
    with pytest.raises(ValueError, match=f"^{REPO}: its settings are others: seed was 0, is 1; give the settings of"):
        resume_from_hub(settings("a", "seed=1"), REPO)
    assert not checkpoints(tmp_path / "a")

    table = pq.read_table(tone_data / "train.parquet")
    pq.write_table(table.take(list(reversed(range(len(table))))), tmp_path / "reversed.parquet")
    config = settings("b", f"train=[{tmp_path / 'reversed.parquet'}]")
    resume_from_hub(config, REPO)
    with pytest.raises(ValueError, match=r"update-00000004 belongs to a run with other data: train \(ids, texts"):
        train(config)
    assert not (tmp_path / "b" / "model").exists()

    tokens = (tone_data / "tokens-all.lst").read_text().splitlines(keepends=True)
    (tmp_path / "tokens-all.lst").write_text("".join([tokens[0], *reversed(tokens[1:])]))
    config = settings("c", f"tokens={tmp_path / 'tokens-all.lst'}")
    resume_from_hub(config, REPO)
    with pytest.raises(ValueError, match="belongs to a run with other data: tokens "):
        train(config)


class Hostile:
    """Runs code when a pickle of it is loaded."""

    def __init__(self, flag: Path):
        self.flag = flag

    def __reduce__(self):
        return Path.touch, (self.flag,)


def shards(folder: Path, content: object) -> dict[str, bytes]:
    """Files of torch.distributed.checkpoint, as FSDP leaves them."""
    import torch.distributed.checkpoint as dcp

    dcp.save({"weight": torch.ones(2), "note": content}, checkpoint_id=folder, no_dist=True)
    return {f"{STATE}/pytorch_model_fsdp_0/{path.name}": path.read_bytes() for path in folder.iterdir()}


def test_a_hostile_state_is_refused_and_does_not_run(local_hub, settings, tmp_path, monkeypatch):
    """Each file that accelerate or torch unpickles is attacked."""
    flag = tmp_path / "it ran"
    interrupted(settings("run"), monkeypatch)
    whole = local_hub.commits(REPO)[0]
    torch.save({"state": Hostile(flag)}, tmp_path / "optimizer.bin")
    optimizer = (tmp_path / "optimizer.bin").read_bytes()
    plain = shards(tmp_path / "plain", {"lr": 1.0})
    metadata = {f"{STATE}/pytorch_model_fsdp_0/.metadata": pickle.dumps(Hostile(flag))}
    attacks = {
        "optimizer.bin": {f"{STATE}/optimizer.bin": optimizer},
        "random_states_0.pkl": {f"{STATE}/random_states_0.pkl": pickle.dumps(Hostile(flag))},
        "random_states_7.pkl": {f"{STATE}/random_states_7.pkl": optimizer},
        "pytorch_model_fsdp_0/.metadata": plain | metadata,
        "pytorch_model_fsdp_0/.metadata ": shards(tmp_path / "hostile", Hostile(flag)),
    }
    for name, files in attacks.items():
        api = HfApi()
        for path, content in files.items():
            api.upload_file(repo_id=REPO, path_in_repo=path, path_or_fileobj=content)
        with pytest.raises(ValueError) as caught:
            resume_from_hub(settings(f"resumed-{len(name)}"), REPO)
        message = f"{REPO}: {STATE}/{name.strip()} is no state of training that can be loaded safely; "
        assert str(caught.value) == f"{message}do not use this repository"
        assert not checkpoints(tmp_path / f"resumed-{len(name)}")
        local_hub.repos["model", REPO].branches["main"] = whole
    assert not flag.exists()
    pickle.loads(pickle.dumps(Hostile(flag)))  # which would have
    assert flag.exists()


class Named:
    """Pickled as Python 3.11.0 to 3.11.3 pickle a member of an enumeration."""

    def __init__(self, *owner_and_name):
        self.owner_and_name = owner_and_name

    def __reduce__(self):
        return getattr, self.owner_and_name


def test_metadata_names_members_of_enumerations_and_nothing_else():
    def load(content: object):
        return _MetadataUnpickler(io.BytesIO(pickle.dumps(content))).load()

    memory_format = _MEM_FORMAT_ENCODING.TORCH_PRESERVE_FORMAT
    assert load(memory_format) is load(Named(_MEM_FORMAT_ENCODING, "TORCH_PRESERVE_FORMAT")) is memory_format
    for other in (Named(Metadata, "__init__"), Named(_MEM_FORMAT_ENCODING, "__init__"), Named(memory_format, "name")):
        with pytest.raises((pickle.UnpicklingError, KeyError, TypeError)):
            load(other)


@pytest.mark.slow
def test_weights_that_fsdp_has_spread(local_hub, tone_data, tone_run, quick_python, tmp_path):
    """At the root they are whole; two processes go on from their parts."""
    overrides = slimipl_overrides(tone_run / "model", tone_data / "unlabelled.parquet")
    overrides += [f"push_to_hub={REPO}", "license=cc0-1.0", "dev=[]"]
    command = [ROOT / "tests" / "fsdp_on_cpu.py", tone_data / "tones.yaml", *overrides]
    launch(quick_python, "fsdp", *command, f"output_dir={tmp_path / 'whole'}", folder=tmp_path)
    result, saved, _ = local_hub.commits(REPO)
    weights = load_file(tmp_path / "whole" / "model" / "model.safetensors")
    assert result.files["model.safetensors"].content == (tmp_path / "whole/model/model.safetensors").read_bytes()
    names = {name.removeprefix(f"{STATE}/") for name in saved.files if name.startswith(f"{STATE}/")}
    assert names > {
        f"{folder}/{name}" for folder in FSDP_FOLDERS for name in (".metadata", "__0_0.distcp", "__1_0.distcp")
    }
    half_way = pipeline("automatic-speech-recognition", model=REPO, revision=saved.oid).model.state_dict()
    assert half_way.keys() == weights.keys() and not torch.equal(half_way["ctc_head.bias"], weights["ctc_head.bias"])

    local_hub.repos["model", REPO].branches["main"] = saved
    resumed = tmp_path / "resumed"
    launch(quick_python, "fsdp", *command, f"output_dir={resumed}", "--resume-from-hub", REPO, folder=tmp_path)
    assert not (resumed / "checkpoints" / "update-00000006" / "model.safetensors").exists()
    torch.testing.assert_close(load_file(resumed / "model" / "model.safetensors"), weights, rtol=0, atol=0)


def test_a_repository_without_a_state(local_hub, settings, tone_data, tmp_path, capsys):
    with pytest.raises(OSError, match=f"^{REPO}: cannot read it .*; if it is private, HF_TOKEN needs the right to"):
        resume_from_hub(settings("a"), REPO)
    HfApi().create_repo(REPO)
    with pytest.raises(ValueError, match=f"^{REPO}: has no state of a run; a run with push_to_hub in its settings"):
        resume_from_hub(settings("a"), REPO)

    train(settings("run"))
    arguments = [f"output_dir={tmp_path / 'b'}", *SHORT, "--resume-from-hub", REPO]
    capsys.readouterr()
    assert run_command("train.py", tone_data / "tones.yaml", *arguments) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{REPO} is complete: use it with pipeline(") and line.endswith(f"with model={REPO}")
    assert not (tmp_path / "b" / "model").exists()
    assert MlplProcessor.from_pretrained(REPO)  # as it says
