"""Shares between `hf-mlpl evaluate` and `hf-mlpl pseudo-label` the options of inference, and the start of a model."""

from __future__ import annotations

import argparse
import logging
from typing import TYPE_CHECKING

from ..inference.precision import add_dtype_argument, convert

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset

    from ..model.modeling_mlpl import MlplForCTC
    from ..model.processing_mlpl import MlplProcessor


def add_inference_arguments(parser: argparse.ArgumentParser) -> None:
    add_dtype_argument(parser)
    parser.add_argument(
        "--batch-seconds", type=float, help="seconds of audio in one forward pass; default: 200, on a CPU 50"
    )
    parser.add_argument("--num-workers", type=int, help="processes that decode audio; default: up to 8, on a CPU none")


def start_inference(options: argparse.Namespace) -> tuple[Accelerator, Dataset, MlplForCTC, MlplProcessor, str]:
    """Reads `--data` and loads `--model`, on a CPU if `--dtype` or the machine requires it.

    Returns the processes of `accelerate launch`, or this one; the utterances; the model, in `--dtype` and on this
    process's device; its processor; and the revision of its stored weights.
    """
    import torch
    from accelerate import Accelerator

    from ..data.utterances import read_utterances
    from ..model.missing_model import check_model
    from ..model.modeling_mlpl import MlplForCTC
    from ..model.processing_mlpl import MlplProcessor, check_parts
    from ..sharing.model_card import teacher_revision

    logging.basicConfig(format="%(message)s")
    accelerator = Accelerator(cpu=options.dtype == "int8" or not torch.accelerator.is_available())
    dataset = read_utterances(options.data, options.languages)
    check_model(options.model)
    processor = MlplProcessor.from_pretrained(options.model)
    model = MlplForCTC.from_pretrained(options.model)
    check_parts(model.config, processor.feature_extractor, processor.tokenizer)
    revision = teacher_revision(model, options.model)
    return accelerator, dataset, convert(model.to(accelerator.device), options.dtype), processor, revision
