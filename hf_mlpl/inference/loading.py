"""Loads a trained model with its processor."""

from __future__ import annotations

from transformers import AutoModelForCTC, AutoProcessor, PreTrainedConfig, PreTrainedModel, ProcessorMixin

from ..ctc_models.adapters import load_our_model, source_of
from ..ctc_models.loading import load_ctc_model, read_config
from ..model.missing_model import OUR_TYPES
from ..model.modeling_mlpl import MlplForCTC
from ..model.processing_mlpl import MlplProcessor, check_parts


def load_model(name: str, language: str | None = None) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Loads a CTC model of any architecture in evaluation mode, and its processor.

    A model of the old port becomes one of ours.

    Args:
        name: folder or Hub name.
        language: adapter of an MMS model; by default the one that its folder names.

    Raises:
        OSError: for a model that does not exist.
        ValueError: for a model of another kind, and for one whose parts cannot be loaded or do not fit.
    """
    config = read_config(name)
    return _load_ours(name, config) if config.model_type in OUR_TYPES else load_ctc_model(name, config, language)


def load_mlpl_model(name: str) -> tuple[MlplForCTC, MlplProcessor]:
    """Loads a model of ours as `load_model` does; raises a ValueError for one of another architecture."""
    config = read_config(name)
    if config.model_type not in OUR_TYPES:
        raise ValueError(f"{name}: is of type {config.model_type}, and only models of type mlpl can do this")
    return _load_ours(name, config)


def _load_ours(name: str, config: PreTrainedConfig) -> tuple[MlplForCTC, MlplProcessor]:
    if config.model_type == "mlpl":
        processor, model = MlplProcessor.from_pretrained(source_of(name)), load_our_model(name)
    else:
        processor, model = AutoProcessor.from_pretrained(name), AutoModelForCTC.from_pretrained(name)
    model.config._commit_hash = config._commit_hash
    check_parts(model.config, processor.feature_extractor, processor.tokenizer)
    return model, processor
