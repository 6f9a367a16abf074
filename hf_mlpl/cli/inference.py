"""Shares between commands the options of inference, and the start of a model."""

from __future__ import annotations

import argparse
import logging
from typing import TYPE_CHECKING

from ..inference.precision import DTYPES, convert

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset
    from transformers import AutomaticSpeechRecognitionPipeline

    from ..model.modeling_mlpl import MlplForCTC
    from ..model.processing_mlpl import MlplProcessor


def add_dtype_argument(parser: argparse.ArgumentParser) -> None:
    """Adds the option `--dtype` to a command."""
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="precision of the model: bfloat16 is several times as fast on a GPU, and on processors that support it; "
        "int8, 8-bit weights, is for a CPU, and takes a third of the memory; default: float32, exact",
    )


def add_batch_seconds_argument(parser: argparse.ArgumentParser) -> None:
    """Adds the option `--batch-seconds` to a command."""
    parser.add_argument(
        "--batch-seconds", type=float, help="seconds of audio in one forward pass; default: 200, on a CPU 50"
    )


def add_inference_arguments(parser: argparse.ArgumentParser) -> None:
    add_dtype_argument(parser)
    add_batch_seconds_argument(parser)
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


def load_pipeline(options: argparse.Namespace, **arguments) -> AutomaticSpeechRecognitionPipeline:
    """Loads `--model` into a pipeline, in `--dtype`; `arguments` are further ones of `pipeline`."""
    from transformers import pipeline

    from ..model.missing_model import check_model

    check_model(options.model)
    if options.dtype == "int8":
        arguments["device"] = "cpu"
    recognize = pipeline("automatic-speech-recognition", model=options.model, **arguments)
    convert(recognize.model, options.dtype)
    return recognize
