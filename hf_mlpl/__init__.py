"""Massively multilingual speech recognition with pseudo-labels, in the Hugging Face ecosystem.

Importing this package makes `pipeline` and the Auto classes of transformers load its models.
"""

from importlib import import_module

from .registration import register

__version__ = "0.1.0"

# Imported when they are first asked for: torch and much of transformers take seconds.
_LAZY = {
    "MlplConfig": ".configuration_mlpl",
    "MlplFeatureExtractor": ".feature_extraction_mlpl",
    "MlplForCTC": ".modeling_mlpl",
    "MlplModel": ".modeling_mlpl",
    "MlplProcessor": ".processing_mlpl",
    "MlplSpeechRecognitionPipeline": ".pipeline_mlpl",
    "MlplTokenizer": ".tokenization_mlpl",
}
__all__ = list(_LAZY)


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


register()
