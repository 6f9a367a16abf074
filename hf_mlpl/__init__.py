"""Recognises speech in many languages, with models trained on pseudo-labels, in the Hugging Face ecosystem.

Importing this package makes `pipeline` and the Auto classes of transformers load its models.
"""

from typing import TYPE_CHECKING

from .lazy import lazy_names
from .registration import register

if TYPE_CHECKING:  # for completion and type checkers, which do not run `__getattr__`
    from .inference.pipeline_mlpl import MlplSpeechRecognitionPipeline as MlplSpeechRecognitionPipeline
    from .model.configuration_mlpl import MlplConfig as MlplConfig
    from .model.feature_extraction_mlpl import MlplFeatureExtractor as MlplFeatureExtractor
    from .model.modeling_mlpl import MlplForCTC as MlplForCTC
    from .model.modeling_mlpl import MlplModel as MlplModel
    from .model.processing_mlpl import MlplProcessor as MlplProcessor
    from .model.tokenization_mlpl import MlplTokenizer as MlplTokenizer

__version__ = "0.1.0"

__all__, __getattr__, __dir__ = lazy_names(
    __name__,
    {
        "inference.pipeline_mlpl": "MlplSpeechRecognitionPipeline",
        "model.configuration_mlpl": "MlplConfig",
        "model.feature_extraction_mlpl": "MlplFeatureExtractor",
        "model.modeling_mlpl": "MlplForCTC MlplModel",
        "model.processing_mlpl": "MlplProcessor",
        "model.tokenization_mlpl": "MlplTokenizer",
    },
)

register()
