"""The settings of a training run: a YAML file, with `name=value` on the command line over it."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from huggingface_hub.utils import validate_repo_id

from .augment import SpecAugmentConfig
from .error_line import error_line
from .slimipl import SlimIplConfig

PRESETS = ("tiny", "base", "large")  # of `MlplConfig`
OPTIMIZERS = ("adagrad", "adamw")
SCHEDULES = ("constant", "linear", "step")
# What may differ between a run and its continuation: nothing here changes the result.
NESTED = {config.__name__: config for config in (SpecAugmentConfig, SlimIplConfig)}
FREE_ON_RESUME = frozenset(
    "num_workers cache_gigabytes log_every save_every eval_every push_to_hub hub_private_repo license stage".split()
)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of `hf-mlpl train`. Seconds are seconds of audio; updates are optimiser steps.

    Args:
        output_dir: holds `checkpoints/`, `model/` (the result), `metrics.jsonl`, `curves.png`, `config.yaml`, and
            `run.json` and `results.json`, of which the model's card is made.
        model: `tiny`, `base` or `large` for a new model, or the folder or Hub name of one to go on from.
        model_fields: fields of `MlplConfig` that differ from the model's own, for example `layerdrop: 0.1`.
        tokens: tokens file of a new model; one to go on from has its own.
        train: utterance files to train on; dev: utterance files to evaluate on, may be empty.
        unlabelled: utterance files for slimIPL; texts in them are compared with the labels, and not learned.
        language: uses the utterances of this language alone; `{language}` in other settings stands for its name.
        languages: classes of a new model's language-ID head; by default those of `train`, sorted.
        language_alpha: a language's share of training is proportional to its hours to this power, its human and its
            pseudo-labels counted apart: 1 takes the data as they are, 0 gives everything the same share.
        pseudo_label_weight: a pseudo-label is taken this many times as often as `language_alpha` alone would have it.
        max_updates: updates of the whole run.
        max_batch_seconds: audio of one micro-batch, padding counted; longer utterances are dropped.
        micro_batches_per_update: over all processes; one process with 4 equals 4 processes with 1 each.
        optimizer: `adagrad`, the paper's, or `adamw`.
        learning_rate: at its highest, after `warmup_updates` of linear growth.
        schedule: `constant` after the warm-up, `linear` decrease to 0 at `max_updates`, or `step`: halved at
            `first_decay_update`, and again after every `decay_every_updates` (the original's `lr_decay` and
            `lr_decay_step`, which count passes over the data).
        weight_decay: of AdamW.
        max_grad_norm: gradients are clipped to this norm.
        spec_augment: fields of `SpecAugmentConfig`, or null for none.
        slimipl: fields of `SlimIplConfig`, or null for training on labelled speech alone.
        bf16: computes in bfloat16, except for weights and loss; else with what `accelerate launch` was told.
        gradient_checkpointing: computes the layers again in the backward pass instead of keeping what they computed.
        log_every, eval_every, save_every: updates between lines of metrics, evaluations, checkpoints.
        num_workers: processes that decode audio ahead of training.
        cache_gigabytes: memory of each worker for features that are kept from pass to pass.
        seed: of everything random.
        push_to_hub: repository, such as `me/my-model`, to which the run is pushed whenever it saves, and at its end.
        hub_private_repo: the repository is a private one, if it has to be made.
        license: of what is pushed, as model cards name it, such as `apache-2.0`; push_to_hub needs it.
        stage: name of the run in its card, and of the pushed result's tag, which with `language` is STAGE-LANGUAGE;
            by default the YAML file's name without its ending.
    """

    output_dir: str
    model: str
    train: Sequence[str]
    max_updates: int
    model_fields: dict = field(default_factory=dict)
    tokens: str | None = None
    dev: Sequence[str] = ()
    unlabelled: Sequence[str] | None = None
    language: str | None = None
    languages: Sequence[str] | None = None
    language_alpha: float = 1.0
    pseudo_label_weight: float = 1.0
    max_batch_seconds: float = 200.0
    micro_batches_per_update: int = 1
    optimizer: str = "adagrad"
    learning_rate: float = 0.03
    warmup_updates: int = 64_000
    schedule: str = "constant"
    first_decay_update: int | None = None
    decay_every_updates: int | None = None
    weight_decay: float = 0.0
    max_grad_norm: float = 0.1
    spec_augment: SpecAugmentConfig | None = field(default_factory=SpecAugmentConfig)
    slimipl: SlimIplConfig | None = None
    bf16: bool = False
    gradient_checkpointing: bool = False
    log_every: int = 100
    eval_every: int = 5_000
    save_every: int = 1_000
    num_workers: int = 2
    cache_gigabytes: float = 1.0
    seed: int = 0
    push_to_hub: str | None = None
    hub_private_repo: bool = False
    license: str | None = None
    stage: str = "train"

    def __post_init__(self):
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer is {self.optimizer!r}; accepted are {', '.join(OPTIMIZERS)}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule is {self.schedule!r}; accepted are {', '.join(SCHEDULES)}")
        for name in ("max_updates", "micro_batches_per_update", "log_every", "eval_every", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("first_decay_update", "decay_every_updates"):
            value = getattr(self, name)
            if (value is None) == (self.schedule == "step") or value is not None and value < 1:
                raise ValueError(f"{name} is {value}; only schedule step has it, and needs 1 or more")
        for name in ("max_batch_seconds", "learning_rate", "max_grad_norm", "pseudo_label_weight"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in ("warmup_updates", "num_workers", "cache_gigabytes", "seed", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0")
        if self.seed >= 2**32:
            raise ValueError(f"seed is {self.seed}; it must be below 2^32")
        if not 0 <= self.language_alpha <= 1:
            raise ValueError(f"language_alpha is {self.language_alpha}; it must be between 0 and 1")
        if not self.train:
            raise ValueError("train is empty; name at least one utterance file, as `hf-mlpl prepare-data` writes them")
        if (self.unlabelled is None) != (self.slimipl is None):
            given, missing = ("slimipl", "unlabelled") if self.unlabelled is None else ("unlabelled", "slimipl")
            raise ValueError(f"{given} is set and {missing} is not; slimIPL needs both, other training neither")
        if self.push_to_hub is not None:
            self._check_push()

    def _check_push(self) -> None:
        try:
            validate_repo_id(self.push_to_hub)
        except ValueError as error:
            raise ValueError(f"push_to_hub: {error}") from None
        if "/" not in self.push_to_hub:
            raise ValueError(f"push_to_hub is {self.push_to_hub!r}; it must be of the form user/name")
        if not self.license:
            raise ValueError(
                f"license is {self.license!r}; push_to_hub needs the licence of what is pushed, such as apache-2.0"
            )
        if not re.fullmatch(r"[A-Za-z0-9]([\w.-]*\w)?", self.tag, re.ASCII) or ".." in self.tag:
            raise ValueError(
                f"stage is {self.stage!r}; push_to_hub needs letters, digits, '-', '_' and '.', for it names a tag"
            )

    @property
    def tag(self) -> str:
        """Name of the pushed result's revision."""
        return f"{self.stage}-{self.language}" if self.language else self.stage


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainingConfig:
    """Reads a stage's YAML file; `name=value` in `overrides` goes over it, with dots into nested fields.

    Raises:
        ValueError: for a name that is no setting, a missing or a wrong value, with the accepted ones.
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
    """Reads YAML, and refuses a name that is set twice, of which PyYAML takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise ValueError(f"line {node.start_mark.line + 1}: {', '.join(twice)} is set twice")
        return super().construct_mapping(node, deep)


def _override(settings: dict, override: str) -> None:
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


def _with_language(value, language: str | None):
    """Puts the language into texts that ask for it, however deep."""
    if isinstance(value, dict):
        return {name: _with_language(field, language) for name, field in value.items()}
    if isinstance(value, list):
        return [_with_language(element, language) for element in value]
    if not isinstance(value, str) or "{language}" not in value:
        return value
    if not isinstance(language, str):
        raise ValueError(f"{value!r} needs a language; add language=CODE, for example language=sl")
    return value.replace("{language}", language)


def _build(config_class: type, settings: dict):
    fields = {f.name: f for f in dataclasses.fields(config_class)}
    if unknown := sorted(map(str, settings.keys() - fields.keys())):
        raise ValueError(f"no setting is called {', '.join(unknown)}; there are {', '.join(fields)}")
    required = [f.name for f in fields.values() if f.default is f.default_factory is dataclasses.MISSING]
    missing = [name for name in required if name not in settings]
    if missing:
        raise ValueError(f"{', '.join(missing)} must be set")
    return config_class(**{name: _typed(name, value, fields[name].type) for name, value in settings.items()})


def _typed(name: str, value, annotation: str):
    """The value of a setting as its annotation wants it."""
    kind, *alternatives = annotation.split(" | ")
    if value is None and "None" in alternatives:
        return None
    if kind == "float":
        value = _float(value)
    accepted, description = {
        "int": (int, "a whole number"),
        "float": ((int, float), "a finite number"),
        "str": (str, "a text"),
        "bool": (bool, "true or false"),
        "dict": (dict, "fields of the form `name: value`"),
        "Sequence[str]": (list, "a list of texts"),
        **dict.fromkeys(NESTED, (dict, "fields of the form `name: value`, or null")),
    }[kind]
    is_list_of_texts = kind != "Sequence[str]" or isinstance(value, list) and all(isinstance(v, str) for v in value)
    is_bool = isinstance(value, bool)  # which Python takes for a whole number
    if is_bool != (kind == "bool") or not isinstance(value, accepted) or not is_list_of_texts:
        quotes = ", in quotes where YAML takes it for something else" if "str" in kind else ""
        raise ValueError(f"{name} is {value!r}; it must be {description}{quotes}")
    return _build(NESTED[kind], value) if kind in NESTED else value


def _float(value):
    """Returns a finite number; of any other value something that is no number, for the error to show."""
    try:
        if isinstance(value, str):
            value = float(value)  # YAML reads 1e-3 as text, because its floats need a dot
        return value if isinstance(value, bool) or math.isfinite(value) else str(value)
    except (ValueError, TypeError, OverflowError):
        return str(value) if isinstance(value, int) else value
