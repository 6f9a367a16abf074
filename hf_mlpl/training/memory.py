"""Computes the memory that training takes in a process, and decides by it whether activations are computed again.

No weights and no GPU are needed: torch runs the model on tensors that have shapes alone, and its hook for saved
tensors counts what a forward pass keeps for the backward one, of a batch of the longest utterances, whose attention
keeps most. All layers count, in fp32, and attention as its plain implementation, which keeps all scores. LayerDrop,
`bf16` and a GPU's kernels keep less.
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

USUAL_SECONDS = 15.0  # of the longest utterance, where the data is not known
USABLE = 0.9  # of a GPU's memory: the driver and torch's allocator need the rest
STATE_BYTES = {"adagrad": 4, "adamw": 8}  # of an optimizer, per parameter


def recomputes_activations(
    config: TrainingConfig,
    model: PreTrainedConfig | None,
    processes: int,
    memory: float | None,
    is_sharded: bool,
    longest: float = USUAL_SECONDS,
) -> bool:
    """Returns whether a run recomputes activations: as the settings say, or else where they would not fit.

    Args:
        model: whose memory is known for ours alone; others recompute.
        processes: that train together.
        memory: bytes of the device; None where it is not known.
        is_sharded: FSDP, whose memory is not computed, recomputes.
        longest: seconds of the longest utterance.
    """
    if config.gradient_checkpointing is not None:
        return config.gradient_checkpointing
    if not isinstance(model, MlplConfig) or config.lora or is_sharded or memory is None:
        return True
    kept = dataclasses.replace(config, gradient_checkpointing=False)
    return training_bytes(kept, model, processes, longest) > USABLE * memory


def training_bytes(config: TrainingConfig, model: MlplConfig, processes: int, longest: float = USUAL_SECONDS) -> float:
    """Returns the bytes of weights, gradients, optimizer state and activations of a process.

    Data parallelism has a second copy of the gradients, and `bf16` one of the weights.
    """
    has_teacher = config.slimipl is not None and config.slimipl.ema_decay is not None
    copies = 4 + 4 + STATE_BYTES[config.optimizer] + 4 * has_teacher + 4 * (processes > 1) + 2 * config.bf16
    return copies * num_parameters(model) + activation_bytes(config, model, longest)


def activation_bytes(config: TrainingConfig, model: MlplConfig, longest: float = USUAL_SECONDS) -> float:
    """Returns the bytes that a micro-batch of `max_batch_seconds`, of the longest utterances, keeps."""
    sizes, seconds = model.to_json_string(use_diff=False), config.max_batch_seconds
    utterances = math.ceil(seconds / longest)
    one, two = (_saved_bytes(sizes, layers, utterances, seconds / utterances) for layers in (1, 2))
    frames = seconds * model.frames_per_second / model.conv_stride
    losses = 3 * 4 * frames * model.vocab_size  # log-probabilities, their gradient and that of the logits
    if config.gradient_checkpointing:  # inputs of all layers, and all of the one that is computed again
        return one + (model.num_hidden_layers - 1) * 4 * frames * model.hidden_size + losses
    return one + (model.num_hidden_layers - 1) * (two - one) + losses


@functools.cache
def _saved_bytes(sizes: str, layers: int, utterances: int, seconds: float) -> int:
    """Counts what a model of these sizes and so many layers keeps of utterances, its parameters left out."""
    model = MlplConfig.from_dict(json.loads(sizes) | {"num_hidden_layers": layers, "layerdrop": 0.0})
    frames = round(seconds * model.frames_per_second)
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
