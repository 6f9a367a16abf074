"""Makes the Auto classes and `pipeline` of transformers know our classes, without importing what is slow to import.

transformers' model, processor and pipeline code imports accelerate and takes seconds; whoever wants a tokenizer or
`--help` should not wait for it. So a model class is registered by a stand-in that loads it when it is first used, and
processor and pipeline at the end of the import of the transformers module that holds their registry.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForCTC, AutoTokenizer
from transformers.models.auto import tokenization_auto

from .configuration_mlpl import MlplConfig
from .feature_extraction_mlpl import MlplFeatureExtractor
from .interop.mctct import MCTCTConfig, MCTCTFeatureExtractor, MCTCTForCTC, MCTCTProcessor, MCTCTTokenizer
from .tokenization_mlpl import MlplTokenizer


class _LazyModelClass:
    """Behaves like the class of `modeling_mlpl` that it names."""

    config_class = MlplConfig  # looked at when it is registered

    def __init__(self, name: str):
        self.__name__ = name

    def _load(self) -> type:
        return getattr(importlib.import_module(".modeling_mlpl", __package__), self.__name__)

    def __getattr__(self, name: str):
        return getattr(self._load(), name)

    def __call__(self, *args, **kwargs):
        return self._load()(*args, **kwargs)


class _AfterImport(MetaPathFinder):
    """Calls `action` at the end of the import of module `name`."""

    def __init__(self, name: str, action: Callable[[], None]):
        self.name = name
        self.action = action

    def find_spec(self, name, path=None, target=None):
        if name != self.name:
            return None
        sys.meta_path.remove(self)  # its work is done, and find_spec below must find the module itself
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def execute_and_act(module):
            execute(module)
            self.action()

        spec.loader.exec_module = execute_and_act
        return spec


def _call_after_import(name: str, action: Callable[[], None]) -> None:
    if name in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _AfterImport(name, action))


def _register_processor() -> None:
    from transformers import AutoProcessor

    from .processing_mlpl import MlplProcessor

    AutoProcessor.register(MlplConfig, MlplProcessor, exist_ok=True)
    AutoProcessor.register(MCTCTConfig, MCTCTProcessor, exist_ok=True)


def _register_pipeline() -> None:
    # The module registers its class itself: where it is what imports transformers.pipelines, it has no class yet.
    importlib.import_module(".pipeline_mlpl", __package__)


def _register_old_port() -> None:
    """Folders of the port, by the names that stand in their files."""
    AutoConfig.register("mctct", MCTCTConfig, exist_ok=True)
    AutoModelForCTC.register(MCTCTConfig, MCTCTForCTC, exist_ok=True)
    AutoFeatureExtractor.register(MCTCTConfig, MCTCTFeatureExtractor, exist_ok=True)
    AutoTokenizer.register(MCTCTConfig, tokenizer_class=MCTCTTokenizer, exist_ok=True)
    # They name the tokenizer of another model, Wav2Vec2's; this is transformers' list of such cases.
    tokenization_auto.TOKENIZER_MAPPING_NAMES["mctct"] = MCTCTTokenizer.__name__
    tokenization_auto.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS.add("mctct")


def register() -> None:
    """Called once, by `import hf_mlpl`."""
    AutoConfig.register("mlpl", MlplConfig, exist_ok=True)
    AutoModel.register(MlplConfig, _LazyModelClass("MlplModel"), exist_ok=True)
    AutoModelForCTC.register(MlplConfig, _LazyModelClass("MlplForCTC"), exist_ok=True)
    AutoFeatureExtractor.register(MlplConfig, MlplFeatureExtractor, exist_ok=True)
    AutoTokenizer.register(MlplConfig, tokenizer_class=MlplTokenizer, exist_ok=True)
    _register_old_port()
    _call_after_import("transformers.models.auto.processing_auto", _register_processor)
    _call_after_import("transformers.pipelines", _register_pipeline)
