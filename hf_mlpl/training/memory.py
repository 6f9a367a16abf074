"""Computes the memory that training takes in a process, and decides by it whether activations are computed again.

No weights and no GPU are needed: torch runs the model on tensors that have shapes alone, and its hook for saved
tensors counts what a forward pass keeps for the backward one, of utterances of up to 15 s. All layers count, in fp32,
and attention as its plain implementation, which keeps all scores. LayerDrop, `bf16` and a GPU's kernels keep less.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedConfig

from ..model.configuration_mlpl import MlplConfig
from ..model.modeling_mlpl import MlplForCTC
from ..training_config import TrainingConfig
from .operations import num_parameters

UTTERANCE_SECONDS = 15  # at most, of an utterance in a batch
USABLE = 0.9  # of a GPU's memory: the driver and torch's allocator need the rest
STATE_BYTES = {"adagrad": 4, "adamw": 8}  # of an optimizer, per parameter


def recomputes_activations(
    config: TrainingConfig, model: PreTrainedConfig | None, processes: int, memory: float | None, is_sharded: bool
) -> bool:
    """Returns whether a run recomputes activations: as the settings say, or else where they would not fit.

    Args:
        model: whose memory is known for ours alone; others recompute.
        processes: that train together.
        memory: bytes of the device; None where it is not known.
        is_sharded: FSDP, whose memory is not computed, recomputes.
    """
    if config.gradient_checkpointing is not None:
        return config.gradient_checkpointing
    if not isinstance(model, MlplConfig) or config.lora or is_sharded or memory is None:
        return True
    kept = dataclasses.replace(config, gradient_checkpointing=False)
    return training_bytes(kept, model, processes) > USABLE * memory


def training_bytes(config: TrainingConfig, model: MlplConfig, processes: int) -> float:
    """Returns the bytes of weights, gradients, optimizer state and activations of a process.

    Data parallelism has a second copy of the gradients, and `bf16` one of the weights.
    """
    has_teacher = config.slimipl is not None and config.slimipl.ema_decay is not None
    copies = 4 + 4 + STATE_BYTES[config.optimizer] + 4 * has_teacher + 4 * (processes > 1) + 2 * config.bf16
    return copies * num_parameters(model) + activation_bytes(config, model)


def activation_bytes(config: TrainingConfig, model: MlplConfig) -> float:
    """Returns the bytes that a micro-batch of `max_batch_seconds` keeps for its backward pass."""
    sizes, seconds = model.to_json_string(use_diff=False), config.max_batch_seconds
    one, two = (_saved_bytes(sizes, layers, seconds) for layers in (1, 2))
    frames = seconds * model.frames_per_second / model.conv_stride
    losses = 3 * 4 * frames * model.vocab_size  # log-probabilities, their gradient and that of the logits
    if config.gradient_checkpointing:  # inputs of all layers, and all of the one that is computed again
        return one + (model.num_hidden_layers - 1) * 4 * frames * model.hidden_size + losses
    return one + (model.num_hidden_layers - 1) * (two - one) + losses


@functools.cache
def _saved_bytes(sizes: str, layers: int, batch_seconds: float) -> int:
    """Counts what a model of these sizes and so many layers keeps, its parameters left out."""
    model = MlplConfig.from_dict(json.loads(sizes) | {"num_hidden_layers": layers, "layerdrop": 0.0})
    utterances = math.ceil(batch_seconds / UTTERANCE_SECONDS)
    frames = round(batch_seconds / utterances * model.frames_per_second)
    kept: dict[int, int] = {}
    storages = []  # else a freed one's number could be that of a later one

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages.append(storage)
        kept[storage._cdata] = storage.nbytes()
        return tensor

    with FakeTensorMode():
        network = MlplForCTC._from_config(model, attn_implementation="eager").train()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            network(torch.empty(utterances, frames, model.num_mel_bins))
        own = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    return sum(size for storage, size in kept.items() if storage not in own)
