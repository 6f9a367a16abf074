"""Implements "Pseudo-Labeling for Massively Multilingual Speech Recognition" (https://arxiv.org/abs/2111.00161).

It computes what the original program computes (wav2letter `recipes/mling_pl/mling_large.cpp` and flashlight's modules)
for single utterances; the original's results in a batch depend on padding, ours do not.

Shapes: B batch, T feature frames (10 ms), F mel bins, S output frames (30 ms), D hidden size, H heads, V classes.
"""

# Part of hf_mlpl, and copied into every saved model folder. To load such a folder, `import hf_mlpl` where hf_mlpl is
# installed; or pass `trust_remote_code=True`, with which transformers runs the copies.

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CompileConfig, GenerationConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import ModelOutput, can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from .configuration_mlpl import MlplConfig
from .ctc_loss import ctc_loss
from .model_files import HUB_ARGUMENTS, check_shapes, find_weights, read_header

HEADS = ("ctc_head.", "lid_head.")  # prefixes of parameter names that the model without heads lacks

NEW_HEAD = (
    ". For other tokens, load the model with its own vocab_size and call resize_ctc_head, which keeps the rows of "
    "known tokens, or pass ignore_mismatched_sizes=True to train a new head"
)

# Computed together on a CPU: 31 s, enough for fast products. With more, each layer waits for memory from the system.
PACKED_FRAMES = 1024


@dataclass
class MlplCTCOutput(ModelOutput):
    """Holds the results of [`MlplForCTC`].

    Args:
        loss: scalar, when `labels` or `language_ids` are given; fp32.
        logits: (B, S, V), raw scores of the CTC classes; the blank is certain on padded frames.
        language_log_probs: (B, number of languages), fp32 log-probabilities in the order of `config.languages`;
            None for a model without languages.
        hidden_states, attentions: per layer, on request.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    language_log_probs: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class MlplGenerateOutput(ModelOutput):
    """Holds the results of `MlplForCTC.generate` with `return_dict_in_generate=True`.

    Args:
        sequences: (B, S), the likeliest class of each frame; the blank on padded frames.
        logits, language_log_probs, hidden_states, attentions: as in [`MlplCTCOutput`].
    """

    sequences: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    language_log_probs: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class MlplLayerNorm(nn.Module):
    """Normalises each frame over its D features, then applies ONE weight and ONE bias, as flashlight's
    `LayerNorm({0, 3})` does, or one for each feature with `layer_norm_per_channel`."""

    def __init__(self, config: MlplConfig):
        super().__init__()
        self.normalized_shape = (config.hidden_size,)
        self.eps = config.layer_norm_eps
        self.weight = nn.Parameter(torch.ones(config.hidden_size if config.layer_norm_per_channel else 1))
        self.bias = nn.Parameter(torch.zeros_like(self.weight))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:  # (B, S, D) -> (B, S, D)
        weight, bias = self.weight.expand(self.normalized_shape), self.bias.expand(self.normalized_shape)
        return F.layer_norm(hidden_states, self.normalized_shape, weight, bias, self.eps)


class MlplUtteranceNorm(nn.Module):
    """Normalises the whole T x F block of an utterance, with one scalar weight and bias: flashlight's first LayerNorm.

    The original includes padding in the mean and variance of a batch; here only valid frames count, and padded ones
    become zero, so that the convolution has the same input as at the end of a single utterance.
    """

    def __init__(self, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, input_features: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        """Normalises (B, T, F) with a (B, T) boolean mask -> (B, T, F) in fp32."""
        mask = frame_mask[:, :, None]
        features = input_features.float().masked_fill(~mask, 0.0)
        count = (frame_mask.sum(dim=1) * features.shape[2]).clamp(min=1)[:, None, None]
        centered = (features - features.sum(dim=(1, 2), keepdim=True) / count).masked_fill(~mask, 0.0)
        variance = centered.square().sum(dim=(1, 2), keepdim=True) / count
        normalized = centered * torch.rsqrt(variance + self.eps) * self.weight + self.bias
        return normalized.masked_fill(~mask, 0.0)


class MlplFrontEnd(nn.Module):
    """Applies utterance norm, convolution with stride 3 and GLU: (B, T, F) -> (B, S, D), S = ceil(T / 3)."""

    def __init__(self, config: MlplConfig):
        super().__init__()
        self.stride = config.conv_stride
        self.layer_norm = MlplUtteranceNorm(config.layer_norm_eps)
        self.conv = nn.Conv1d(
            config.num_mel_bins, 2 * config.hidden_size, kernel_size=config.conv_kernel, stride=config.conv_stride
        )
        self.dropout = nn.Dropout(config.conv_dropout)

    def forward(self, input_features: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        features = self.layer_norm(input_features, frame_mask).to(self.conv.weight.dtype)
        # flashlight's SAME padding depends on the utterance's own length: two zeros on each side when T is a multiple
        # of 3, else three. All rows get three in front; rows that need two start one frame later.
        padded = F.pad(features, (0, 0, 3, 4))
        two_zeros = (frame_mask.sum(dim=1) % self.stride == 0)[:, None, None]
        padded = torch.where(two_zeros, padded[:, 1:], padded[:, :-1])
        return self.dropout(F.glu(self._convolve(padded.transpose(1, 2)), dim=1)).transpose(1, 2)

    def _convolve(self, padded: torch.Tensor) -> torch.Tensor:  # (B, F, T + 6) -> (B, 2D, S)
        if torch.compiler.is_dynamo_compiling() and torch.is_grad_enabled():
            # Equal, but a product: inductor compiles the backward of a convolution for one length only (PyTorch 2.13).
            windows = padded.unfold(2, self.conv.kernel_size[0], self.stride).transpose(1, 2).flatten(2)  # (B, S, 7 F)
            return F.linear(windows, self.conv.weight.flatten(1), self.conv.bias).transpose(1, 2)
        return self.conv(padded)


def eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """Computes softmax(query key' * scaling + attention_mask) value, and returns the probabilities as well."""
    scores = attention_mask.add(torch.matmul(query, key.transpose(2, 3)), alpha=scaling)
    dtype = torch.promote_types(query.dtype, torch.float32)
    probabilities = F.softmax(scores, dim=-1, dtype=dtype).to(query.dtype)
    probabilities = F.dropout(probabilities, p=dropout, training=module.training)
    return torch.matmul(probabilities, value).transpose(1, 2), probabilities


class MlplAttention(nn.Module):
    """Computes self-attention with a table of relative positions that all heads share; no biases.

    `score(i, j) = q_i . k_j + q_i . table[P - 1 + j - i]`, where P is `max_position_embeddings`, q is already divided
    by sqrt(head dimension), and the second term is zero for |j - i| >= P (flashlight `Transformer.cpp`).
    """

    def __init__(self, config: MlplConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.attention_head_dim
        self.is_causal = False
        self.attention_dropout = config.attention_dropout
        width = config.num_attention_heads * config.attention_head_dim
        self.q_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.o_proj = nn.Linear(width, config.hidden_size, bias=False)
        self.position_table = nn.Parameter(torch.empty(2 * config.max_position_embeddings - 1, self.head_dim))

    def position_scores(self, query: torch.Tensor) -> torch.Tensor:
        """Scores positions for scaled queries (B, H, S, head dimension) -> (B, H, S, S), a view of a product."""
        length = query.shape[2]
        reach = self.config.max_position_embeddings
        # Rows for the distances -(S - 1) ... S, zero beyond the table. The distance S is never read; with it, reading
        # rows of 2 S numbers as rows of 2 S - 1 shifts row i to the left by i, so that column j has distance j - i.
        # (With slices and padding, torch.compile would make two graphs, for lengths below and above the reach.)
        distances = torch.arange(1 - length, length + 1, device=query.device)
        rows = (distances + reach - 1).clamp(0, 2 * reach - 2)
        table = self.position_table[rows].to(query.dtype)  # (2 S, head dimension); it may be stored in another dtype
        table = table.masked_fill((distances.abs() >= reach)[:, None], 0.0)
        scores = torch.matmul(query, table.T).flatten(2)  # (B, H, S * 2 S)
        scores = scores[..., length - 1 : length - 1 + length * (2 * length - 1)]
        return scores.unflatten(2, (length, 2 * length - 1))[..., :length]

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        lengths: list[int] | None = None,
        **kwargs,
    ):
        """Attends: (B, S, D) and a (B, S) boolean mask -> (B, S, D) and, from the eager implementation, probabilities.

        With `lengths` the input is (1, sum of lengths, D): concatenated utterances, each of which attends to itself.
        """
        heads = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = self.q_proj(hidden_states).view(heads).transpose(1, 2) * self.head_dim**-0.5
        key = self.k_proj(hidden_states).view(heads).transpose(1, 2)
        value = self.v_proj(hidden_states).view(heads).transpose(1, 2)
        if lengths is None:
            output, probabilities = self._attend(query, key, value, attention_mask, **kwargs)
        else:
            utterances = zip(*(tensor.split(lengths, dim=2) for tensor in (query, key, value)), strict=True)
            output = torch.cat([self._attend(q, k, v, None, **kwargs)[0] for q, k, v in utterances], dim=1)
            probabilities = None
        return self.o_proj(output.flatten(2)), probabilities

    def _attend(self, query, key, value, attention_mask, **kwargs):
        """Attends: 3 x (B, H, S, head dimension), (B, S) mask or None -> (B, S, H, head dimension), probabilities."""
        bias = self.position_scores(query)
        if attention_mask is not None:
            # Half of the least number, because in float16 adding a score to it could give -inf, and so NaN rows.
            bias = bias.masked_fill(~attention_mask[:, None, None, :], torch.finfo(query.dtype).min / 2)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self._implementation(bias, **kwargs), eager_attention_forward)
        return attend(
            self,
            query,
            key,
            value,
            attention_mask=bias,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=1.0,  # the query is scaled already, because the position scores need the scaled one too
            **kwargs,
        )

    def _implementation(self, bias: torch.Tensor, output_attentions: bool | None = None, **kwargs) -> str:
        """Chooses eager attention for gradients on a CPU, for which PyTorch's sdpa has no fast kernel with a bias."""
        name = self.config._attn_implementation
        is_slow = name == "sdpa" and bias.requires_grad and bias.device.type == "cpu"
        return "eager" if is_slow and not output_attentions else name  # sdpa warns that it gives no attentions


class _WithoutGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        ctx.num_parameters = len(parameters)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        return gradient, *[None] * ctx.num_parameters


def with_unused(tensor: torch.Tensor, *modules: nn.Module) -> torch.Tensor:
    """Returns the tensor, and adds parameters that it does not depend on to its graph, without a gradient.

    DistributedDataParallel fails if a parameter is not in the graph of the loss; with this it gives zeros. Without it,
    nothing changes: the gradients of such parameters stay None. (Compiled graphs give zeros anyway.)
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return tensor
    return _WithoutGradient.apply(tensor, *(p for module in modules for p in module.parameters() if p.requires_grad))


class MlplLayer(GradientCheckpointingLayer):
    """Applies a post-norm layer: `h = LN1(f attn(x) + x); LN2(f mlp(h) + h)`, f = 0 with probability `layerdrop`.

    A dropped layer is therefore `LN2(LN1(x))`, not the identity. The draw is one for the whole batch.
    """

    def __init__(self, config: MlplConfig):
        super().__init__()
        self.layerdrop = config.layerdrop
        self.attention = MlplAttention(config)
        self.attention_layer_norm = MlplLayerNorm(config)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.activation_dropout = nn.Dropout(config.activation_dropout)
        self.output_layer_norm = MlplLayerNorm(config)

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, **kwargs) -> torch.Tensor:
        """Maps (B, S, D) to (B, S, D), with the arguments of [`MlplAttention`]."""
        if not self.training or self.layerdrop == 0:
            return self._kept(hidden_states, attention_mask, **kwargs)
        if torch.compiler.is_compiling():  # a graph has no branches, so it computes both results
            is_kept = torch.rand((), device=hidden_states.device) >= self.layerdrop
            kept = self._kept(hidden_states, attention_mask, **kwargs)
            return torch.where(is_kept, kept, self._dropped(hidden_states))
        if torch.rand(()) >= self.layerdrop:
            return self._kept(hidden_states, attention_mask, **kwargs)
        return self._dropped(hidden_states)

    def _kept(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, **kwargs) -> torch.Tensor:
        attended, _ = self.attention(hidden_states, attention_mask, **kwargs)
        hidden_states = self.attention_layer_norm(attended + hidden_states)
        # In place, because it is the largest tensor of a layer, but not where up_proj may be a quantised layer whose
        # output autograd protects. Autograd keeps only one of the two tensors in any case.
        activations = F.relu(self.up_proj(hidden_states), inplace=not torch.is_grad_enabled())
        transformed = self.down_proj(self.activation_dropout(activations))
        return self.output_layer_norm(transformed + hidden_states)

    def _dropped(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.output_layer_norm(self.attention_layer_norm(hidden_states))
        return with_unused(hidden_states, self.attention, self.up_proj, self.down_proj)


class MlplPreTrainedModel(PreTrainedModel):
    """Loads, saves and initialises both models."""

    config_class = MlplConfig
    config: MlplConfig
    base_model_prefix = "model"
    main_input_name = "input_features"
    input_modalities = "audio"
    supports_gradient_checkpointing = True
    _input_embed_layer = "front_end"  # what `get_input_embeddings` returns, for those who train or quantise the rest
    _no_split_modules = ["MlplLayer"]
    _supports_sdpa = True
    _can_record_outputs = {"hidden_states": MlplLayer, "attentions": MlplAttention}

    def __init__(self, config: MlplConfig):
        super().__init__(config)
        config.validate_mlpl()  # its fields may have changed since it was made

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike | None, *args, **kwargs):
        """Loads a model as every class of transformers does, but first compares weights with config.json.

        Headers of weight files must list exactly the tensors of the model, before memory is allocated for them. Only
        heads may be new, with transformers' warning, if the folder holds a model without heads.

        Args:
            ignore_mismatched_sizes: `True` initialises tensors that are missing or of another shape.
            kwargs: also settings of [`MlplConfig`]. Dropout and masking that other models have, such as
                `feat_proj_dropout`, may be 0.

        Raises:
            TypeError: for settings of other models.
            ValueError: for settings that are not accepted; for weights that are damaged or another model's.
            OSError: for a missing file.
        """
        others = {name for name in kwargs if name.endswith(("_dropout", "_prob"))} - {*MlplConfig.__dataclass_fields__}
        kwargs = {name: value for name, value in kwargs.items() if name not in others or value != 0}
        if pretrained_model_name_or_path is not None and not kwargs.get("ignore_mismatched_sizes"):
            cls._check_weights(pretrained_model_name_or_path, **kwargs)
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except TypeError as error:
            name = str(error).partition("__init__() got an unexpected keyword argument ")[2]
            if not name:
                raise
            raise TypeError(
                f"{name} is no setting of this model, which has those of MlplConfig; leave it out"
            ) from error

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs):
        """Saves a model as all of transformers do, with the code of AutoModel, AutoModelForCTC and AutoProcessor.

        AutoProcessor reads config.json where nobody has saved a processor; `Pipeline.save_pretrained` saves none.
        """
        from .processing_mlpl import MlplProcessor  # transformers copies the files of such statements

        classes = (MlplModel, MlplForCTC, MlplProcessor)
        auto_map = {kind._auto_class: f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}" for kind in classes}
        self.config.auto_map = (getattr(self.config, "auto_map", None) or {}) | auto_map
        super().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def _check_weights(cls, name_or_path, *, config=None, use_safetensors=None, variant=None, **kwargs) -> None:
        files = None if use_safetensors is False else find_weights(name_or_path, variant, kwargs)
        if files is None:
            return  # transformers looks for other formats, or raises
        if not isinstance(config, PreTrainedConfig):
            overrides = {field.name for field in fields(MlplConfig)} - {"dtype"}
            overrides = {name: value for name, value in kwargs.items() if name in overrides | set(HUB_ARGUMENTS)}
            config = cls.config_class.from_pretrained(config or name_or_path, **overrides)
        if getattr(config, "quantization_config", None) is not None:
            return  # the file holds a quantizer's tensors, which only that knows
        with torch.device("meta"):
            model = cls(config)
        expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        found = {name: shape for file in files for name, shape in read_header(file).items()}
        prefix = f"{cls.base_model_prefix}."
        if cls is MlplModel:
            found = {name.removeprefix(prefix): shape for name, shape in found.items()}
        elif not any(name.startswith(prefix) for name in found):
            found = {prefix + name: shape for name, shape in found.items()}
        has_no_heads = cls is MlplModel or (config.architectures or []) == [MlplModel.__name__]
        check_shapes(files[0], found, expected, HEADS if has_no_heads else (), NEW_HEAD)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialises weights as flashlight does (`Linear.cpp`, `Conv2D.cpp`, `Init.cpp`, `Transformer.cpp`)."""
        if isinstance(module, nn.Linear | nn.Conv1d):
            fan_in = module.weight[0].numel()
            # Linear maps inside the layers, which have no bias, start smaller than heads and convolution.
            bound = math.sqrt((1.0 if module.bias is None else 3.0) / fan_in)
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.uniform_(module.bias, -math.sqrt(1.0 / fan_in), math.sqrt(1.0 / fan_in))
        elif isinstance(module, MlplAttention):
            init.uniform_(module.position_table, -0.1, 0.1)
        elif isinstance(module, MlplLayerNorm | MlplUtteranceNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)

    def resize_token_embeddings(self, *args, **kwargs):
        """Refuses, because the input is audio; raises `NotImplementedError`."""
        raise NotImplementedError(
            "the input is audio, which has no token embeddings; MlplForCTC.resize_ctc_head changes the output's tokens"
        )

    def _frame_mask(self, input_features: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Returns the (B, T) boolean mask of valid feature frames, by default all."""
        if input_features.dim() != 3 or input_features.shape[2] != self.config.num_mel_bins:
            raise ValueError(
                f"input_features have shape {tuple(input_features.shape)}; expected (batch, frames, "
                f"{self.config.num_mel_bins}), as from MlplFeatureExtractor"
            )
        if attention_mask is None:
            return input_features.new_ones(input_features.shape[:2], dtype=torch.bool)
        if attention_mask.shape != input_features.shape[:2]:
            raise ValueError(
                f"attention_mask has shape {tuple(attention_mask.shape)}; expected the (batch, frames) of "
                f"input_features, {tuple(input_features.shape[:2])}"
            )
        return attention_mask.bool()

    def _output_mask(self, frame_mask: torch.Tensor, length: int) -> torch.Tensor:
        """Subsamples a (B, T) mask of feature frames to (B, S) output frames, exactly for each utterance."""
        num_output_frames = self.config.num_output_frames(frame_mask.sum(dim=1))
        return torch.arange(length, device=frame_mask.device) < num_output_frames[:, None]

    def _leaves_out_padding(self, output_mask: torch.Tensor) -> bool:
        """Decides to compute products of valid frames only, because on a CPU each frame costs time.

        Not with gradients or in a compiled graph, whose shapes must not depend on the data.
        """
        is_eager = not (torch.is_grad_enabled() or torch.compiler.is_compiling())
        return is_eager and output_mask.device.type == "cpu"


def _groups(lengths: list[int]) -> Iterator[list[tuple[int, int]]]:
    """Groups rows and lengths of utterances with frames: up to `PACKED_FRAMES`, or one longer utterance."""
    group: list[tuple[int, int]] = []
    for row, length in enumerate(lengths):
        if group and sum(length for _, length in group) + length > PACKED_FRAMES:
            yield group
            group = []
        if length > 0:
            group.append((row, length))
    if group:
        yield group


class MlplModel(MlplPreTrainedModel):
    """Encodes features with front end and layers, without heads."""

    _auto_class = "AutoModel"  # saving also writes this code, for trust_remote_code

    def __init__(self, config: MlplConfig):
        super().__init__(config)
        self.front_end = MlplFrontEnd(config)
        self.layers = nn.ModuleList(MlplLayer(config) for _ in range(config.num_hidden_layers))
        self.post_init()

    def freeze_feature_encoder(self) -> None:
        """Freezes normalisation and convolution."""
        self.front_end.requires_grad_(False)

    @capture_outputs
    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> BaseModelOutput:
        """Encodes features.

        Args:
            input_features: (B, T, F), normalised log-mel features.
            attention_mask: (B, T), 1 for valid and 0 for padded frames; padding is on the right.
            output_hidden_states, output_attentions: request the output of each layer and, from the eager
                implementation, its attention probabilities; by keyword.

        Returns:
            `last_hidden_state` (B, S, D), S = ceil(T / 3), without meaning on padded frames.
        """
        frame_mask = self._frame_mask(input_features, attention_mask)
        hidden_states = self.front_end(input_features, frame_mask)
        output_mask = self._output_mask(frame_mask, hidden_states.shape[1])
        requests = (output_hidden_states, output_attentions)  # of outputs for the padded batch
        requests += (self.config.output_hidden_states, self.config.output_attentions)
        if not any(requests) and self._leaves_out_padding(output_mask):
            # Layers that were compiled one by one would be compiled again for each list of lengths.
            if all(layer._compiled_call_impl is None for layer in self.layers):
                return BaseModelOutput(last_hidden_state=self._encode_valid_frames(hidden_states, output_mask))
        for layer in self.layers:  # sdpa warns about output_attentions, which it does not give
            hidden_states = layer(hidden_states, output_mask, output_attentions=output_attentions)
        return BaseModelOutput(last_hidden_state=hidden_states)

    def _encode_valid_frames(self, hidden_states: torch.Tensor, output_mask: torch.Tensor) -> torch.Tensor:
        """Applies the layers without padding, which becomes zeros: (B, S, D) and (B, S) -> (B, S, D)."""
        encoded = torch.zeros_like(hidden_states)
        for group in _groups(output_mask.sum(dim=1).tolist()):
            lengths = [length for _, length in group]
            frames = torch.cat([hidden_states[row, :length] for row, length in group])[None]  # (1, sum of lengths, D)
            for layer in self.layers:
                frames = layer(frames, None, lengths=lengths)
            for (row, length), encoded_frames in zip(group, frames[0].split(lengths), strict=True):
                encoded[row, :length] = encoded_frames
        return encoded


class MlplForCTC(MlplPreTrainedModel):
    """Adds a CTC head to the encoder and, where the configuration names languages, a language-ID head."""

    _auto_class = "AutoModelForCTC"  # saving also writes this code, for trust_remote_code
    # transformers' Trainer must divide the loss by its accumulation steps: `num_items_in_batch` is not supported.
    accepts_loss_kwargs = False
    generation_config = None  # CTC has no settings of generation

    def __init__(self, config: MlplConfig):
        super().__init__(config)
        self.model = MlplModel(config)
        self.ctc_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.lid_head = nn.Linear(config.hidden_size, len(config.languages)) if config.languages else None
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        language_ids: torch.Tensor | None = None,
        num_utterances: int | torch.Tensor | None = None,
        **kwargs,
    ) -> MlplCTCOutput:
        """Scores graphemes per output frame and languages per utterance.

        Args:
            input_features: (B, T, F), normalised log-mel features.
            attention_mask: (B, T), 1 for valid and 0 for padded frames; padding is on the right.
            labels: (B, L), class numbers below the blank, padded with -100; gives the CTC loss.
            language_ids: (B,), indices into `config.languages`, -100 where unknown; gives the language-ID loss.
            num_utterances: the divisor of the reductions `mean` and `target_sqrt`, by default B. For an update with
                several micro-batches pass the utterances of all, so that the losses add up.
            kwargs: `output_hidden_states`, `output_attentions` and `return_dict`, as in [`MlplModel`].

        Raises:
            ValueError: for a label that is the blank or beyond it, or language ids for a model without languages.
        """
        frame_mask = self.model._frame_mask(input_features, attention_mask)
        outputs = self.model(input_features, attention_mask=attention_mask, return_dict=True, **kwargs)
        hidden_states = outputs.last_hidden_state
        output_mask = self._output_mask(frame_mask, hidden_states.shape[1])

        logits = self._ctc_logits(hidden_states, output_mask)
        language_log_probs = None
        if self.lid_head is not None:
            # The head is linear, so the mean of its logits over time is the head of the mean frame.
            weights = output_mask[:, :, None] / output_mask.sum(dim=1).clamp(min=1)[:, None, None]
            mean_frame = (hidden_states.float() * weights).sum(dim=1)
            language_log_probs = F.log_softmax(self.lid_head(mean_frame.to(hidden_states.dtype)).float(), dim=-1)
            # A loss may depend on one head alone.
            logits = with_unused(logits, self.lid_head)
            language_log_probs = with_unused(language_log_probs, self.ctc_head)

        loss = None
        if labels is not None or language_ids is not None:
            loss = self._loss(logits, output_mask, language_log_probs, labels, language_ids, num_utterances)
        # Callers that take the argmax of a batch, such as the pipeline, must not transcribe padding. This comes after
        # the loss, which does not read padding, and in place, because logits are the largest tensor; with gradients in
        # a copy, because FSDP's hook on a model's output does not support changes in place.
        if torch.is_grad_enabled():
            logits = logits.clone()
        logits.masked_fill_(~output_mask[:, :, None], torch.finfo(logits.dtype).min)
        logits[:, :, -1].masked_fill_(~output_mask, 0.0)  # the blank
        return MlplCTCOutput(
            loss=loss,
            logits=logits,
            language_log_probs=language_log_probs,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _ctc_logits(self, hidden_states: torch.Tensor, output_mask: torch.Tensor) -> torch.Tensor:
        """Maps (B, S, D) and (B, S) to logits (B, S, V), which have no meaning on padded frames."""
        if not self._leaves_out_padding(output_mask):
            return self.ctc_head(hidden_states)
        # The first frame's logits show the dtype, which autocast may change.
        logits = self.ctc_head(hidden_states[:1, :1]).new_empty(*output_mask.shape, self.config.vocab_size)
        for row, length in enumerate(output_mask.sum(dim=1).tolist()):
            logits[row, :length] = self.ctc_head(hidden_states[row, :length])
        return logits

    def _loss(self, logits, output_mask, language_log_probs, labels, language_ids, num_utterances) -> torch.Tensor:
        """Returns CTC loss + `lid_loss_weight` x language-ID loss, in fp32, over one normaliser."""
        if not torch.compiler.is_compiling():
            self.config.validate_mlpl()  # a model whose configuration became wrong could not be saved after training
        if not isinstance(num_utterances, torch.Tensor):  # a tensor's truth value would break a compiled graph
            num_utterances = num_utterances or logits.shape[0]
        normalizer = 1 if self.config.ctc_loss_reduction == "sum" else num_utterances
        loss = logits.new_zeros((), dtype=torch.float32)
        if labels is not None:
            loss = loss + self.ctc_losses(logits, output_mask.sum(dim=1), labels).sum() / normalizer
        if language_ids is not None:
            if language_log_probs is None:
                raise ValueError("language_ids were given, but this model has no languages: config.languages is empty")
            lid_loss = F.nll_loss(language_log_probs, language_ids, reduction="sum")  # skips -100
            loss = loss + self.config.lid_loss_weight * lid_loss / normalizer
        return loss

    def ctc_losses(self, logits: torch.Tensor, num_frames: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Computes the CTC loss of each utterance, (B,), scaled by its label length as `ctc_loss_reduction` says.

        Args:
            logits: (B, S, V).
            num_frames: (B,), valid output frames.
            labels: (B, L), padded with -100.
        """
        # Not in a compiled graph, which cannot raise.
        if not torch.compiler.is_compiling() and labels.numel() and labels.max() >= self.config.blank_token_id:
            raise ValueError(
                f"labels contain class {int(labels.max())}; labels are below the blank, {self.config.blank_token_id}. "
                "Was the tokenizer made for another model?"
            )
        valid = labels >= 0
        lengths = valid.sum(dim=1)
        labels = labels.gather(1, valid.int().argsort(dim=1, descending=True, stable=True))  # -100 last, never read
        log_probs = F.log_softmax(logits, dim=-1, dtype=torch.float32)
        with torch.autocast(logits.device.type, enabled=False):
            blank, zero_infinity = self.config.blank_token_id, self.config.ctc_zero_infinity
            losses = ctc_loss(log_probs, labels.clamp(min=0), num_frames, lengths, blank, zero_infinity)
        if self.config.ctc_loss_reduction == "sum":
            return losses
        scale = lengths.clamp(min=1)
        return losses / (scale.sqrt() if self.config.ctc_loss_reduction == "target_sqrt" else scale)

    @classmethod
    def can_generate(cls) -> bool:
        """Returns False, because `generate` has no settings, although trust_remote_code adds `GenerationMixin`."""
        return False

    @torch.no_grad()
    def generate(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        return_dict_in_generate: bool = False,
        compile_config: CompileConfig | None = None,
        **kwargs,
    ) -> MlplGenerateOutput | torch.Tensor:
        """Decodes greedily, as `ParakeetForCTC` does; `processor.batch_decode` turns the result into transcripts.

        Args:
            input_features: (B, T, F), normalised log-mel features.
            attention_mask: (B, T), 1 for valid and 0 for padded frames.
            return_dict_in_generate: returns [`MlplGenerateOutput`].
            compile_config: calls the model through `torch.compile` with these settings.
            kwargs: of `forward`. Those of `GenerationConfig`, such as `num_beams`, have no effect, as for
                `ParakeetForCTC`.

        Returns:
            (B, S), the likeliest class of each frame, not yet collapsed; the blank on padded frames.
        """
        settings = {"generation_config", *vars(GenerationConfig())} - {"output_attentions", "output_hidden_states"}
        kwargs = {name: value for name, value in kwargs.items() if name not in settings}
        call = self if compile_config is None else self.get_compiled_call(compile_config)
        output = call(input_features, attention_mask=attention_mask, **kwargs | {"return_dict": True})
        sequences = output.logits.argmax(dim=-1)
        if not return_dict_in_generate:
            return sequences
        results = {name: value for name, value in output.items() if name != "loss"}
        return MlplGenerateOutput(sequences=sequences, **results)

    @torch.no_grad()
    def identify_language(
        self, input_features: torch.Tensor, attention_mask: torch.Tensor | None = None, top_k: int = 1
    ) -> list[dict[str, float]]:
        """Returns the `top_k` likeliest languages of each utterance with their probabilities, likeliest first.

        Args:
            input_features: (B, T, F), normalised log-mel features.
            attention_mask: (B, T), 1 for valid and 0 for padded frames.
            top_k: at least 1; a model with fewer languages returns all.

        Raises:
            ValueError: for a model without languages.
        """
        if self.lid_head is None:
            raise ValueError(
                "this model has no languages: config.languages is empty; add some with resize_lid_head, and train "
                "with language_ids"
            )
        if top_k < 1:
            raise ValueError(f"top_k is {top_k}; it must be at least 1")
        languages = self.config.languages
        log_probs = self(input_features, attention_mask=attention_mask, return_dict=True).language_log_probs
        best = log_probs.exp().topk(min(top_k, len(languages)))
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [{languages[i]: probability for i, probability in zip(*row, strict=True)} for row in rows]

    def get_output_embeddings(self) -> nn.Module:
        """Returns the CTC head, which quantisers then leave as it is, and adapters save if it has been resized."""
        return self.ctc_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replaces the CTC head."""
        self.ctc_head = new_embeddings

    def freeze_feature_encoder(self) -> None:
        """Freezes normalisation and convolution."""
        self.model.freeze_feature_encoder()

    def freeze_base_model(self) -> None:
        """Freezes all but the heads."""
        self.model.requires_grad_(False)

    def resize_ctc_head(
        self, old_tokenizer: PreTrainedTokenizerBase, new_tokenizer: PreTrainedTokenizerBase
    ) -> dict[int, int]:
        """Resizes the CTC head to the classes of `new_tokenizer`; known tokens and the blank keep their rows.

        A class with several tokens keeps the row of the first one that `old_tokenizer` has. Classes without a known
        token start as in a new model.

        Returns:
            The rows that were kept: number in the new head -> number in the old one.

        Raises:
            ValueError: if `old_tokenizer` has another number of classes than the head, or a tokenizer's padding is
                not its last class, the blank.
        """
        old_vocab, new_vocab = old_tokenizer.get_vocab(), new_tokenizer.get_vocab()
        old_blank, new_blank = max(old_vocab.values()), max(new_vocab.values())
        if old_blank != self.config.blank_token_id:
            raise ValueError(
                f"old_tokenizer has {old_blank + 1} classes, the CTC head {self.config.vocab_size}; pass the "
                "tokenizer that the model was trained with"
            )
        for tokenizer, blank in ((old_tokenizer, old_blank), (new_tokenizer, new_blank)):
            if tokenizer.pad_token_id != blank:
                raise ValueError(
                    f"padding is class {tokenizer.pad_token_id} of a {type(tokenizer).__name__}; it must be the "
                    f"blank, the last class, {blank}, as in an MlplTokenizer"
                )
        kept = {}
        for token, row in new_vocab.items():
            if token in old_vocab:
                kept.setdefault(row, old_vocab[token])
        kept[new_blank] = old_blank
        self.ctc_head = self._resized(self.ctc_head, new_blank + 1, kept)
        self.config.vocab_size = new_blank + 1  # and so the blank
        return kept

    def resize_lid_head(self, languages: Sequence[str]) -> dict[int, int]:
        """Resizes the language-ID head to these languages, in this order; languages of the model keep their rows.

        Other languages start as in a new model. Without languages the head is removed.

        Returns:
            The rows that were kept: number in the new head -> number in the old one.

        Raises:
            ValueError: for a repeated language.
        """
        if len(set(languages)) < len(languages):
            raise ValueError(f"languages must be distinct, but are {', '.join(languages)}")
        old_rows = {name: row for row, name in enumerate(self.config.languages)}
        kept = {row: old_rows[name] for row, name in enumerate(languages) if name in old_rows}
        self.lid_head = self._resized(self.lid_head, len(languages), kept) if languages else None
        self.config.languages = list(languages)
        return kept

    @torch.no_grad()
    def _resized(self, head: nn.Linear | None, size: int, kept: dict[int, int]) -> nn.Linear:
        """Makes a head of `size` rows, in which row i is row `kept[i]` of `head`."""
        like = self.ctc_head.weight
        new_head = nn.Linear(like.shape[1], size, device=like.device, dtype=like.dtype).train(self.training)
        self._init_weights(new_head)  # the mean of the old rows would make new ones alike, and learning slower
        new_rows, old_rows = list(kept), list(kept.values())
        if kept:
            new_head.weight[new_rows] = head.weight[old_rows]
            new_head.bias[new_rows] = head.bias[old_rows]
        return new_head


__all__ = ["MlplCTCOutput", "MlplForCTC", "MlplGenerateOutput", "MlplModel", "MlplPreTrainedModel"]
