"""Builds the model of a run, new or trained, with its processor."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset
from huggingface_hub.errors import StrictDataclassError

from ..data.rows import blocks, distinct
from ..data.text_arrays import NUM_CODE_POINTS, TextBlock
from ..error_line import error_line
from ..model.configuration_mlpl import MlplConfig
from ..model.feature_extraction_mlpl import MlplFeatureExtractor
from ..model.missing_model import check_model
from ..model.modeling_mlpl import MlplForCTC
from ..model.processing_mlpl import MlplProcessor, check_parts
from ..model.tokenization_mlpl import MlplTokenizer
from ..training_config import PRESETS, TrainingConfig


def build_model(config: TrainingConfig, train_set: Dataset) -> tuple[MlplForCTC, MlplProcessor]:
    """Builds a new model of a preset's size, with the tokens file of the settings, or loads a trained one.

    The tokenizer learns the characters of each language from the training set.

    Raises:
        ValueError: for model fields that do not fit, and for a trained model that is damaged.
        OSError: if the model or the tokens file does not exist.
    """
    if config.model in PRESETS:
        processor = MlplProcessor(MlplFeatureExtractor(), MlplTokenizer(config.tokens))
        preset = getattr(MlplConfig, config.model)
        languages = config.languages or distinct(train_set, "language")
        with _fitting_fields(config):
            model = MlplForCTC(preset(len(processor.tokenizer), languages, **config.model_fields))
    else:
        check_model(config.model)
        processor = MlplProcessor.from_pretrained(config.model)
        with _fitting_fields(config):
            model = MlplForCTC.from_pretrained(config.model, **config.model_fields)
        check_parts(model.config, processor.feature_extractor, processor.tokenizer)
    processor.tokenizer.learn_language_characters(_human_characters(train_set))
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable()  # called activation_checkpointing_enable in new releases, not in 5.17
    return model, processor


@contextmanager
def _fitting_fields(config: TrainingConfig) -> Iterator[None]:
    """Turns errors of MlplConfig and torch about `model_fields` into a ValueError of one line."""
    try:
        yield
    except (StrictDataclassError, RuntimeError) as error:
        reason = textwrap.shorten(error_line(error), 500)
        raise ValueError(f"{config.model} cannot have the model_fields {config.model_fields}: {reason}") from error


def _human_characters(train_set: Dataset) -> dict[str, list[str]]:
    """Lists the characters of human transcripts by language; pseudo-labels may hold a model's errors."""
    seen: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(NUM_CODE_POINTS, bool))
    for block in blocks(train_set, ["language", "text", "source"]):
        is_human = pc.equal(block["source"], "human")
        for language in block["language"].unique().to_pylist():
            texts = block["text"].filter(pc.and_(is_human, pc.equal(block["language"], language)))
            code_points, is_seen = TextBlock(texts).code_points, seen[language]
            is_seen[code_points[~is_seen.take(code_points)]] = True  # to set all of them takes longer
    return {language: list(map(chr, np.flatnonzero(is_seen))) for language, is_seen in seen.items()}
