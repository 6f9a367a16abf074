"""Converts models to the precision that the commands' option `--dtype` names."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DTYPES = ("float32", "bfloat16", "float16", "int8")


def convert(model: PreTrainedModel, dtype: str) -> PreTrainedModel:
    """Converts a model to one of `DTYPES`, in place and on its device, for inference alone, and returns it.

    Raises:
        ValueError: for int8, as `quantize` does.
    """
    import torch  # here: it takes seconds, and --help should not wait

    from .quantization import quantize

    return quantize(model) if dtype == "int8" else model.to(getattr(torch, dtype))


def dtype_of(model: PreTrainedModel) -> str:
    """Returns the name in `DTYPES` of a model's precision."""
    from .quantization import Int8Linear

    is_int8 = any(isinstance(module, Int8Linear) for module in model.modules())
    return "int8" if is_int8 else str(model.dtype).removeprefix("torch.")
