"""Defines every setting of a training run, reads them from a YAML file, and compares them with those of an older run.

What can be checked without data is checked here. No import takes long, so that a wrong setting is refused at once.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from huggingface_hub.utils import validate_repo_id

from .atomic import write_text
from .error_line import error_line

PRESETS = ("tiny", "base", "large")  # of `MlplConfig`
OPTIMIZERS = ("adagrad", "adamw")
SCHEDULES = ("constant", "linear", "step")
VARIANTS = ("naive", "cache", "pre-cache", "fixed-pre-cache")  # of slimIPL
# Fields of `MlplConfig`, which is not imported: that takes seconds.
FREE_MODEL_FIELDS = (
    "hidden_size num_hidden_layers num_attention_heads attention_head_dim intermediate_size max_position_embeddings "
    "layer_norm_eps layer_norm_per_channel conv_dropout attention_dropout activation_dropout layerdrop "
    "ctc_loss_reduction ctc_zero_infinity lid_loss_weight"
).split()
DECIDED_MODEL_FIELDS = ("vocab_size", "blank_token_id", "languages", "num_mel_bins")
# What may differ between a run and its continuation: nothing here changes the result.
FREE_ON_RESUME = frozenset(
    "num_workers cache_gigabytes log_every save_every eval_every push_to_hub hub_private_repo license stage".split()
)
FREE_IN_FOLDER = FREE_ON_RESUME | {"output_dir"}  # a folder may be moved


@dataclass(frozen=True, kw_only=True)
class SpecAugmentConfig:
    """Configures the masks of an utterance; the defaults are the flags of the released checkpoint (`--saug_*`)."""

    start_update: int = 50_000
    num_frequency_masks: int = 2
    max_frequency_width: int = 30  # mel bins
    num_time_masks: int = 2
    max_time_width: int = 50  # frames of 10 ms
    max_time_fraction: float = 0.1  # of the utterance, for the width of one mask

    def __post_init__(self):
        _check_least(self, 0, *(field.name for field in dataclasses.fields(self)))
        if self.max_time_fraction > 1:
            raise ValueError(f"max_time_fraction is {self.max_time_fraction}; it must be at most 1")


@dataclass(frozen=True, kw_only=True)
class SlimIplConfig:
    """Configures slimIPL. In brackets the original's flags; the defaults are those of its recipe with 10 h of labels.

    Args:
        start_update: updates with labelled speech alone before the first pseudo-label (`slimIPL_start`).
        variant: `fixed-pre-cache` trains on the labels of a cache of fixed size, of which it replaces a part as it
            goes; `naive` on labels made for this very update; `cache` and `pre-cache` on the label that an
            utterance got when it was last met, from the model after or before that update (`slimIPL_type`).
        cache_size: batches in the cache of `fixed-pre-cache`, over all processes (`slimIPL_fixed_cache_updates`).
        supervised_updates, unsupervised_updates: how many of each follow one another, in random order
            (`slimIPL_sup_updates`, `slimIPL_unsup_updates`).
        cache_update_probability: of replacing a batch of the cache when it is used
            (`slimIPL_fixed_cache_update_prob`).
        dynamic_dropout: from `start_update` on, the dropout of the transformer layers and their LayerDrop, not the
            convolution's; null keeps the model's own (`slimIPL_dyn_dropout`).
        ema_decay: labels come from a running mean of the weights with this decay; null takes the model itself
            (`slimIPL_ema_decay`).
        stop_on_collapse: ends training when nearly all labels are empty or the same, instead of a warning.
    """

    start_update: int = 20_000
    variant: str = "fixed-pre-cache"
    cache_size: int = 1000
    supervised_updates: int = 1
    unsupervised_updates: int = 10
    cache_update_probability: float = 0.1
    dynamic_dropout: float | None = 0.1
    ema_decay: float | None = None
    stop_on_collapse: bool = False

    def __post_init__(self):
        if self.variant not in VARIANTS:
            raise ValueError(f"variant is {self.variant!r}; accepted are {', '.join(VARIANTS)}")
        _check_least(self, 0, "start_update", "supervised_updates")
        _check_least(self, 1, "unsupervised_updates", "cache_size")
        if not 0 < self.cache_update_probability <= 1:
            raise ValueError(
                f"cache_update_probability is {self.cache_update_probability}; it must be above 0 and at most 1"
            )
        for name in ("dynamic_dropout", "ema_decay"):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1, or null")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Configures a run of `hf-mlpl train`. Seconds are seconds of audio; updates are optimizer steps.

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
        hub_private_repo: creates the repository as private if it does not exist.
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
        self._check_values()
        self._check_model_fields()
        if self.slimipl is not None:
            self._check_cache()
        if self.push_to_hub is not None:
            self._check_push()

    def _check_values(self) -> None:
        """Checks choices, ranges, and settings that need one another."""
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer is {self.optimizer!r}; accepted are {', '.join(OPTIMIZERS)}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule is {self.schedule!r}; accepted are {', '.join(SCHEDULES)}")
        _check_least(self, 1, "max_updates", "micro_batches_per_update", "log_every", "eval_every", "save_every")
        _check_least(self, 0, "warmup_updates", "num_workers", "cache_gigabytes", "seed", "weight_decay")
        for name in ("first_decay_update", "decay_every_updates"):
            value = getattr(self, name)
            if (value is None) == (self.schedule == "step") or value is not None and value < 1:
                raise ValueError(f"{name} is {value}; only schedule step has it, and needs 1 or more")
        for name in ("max_batch_seconds", "learning_rate", "max_grad_norm", "pseudo_label_weight"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.seed >= 2**32:
            raise ValueError(f"seed is {self.seed}; it must be below 2^32")
        if not 0 <= self.language_alpha <= 1:
            raise ValueError(f"language_alpha is {self.language_alpha}; it must be between 0 and 1")
        if not self.train:
            raise ValueError("train is empty; name at least one utterance file, as `hf-mlpl prepare-data` writes them")
        if (self.unlabelled is None) != (self.slimipl is None):
            given, missing = ("slimipl", "unlabelled") if self.unlabelled is None else ("unlabelled", "slimipl")
            raise ValueError(f"{given} is set and {missing} is not; slimIPL needs both, other training neither")

    def _check_model_fields(self) -> None:
        """Checks that a new model has its tokens, and that `model_fields` names fields that can be chosen."""
        if self.model in PRESETS and self.tokens is None:
            raise ValueError("a new model needs `tokens`, a tokens file; `hf-mlpl build-tokenizer` writes one")
        if decided := sorted(self.model_fields.keys() & set(DECIDED_MODEL_FIELDS)):
            raise ValueError(
                f"model_fields has {', '.join(decided)}, which `tokens`, `languages` and the features decide"
            )
        if unknown := sorted(map(str, self.model_fields.keys() - set(FREE_MODEL_FIELDS))):
            raise ValueError(f"model_fields has {', '.join(unknown)}; accepted are {', '.join(FREE_MODEL_FIELDS)}")

    def _check_cache(self) -> None:
        """Checks that whole updates fill the cache of slimIPL."""
        size, micro_batches = self.slimipl.cache_size, self.micro_batches_per_update
        if self.slimipl.variant == "fixed-pre-cache" and size % micro_batches:
            raise ValueError(
                f"cache_size is {size}; it must be a multiple of micro_batches_per_update, {micro_batches}"
            )

    def _check_push(self) -> None:
        """Checks the names that the Hub would refuse, and that there is a licence."""
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
        """Returns the name of the pushed result's revision."""
        return f"{self.stage}-{self.language}" if self.language else self.stage


def _check_least(config, least: int, *names: str) -> None:
    """Raises a ValueError for the first of the named settings that is below `least`."""
    for name in names:
        if (value := getattr(config, name)) < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")


NESTED = {config.__name__: config for config in (SpecAugmentConfig, SlimIplConfig)}
_QUOTES = ", in quotes where YAML takes it for something else"
# What YAML may give for each type of setting, and how an error describes it. True is no whole number here.
ACCEPTED = {
    "int": (lambda value: type(value) is int, "a whole number"),
    "float": (lambda value: type(value) in (int, float) and abs(value) <= sys.float_info.max, "a finite number"),
    "str": (lambda value: isinstance(value, str), f"a text{_QUOTES}"),
    "bool": (lambda value: isinstance(value, bool), "true or false"),
    "dict": (lambda value: isinstance(value, dict), "fields of the form `name: value`"),
    "Sequence[str]": (
        lambda value: isinstance(value, list) and all(isinstance(element, str) for element in value),
        f"a list of texts{_QUOTES}",
    ),
    **dict.fromkeys(NESTED, (lambda value: isinstance(value, dict), "fields of the form `name: value`, or null")),
}


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
    """Makes one of the classes above of the settings of a YAML file, which it checks."""
    fields = {f.name: f for f in dataclasses.fields(config_class)}
    if unknown := sorted(map(str, settings.keys() - fields.keys())):
        raise ValueError(f"no setting is called {', '.join(unknown)}; there are {', '.join(fields)}")
    required = [f.name for f in fields.values() if f.default is f.default_factory is dataclasses.MISSING]
    missing = [name for name in required if name not in settings]
    if missing:
        raise ValueError(f"{', '.join(missing)} must be set")
    return config_class(**{name: _typed(name, value, fields[name].type) for name, value in settings.items()})


def _typed(name: str, value, annotation: str):
    """Returns the value of a setting as its annotation wants it; raises a ValueError for one of another type."""
    kind, *alternatives = annotation.split(" | ")
    if value is None and "None" in alternatives:
        return None
    if kind == "float" and isinstance(value, str):
        with suppress(ValueError):
            value = float(value)  # YAML reads 1e-3 as text, because its floats need a dot
    is_accepted, description = ACCEPTED[kind]
    if not is_accepted(value):
        raise ValueError(f"{name} is {value!r}; it must be {description}")
    return _build(NESTED[kind], value) if kind in NESTED else value


def write_config(config: TrainingConfig) -> None:
    """Writes the settings to `config.yaml` of the run's folder."""
    text = yaml.safe_dump(_plain(config), allow_unicode=True, sort_keys=False)
    write_text(Path(config.output_dir) / "config.yaml", text)


def check_same_config(config: TrainingConfig, checkpoints: Sequence[Path]) -> bool:
    """Returns whether `output_dir` holds a run of these settings that has checkpoints or is finished.

    The settings of that run are in its `config.yaml`, or in the newest checkpoint where the former is damaged. A
    folder with neither a checkpoint nor a model belongs to no run, whatever a refused or killed run has left there.

    Args:
        checkpoints: of `output_dir`, the oldest first.

    Raises:
        ValueError: if settings that the result depends on are not those of that run.
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
        problem = f"{error}; remove it, and the run goes on with the settings that are given"
    if checkpoints and has_settings(checkpoints[-1] / "config.yaml", config):
        return True
    raise ValueError(problem)


def has_settings(path: Path, config: TrainingConfig) -> bool:
    """Returns whether a `config.yaml` can be read and holds these settings, up to those that a folder may change."""
    try:
        return not changed_settings(path, config, FREE_IN_FOLDER)
    except (OSError, ValueError):
        return False


def changed_settings(path: Path, config: TrainingConfig, free: Iterable[str]) -> str:
    """Lists the settings that differ from those in a `config.yaml`, without the `free` ones; empty if none does.

    Raises:
        ValueError: for a file that does not hold the settings of a run.
    """
    settings = _plain(config)
    try:
        started = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is damaged ({error_line(error)})") from error
    if not isinstance(started, dict) or not started.keys() & settings.keys():
        raise ValueError(f"{path} is damaged (it does not hold the settings of a run)")
    started = _defaults() | started  # settings that the version which wrote the file did not have
    differing = [name for name in settings if name not in free and started.get(name) != settings[name]]
    return "; ".join(f"{name} was {started.get(name)!r}, is {settings[name]!r}" for name in differing)


def _plain(config: TrainingConfig) -> dict:
    """Returns settings as YAML reads them back, with lists instead of tuples."""
    return yaml.safe_load(yaml.safe_dump(dataclasses.asdict(config)))


def _defaults() -> dict:
    """Returns the settings that have a default, as YAML reads them back."""
    required = {"output_dir": "", "model": "", "train": [""], "max_updates": 1}
    return {name: value for name, value in _plain(TrainingConfig(**required)).items() if name not in required}
