"""Writes the model of a run as a folder for `from_pretrained`."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import AutoModelForCTC, PreTrainedConfig, PreTrainedModel, ProcessorMixin

from ..atomic import atomic_write
from ..main_process import meet
from ..training_config import TrainingConfig
from .adapters import has_adapters, merged_weights, write_adapters


def write_final_model(
    accelerator: Accelerator, model: torch.nn.Module, processor: ProcessorMixin, config: TrainingConfig
) -> Path:
    """Writes `model/` with weights, configuration, feature extractor and tokenizer; all processes call it."""
    accelerator.wait_for_everyone()
    folder = Path(config.output_dir) / "model"
    weights = accelerator.get_state_dict(model)  # in all processes, because each may have a shard
    if accelerator.is_main_process:
        with atomic_write(folder) as partial:
            write_weights(partial, accelerator.unwrap_model(model), processor, weights, config)
    meet()
    return folder


def write_weights(
    folder: Path,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    weights: dict[str, torch.Tensor],
    config: TrainingConfig,
) -> None:
    """Writes a trained model's folder: the whole model, or adapters if the settings do not merge them."""
    if not has_adapters(model):
        write_model(folder, model.config, processor, weights)
    elif config.lora.merge:
        write_model(folder, model.config, processor, merged_weights(model, weights))
    else:
        write_model(folder, model.config, processor, {})
        write_adapters(folder, model, weights)


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
