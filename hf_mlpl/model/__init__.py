"""Holds the model with its features and tokens, all that a saved model folder needs.

The files that a class needs are copied into each model folder that is saved, and run there by `trust_remote_code`. So
they import torch, numpy, transformers, huggingface_hub and one another, and nothing else.
"""

from ..lazy import lazy_names

__all__, __getattr__, __dir__ = lazy_names(
    __name__,
    {
        "configuration_mlpl": "MlplConfig",
        "feature_extraction_mlpl": "MlplFeatureExtractor",
        "modeling_mlpl": "MlplForCTC MlplModel",
        "processing_mlpl": "MlplProcessor",
        "text": "build_vocabulary normalize_text read_tokens write_tokens",
        "tokenization_mlpl": "MlplTokenizer",
    },
)
