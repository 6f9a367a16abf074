"""Recognises speech in many languages, with models trained on pseudo-labels, in the Hugging Face ecosystem.

Importing this package makes `pipeline` and the Auto classes of transformers load its models.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .registration import register

if TYPE_CHECKING:  # for completion and type checkers, which do not run `__getattr__`
    from .configuration_mlpl import MlplConfig
    from .feature_extraction_mlpl import MlplFeatureExtractor
    from .modeling_mlpl import MlplForCTC, MlplModel
    from .pipeline_mlpl import MlplSpeechRecognitionPipeline
    from .processing_mlpl import MlplProcessor
    from .tokenization_mlpl import MlplTokenizer

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
    "MlplConfig": ".configuration_mlpl",
    "MlplFeatureExtractor": ".feature_extraction_mlpl",
    "MlplForCTC": ".modeling_mlpl",
    "MlplModel": ".modeling_mlpl",
    "MlplProcessor": ".processing_mlpl",
    "MlplSpeechRecognitionPipeline": ".pipeline_mlpl",
    "MlplTokenizer": ".tokenization_mlpl",
}


def __getattr__(name: str):
    if name in _MODULES:
        return getattr(import_module(_MODULES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(globals().keys() | _MODULES.keys())


register()
