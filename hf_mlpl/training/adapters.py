"""Trains adapters of low rank (LoRA) in the place of a model's weights, through `peft`, and saves them.

`peft` puts the adapters into the model itself, which keeps its class, so that the rest of training does not change.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from ..ctc_models.interface import CtcInterface
from ..training_config import LoraConfig, TrainingConfig

# The projections of attention, as transformers names them in models of speech; peft has no defaults for these models.
ATTENTION = (
    "q_proj k_proj v_proj o_proj out_proj linear_q linear_k linear_v linear_out query_proj key_proj value_proj "
    "to_q to_k to_v to_kv to_out"
).split()
ADAPTER = "default"  # peft's name of a model's first adapter
PREFIX = "base_model.model."  # of names in PEFT's files


def add_adapters(model: PreTrainedModel, ctc: CtcInterface, config: TrainingConfig) -> None:
    """Freezes a model, and adds adapters to it; heads, and layers that its files do not have, are trained as a whole.

    Raises:
        ValueError: for layers that the model does not have, or whose weights it reads without calling them.
    """
    import peft

    whole = _whole_modules(model, ctc, config)
    settings = peft.LoraConfig(
        r=config.lora.r,
        lora_alpha=config.lora.lora_alpha,
        lora_dropout=config.lora.lora_dropout,
        target_modules=_target_modules(model, ctc, config.lora, whole),
        exclude_modules=whole,
        modules_to_save=whole,
        inference_mode=False,
    )
    peft.get_peft_model(model, settings)
    folder = Path(config.model)
    settings.base_model_name_or_path = str(folder.resolve()) if folder.is_dir() else config.model
    settings.revision = getattr(model.config, "_commit_hash", None)


def has_adapters(model: nn.Module) -> bool:
    """Returns whether `add_adapters` has changed a model."""
    return hasattr(model, "peft_config")


def _whole_modules(model: PreTrainedModel, ctc: CtcInterface, config: TrainingConfig) -> list[str]:
    """Returns the names of modules to train as a whole, because loading the base alone would not restore them."""
    modules = dict(model.named_modules())
    heads = ctc.heads(model)
    whole = [name for name, module in modules.items() if any(module is head for head in heads)]
    for tensor in getattr(model, "random_tensors", ()):
        name = tensor.rpartition(".")[0]
        if name not in whole and not any(modules[name].children()):  # not the vector for masked frames, of an encoder
            whole.append(name)
    if "target_lang" in config.model_fields:  # an adapter of MMS for a language, which a file of its own holds
        whole += [name for name in modules if name.endswith(".adapter_layer")]
    return whole


def _target_modules(model: PreTrainedModel, ctc: CtcInterface, config: LoraConfig, whole: Sequence[str]) -> list[str]:
    """Returns the endings of the names of layers to adapt, all of which the model calls, and none of which is `whole`.

    An adapter of a layer that is not called has no effect: WavLM's attention hands the weights of its projections to
    a function of torch.
    """
    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not f"{name}.".startswith(tuple(f"{each}." for each in whole))
    }
    called = _called(model, ctc, linear)
    endings = {name: name.rpartition(".")[2] for name in linear}

    def silent(targets: set[str]) -> list[str]:
        return sorted({ending for name, ending in endings.items() if ending in targets and name not in called})

    if config.target_modules is None:
        attention = {endings[name] for name in called} & set(ATTENTION)
        if attention and not silent(attention):
            return sorted(attention)
        targets = {endings[name] for name in called if ".layers." in name}
        return sorted(targets - set(silent(targets)))
    layers = {target: [n for n in linear if f".{n}".endswith(f".{target}")] for target in config.target_modules}
    accepted = ", ".join(sorted({endings[name] for name in called}))
    for target, names in layers.items():
        if not names:
            raise ValueError(
                f"lora.target_modules has {target}, which no linear layer is called; there are {accepted}"
            )
        if not called.issuperset(names):
            raise ValueError(
                f"lora.target_modules has {target}, a layer that this model does not call, so an adapter would have "
                f"no effect; accepted are {accepted}"
            )
    return list(config.target_modules)


@torch.no_grad()
def _called(model: PreTrainedModel, ctc: CtcInterface, layers: dict[str, nn.Module]) -> set[str]:
    """Returns the names of the layers that the model calls for a second of silence."""
    called: Counter[str] = Counter()
    handles = [
        layer.register_forward_hook(lambda *_, name=name: called.update([name])) for name, layer in layers.items()
    ]
    inputs = ctc.extract(np.zeros(ctc.sampling_rate, np.float32))[None].to(model.device)
    was_training = model.training
    ctc.forward(model.eval(), inputs, torch.ones(inputs.shape[:2], dtype=torch.long, device=model.device))
    model.train(was_training)
    for handle in handles:
        handle.remove()
    return set(called)


def write_adapters(folder: Path, model: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Writes `adapter_config.json` and `adapter_model.safetensors` as PEFT does.

    Args:
        model: with adapters.
        weights: of the whole model, by the names of its state.
    """
    import peft

    state = peft.get_peft_model_state_dict(model, weights, save_embedding_layers=False)
    state = {PREFIX + name: value.contiguous() for name, value in state.items()}
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = copy.copy(model.peft_config[ADAPTER])
    settings.inference_mode = True
    settings.save_pretrained(folder)


def merged_weights(model: nn.Module, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Adds the adapters to the weights of a model; returns a state as it is without adapters.

    Args:
        model: with adapters.
        weights: of the whole model, by the names of its state.
    """
    import peft

    layers = {name: module for name, module in model.named_modules() if isinstance(module, peft.tuners.lora.Linear)}
    merged = {}
    for name, value in weights.items():
        if ".lora_" in name or ".original_module." in name:
            continue
        name = name.replace(f".modules_to_save.{ADAPTER}", "")
        layer, is_weight, _ = name.rpartition(".base_layer.weight")
        if is_weight:
            a, b = (weights[f"{layer}.lora_{matrix}.{ADAPTER}.weight"] for matrix in "AB")
            value = value + layers[layer].scaling[ADAPTER] * (b @ a)
        merged[name.replace(".base_layer", "")] = value
    return merged
