"""Quantizes weights to 8 bits for inference on a CPU, which takes a third of the memory and less time."""

from __future__ import annotations

import ctypes
import sys

import torch
from torch import nn
from transformers import PreTrainedModel

SMALLEST = torch.finfo(torch.float32).tiny  # a scale, so that nothing is divided by zero


class Int8Linear(nn.Module):
    """Computes a linear map without bias, with a scale for each row of int8 weights and one for each frame of input.

    So a frame gets the same numbers in every batch. Products and sums are exact integers, computed by oneDNN.

    Args:
        linear: the layer that it replaces.
        levels: the largest number that an input is rounded to, see `input_levels`.
    """

    def __init__(self, linear: nn.Linear, levels: int):
        super().__init__()
        self.levels = levels
        scale = (linear.weight.detach().abs().amax(dim=1) / 127).clamp_(min=SMALLEST)
        weight = (linear.weight.detach() / scale[:, None]).round_().to(torch.int8)
        self.weight = torch.ops.onednn.qlinear_prepack(weight, None)  # in a layout of oneDNN's own
        self.scale = scale
        self.zero_point = torch.zeros(len(scale), dtype=torch.long)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:  # (..., in) -> (..., out), fp32
        scale = (inputs.abs().amax(dim=-1, keepdim=True) / self.levels).clamp_(min=SMALLEST)
        # Unsigned, which no processor has to shift first: the zero lies at levels + 1.
        rounded = (inputs / scale).round_().add_(self.levels + 1).to(torch.uint8)
        outputs = torch.ops.onednn.qlinear_pointwise(
            rounded,
            1.0,
            self.levels + 1,
            self.weight,
            self.scale,
            self.zero_point,
            None,  # bias
            1.0,
            0,
            torch.float32,  # of the output, which is not quantised
            "none",  # nothing is fused
            [],
            "",
        )
        return outputs.mul_(scale)

    def _save_to_state_dict(self, *arguments) -> None:
        raise ValueError(
            "an int8 model cannot be saved; save the model that it was made of, and quantize that when loaded"
        )


def input_levels() -> int:
    """Returns 127, or 63 where oneDNN's sums of products are not exact with 127: on processors without VNNI, where
    they are formed of pairs in 16 bits. The largest numbers show it."""
    largest = torch.full((16, 64), 255, dtype=torch.uint8)
    weight = torch.ops.onednn.qlinear_prepack(torch.full((16, 64), 127, dtype=torch.int8), None)
    ones, zeros = torch.ones(16), torch.zeros(16, dtype=torch.long)
    sums = torch.ops.onednn.qlinear_pointwise(
        largest, 1.0, 0, weight, ones, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return 127 if (sums == 64 * 255 * 127).all() else 63


@torch.no_grad()
def quantize(model: PreTrainedModel) -> PreTrainedModel:
    """Quantizes the layers of a model to 8 bits, in place, and returns it; for inference on this CPU.

    Tables of relative positions become float16; front end, layer norms and heads stay as they are. The model can
    neither be trained nor saved afterwards: quantize it each time it is loaded, which takes seconds.

    Args:
        model: an `MlplForCTC` or `MlplModel` in fp32 on a CPU.

    Raises:
        ValueError: for a model that is not fp32, not on a CPU, or quantized already, and where PyTorch has no oneDNN.
    """
    if not torch.backends.mkldnn.is_available():
        raise ValueError("int8 weights need a PyTorch with oneDNN, as on x86-64; use the model as it is here")
    if model.device.type != "cpu" or model.dtype != torch.float32:
        raise ValueError(
            f"the model is {model.dtype} on {model.device}; quantize takes torch.float32 on cpu, so load it with "
            "dtype=torch.float32 and move it nowhere"
        )
    layers = model.base_model.layers
    linears = [name for name, module in layers.named_modules() if isinstance(module, nn.Linear)]
    if not linears:
        raise ValueError("the layers have no weights to quantize; was the model quantized already?")
    levels = input_levels()
    for name in linears:
        layers.set_submodule(name, Int8Linear(layers.get_submodule(name), levels))
    for name, parameter in model.named_parameters():
        # A copy: as long as one parameter is in the file, all of it is in memory.
        is_table = name.endswith("position_table")
        parameter.data = parameter.data.half() if is_table else parameter.data.clone()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # glibc keeps 0.3 GB of holes
        libc.malloc_trim(0)
    return model.requires_grad_(False).eval()
