"""Writes the model of a run as a folder for `from_pretrained`."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import AutoModelForCTC, PreTrainedConfig, ProcessorMixin

from ..atomic import atomic_write


def write_final_model(
    accelerator: Accelerator, model: torch.nn.Module, processor: ProcessorMixin, output_dir: Path
) -> Path:
    """Writes `model/` with weights, configuration, feature extractor and tokenizer; all processes call it."""
    accelerator.wait_for_everyone()
    folder = output_dir / "model"
    weights = accelerator.get_state_dict(model)  # in all processes, because each may have a shard
    if accelerator.is_main_process:
        with atomic_write(folder) as partial:
            write_model(partial, accelerator.unwrap_model(model).config, processor, weights)
    accelerator.wait_for_everyone()
    return folder


def write_model(
    folder: Path, config: PreTrainedConfig, processor: ProcessorMixin, weights: dict[str, torch.Tensor]
) -> None:
    """Writes a model's folder; with empty `weights`, all other files of it."""
    with torch.device("meta"):
        model = AutoModelForCTC.from_config(config)
    if weights:
        model.load_state_dict(weights, assign=True)
    model.save_pretrained(folder, state_dict=None if weights else {})
    processor.save_pretrained(folder)
