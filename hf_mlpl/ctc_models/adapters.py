"""Loads models that are saved as PEFT's adapters: their base, with the adapters added to its weights."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import torch
from transformers import AutoModelForCTC, PreTrainedModel
from transformers.utils.hub import extract_commit_hash

from ..error_line import error_line
from ..installation import install_command, is_installed
from ..model.configuration_mlpl import MlplConfig
from ..model.missing_model import check_model
from ..model.model_files import check_settings, find_file, read_settings, text
from ..model.modeling_mlpl import MlplForCTC

logger = logging.getLogger(__name__)

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Model = TypeVar("Model", bound=PreTrainedModel)


def base_of(name: str | os.PathLike) -> str | None:
    """Returns the name of the model that adapters were trained on; None for a model that has all its weights.

    A line in the log says that this model has changed on the Hub since then.

    Raises:
        ValueError: for adapters that do not name it.
    """
    try:
        file = find_file(name, CONFIG)
    except (OSError, ValueError):  # no such repository, which is reported where its config.json is read
        return None
    if file is None:
        return None
    settings = read_settings(file)
    check_settings(file, {"base_model_name_or_path": None} | settings, {"base_model_name_or_path": text()})
    base, trained_on = settings["base_model_name_or_path"], settings.get("revision")
    if trained_on is not None:
        _compare_commits(os.fspath(name), base, trained_on)
    return base


@cache
def _compare_commits(name: str, base: str, trained_on: str) -> None:
    """Warns once if a base on the Hub is at another commit than the one that adapters were trained on."""
    try:
        commit = extract_commit_hash(find_file(base, "config.json"), None)
    except (OSError, ValueError):  # reported where the base is loaded
        return
    if commit not in (None, trained_on):
        logger.warning(
            "%s: its adapters were trained on commit %s of %s, which is at %s now; if its weights are others, "
            "download that commit, and write the folder into base_model_name_or_path of %s",
            *(name, trained_on[:8], base, commit[:8], CONFIG),
        )


@contextmanager
def explained(name: str | os.PathLike) -> Iterator[None]:
    """Adds to an OSError, of a base that does not exist, that the adapters of this name need it."""
    try:
        yield
    except OSError as error:
        remedy = f"if it has moved, write its name into base_model_name_or_path of {CONFIG}"
        raise OSError(f"{name}: holds adapters, whose base cannot be loaded: {error}; {remedy}") from error


def source_of(name: str | os.PathLike) -> str | os.PathLike:
    """Returns the folder or repository with a model's configuration and processor: adapters may lack them."""
    if (base := base_of(name)) is None or find_file(name, "config.json") is not None:
        return name
    with explained(name):
        check_model(source := source_of(base))
    return source


def load_our_model(name: str | os.PathLike, **fields) -> MlplForCTC:
    """Loads a model of ours in evaluation mode, also one that is saved as adapters.

    Args:
        fields: of `from_pretrained`.
    """
    if (base := base_of(name)) is None:
        return MlplForCTC.from_pretrained(name, **fields)
    dtype = fields.pop("dtype", torch.float32)
    model = MlplForCTC(MlplConfig.from_pretrained(source_of(name), **fields)).to(dtype)
    with explained(name):
        check_model(source_of(base))
        is_port = MlplConfig.get_config_dict(source_of(base))[0].get("model_type") != MlplConfig.model_type
        original = AutoModelForCTC.from_pretrained(base, dtype=dtype) if is_port else load_our_model(base, dtype=dtype)
    merged, missing = merge_adapters(name, model, original.state_dict())
    if missing:
        raise ValueError(f"{name}: {base}, its base, lacks {', '.join(sorted(missing))}; is it the model it was?")
    return merged


def merge_adapters(
    name: str | os.PathLike, model: Model, weights: Mapping[str, torch.Tensor]
) -> tuple[Model, set[str]]:
    """Gives a new model the weights of the base, and adds the adapters to them.

    Args:
        name: of the adapters.
        weights: of the base, whose heads may be of other sizes.

    Returns:
        The model, and the names of its tensors that neither base nor adapters have.

    Raises:
        ValueError: for adapters that cannot be loaded, or without `peft`.
    """
    if not is_installed("peft"):
        raise ValueError(f"{name}: holds adapters, which need peft; it comes with {install_command('peft')}")
    import peft

    if find_file(name, WEIGHTS) is None:
        raise ValueError(f"{name}: has {CONFIG} and no {WEIGHTS}; copy or download it again")
    own = model.state_dict()
    fitting = {
        tensor: value for tensor, value in weights.items() if tensor in own and own[tensor].shape == value.shape
    }
    missing = set(model.load_state_dict(fitting, strict=False).missing_keys)
    try:
        adapted = peft.PeftModel.from_pretrained(model, name)
        replaced = tuple(f"{module}." for module in adapted.peft_config["default"].modules_to_save or ())
        merged = adapted.merge_and_unload(safe_merge=True)
    except Exception as error:  # of any type, for files that do not fit
        raise ValueError(f"{name}: its adapters cannot be loaded ({error_line(error)})") from error
    merged.requires_grad_(True)  # PEFT has frozen it
    return merged.eval(), {tensor for tensor in missing if not tensor.startswith(replaced)}
