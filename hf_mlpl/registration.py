"""Registers our classes with the Auto classes and `pipeline` of transformers, at no cost to `import hf_mlpl`.

transformers keeps a registry for each kind of class in a module of its own, whose import takes seconds and imports
torch. `hf-mlpl --help` should not wait for it, and transformers accepts neither entry points nor names of classes; so
an import hook registers our classes at the end of the import of each of these modules, and removes itself after the
last.

The registry of models gets the name of a class, and loads the class when it is looked up: transformers imports this
registry with every other one, and importing our model's file takes seconds more, because it imports accelerate.
"""

from __future__ import annotations

import sys
from collections import UserDict
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder


def _register_configurations() -> None:
    from transformers import AutoConfig

    from .interop.mctct import MCTCTConfig
    from .loading_errors import name_the_setting
    from .model.configuration_mlpl import MlplConfig

    name_the_setting(AutoConfig)
    AutoConfig.register("mlpl", MlplConfig, exist_ok=True)
    AutoConfig.register("mctct", MCTCTConfig, exist_ok=True)


def _register_models() -> None:
    from transformers import AutoModel, AutoModelForCTC

    from .interop.mctct import MCTCTConfig, MCTCTForCTC
    from .model.configuration_mlpl import MlplConfig

    AutoModelForCTC.register(MCTCTConfig, MCTCTForCTC, exist_ok=True)
    for auto_class, name in ((AutoModel, "MlplModel"), (AutoModelForCTC, "MlplForCTC")):
        registered = auto_class._model_mapping._extra_content  # what `register` writes to
        auto_class._model_mapping._extra_content = _LazyClasses(registered | {MlplConfig: name})


def _register_inputs(kind: str, module: str) -> None:
    """Registers our two classes of a kind, such as FeatureExtractor, that prepare the inputs of a model."""
    from .interop import mctct
    from .loading_errors import name_the_setting
    from .model.configuration_mlpl import MlplConfig

    auto_class = getattr(import_module("transformers"), f"Auto{kind}")
    name_the_setting(auto_class)
    auto_class.register(MlplConfig, getattr(import_module(module, __package__), f"Mlpl{kind}"), exist_ok=True)
    auto_class.register(mctct.MCTCTConfig, getattr(mctct, f"MCTCT{kind}"), exist_ok=True)


def _register_tokenizers() -> None:
    from transformers.models.auto import tokenization_auto

    _register_inputs("Tokenizer", ".model.tokenization_mlpl")
    # Folders of the port name the tokenizer of another model, Wav2Vec2's; transformers lists such cases here.
    tokenization_auto.TOKENIZER_MAPPING_NAMES["mctct"] = "MCTCTTokenizer"
    tokenization_auto.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS.add("mctct")


def _register_pipeline() -> None:
    # The module registers its class itself: if its own import imports transformers.pipelines, it has no class yet.
    import_module(".inference.pipeline_mlpl", __package__)
    import_module(".loading_errors", __package__).name_the_weights(sys.modules["transformers.pipelines"])


REGISTRIES: dict[str, Callable[[], None]] = {
    "transformers.models.auto.configuration_auto": _register_configurations,  # which the others look up
    "transformers.models.auto.modeling_auto": _register_models,
    "transformers.models.auto.feature_extraction_auto": partial(
        _register_inputs, "FeatureExtractor", ".model.feature_extraction_mlpl"
    ),
    "transformers.models.auto.tokenization_auto": _register_tokenizers,
    "transformers.models.auto.processing_auto": partial(_register_inputs, "Processor", ".model.processing_mlpl"),
    "transformers.pipelines": _register_pipeline,
}


class _LazyClasses(UserDict):
    """Holds classes by configuration; of a class of `modeling_mlpl` the name, until it is looked up."""

    def __getitem__(self, key):
        if isinstance(self.data[key], str):
            self.data[key] = getattr(import_module(".model.modeling_mlpl", __package__), self.data[key])
        return self.data[key]


class ImportHook(MetaPathFinder):
    """Runs the action of each module at the end of its import, and leaves `sys.meta_path` after the last one."""

    def __init__(self, actions: Mapping[str, Callable[[], None]]):
        self.pending = dict(actions)

    def install(self) -> None:
        """Runs the actions of modules that are imported already, and waits for the others."""
        sys.meta_path.insert(0, self)
        for name in [name for name in self.pending if name in sys.modules]:
            self.act(name)

    def find_spec(self, name, path=None, target=None):
        spec = PathFinder.find_spec(name, path) if name in self.pending else None
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_act(module):
                execute(module)
                self.act(name)

            spec.loader.exec_module = execute_and_act
        return spec

    def act(self, name: str) -> None:
        """Runs the action of a module, once."""
        if action := self.pending.get(name):
            action()
            self.pending.pop(name, None)
        if not self.pending:
            # A new list, because another thread may be going through the old one, and would miss the next finder.
            sys.meta_path = [finder for finder in sys.meta_path if finder is not self]


def register() -> None:
    """Registers all classes, now or when transformers' registries are imported; `import hf_mlpl` calls it once."""
    ImportHook(REGISTRIES).install()
