"""Loads any model that recognises speech, and transcribes with it: a CTC model, or one that generates text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from datasets import Dataset
from transformers import AutoConfig, AutoModelForSpeechSeq2Seq, AutoProcessor, PreTrainedModel, ProcessorMixin
from transformers.models.auto import modeling_auto

from ..data.rows import blocks
from ..model.missing_model import check_model
from .decoding import Hypothesis, transcribe
from .generation import GenerativeTranscriber, generates
from .loading import load_model

Transcribe = Callable[..., Iterator[Hypothesis]]  # as `transcribe`, with a model


def load_recognizer(name: str) -> tuple[PreTrainedModel, Any]:
    """Loads a model in evaluation mode, and its processor.

    Args:
        name: folder or Hub name.

    Raises:
        OSError: for a model that does not exist.
        ValueError: for a model that does not recognise speech, or whose processor is missing or does not fit.
    """
    check_model(name)
    config = AutoConfig.from_pretrained(name)
    if not generates(config):
        return load_model(name)
    if type(config) in modeling_auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING:
        kind = AutoModelForSpeechSeq2Seq
    else:
        kind = modeling_auto.AutoModelForMultimodalLM
    try:
        processor = AutoProcessor.from_pretrained(name)
        if not isinstance(processor, ProcessorMixin):
            raise ValueError(f"there is a {type(processor).__name__} alone")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name}: its processor is missing or damaged ({str(error).splitlines()[0][:200]})"
        ) from error
    return kind.from_pretrained(name).eval(), processor


def transcriber(model: PreTrainedModel, processor: Any, dataset: Dataset) -> Transcribe:
    """Returns a function with the arguments of `transcribe` after the processor, for parts of a data set.

    Raises:
        ValueError: for utterances of a language that a generating model does not know.
    """
    if not generates(model.config):
        return partial(transcribe, model, processor)
    locales = {name for block in blocks(dataset, ["language"]) for name in block["language"].unique().to_pylist()}
    return GenerativeTranscriber(model, processor, locales)
