"""Reads the settings of a run from a YAML file, writes them, and compares them with those of an older run."""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from ..atomic import write_text
from ..error_line import error_line
from .settings import (
    CurriculumConfig,
    LoraConfig,
    SlimIplConfig,
    SpecAugmentConfig,
    TrainingConfig,
    WaveformAugmentConfig,
)

# Settings that do not change the result, so that a continued run may have others.
FREE_ON_RESUME = frozenset(
    "num_workers cache_gigabytes log_every save_every save_total_limit eval_every push_to_hub hub_private_repo "
    "license stage allow_collapsed report_to project gradient_checkpointing".split()
)
FREE_IN_FOLDER = FREE_ON_RESUME | {"output_dir"}  # a folder may be moved
NESTED = {
    config.__name__: config
    for config in (CurriculumConfig, SpecAugmentConfig, WaveformAugmentConfig, SlimIplConfig, LoraConfig)
}
_QUOTES = ", in quotes where YAML takes it for something else"
# For each type of setting: a test of a value from YAML, and the description of accepted values for an error message.
ACCEPTED = {
    "int": (lambda value: type(value) is int, "a whole number"),
    "float": (lambda value: type(value) in (int, float) and abs(value) <= sys.float_info.max, "a finite number"),
    "str": (lambda value: isinstance(value, str), f"a string{_QUOTES}"),
    "bool": (lambda value: isinstance(value, bool), "true or false"),
    "dict": (lambda value: isinstance(value, dict), "fields of the form `name: value`"),
    "Sequence[str]": (
        lambda value: isinstance(value, list) and all(isinstance(element, str) for element in value),
        f"a list of strings{_QUOTES}",
    ),
    **dict.fromkeys(NESTED, (lambda value: isinstance(value, dict), "fields of the form `name: value`")),
}


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainingConfig:
    """Reads a stage's YAML file; `name=value` in `overrides` replaces its values, also `nested.name=value`.

    Raises:
        ValueError: for an unknown name, and for a missing or wrong value, with the accepted ones.
    """
    try:
        settings = yaml.load(Path(path).read_text(encoding="utf-8-sig"), _Loader) or {}
        if not isinstance(settings, dict):
            raise ValueError("must hold lines of the form `name: value`")
        for override in overrides:
            _override(settings, override)
        settings.setdefault("stage", Path(path).stem)
        return _build(TrainingConfig, _with_language(settings, settings.get("language")))
    except RecursionError:
        raise ValueError(f"{path}: has values that contain themselves") from None
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {error_line(error)}") from None


class _Loader(yaml.SafeLoader):
    """Reads YAML, and refuses a name that is set twice, where PyYAML takes the last value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        if repeated := [name for name, count in Counter(names).items() if count > 1]:
            raise ValueError(f"line {node.start_mark.line + 1}: {', '.join(repeated)} is set twice")
        return super().construct_mapping(node, deep)


def _override(settings: dict, override: str) -> None:
    """Sets one setting, or a field of a nested one, to the YAML value of `name=value`."""
    name, equals, value = override.partition("=")
    if not equals:
        raise ValueError(f"{override!r} is not a setting; write name=value, for example max_updates=1000")
    *parents, last = name.split(".")
    for parent in parents:
        settings = settings.setdefault(parent, {})
        if not isinstance(settings, dict):
            raise ValueError(f"{override!r}: {parent} is {settings!r} and has no fields")
    try:
        settings[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ValueError(f"{override!r} is not of the form name=value with a value that YAML can read") from None


def language_setting(language: str) -> str:
    """Returns `language=CODE`, in quotes where YAML takes the code for something else, as `no` for false."""
    return f"language={language}" if yaml.safe_load(language) == language else f'language="{language}"'


def _with_language(value: Any, language: Any) -> Any:
    """Replaces `{language}` in strings, at any depth."""
    if isinstance(value, dict):
        return {name: _with_language(field, language) for name, field in value.items()}
    if isinstance(value, list):
        return [_with_language(element, language) for element in value]
    if not isinstance(value, str) or "{language}" not in value:
        return value
    if language is None:
        raise ValueError(f"{value!r} needs a language; add language=CODE, for example language=sl")
    return value.replace("{language}", _typed("language", language, "str"))


def _build(config_class: type, settings: dict) -> Any:
    """Checks settings from YAML, and builds one of the classes of settings from them."""
    fields = {f.name: f for f in dataclasses.fields(config_class)}
    if unknown := sorted(map(str, settings.keys() - fields.keys())):
        raise ValueError(f"no setting is called {', '.join(unknown)}; there are {', '.join(fields)}")
    required = [f.name for f in fields.values() if f.default is f.default_factory is dataclasses.MISSING]
    missing = [name for name in required if name not in settings]
    if missing:
        raise ValueError(f"{', '.join(missing)} must be set")
    return config_class(**{name: _typed(name, value, str(fields[name].type)) for name, value in settings.items()})


def _typed(name: str, value: Any, annotation: str) -> Any:
    """Converts the value of a setting to its annotated type; raises a ValueError for a value of another type."""
    kind, *alternatives = annotation.split(" | ")
    if value is None and "None" in alternatives:
        return None
    if kind == "float" and isinstance(value, str):
        with suppress(ValueError):
            value = float(value)  # YAML reads 1e-3 as text, because its floats need a dot
    is_accepted, description = ACCEPTED[kind]
    if not is_accepted(value):
        raise ValueError(f"{name} is {value!r}; it must be {description}{', or null' * ('None' in alternatives)}")
    return _build(NESTED[kind], value) if isinstance(value, dict) and kind in NESTED else value


def write_config(config: TrainingConfig) -> None:
    """Writes the settings to `config.yaml` of the run's folder."""
    text = yaml.safe_dump(plain_settings(config), allow_unicode=True, sort_keys=False)
    write_text(Path(config.output_dir) / "config.yaml", text)


def check_same_config(config: TrainingConfig, checkpoints: Sequence[Path]) -> bool:
    """Returns whether `output_dir` holds a run of these settings that has checkpoints or is finished.

    The settings of that run are in its `config.yaml`, or in the newest checkpoint if that file is damaged. A folder
    with neither a checkpoint nor a model belongs to no run, even if a refused or killed run has left files there.

    Args:
        checkpoints: of `output_dir`, the oldest first.

    Raises:
        ValueError: if that run has other settings that change the result.
    """
    output_dir = Path(config.output_dir)
    path = output_dir / "config.yaml"
    if not path.exists() or not checkpoints and not (output_dir / "model").exists():
        return False
    try:
        if not (changes := changed_settings(path, config, FREE_IN_FOLDER)):
            return True
        problem = (
            f"{output_dir} belongs to a run with other settings: {changes}. Choose another output_dir, or remove it; "
            f"to go on with other settings from its last checkpoint, remove {path}"
        )
    except ValueError as error:
        problem = f"{error}; remove it, and the run goes on with the given settings"
    if checkpoints and has_settings(checkpoints[-1] / "config.yaml", config):
        return True
    raise ValueError(problem)


def has_settings(path: Path, config: TrainingConfig) -> bool:
    """Returns whether a `config.yaml` can be read and holds these settings, except for `FREE_IN_FOLDER`."""
    try:
        return not changed_settings(path, config, FREE_IN_FOLDER)
    except (OSError, ValueError):
        return False


def changed_settings(path: Path, config: TrainingConfig, free: Iterable[str]) -> str:
    """Lists the settings, except for the `free` ones, that differ from those in a `config.yaml`.

    Raises:
        ValueError: for a file that does not hold the settings of a run.
    """
    settings = plain_settings(config)
    try:
        old = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is damaged ({error_line(error)})") from error
    if not isinstance(old, dict) or not old.keys() & settings.keys():
        raise ValueError(f"{path} is damaged (it does not hold the settings of a run)")
    required = dict.fromkeys(("output_dir", "model", "train", "max_updates"))
    defaults = plain_settings(TrainingConfig(output_dir="", model="", train=[""], max_updates=1)) | required
    old = defaults | old  # an earlier version of this library did not know all settings
    differing = [name for name in settings if name not in free and old[name] != settings[name]]
    return "; ".join(f"{name} was {old[name]!r}, is {settings[name]!r}" for name in differing)


def plain_settings(config: TrainingConfig) -> dict:
    """Returns settings as YAML reads them back, with lists instead of tuples."""
    return yaml.safe_load(yaml.safe_dump(dataclasses.asdict(config)))
