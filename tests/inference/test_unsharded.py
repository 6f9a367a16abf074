"""The configurations of accelerate, and training with weights that FSDP shards."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file
from torch import nn

from hf_mlpl import MlplForCTC
from hf_mlpl.inference.unsharded import unsharded

from ..commands import ROOT
from ..ranks import run_on_two
from ..two_processes import slimipl_overrides

CONFIGS = sorted((ROOT / "recipes" / "accelerate").glob("*.yaml"))


def test_there_is_a_configuration_for_every_kind_of_machine():
    assert [path.stem for path in CONFIGS] == ["cpu", "fsdp", "multi_cpu", "multi_gpu", "multi_node", "single_gpu"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_reads_the_configuration(path):
    config = load_config_from_file(str(path))  # which refuses names that it does not know
    assert config.use_cpu == ("cpu" in path.stem) and (config.num_processes > 1) == path.stem.startswith(("m", "f"))
    assert path.read_text().startswith("# ")  # when to use it
    # which layers are sharded apart is the model's to say
    assert config.fsdp_config.get("fsdp_transformer_layer_cls_to_wrap") is None and MlplForCTC._no_split_modules


def test_a_model_that_is_not_sharded_stays_as_it_is():
    model = nn.Linear(2, 2)
    with unsharded(model):
        weight = model.weight
    assert model.weight is weight


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adagrad", "adamw"])
def test_sharded_training_equals_copies(tone_data, tone_run, quick_python, tmp_path, optimizer):
    """Trains with LayerDrop, accumulation, slimIPL and evaluations, and resumes from a checkpoint."""
    overrides = slimipl_overrides(tone_run / "model", tone_data / "unlabelled.parquet")
    overrides += [f"optimizer={optimizer}", "learning_rate=1e-3", "dev=" + str([str(tone_data / "dev.parquet")])]
    overrides += ["eval_every=5"]
    script, settings = ROOT / "tests" / "fsdp_on_cpu.py", tone_data / "tones.yaml"
    launch(quick_python, "fsdp", script, settings, f"output_dir={tmp_path / 'fsdp'}", *overrides, folder=tmp_path)
    done = run_on_two(tmp_path, "train.py", settings, f"output_dir={tmp_path / 'copies'}", *overrides)
    assert [status for status, _ in done] == [0, 0], done
    weights, expected = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("fsdp", "copies"))
    torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-5)
    (tmp_path / "fsdp" / "model").rename(tmp_path / "model")
    launch(quick_python, "fsdp", script, settings, f"output_dir={tmp_path / 'fsdp'}", *overrides, folder=tmp_path)
    resumed = load_file(tmp_path / "fsdp" / "model" / "model.safetensors")
    torch.testing.assert_close(resumed, weights, rtol=0, atol=0)


def launch(python: Path, config: str, *command, folder: Path) -> None:
    """Runs a command on two processes of the CPU."""
    text = (ROOT / "recipes" / "accelerate" / f"{config}.yaml").read_text()
    path = folder / f"{config}.yaml"
    path.write_text(text.replace("use_cpu: false", "use_cpu: true").replace("num_processes: 8", "num_processes: 2"))
    launch = [python, Path(sys.executable).with_name("accelerate"), "launch", "--config_file", path]
    done = subprocess.run([*launch, *map(str, command)], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
