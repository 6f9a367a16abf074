"""What a model computes with for inference, as `--dtype` of the commands names it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DTYPES = ("float32", "bfloat16", "float16", "int8")


def add_dtype_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="what the model computes with: bfloat16 is several times as fast on a GPU, and on processors that have "
        "it; int8, weights of 8 bits, is for a CPU, and takes a third of the memory; default: float32, exact",
    )


def convert(model: PreTrainedModel, dtype: str) -> PreTrainedModel:
    """
    Makes a model compute with one of `DTYPES`, in place, and returns it, for inference where it is.

    Raises:
        ValueError: for int8, where `quantize` raises it.
    """
    import torch  # here, because it takes seconds, and --help need not wait

    from .quantization import quantize

    return quantize(model) if dtype == "int8" else model.to(getattr(torch, dtype))


def dtype_of(model: PreTrainedModel) -> str:
    """Which of `DTYPES` a model computes with."""
    from .quantization import Int8Linear

    is_int8 = any(isinstance(module, Int8Linear) for module in model.modules())
    return "int8" if is_int8 else str(model.dtype).removeprefix("torch.")
