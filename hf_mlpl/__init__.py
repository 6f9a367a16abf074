"""Recognises speech in many languages, with models trained on pseudo-labels, in the Hugging Face ecosystem.

Importing this package makes `pipeline` and the Auto classes of transformers load its models.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .registration import register

if TYPE_CHECKING:  # for completion and type checkers, which do not run `__getattr__`
    from .inference.pipeline_mlpl import MlplSpeechRecognitionPipeline
    from .model.configuration_mlpl import MlplConfig
    from .model.feature_extraction_mlpl import MlplFeatureExtractor
    from .model.modeling_mlpl import MlplForCTC, MlplModel
    from .model.processing_mlpl import MlplProcessor
    from .model.tokenization_mlpl import MlplTokenizer

__version__ = "0.1.0"

__all__ = [
    "MlplConfig",
    "MlplFeatureExtractor",
    "MlplForCTC",
    "MlplModel",
    "MlplProcessor",
    "MlplSpeechRecognitionPipeline",
    "MlplTokenizer",
]
# Imported when they are first asked for: torch and much of transformers take seconds.
_MODULES = {
    "MlplConfig": ".model.configuration_mlpl",
    "MlplFeatureExtractor": ".model.feature_extraction_mlpl",
    "MlplForCTC": ".model.modeling_mlpl",
    "MlplModel": ".model.modeling_mlpl",
    "MlplProcessor": ".model.processing_mlpl",
    "MlplSpeechRecognitionPipeline": ".inference.pipeline_mlpl",
    "MlplTokenizer": ".model.tokenization_mlpl",
}


def __getattr__(name: str):
    if name in _MODULES:
        return getattr(import_module(_MODULES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(globals().keys() | _MODULES.keys())


register()
