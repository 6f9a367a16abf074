"""Trains and labels on the GPU of this machine, by `benchmarks/gpu_checks.sh`; without one on its CPU."""

import pyarrow.parquet as pq
import pytest
import torch
from accelerate.state import AcceleratorState

from hf_mlpl import MlplConfig
from hf_mlpl.hardware import peak_memory, reset_peak_memory
from hf_mlpl.training.loop import train
from hf_mlpl.training.memory import training_bytes
from hf_mlpl.training_config import load_config

from ..commands import run_command
from .test_loop import assert_equal_bits, losses

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread", "any_device")]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")


@pytest.fixture
def any_device(tone_data, monkeypatch):
    """Lets accelerate choose the device, which other tests keep to the CPU."""
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def run(tone_data, tmp_path):
    def run(name, *overrides):
        settings = [f"output_dir={tmp_path / name}", "max_updates=8", "dev=[]", *overrides]
        return train(load_config(tone_data / "tones.yaml", settings)).parent

    return run


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable. is deprecated:FutureWarning")
def test_recomputed_layers_change_no_bit_of_bfloat16(run):
    plain, recomputed = (run(f"{value}", "bf16=true", f"gradient_checkpointing={value}") for value in ("null", "true"))
    assert_equal_bits(plain, recomputed)
    assert losses(plain)[8] < losses(plain)[1]


def test_labels_are_what_was_said(tone_corpus, tone_data, tone_run, tmp_path):
    texts = {}
    for dtype in ("float32", "bfloat16"):
        options = ["--model", tone_run / "model", "--data", tone_data / "unlabelled.parquet", "--dtype", dtype]
        assert run_command("pseudo_label.py", *options, "--output", tmp_path / dtype) == 0
        labels = pq.read_table(tmp_path / dtype / "labels.parquet", columns=["id", "text"]).to_pylist()
        texts[dtype] = {row["id"]: row["text"] for row in labels}
    assert texts["bfloat16"] == texts["float32"] and all(texts["float32"].values())


@needs_gpu
def test_memory_is_at_most_what_is_computed(run, tone_data):
    device = torch.device("cuda")
    reset_peak_memory(device)
    run("a")
    config = load_config(tone_data / "tones.yaml")
    model = MlplConfig.tiny(10, ["de", "sv-SE"], **config.model_fields)
    assert peak_memory(device) <= training_bytes(config, model, 1) + 64e6  # of cuBLAS's workspace
