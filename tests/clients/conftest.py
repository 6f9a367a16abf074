"""Holds the model that several tests of clients fine-tune or quantize, and knows the marks of transformers' tests."""

from pathlib import Path

import pytest
import torch

MARKS = "accelerate_tests flash_attn_test flash_attn_3_test flash_attn_4_test torch_compile_test"


def pytest_configure(config) -> None:
    for mark in MARKS.split():  # transformers' own settings would register them
        config.addinivalue_line("markers", f"{mark}: of transformers")


@pytest.fixture(scope="session")
def wide_run(tone_data: Path) -> Path:
    """Returns the folder of a model that has learned the tones, in layers wide enough for blocks of 64 weights."""
    from hf_mlpl.training.loop import train
    from hf_mlpl.training_config import load_config

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tone_data / "wide"
    sizes = {"hidden_size": 64, "attention_head_dim": 32, "intermediate_size": 128}
    fields = [f"model_fields.{name}={size}" for name, size in sizes.items()]
    train(load_config(tone_data / "tones.yaml", [f"output_dir={folder}", *fields]))
    torch.set_num_threads(before)
    return folder
