"""Shares between `hf-mlpl evaluate` and `hf-mlpl pseudo-label` the options of inference, and the start of a model."""

from __future__ import annotations

import argparse
import logging
from typing import TYPE_CHECKING

from ..inference.precision import add_dtype_argument, convert

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ..model.modeling_mlpl import MlplForCTC
    from ..model.processing_mlpl import MlplProcessor


def add_inference_arguments(parser: argparse.ArgumentParser) -> None:
    add_dtype_argument(parser)
    parser.add_argument(
        "--batch-seconds", type=float, help="seconds of audio in one forward pass; default: 200, on a CPU 50"
    )
    parser.add_argument("--num-workers", type=int, help="processes that decode audio; default: up to 8, on a CPU none")


def start_accelerator(dtype: str) -> Accelerator:
    """Returns the processes of `accelerate launch`, or this one, on a CPU where `dtype` or the machine needs it."""
    import torch
    from accelerate import Accelerator

    logging.basicConfig(format="%(message)s")
    return Accelerator(cpu=dtype == "int8" or not torch.accelerator.is_available())


def load_model(name: str, dtype: str, accelerator: Accelerator) -> tuple[MlplForCTC, MlplProcessor, str]:
    """Returns a model on this process's device in a dtype, its processor, and the revision of its stored weights."""
    from ..model.missing_model import check_model
    from ..model.modeling_mlpl import MlplForCTC
    from ..model.processing_mlpl import MlplProcessor, check_parts
    from ..sharing.model_card import teacher_revision

    check_model(name)
    processor = MlplProcessor.from_pretrained(name)
    model = MlplForCTC.from_pretrained(name)
    check_parts(model.config, processor.feature_extractor, processor.tokenizer)
    revision = teacher_revision(model, name)
    return convert(model.to(accelerator.device), dtype), processor, revision
