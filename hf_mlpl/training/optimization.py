"""Builds the optimizer and the accelerator of a run, and schedules its learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, gather_object
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers.modeling_layers import GradientCheckpointingLayer

from ..ctc_models.interface import CtcInterface
from ..hardware import total_memory
from ..training_config import PRESETS, TrainingConfig
from .adapters import add_adapters
from .memory import recomputes_activations
from .trained_weights import copy_of_structure

# fairseq's `tri_stage` with the `phase_ratio` of wav2vec 2.0: shares of `max_updates`, factors of the maximum rate.
WARMUP_SHARE, HOLD_SHARE = 0.1, 0.4
INITIAL_FACTOR, FINAL_FACTOR = 0.01, 0.05
SHARDS = "SHARDED_STATE_DICT"  # of FSDP: each process saves its own part


def freeze(model: nn.Module, ctc: CtcInterface, config: TrainingConfig) -> None:
    """Freezes the weights that the settings leave as they are, and adds the adapters that are trained instead.

    Raises:
        ValueError: for a model without the layers that the settings name, or the dropout that slimIPL changes.
    """
    if config.slimipl and config.slimipl.dynamic_dropout is not None:  # later, hours of training would be lost
        ctc.set_dropout(copy_of_structure(model), config.slimipl.dynamic_dropout)
    is_usual = config.model not in PRESETS and ctc.freezes_feature_encoder
    if is_usual if config.freeze_feature_encoder is None else config.freeze_feature_encoder:
        ctc.freeze_feature_encoder(model)
    if config.lora:
        add_adapters(model, ctc, config)


def build_optimizer(
    model: nn.Module, config: TrainingConfig, heads: Sequence[nn.Module] = ()
) -> torch.optim.Optimizer:
    """Builds the optimizer for the trained parameters of a model.

    Args:
        heads: of the model, which become a second group if the settings have a learning rate for them.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list = trained
    if config.head_learning_rate is not None:
        of_heads = _parameters_of(heads)
        groups = [{"params": [parameter for parameter in trained if id(parameter) not in of_heads]}]
        groups.append({"params": [parameter for parameter in trained if id(parameter) in of_heads]})
    if config.optimizer == "adagrad":
        return torch.optim.Adagrad(groups, lr=config.learning_rate)
    options = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "betas": (0.9, 0.98), "fused": True}
    return torch.optim.AdamW(groups, **options)


def _parameters_of(modules: Iterable[nn.Module]) -> set[int]:
    """Returns the identities of the parameters of some modules."""
    return {id(parameter) for module in modules for parameter in module.parameters()}


def remove_gradients_of_encoder(model: nn.Module, heads: Sequence[nn.Module]) -> None:
    """Removes the gradients of all parameters except those of the heads, so that an update changes the heads alone."""
    of_heads = _parameters_of(heads)
    for parameter in model.parameters():
        if id(parameter) not in of_heads:
            parameter.grad = None


def set_learning_rates(optimizer: torch.optim.Optimizer, update: int, config: TrainingConfig) -> float:
    """Sets the rates of the update that follows `update` others; returns that of the encoder."""
    factor = learning_rate_factor(update, config)
    for group, maximum in zip(optimizer.param_groups, (config.learning_rate, config.head_learning_rate), strict=False):
        group["lr"] = maximum * factor
    return config.learning_rate * factor


def learning_rate_factor(update: int, config: TrainingConfig) -> float:
    """Returns the factor of `learning_rate` for the update that follows `update` others."""
    if config.schedule == "step":  # the original multiplies it with the warm-up
        halvings = max(0, 1 + (update + 1 - config.first_decay_update) // config.decay_every_updates)
        return 0.5**halvings * min(1.0, (update + 1) / max(1, config.warmup_updates))
    if config.schedule == "tri-stage":
        return _tri_stage_factor(update, config.max_updates)
    if update < config.warmup_updates:
        return (update + 1) / config.warmup_updates
    if config.schedule == "constant":
        return 1.0
    return (config.max_updates - update) / max(1, config.max_updates - config.warmup_updates)


def _tri_stage_factor(update: int, max_updates: int) -> float:
    """Returns the factor of fairseq's `TriStageLRSchedule` (fairseq/optim/lr_scheduler/tri_stage_lr_scheduler.py).

    With w, h and d updates of warm-up, hold and decay, it is 0.01 + 0.99 u / w, then 1, then 0.05^((u - w - h) / d).
    """
    shares = (WARMUP_SHARE, HOLD_SHARE, 1 - WARMUP_SHARE - HOLD_SHARE)
    warmup, hold, decay = (int(max_updates * share) for share in shares)
    if update < warmup:
        return INITIAL_FACTOR + (1 - INITIAL_FACTOR) * update / warmup
    if update < warmup + hold:
        return 1.0
    if update <= warmup + hold + decay:
        return math.exp(math.log(FINAL_FACTOR) * (update - warmup - hold) / max(1, decay))
    return FINAL_FACTOR


def make_accelerator(config: TrainingConfig, ctc: CtcInterface, model: nn.Module) -> Accelerator:
    """Builds the accelerator; raises a ValueError for settings that do not fit the options of `accelerate launch`."""
    finds_unused = ctc.leaves_out_parameters or ctc.skips_layers and _drops_layers(config, ctc, model)
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # else processes on a machine without GPU could not communicate
        mixed_precision="bf16" if config.bf16 else None,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=finds_unused)],
    )
    if accelerator.is_fsdp2:
        if problem := fsdp_problem(config, accelerator.state.fsdp_plugin.state_dict_type.name):
            raise ValueError(problem)
    return accelerator


def fsdp_problem(config: TrainingConfig, state_dict_type: str) -> str | None:
    """Describes why FSDP cannot shard a run of these settings; returns None where no reason is known."""
    if config.slimipl and config.slimipl.auto_stop:
        return "slimipl.auto_stop is true, and it keeps a copy of weights that are not sharded; set it to false"
    if config.slimipl and config.slimipl.ema_decay is not None:
        return (
            f"slimipl.ema_decay is {config.slimipl.ema_decay}, whose second model cannot be sharded; set it to null, "
            "or launch with `accelerate launch --multi_gpu`, without FSDP"
        )
    if config.bf16_gradients and not config.bf16:
        return (
            "bf16_gradients is true, and FSDP exchanges gradients in the precision in which it computes; set bf16 to "
            "true, or leave out bf16_gradients"
        )
    if state_dict_type != SHARDS:
        return f"fsdp_state_dict_type is {state_dict_type}; set it to {SHARDS}, as recipes/accelerate/fsdp.yaml does"
    return None


def prepare(
    accelerator: Accelerator, model: nn.Module, ctc: CtcInterface, config: TrainingConfig, longest: float
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Wraps the model for data parallelism, or shards its weights with FSDP, and builds its optimizer.

    Turns gradient checkpointing on if the settings say so, or leave it to the memory of the smallest GPU.

    Args:
        longest: seconds of the longest utterance.

    Raises:
        ValueError: for layers that are skipped at random in each process, which FSDP would wait for.
    """
    if recomputes_layers(accelerator, model, config, longest):
        # With adapters by now: peft would warn of a model without embeddings of tokens.
        model.gradient_checkpointing_enable()  # called activation_checkpointing_enable in new releases, not in 5.17
    if not accelerator.is_fsdp2:
        model, optimizer = accelerator.prepare(model, build_optimizer(model, config, ctc.heads(model)))
        if config.bf16_gradients and isinstance(model, DistributedDataParallel):
            from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

            # Not accelerate's `comm_hook`, because torch refuses this hook by its name in builds without a GPU,
            # although gloo can sum bfloat16.
            model.register_comm_hook(None, lambda state, bucket: bf16_compress_hook(state, bucket))
        return model, optimizer
    drops_layers = _drops_layers(config, ctc, model)
    if drops_layers and ctc.skips_layers:
        raise ValueError(
            "LayerDrop skips layers whose shards the other processes wait for; set model_fields.layerdrop to 0 and "
            "slimipl.dynamic_dropout to null, or launch with `accelerate launch --multi_gpu`, without FSDP"
        )
    # accelerate would shard these apart, and what it takes for the last norm: Wav2Vec2EncoderStableLayerNorm.
    model.get_input_embeddings = model.get_output_embeddings = lambda: None
    model.base_model_prefix = ""
    model._no_split_modules = model._no_split_modules or _layer_classes(model)
    model, optimizer = accelerator.prepare(model, build_optimizer(model, config, ctc.heads(model)))
    # Adagrad's sums had the shapes of whole weights, and a checkpoint with the state of some parameters alone, as of
    # AdamW while the encoder is frozen, could not be loaded.
    optimizer.state = build_optimizer(model, config, ctc.heads(model)).state
    if config.optimizer == "adamw":
        for parameter in (each for group in optimizer.param_groups for each in group["params"]):
            step = torch.zeros((), device=parameter.device)
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {"step": step, **moments}
    del model.base_model_prefix  # its class has the name
    if drops_layers or ctc.leaves_out_parameters:
        model.set_reduce_scatter_unused_params(True)  # as find_unused_parameters does without FSDP
    return model, optimizer


def recomputes_layers(accelerator: Accelerator, model: nn.Module, config: TrainingConfig, longest: float) -> bool:
    """Returns whether the backward passes of a run recompute layers; all processes call it, and decide the same."""
    memory = None
    if config.gradient_checkpointing is None:
        if not model.supports_gradient_checkpointing:  # as some models of transformers
            return False
        memory = min(gather_object([total_memory(accelerator.device)]))
    processes, is_sharded = accelerator.num_processes, accelerator.is_fsdp2
    return recomputes_activations(config, model.config, processes, memory, is_sharded, longest)


def _layer_classes(model: nn.Module) -> set[str]:
    """Returns the names of the classes of a model's layers, which many models of transformers do not tell."""
    return {type(module).__name__ for module in model.modules() if isinstance(module, GradientCheckpointingLayer)}


def remove_gradients_of_dropped_layers(
    accelerator: Accelerator, model: nn.Module, ctc: CtcInterface, config: TrainingConfig
) -> None:
    """Removes the zeros that data parallelism gives to layers which all processes have dropped."""
    if accelerator.num_processes > 1 and not accelerator.is_fsdp2 and _drops_layers(config, ctc, model):
        ctc.remove_gradients_of_dropped_layers(model)


def _drops_layers(config: TrainingConfig, ctc: CtcInterface, model: nn.Module) -> bool:
    """Returns whether an update may skip a layer in all its micro-batches, so that the layer gets no gradient."""
    return ctc.drops_layers(model) or bool(config.slimipl and config.slimipl.dynamic_dropout)
