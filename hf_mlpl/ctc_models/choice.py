"""Chooses the interface of a model; no other file asks what class a model is of."""

from __future__ import annotations

from transformers import PreTrainedConfig, ProcessorMixin

from ..model.configuration_mlpl import MlplConfig
from .interface import CtcInterface
from .mlpl import MlplInterface


def ctc_interface(config: PreTrainedConfig, processor: ProcessorMixin) -> CtcInterface:
    """Returns the interface of a model with this configuration and processor."""
    if config.model_type == MlplConfig.model_type:  # also of the copy of our code that a model folder holds
        return MlplInterface(config, processor)
    from .transformers_ctc import TransformersInterface

    return TransformersInterface(config, processor)
