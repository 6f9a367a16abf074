"""Explains in one line, with file and field, why transformers cannot load a model folder of ours.

transformers reads the settings of a folder before it knows the type of model, and many wrong ones end in a traceback;
its `pipeline` wraps the reason why weights cannot be loaded in the tracebacks of all classes that it tries.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import wraps
from typing import Any

from .model.missing_model import OUR_TYPES
from .model.model_files import HUB_ARGUMENTS, check_file, check_settings, choice, find_file, read_settings, text


def name_the_setting(auto_class: Any, needs_processor: bool) -> None:
    """Makes `from_pretrained` of an Auto class raise a `ValueError` with file and field for a wrong setting.

    Args:
        needs_processor: the class loads a processor or a part of one; its settings are checked, too.
    """
    load = auto_class.from_pretrained.__func__

    @wraps(load)
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        check_num_labels(pretrained_model_name_or_path)
        try:
            return load(cls, pretrained_model_name_or_path, *args, **kwargs)
        except Exception:
            check_folder(pretrained_model_name_or_path, kwargs, needs_processor)
            raise

    auto_class.from_pretrained = classmethod(from_pretrained)


def name_the_weights(pipelines: Any) -> None:
    """Makes `pipeline` raise the error of a model of ours, instead of a text with the tracebacks of three classes."""
    load = pipelines.load_model

    @wraps(load)
    def load_model(model, config=None, model_classes=None, task=None, **kwargs):
        from transformers import AutoModelForCTC

        try:
            return load(model, config=config, model_classes=model_classes, task=task, **kwargs)
        except ValueError:
            if isinstance(model, str) and getattr(config, "model_type", None) in OUR_TYPES:
                AutoModelForCTC.from_pretrained(model, **kwargs)  # fails again
            raise

    pipelines.load_model = load_model


def check_num_labels(name_or_path) -> None:
    """Raises `ValueError` for a wrong `num_labels` of a folder of ours, before transformers makes a name for each."""
    from .model.configuration_mlpl import INHERITED

    try:
        path = os.path.join(name_or_path, "config.json")
        settings = read_settings(path)
    except (OSError, ValueError, TypeError):  # a name on the Hub, or a fault that loading itself reports
        return
    if settings.get("model_type") in OUR_TYPES:
        check_settings(path, settings, {"num_labels": INHERITED["num_labels"]})


def check_folder(name_or_path, hub: Mapping, needs_processor: bool) -> None:
    """Raises `ValueError` for the first wrong setting in the files of a model of ours; ignores other models."""
    from .interop.mctct import MCTCTConfig
    from .model.configuration_mlpl import MlplConfig
    from .model.processing_mlpl import check_processor_files

    hub = {name: hub[name] for name in HUB_ARGUMENTS if name in hub} | {"local_files_only": True}
    try:
        if find_file(name_or_path, "config.json", hub) is None:
            return
    except (OSError, ValueError):  # neither a folder nor a name on the Hub
        return
    settings = check_file(name_or_path, "config.json", {}, hub)
    if settings.get("model_type") == MCTCTConfig.model_type:
        MCTCTConfig.from_pretrained(name_or_path, **hub)
        check_file(name_or_path, "preprocessor_config.json", {"feature_extractor_type": text()}, hub)
        check_file(name_or_path, "tokenizer_config.json", {"tokenizer_class": text()}, hub)
        return
    if settings.get("model_type") != MlplConfig.model_type and "Mlpl" not in str(settings.get("architectures")):
        return
    path = find_file(name_or_path, "config.json", hub)
    check_settings(path, {"model_type": None} | settings, {"model_type": choice(MlplConfig.model_type)})
    MlplConfig.from_pretrained(name_or_path, **hub)
    if needs_processor:
        check_processor_files(name_or_path, hub, required=["feature_extractor_type"])
