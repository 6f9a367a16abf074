"""Quantizes weights to 8 bits for inference on a CPU, in a third of the memory and less time."""

from __future__ import annotations

import ctypes
import sys

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

# Their attention reads the weights of its projections instead of calling them.
READ_BY_THEIR_PARENTS = ("WavLMAttention",)
MIN_SCALE = torch.finfo(torch.float32).tiny  # so that nothing is divided by zero


class Int8Linear(nn.Module):
    """Computes a linear map, with a scale for each row of int8 weights and one for each frame of input.

    So a frame gets the same numbers in every batch. Products and sums are exact integers, computed by oneDNN.

    Args:
        linear: the layer to replace.
        levels: the largest integer that inputs are rounded to, see `input_levels`.
    """

    def __init__(self, linear: nn.Linear, levels: int):
        super().__init__()
        self.levels = levels
        scale = (linear.weight.detach().abs().amax(dim=1) / 127).clamp_(min=MIN_SCALE)
        weight = (linear.weight.detach() / scale[:, None]).round_().to(torch.int8)
        self.weight = torch.ops.onednn.qlinear_prepack(weight, None)  # in oneDNN's own layout
        self.scale = scale
        self.zero_point = torch.zeros(len(scale), dtype=torch.long)
        self.bias = None if linear.bias is None else linear.bias.detach().clone()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:  # (..., in) -> (..., out), fp32
        scale = (inputs.abs().amax(dim=-1, keepdim=True) / self.levels).clamp_(min=MIN_SCALE)
        # Unsigned, because processors need not shift such inputs first: the zero lies at levels + 1.
        rounded = (inputs / scale).round_().add_(self.levels + 1).to(torch.uint8)
        outputs = _linear(rounded, self.levels + 1, self.weight, self.scale, self.zero_point)
        outputs = outputs.mul_(scale)
        return outputs if self.bias is None else outputs.add_(self.bias)

    def __getstate__(self) -> dict:
        # Tensors in oneDNN's own layout, which is transposed, can be neither copied nor pickled.
        return self.__dict__ | {"weight": self.weight.to_dense().T.contiguous()}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state | {"weight": torch.ops.onednn.qlinear_prepack(state["weight"], None)})

    def _save_to_state_dict(self, *arguments) -> None:
        raise ValueError(
            "an int8 model cannot be saved; save the model that it was made of, and quantize that when it is loaded"
        )


def _linear(
    inputs: torch.Tensor, zero: int, weight: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor
) -> torch.Tensor:
    """Multiplies unsigned inputs (..., in), whose zero is `zero`, by packed weights; returns fp32 (..., out)."""
    bias, input_scale, output_scale, output_zero, fused = None, 1.0, 1.0, 0, ("none", [], "")
    return torch.ops.onednn.qlinear_pointwise(
        inputs, input_scale, zero, weight, scales, zeros, bias, output_scale, output_zero, torch.float32, *fused
    )


def input_levels() -> int:
    """Returns 127, or 63 where oneDNN's sums of products are not exact with 127.

    Processors without VNNI add pairs of products in 16 bits. The largest numbers show whether these overflow.
    """
    largest = torch.full((16, 64), 255, dtype=torch.uint8)
    weight = torch.ops.onednn.qlinear_prepack(torch.full((16, 64), 127, dtype=torch.int8), None)
    sums = _linear(largest, 0, weight, torch.ones(16), torch.zeros(16, dtype=torch.long))
    return 127 if (sums == 64 * 255 * 127).all() else 63


@torch.no_grad()
def quantize(model: PreTrainedModel) -> PreTrainedModel:
    """Quantizes the layers of a model to 8 bits, in place, and returns it; for inference on this CPU.

    Tables of relative positions of `MlplForCTC` become float16; front end, layer norms and heads stay as they are. The
    model can neither be trained nor saved afterwards: quantize it each time it is loaded, which takes seconds.

    Args:
        model: in fp32 on a CPU.

    Raises:
        ValueError: for a model that is not fp32, not on a CPU, or quantized already, and where PyTorch has no oneDNN.
    """
    if not torch.backends.mkldnn.is_available():
        raise ValueError("int8 weights need a PyTorch with oneDNN, as on x86-64; use the model as it is here")
    if model.device.type != "cpu" or model.dtype != torch.float32:
        raise ValueError(
            f"the model is {model.dtype} on {model.device}; quantize takes torch.float32 on cpu, so load it with "
            "dtype=torch.float32 and leave it on the CPU"
        )
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, GradientCheckpointingLayer)]
    linears = {
        f"{name}.{part}.{child}".replace("..", ".")
        for name, layer in layers
        for part, parent in layer.named_modules()
        if type(parent).__name__ not in READ_BY_THEIR_PARENTS
        for child, module in parent.named_children()
        if isinstance(module, nn.Linear)
    }
    if not linears:
        raise ValueError("the layers have no weights to quantize; was the model quantized already?")
    levels = input_levels()
    for name in linears:
        model.set_submodule(name, Int8Linear(model.get_submodule(name), levels))
    for name, parameter in model.named_parameters():
        # A copy: while one parameter is a view of the file, all of the file stays in memory.
        is_table = name.endswith("position_table")
        parameter.data = parameter.data.half() if is_table else parameter.data.clone()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # else glibc keeps 0.3 GB
        libc.malloc_trim(0)
    return model.requires_grad_(False).eval()
