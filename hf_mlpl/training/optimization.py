"""Builds the optimizer and the accelerator of a run, and schedules its learning rate."""

from __future__ import annotations

import torch
from accelerate import Accelerator

from ..model.modeling_mlpl import MlplForCTC
from ..training_config import TrainingConfig


def build_optimizer(model: MlplForCTC, config: TrainingConfig) -> torch.optim.Optimizer:
    """Builds the optimizer for all parameters of a model."""
    if config.optimizer == "adagrad":
        return torch.optim.Adagrad(model.parameters(), lr=config.learning_rate)
    options = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "betas": (0.9, 0.98), "fused": True}
    return torch.optim.AdamW(model.parameters(), **options)


def learning_rate_factor(update: int, config: TrainingConfig) -> float:
    """Returns the factor of `learning_rate` for the update that follows `update` others."""
    if config.schedule == "step":  # the original multiplies it with the warm-up
        halvings = max(0, 1 + (update + 1 - config.first_decay_update) // config.decay_every_updates)
        return 0.5**halvings * min(1.0, (update + 1) / max(1, config.warmup_updates))
    if update < config.warmup_updates:
        return (update + 1) / config.warmup_updates
    if config.schedule == "constant":
        return 1.0
    return (config.max_updates - update) / max(1, config.max_updates - config.warmup_updates)


def make_accelerator(config: TrainingConfig) -> Accelerator:
    """Builds the accelerator; raises a ValueError for settings that do not fit the options of `accelerate launch`."""
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # else processes on a machine without GPU could not communicate
        mixed_precision="bf16" if config.bf16 else None,
    )
    if accelerator.is_fsdp2 and config.slimipl and config.slimipl.ema_decay is not None:
        raise ValueError(
            f"slimipl.ema_decay is {config.slimipl.ema_decay}, whose second model cannot be sharded; set it to null, "
            "or launch with `accelerate launch --multi_gpu`, without FSDP"
        )
    return accelerator


def prepare(
    accelerator: Accelerator, model: MlplForCTC, config: TrainingConfig
) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """Wraps the model for data parallelism, or shards its weights with FSDP, and builds its optimizer."""
    if not accelerator.is_fsdp2:
        return accelerator.prepare(model, build_optimizer(model, config))
    model.get_input_embeddings = model.get_output_embeddings = lambda: None  # which accelerate would shard apart
    model, optimizer = accelerator.prepare(model, build_optimizer(model, config))
    optimizer.state = build_optimizer(model, config).state  # Adagrad's sums had the shapes of unsharded weights
    if _drops_layers(config, accelerator.unwrap_model(model)):
        model.set_reduce_scatter_unused_params(True)  # as find_unused_parameters does without FSDP
    return model, optimizer


def remove_gradients_of_dropped_layers(accelerator: Accelerator, model: MlplForCTC, config: TrainingConfig) -> None:
    """Removes the zeros that data parallelism gives to layers which all processes have dropped in all micro-batches.

    One process has no gradient for them, and AdamW would go on moving a layer whose gradient is zero.
    """
    if accelerator.num_processes == 1 or accelerator.is_fsdp2 or not _drops_layers(config, model):
        return
    layers = model.model.layers
    ends = [(layer.up_proj.weight, layer.output_layer_norm.weight) for layer in layers]  # dropped, and always there
    has_gradient = torch.stack([parameter.grad.any() for pair in ends for parameter in pair]).view(-1, 2)
    for layer, (is_kept, has_loss) in zip(layers, has_gradient.tolist(), strict=True):
        if has_loss and not is_kept:
            for module in (layer.attention, layer.up_proj, layer.down_proj):
                module.zero_grad()


def _drops_layers(config: TrainingConfig, model: MlplForCTC) -> bool:
    """Returns whether an update may skip a layer in all its micro-batches, so that the layer gets no gradient."""
    return model.config.layerdrop > 0 or bool(config.slimipl and config.slimipl.dynamic_dropout)
