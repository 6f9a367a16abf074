"""Counts the parameters of a model, and the floating point operations of training it and of labelling with it.

Operations are those of the model's matrix products, two for each multiply-add: the convolution, a layer's four
attention projections and its MLP, the products of attention and of relative positions, which grow with the square of
an utterance's length, and the CTC head. A backward pass has twice as many as its forward pass; gradient checkpointing
adds the layers' forward pass; LayerDrop removes its share of them. Labelling and evaluation are forward passes. An
update counts with the whole budget of its batches, `max_batch_seconds` x `micro_batches_per_update`, including padding
and rounding.

For a model of another architecture torch counts the operations of a forward pass over 10 and 20 seconds without
weights (`torch.utils.flop_counter`), from which follow their parts that grow with the length and with its square.
A frozen feature encoder has no backward pass, and frozen layers under adapters half of it.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoFeatureExtractor,
    AutoModelForCTC,
    FeatureExtractionMixin,
    PreTrainedConfig,
    PreTrainedModel,
)

from ..ctc_models.adapters import source_of
from ..ctc_models.transformers_ctc import FEATURE_ENCODERS, HEADS
from ..data.utterances import SpeechTotals
from ..error_line import error_line
from ..model.configuration_mlpl import MlplConfig
from ..model.missing_model import OUR_TYPES
from ..training_config import LoraConfig, TrainingConfig
from .adapters import ATTENTION

COUNTED_SECONDS = (10, 20)  # of speech, for which operations are counted


@dataclass(frozen=True)
class CountedModel:
    """Holds what is known of a model of another architecture than ours.

    Args:
        parameters: their number.
        seconds_flops, squared_flops: operations of a forward pass, in the feature encoder, in the layers and in all
            others, for a second and a squared second of speech; None if they cannot be counted, for the reason in
            `problem`.
    """

    config: PreTrainedConfig
    parameters: int
    layerdrop: float
    takes_samples: bool  # and so has a feature encoder, which is frozen by default
    seconds_flops: tuple[float, ...] | None = None
    squared_flops: tuple[float, ...] | None = None
    problem: str | None = None
    languages: None = None  # it has no language-ID head


Model = MlplConfig | CountedModel


def counted_model(config: PreTrainedConfig, name: str | os.PathLike) -> Model:
    """Returns a configuration of ours, whose operations have formulas, or the counted ones of another architecture.

    Args:
        name: of the model; the feature extractor is found there.
    """
    if config.model_type in OUR_TYPES:
        return config
    model = _without_weights(config)
    layerdrop = next((c.layerdrop for c in _configurations(config) if hasattr(c, "layerdrop")), 0.0)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    counted = CountedModel(config, parameters, layerdrop, model.main_input_name == "input_values")
    try:
        extractor = AutoFeatureExtractor.from_pretrained(source_of(name))
        shorter, longer = (_count_parts(model, extractor, seconds) for seconds in COUNTED_SECONDS)
    except Exception as error:  # of any type: not every model runs without weights
        problem = f"{name}: its operations cannot be counted ({error_line(error)}), so its time is not known"
        return dataclasses.replace(counted, problem=problem)
    s, t = COUNTED_SECONDS  # f(s) = a s + b s^2, and f(t) so
    squared = tuple((y / t - x / s) / (t - s) for x, y in zip(shorter, longer, strict=True))
    linear = tuple(x / s - b * s for x, b in zip(shorter, squared, strict=True))
    return dataclasses.replace(counted, seconds_flops=linear, squared_flops=squared)


def _without_weights(config: PreTrainedConfig) -> PreTrainedModel:
    with torch.device("meta"):
        return AutoModelForCTC.from_config(config).eval()


def _configurations(config: PreTrainedConfig) -> list[PreTrainedConfig]:
    return [config, *(getattr(config, name) for name in config.sub_configs)]


def _count_parts(model: PreTrainedModel, extractor: FeatureExtractionMixin, seconds: int) -> tuple[float, ...]:
    """Counts the operations over some seconds: of the feature encoder, of the layers, and of all others."""
    silence = np.zeros(seconds * extractor.sampling_rate, np.float32)
    inputs = extractor(silence, sampling_rate=extractor.sampling_rate, return_tensors="pt")[model.main_input_name]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(inputs.to("meta"))
    counts = {name: sum(operations.values()) for name, operations in counter.get_flop_counts().items()}
    is_layer = re.compile(r"\.layers\.\d+$")
    stacks = Counter(name.rpartition(".layers.")[0] for name in counts if is_layer.search(name))
    encoder = max(stacks, key=lambda stack: sum(v for n, v in counts.items() if n.startswith(f"{stack}.layers.")))
    layers = sum(v for n, v in counts.items() if re.fullmatch(rf"{re.escape(encoder)}\.layers\.\d+", n))
    below = sum(v for n, v in counts.items() if n.rpartition(".")[2] in FEATURE_ENCODERS)
    return below, layers, counts["Global"] - below - layers


def is_counted(model: Model) -> bool:
    return not isinstance(model, CountedModel) or model.seconds_flops is not None


def num_parameters(model: Model) -> int:
    """Counts the parameters of a model."""
    if isinstance(model, CountedModel):
        return model.parameters
    config = model
    width = config.num_attention_heads * config.attention_head_dim
    convolution = 2 * config.hidden_size * (config.num_mel_bins * config.conv_kernel + 1) + 2
    positions = (2 * config.max_position_embeddings - 1) * config.attention_head_dim
    layer = config.hidden_size * (4 * width + 2 * config.intermediate_size) + positions + 4
    heads = (config.hidden_size + 1) * (config.vocab_size + len(config.languages))
    return convolution + config.num_hidden_layers * layer + heads


def num_trained(model: Model, lora: LoraConfig) -> int:
    """Counts the parameters of heads and adapters; an adapter has `r` for each input and each output of its layer."""
    whole = _without_weights(model.config if isinstance(model, CountedModel) else model)
    targets = tuple(f".{target}" for target in lora.target_modules or ATTENTION)
    modules = {f".{name}": module for name, module in whole.named_modules()}
    heads = [module for name, module in modules.items() if name.rpartition(".")[2] in (*HEADS, "lid_head")]
    adapted = [m for name, m in modules.items() if isinstance(m, nn.Linear) and name.endswith(targets)]
    in_heads = sum(parameter.numel() for head in heads for parameter in head.parameters())
    return in_heads + sum(lora.r * (layer.in_features + layer.out_features) for layer in adapted)


def flops(model: Model, speech: SpeechTotals) -> tuple[float, ...]:
    """Counts the operations of a forward pass over some speech: below the layers, in them, and in the CTC head."""
    if isinstance(model, CountedModel):
        pairs = zip(model.seconds_flops, model.squared_flops, strict=True)
        return tuple(a * speech.seconds + b * speech.squared_seconds for a, b in pairs)
    config = model
    rate = config.frames_per_second / config.conv_stride  # frames per second after the front end
    frames, squared_frames = speech.seconds * rate, speech.squared_seconds * rate**2
    width = config.num_attention_heads * config.attention_head_dim
    convolution = 2 * 2 * config.hidden_size * config.num_mel_bins * config.conv_kernel * frames
    products = 2 * config.hidden_size * (4 * width + 2 * config.intermediate_size) * frames
    attention = 2 * width * (1 + 1 + 2) * squared_frames  # of scores, of values, and of positions: 2 S rows
    head = 2 * config.hidden_size * config.vocab_size * frames
    return convolution, config.num_hidden_layers * (products + attention), head


def forward_flops(model: Model, speech: SpeechTotals) -> float:
    """Counts the operations of a forward pass over some speech."""
    return sum(flops(model, speech))


def training_flops(
    model: Model,
    speech: SpeechTotals,
    checkpointing: bool,
    layerdrop: float,
    freezes_encoder: bool = False,
    freezes_layers: bool = False,
) -> float:
    """Counts the operations of a forward and a backward pass over some speech.

    Args:
        freezes_encoder: the feature encoder below the layers, which then has no backward pass.
        freezes_layers: the layers, whose backward pass then has the gradients of their inputs and not of weights.
    """
    below, layers, head = flops(model, speech)
    passes = (2 if freezes_layers else 3) + checkpointing
    return (1 if freezes_encoder else 3) * below + passes * (1 - layerdrop) * layers + 3 * head


def update_flops(config: TrainingConfig, model: Model, speech: SpeechTotals, layerdrop: float) -> float:
    """Counts the operations of an update with utterances like those of `speech`, which fill its batches."""
    freezes_layers = config.lora is not None
    is_usual = isinstance(model, CountedModel) and model.takes_samples
    freezes = is_usual if config.freeze_feature_encoder is None else config.freeze_feature_encoder
    freezes_encoder = freezes or freezes_layers
    operations = training_flops(
        model, speech, config.gradient_checkpointing, layerdrop, freezes_encoder, freezes_layers
    )
    return config.max_batch_seconds * config.micro_batches_per_update * operations / speech.seconds


def run_flops(
    config: TrainingConfig, model: Model, labelled: SpeechTotals, unlabelled: SpeechTotals, dev: SpeechTotals
) -> float:
    """Counts the operations of a run: updates, slimIPL's labels, evaluations."""

    def training(updates: float, speech: SpeechTotals, layerdrop: float) -> float:
        return updates * update_flops(config, model, speech, layerdrop)

    evaluations = math.ceil(config.max_updates / config.eval_every)
    operations = evaluations * forward_flops(model, dev)
    if not config.slimipl:
        return operations + training(config.max_updates, labelled, model.layerdrop)
    start = min(config.slimipl.start_update, config.max_updates)
    supervised, unsupervised, batches = slimipl_updates(config)
    dropped = model.layerdrop if config.slimipl.dynamic_dropout is None else config.slimipl.dynamic_dropout
    operations += training(start, labelled, model.layerdrop) + training(supervised - start, labelled, dropped)
    operations += training(unsupervised, unlabelled, dropped)
    label_seconds = batches * config.max_batch_seconds
    return operations + label_seconds * forward_flops(model, unlabelled) / unlabelled.seconds


def decoded_seconds(config: TrainingConfig, dev_seconds: float) -> float:
    """Returns the seconds of speech that a run decodes, padding and cached features included."""
    evaluated = math.ceil(config.max_updates / config.eval_every) * dev_seconds
    if not config.slimipl:
        return config.max_updates * config.micro_batches_per_update * config.max_batch_seconds + evaluated
    supervised, unsupervised, batches = slimipl_updates(config)
    batches += (supervised + unsupervised) * config.micro_batches_per_update
    return batches * config.max_batch_seconds + evaluated


def slimipl_updates(config: TrainingConfig) -> tuple[float, float, float]:
    """Returns mean numbers of updates on human labels, of updates on pseudo-labels, and of batches to label."""
    slimipl, micro_batches = config.slimipl, config.micro_batches_per_update
    start = min(slimipl.start_update, config.max_updates)
    ratio = slimipl.unsupervised_updates / (slimipl.supervised_updates + slimipl.unsupervised_updates)
    unsupervised = ratio * (config.max_updates - start)
    supervised = config.max_updates - unsupervised
    if slimipl.variant != "fixed-pre-cache":
        return supervised, unsupervised, unsupervised * micro_batches
    filling = min(unsupervised, slimipl.cache_size / micro_batches)
    trained = unsupervised - filling
    batches = micro_batches * (filling + slimipl.cache_update_probability * trained)
    return supervised, trained, batches
