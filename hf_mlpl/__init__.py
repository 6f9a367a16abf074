"""Massively multilingual speech recognition with pseudo-labels, in the Hugging Face ecosystem.

Importing this package makes `pipeline` and the Auto classes of transformers load its models.
"""

from importlib import import_module

from .configuration_mlpl import MlplConfig
from .feature_extraction_mlpl import MlplFeatureExtractor
from .registration import register
from .tokenization_mlpl import MlplTokenizer

__version__ = "0.1.0"

# Imported when they are first asked for: transformers' model and pipeline code takes seconds.
_LAZY = {
    "MlplForCTC": ".modeling_mlpl",
    "MlplModel": ".modeling_mlpl",
    "MlplProcessor": ".processing_mlpl",
    "MlplSpeechRecognitionPipeline": ".pipeline_mlpl",
}
__all__ = ["MlplConfig", "MlplFeatureExtractor", "MlplTokenizer", *_LAZY]


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


register()
