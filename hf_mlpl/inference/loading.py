"""Loads a trained model with its processor."""

from __future__ import annotations

from transformers import AutoModelForCTC, AutoProcessor

from ..model.configuration_mlpl import MlplConfig
from ..model.missing_model import check_model
from ..model.modeling_mlpl import MlplForCTC
from ..model.processing_mlpl import MlplProcessor, check_parts


def load_model(name: str) -> tuple[MlplForCTC, MlplProcessor]:
    """Loads a model, also one of the old port, in evaluation mode, and its processor.

    Args:
        name: folder or Hub name.

    Raises:
        OSError: for a model that does not exist.
        ValueError: for a model whose processor does not fit.
    """
    check_model(name)
    is_port = MlplConfig.get_config_dict(name)[0].get("model_type") == "mctct"
    kinds = (AutoModelForCTC, AutoProcessor) if is_port else (MlplForCTC, MlplProcessor)
    processor, model = kinds[1].from_pretrained(name), kinds[0].from_pretrained(name)
    check_parts(model.config, processor.feature_extractor, processor.tokenizer)
    return model, processor
