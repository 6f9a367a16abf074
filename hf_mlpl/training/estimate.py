"""Estimates hours, updates, disk and GPU-hours of every stage of a recipe before it is run, and finds what is missing.

GPU-hours are floating point operations divided by a GPU's speed. Operations are those of the model's matrix products,
two for each multiply-add: the convolution, a layer's four attention projections and its MLP, the products of attention
and of relative positions, which grow with the square of an utterance's length, and the CTC head. A backward pass has
twice as many as its forward pass; gradient checkpointing adds the layers' forward pass; LayerDrop removes its share of
them. Labelling and evaluation are forward passes. An update counts with the whole budget of its batches,
`max_batch_seconds` x `micro_batches_per_update`, including padding and rounding. Reading and decoding audio are not
counted.

For a model of another architecture torch counts the operations of a forward pass over 10 and 20 seconds without
weights (`torch.utils.flop_counter`), from which follow their parts that grow with the length and with its square.
A frozen feature encoder has no backward pass, and frozen layers under adapters half of it.

Disk: a run keeps up to two checkpoints of 4 bytes per parameter for weights, 4 for Adagrad's or 8 for AdamW's state,
and 4 where slimIPL's labels come from a running mean; while a checkpoint is written there is one more. A model is
4 bytes per parameter. With adapters (LoRA) a checkpoint holds adapters and heads alone, and so does the model unless
they are merged. A pseudo-label is 1000 bytes: 500 in its shard and 500 in the joined file, an estimate for half a
minute of speech. Files that exist already are subtracted.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoFeatureExtractor,
    AutoModelForCTC,
    FeatureExtractionMixin,
    PreTrainedConfig,
    PreTrainedModel,
)

from ..ctc_models.adapters import source_of
from ..ctc_models.loading import read_config, student_config
from ..ctc_models.new_tokens import character_tokenizer
from ..ctc_models.transformers_ctc import FEATURE_ENCODERS, HEADS
from ..data.utterances import SpeechTotals, speech_totals
from ..error_line import error_line
from ..interop.mctct import MCTCTConfig
from ..model.configuration_mlpl import MlplConfig
from ..model.missing_model import OUR_TYPES
from ..text_table import aligned
from ..training_config import PRESETS, LoraConfig, TrainingConfig, check_our_fields, language_setting, load_config
from .adapters import ATTENTION
from .checkpoint_files import CHECKPOINTS_KEPT
from .model_setup import read_tokens

BYTES_PER_LABEL = 1000
COUNTED_SECONDS = (10, 20)  # of speech, for which operations are counted
STATE_BYTES = {"adagrad": 4, "adamw": 8}  # per parameter
Speech = dict[str, SpeechTotals]  # by language


@dataclass
class Stage:
    """Holds a row of the estimate; a number is None where something that it depends on is missing."""

    name: str
    languages: int | None = None
    labelled_hours: float | None = None
    unlabelled_hours: float | None = None
    updates: int | None = None
    bytes: float | None = None
    flops: float | None = None


@dataclass
class Estimate:
    """Collects a row for each stage, one line for each problem to be solved before training, and warnings."""

    labels: Path  # folder of the pseudo-labels
    stages: list[Stage] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    first_run: list[str] = field(default_factory=list)  # arguments of `train` for the first stage, in one language
    largest_checkpoint: float = 0.0
    folders: list[Path] = field(default_factory=list)  # written by the stages
    models: dict[str, PreTrainedConfig | None] = field(default_factory=dict)  # by the folder where a stage saves it
    sources: dict[str, str] = field(default_factory=dict)  # of their feature extractors, by the same folder

    def add_problem(self, line: str) -> None:
        """Adds a problem once, even if several stages have it."""
        if line not in self.problems:
            self.problems.append(line)

    def table(self, flops_per_second: float, unit: str = "GPU-hours") -> str:
        """Returns the rows and their total as a plain text table, whose last column is the time of the operations."""
        header = "stage", "languages", "labelled h", "unlabelled h", "updates", "disk GB", unit
        rows: list[tuple[str, ...]] = [header]
        whole = Stage("total", bytes=_sum(s.bytes for s in self.stages), flops=_sum(s.flops for s in self.stages))
        for stage in (*self.stages, whole):
            hours = None if stage.flops is None else stage.flops / flops_per_second / 3600
            gigabytes = None if stage.bytes is None else stage.bytes / 1e9
            numbers = (stage.languages, stage.labelled_hours, stage.unlabelled_hours, stage.updates)
            rows.append((stage.name, *map(_rounded, (*numbers, gigabytes, hours))))
        return aligned(rows)

    def add_run(self, name: str, config: TrainingConfig, pseudo_labelled: Speech) -> None:
        """Adds the row of one run; `pseudo_labelled` is the speech that earlier stages label."""
        files = [path for path in config.train if self.labels not in Path(path).parents]
        takes_labels = len(files) < len(config.train)
        train, dev, unlabelled = map(self._totals, (files, config.dev, config.unlabelled or ()))
        model = self._model(config, train)
        self._check_languages(config, model, train, dev)
        stage = Stage(name, len({**train, **pseudo_labelled}) or None, updates=config.max_updates)
        self.stages.append(stage)
        labelled, without_text = sum_speech(train), sum_speech(unlabelled)
        if takes_labels:
            without_text += sum_speech(pseudo_labelled)
        stage.labelled_hours = labelled.seconds / 3600 or None
        stage.unlabelled_hours = without_text.seconds / 3600 or None
        if model is None:
            return
        stage.bytes = self._bytes(config, model, [config.output_dir])
        if labelled.seconds and (pseudo_labelled or not takes_labels) and _is_counted(model):
            speech = labelled if config.slimipl else labelled + without_text
            stage.flops = _run_flops(config, model, speech, sum_speech(unlabelled), sum_speech(dev))

    def add_languages(self, name: str, config: TrainingConfig, languages: Sequence[str] | None) -> Speech:
        """Adds rows for slimIPL and for pseudo-labels, of all languages together; returns the speech that is labelled.

        Args:
            languages: by default all with unlabelled and labelled speech.
        """
        train, dev, unlabelled = map(self._totals, (config.train, config.dev, config.unlabelled))
        model = self._model(config, train)
        if unlabelled and (silent := [language for language in languages or () if language not in unlabelled]):
            files, others = ", ".join(config.unlabelled), ", ".join(unlabelled)
            self.add_problem(f"{files}: no unlabelled speech in {', '.join(silent)}; there is some in {others}")
        chosen = [language for language in languages or unlabelled if language in unlabelled and language in train]
        if unlabelled and train and not chosen:
            files, others = ", ".join(config.train), ", ".join(train)
            self.add_problem(
                f"{files}: no labelled speech in {', '.join(languages or unlabelled)}; there is some in {others}"
            )
        speech = {language: unlabelled[language] for language in chosen}
        finetuning, labelling = Stage(name), Stage("pseudo-labels")
        self.stages += [finetuning, labelling]
        if not chosen:
            return {}
        finetuning.languages = labelling.languages = len(chosen)
        finetuning.labelled_hours = sum(train[language].seconds for language in chosen) / 3600
        finetuning.unlabelled_hours = labelling.unlabelled_hours = sum_speech(speech).seconds / 3600
        finetuning.updates = config.max_updates * len(chosen)
        labelling.bytes = sum_speech(speech).utterances * BYTES_PER_LABEL
        self.folders.append(self.labels)
        if model is not None:
            folders = [config.output_dir.replace("{language}", language) for language in chosen]
            finetuning.bytes = self._bytes(config, model, folders)
        if model is not None and _is_counted(model):
            finetuning.flops = sum(
                _run_flops(config, model, train[language], speech[language], dev.get(language, SpeechTotals()))
                for language in chosen
            )
            labelling.flops = forward_flops(model, sum_speech(speech))
        return speech

    def _totals(self, files: Sequence[str]) -> Speech:
        """Sums the speech of utterance files by language; a file that cannot be read is a problem."""
        totals: Speech = {}
        for path in files:
            try:
                for language, amount in speech_totals([path]).items():
                    totals[language] = totals.get(language, SpeechTotals()) + amount
            except (ValueError, OSError) as error:
                self.add_problem(str(error))
        return dict(sorted(totals.items()))

    def _model(self, config: TrainingConfig, train: Speech) -> Model | None:
        """Returns a stage's model, from which later stages may start; None, with a problem, if it is not known."""
        model, source = None, self.sources.get(config.model, config.model)
        try:
            if config.model in self.models:
                model = copy.deepcopy(self.models[config.model])
            elif config.model in PRESETS:
                classes = len(read_tokens(config))
                model = getattr(MlplConfig, config.model)(classes, list(config.languages or train))
            else:
                model = _stored_config(config.model)
            if model is not None and model.model_type not in OUR_TYPES:
                num_classes = character_tokenizer(config.tokens).vocab_size if config.tokens else None
                model = student_config(config.model, model, config.model_fields, num_classes)
            elif model is not None:
                check_our_fields(config.model_fields)
                if config.model not in PRESETS:  # whose heads the run resizes
                    if config.tokens:
                        model.vocab_size = len(read_tokens(config))
                    model.languages = list(config.languages or model.languages or train)
                for name, value in config.model_fields.items():
                    setattr(model, name, value)
        except (ValueError, OSError, StrictDataclassError) as error:
            self.add_problem(error_line(error))
            model = None
        folder = str(Path(config.output_dir) / "model")
        self.models[folder], self.sources[folder] = model, source
        if model is None:
            return None
        counted = counted_model(model, source)
        if (problem := getattr(counted, "problem", None)) and problem not in self.warnings:
            self.warnings.append(problem)
        return counted

    def _check_languages(self, config: TrainingConfig, model: Model | None, train: Speech, dev: Speech) -> None:
        """Compares the languages of a run's utterances with those of its settings, its model and its dev set."""
        if not train:
            return  # its files are missing, or all are empty
        files = ", ".join(config.train)
        if config.languages and config.model in PRESETS:
            without = [language for language in config.languages if language not in train]
            if missing := [language for language in without if language not in dev]:
                self.add_problem(f"{files}: no locale {', '.join(missing)}, neither for training nor for development")
            if empty := [language for language in without if language in dev]:
                split = f"the training split of {', '.join(empty)}"
                self.add_problem(f"{files}: {split} is empty; leave it out of `languages`")
        if (
            model is not None
            and model.languages is not None
            and (unknown := [language for language in train if language not in model.languages])
        ):
            self.add_problem(f"{files}: the model has no class for {', '.join(unknown)}; add it to `languages`")
        if dev and (silent := ", ".join(language for language in train if language not in dev)):
            line = f"{', '.join(config.dev)}: nothing in {silent}, so training goes on without its error rates"
            if line not in self.warnings:
                self.warnings.append(line)

    def _bytes(self, config: TrainingConfig, model: Model, folders: Sequence[str]) -> float:
        """Returns the disk space of runs of these settings, one in each folder."""
        parameters = trained = num_parameters(model)
        if config.lora:
            trained = num_trained(model, config.lora)
            parameters = parameters if config.lora.merge else trained
        has_teacher = config.slimipl is not None and config.slimipl.ema_decay is not None
        checkpoint = trained * (4 + STATE_BYTES[config.optimizer] + 4 * has_teacher)
        kept = min(CHECKPOINTS_KEPT, (config.max_updates - 1) // config.save_every)
        self.largest_checkpoint = max(self.largest_checkpoint, checkpoint)
        self.folders += map(Path, folders)
        return len(folders) * (kept * checkpoint + parameters * 4)

    def check_disk(self) -> None:
        """Compares the bytes still to be written with the free space on the disk of the first stage's output."""
        needed = _sum(stage.bytes for stage in self.stages)
        if needed is None or not self.folders:
            return
        files = (file for folder in set(self.folders) for file in folder.rglob("*") if file.is_file())
        needed += self.largest_checkpoint - sum(file.stat().st_size for file in files)
        first = self.folders[0].absolute()
        folder = next(path for path in (first, *first.parents) if path.exists())
        free = shutil.disk_usage(folder).free
        if needed > free:
            self.add_problem(
                f"{folder}: {needed / 1e9:,.1f} GB are needed and {free / 1e9:,.1f} GB are free; make room, or put "
                "the output on another disk"
            )


def estimate_stages(stages: Sequence[Sequence[str]], labels: Path, languages: Sequence[str] | None = None) -> Estimate:
    """Estimates stages, each a YAML file and the settings that override it, without training or writing anything.

    Args:
        stages: in order; one with {language} in its settings is slimIPL, and labelling, for each language.
        labels: folder of the pseudo-labels; files in it that later stages name count as written.
        languages: languages that get pseudo-labels; by default all with unlabelled and labelled speech.
    """
    estimate, pseudo_labelled = Estimate(labels), {}
    for path, *overrides in stages:
        name = Path(path).stem
        try:
            is_per_language = "{language}" in Path(path).read_text(encoding="utf-8") + "".join(overrides)
            config = load_config(path, [*overrides, *([language_setting("{language}")] if is_per_language else [])])
            if is_per_language and not config.slimipl:
                raise ValueError("has {language} in its settings, but neither `unlabelled` nor `slimipl`")
        except (ValueError, OSError) as error:
            estimate.add_problem(str(error) if path in str(error) else f"{path}: {error}")
            estimate.stages.append(Stage(name))
            continue
        if is_per_language:
            pseudo_labelled = estimate.add_languages(name, config, languages)
            chosen = [language_setting(language) for language in list(pseudo_labelled)[:1]]
        else:
            estimate.add_run(name, config, pseudo_labelled)
            chosen = []
        estimate.first_run = estimate.first_run or [path, *overrides, *chosen]
    estimate.check_disk()
    return estimate


def _stored_config(name: str) -> PreTrainedConfig:
    """Reads the configuration of a trained model, also of the old port; raises ValueError if there is none."""
    try:
        if name.count("/") != 1 and not os.path.exists(name):  # the Hub would be asked in vain
            raise OSError
        stored = read_config(name)
    except OSError:
        raise ValueError(
            f"{name}: no such model, and no earlier stage writes it; accepted are {', '.join(PRESETS)}, a folder, a "
            "name on the Hub, or the model/ of an earlier stage's output_dir"
        ) from None
    return stored.to_mlpl() if isinstance(stored, MCTCTConfig) else stored


def _sum(values: Iterable[float | None]) -> float | None:
    values = list(values)
    return None if None in values else sum(values)


def sum_speech(speech: Speech) -> SpeechTotals:
    """Adds the speech of all languages."""
    return sum(speech.values(), SpeechTotals())


def _rounded(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.2g}"


@dataclass(frozen=True)
class CountedModel:
    """Holds what is known of a model of another architecture than ours.

    Args:
        parameters: their number.
        seconds_flops, squared_flops: operations of a forward pass, in the feature encoder, in the layers and in all
            others, for a second and a squared second of speech; None if they cannot be counted, for the reason in
            `problem`.
    """

    config: PreTrainedConfig
    parameters: int
    layerdrop: float
    takes_samples: bool  # and so has a feature encoder, which is frozen by default
    seconds_flops: tuple[float, ...] | None = None
    squared_flops: tuple[float, ...] | None = None
    problem: str | None = None
    languages: None = None  # it has no language-ID head


Model = MlplConfig | CountedModel


def counted_model(config: PreTrainedConfig, name: str | os.PathLike) -> Model:
    """Returns a configuration of ours, whose operations have formulas, or the counted ones of another architecture.

    Args:
        name: of the model; the feature extractor is found there.
    """
    if config.model_type in OUR_TYPES:
        return config
    model = _without_weights(config)
    layerdrop = next((c.layerdrop for c in _configurations(config) if hasattr(c, "layerdrop")), 0.0)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    counted = CountedModel(config, parameters, layerdrop, model.main_input_name == "input_values")
    try:
        extractor = AutoFeatureExtractor.from_pretrained(source_of(name))
        shorter, longer = (_count_parts(model, extractor, seconds) for seconds in COUNTED_SECONDS)
    except Exception as error:  # of any type: not every model runs without weights
        problem = f"{name}: its operations cannot be counted ({error_line(error)}), so its time is not known"
        return dataclasses.replace(counted, problem=problem)
    s, t = COUNTED_SECONDS  # f(s) = a s + b s^2, and f(t) so
    squared = tuple((y / t - x / s) / (t - s) for x, y in zip(shorter, longer, strict=True))
    linear = tuple(x / s - b * s for x, b in zip(shorter, squared, strict=True))
    return dataclasses.replace(counted, seconds_flops=linear, squared_flops=squared)


def _without_weights(config: PreTrainedConfig) -> PreTrainedModel:
    with torch.device("meta"):
        return AutoModelForCTC.from_config(config).eval()


def _configurations(config: PreTrainedConfig) -> list[PreTrainedConfig]:
    return [config, *(getattr(config, name) for name in config.sub_configs)]


def _count_parts(model: PreTrainedModel, extractor: FeatureExtractionMixin, seconds: int) -> tuple[float, ...]:
    """Counts the operations over some seconds: of the feature encoder, of the layers, and of all others."""
    silence = np.zeros(seconds * extractor.sampling_rate, np.float32)
    inputs = extractor(silence, sampling_rate=extractor.sampling_rate, return_tensors="pt")[model.main_input_name]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(inputs.to("meta"))
    counts = {name: sum(operations.values()) for name, operations in counter.get_flop_counts().items()}
    is_layer = re.compile(r"\.layers\.\d+$")
    stacks = Counter(name.rpartition(".layers.")[0] for name in counts if is_layer.search(name))
    encoder = max(stacks, key=lambda stack: sum(v for n, v in counts.items() if n.startswith(f"{stack}.layers.")))
    layers = sum(v for n, v in counts.items() if re.fullmatch(rf"{re.escape(encoder)}\.layers\.\d+", n))
    below = sum(v for n, v in counts.items() if n.rpartition(".")[2] in FEATURE_ENCODERS)
    return below, layers, counts["Global"] - below - layers


def _is_counted(model: Model) -> bool:
    return not isinstance(model, CountedModel) or model.seconds_flops is not None


def num_parameters(model: Model) -> int:
    """Counts the parameters of a model."""
    if isinstance(model, CountedModel):
        return model.parameters
    config = model
    width = config.num_attention_heads * config.attention_head_dim
    convolution = 2 * config.hidden_size * (config.num_mel_bins * config.conv_kernel + 1) + 2
    positions = (2 * config.max_position_embeddings - 1) * config.attention_head_dim
    layer = config.hidden_size * (4 * width + 2 * config.intermediate_size) + positions + 4
    heads = (config.hidden_size + 1) * (config.vocab_size + len(config.languages))
    return convolution + config.num_hidden_layers * layer + heads


def num_trained(model: Model, lora: LoraConfig) -> int:
    """Counts the parameters of heads and adapters; an adapter has `r` for each input and each output of its layer."""
    whole = _without_weights(model.config if isinstance(model, CountedModel) else model)
    targets = tuple(f".{target}" for target in lora.target_modules or ATTENTION)
    modules = {f".{name}": module for name, module in whole.named_modules()}
    heads = [module for name, module in modules.items() if name.rpartition(".")[2] in (*HEADS, "lid_head")]
    adapted = [m for name, m in modules.items() if isinstance(m, nn.Linear) and name.endswith(targets)]
    in_heads = sum(parameter.numel() for head in heads for parameter in head.parameters())
    return in_heads + sum(lora.r * (layer.in_features + layer.out_features) for layer in adapted)


def flops(model: Model, speech: SpeechTotals) -> tuple[float, ...]:
    """Counts the operations of a forward pass over some speech: below the layers, in them, and in the CTC head."""
    if isinstance(model, CountedModel):
        pairs = zip(model.seconds_flops, model.squared_flops, strict=True)
        return tuple(a * speech.seconds + b * speech.squared_seconds for a, b in pairs)
    config = model
    rate = config.frames_per_second / config.conv_stride  # frames per second after the front end
    frames, squared_frames = speech.seconds * rate, speech.squared_seconds * rate**2
    width = config.num_attention_heads * config.attention_head_dim
    convolution = 2 * 2 * config.hidden_size * config.num_mel_bins * config.conv_kernel * frames
    products = 2 * config.hidden_size * (4 * width + 2 * config.intermediate_size) * frames
    attention = 2 * width * (1 + 1 + 2) * squared_frames  # of scores, of values, and of positions: 2 S rows
    head = 2 * config.hidden_size * config.vocab_size * frames
    return convolution, config.num_hidden_layers * (products + attention), head


def forward_flops(model: Model, speech: SpeechTotals) -> float:
    """Counts the operations of a forward pass over some speech."""
    return sum(flops(model, speech))


def training_flops(
    model: Model,
    speech: SpeechTotals,
    checkpointing: bool,
    layerdrop: float,
    freezes_encoder: bool = False,
    freezes_layers: bool = False,
) -> float:
    """Counts the operations of a forward and a backward pass over some speech.

    Args:
        freezes_encoder: the feature encoder below the layers, which then has no backward pass.
        freezes_layers: the layers, whose backward pass then has the gradients of their inputs and not of weights.
    """
    below, layers, head = flops(model, speech)
    passes = (2 if freezes_layers else 3) + checkpointing
    return (1 if freezes_encoder else 3) * below + passes * (1 - layerdrop) * layers + 3 * head


def update_flops(config: TrainingConfig, model: Model, speech: SpeechTotals, layerdrop: float) -> float:
    """Counts the operations of an update with utterances like those of `speech`, which fill its batches."""
    freezes_layers = config.lora is not None
    is_usual = isinstance(model, CountedModel) and model.takes_samples
    freezes = is_usual if config.freeze_feature_encoder is None else config.freeze_feature_encoder
    freezes_encoder = freezes or freezes_layers
    operations = training_flops(
        model, speech, config.gradient_checkpointing, layerdrop, freezes_encoder, freezes_layers
    )
    return config.max_batch_seconds * config.micro_batches_per_update * operations / speech.seconds


def _run_flops(
    config: TrainingConfig, model: Model, labelled: SpeechTotals, unlabelled: SpeechTotals, dev: SpeechTotals
) -> float:
    """Counts the operations of a run: updates, slimIPL's labels, evaluations."""

    def training(updates: float, speech: SpeechTotals, layerdrop: float) -> float:
        return updates * update_flops(config, model, speech, layerdrop)

    evaluations = math.ceil(config.max_updates / config.eval_every)
    operations = evaluations * forward_flops(model, dev)
    if not config.slimipl:
        return operations + training(config.max_updates, labelled, model.layerdrop)
    start = min(config.slimipl.start_update, config.max_updates)
    supervised, unsupervised, batches = slimipl_updates(config)
    dropped = model.layerdrop if config.slimipl.dynamic_dropout is None else config.slimipl.dynamic_dropout
    operations += training(start, labelled, model.layerdrop) + training(supervised - start, labelled, dropped)
    operations += training(unsupervised, unlabelled, dropped)
    label_seconds = batches * config.max_batch_seconds
    return operations + label_seconds * forward_flops(model, unlabelled) / unlabelled.seconds


def slimipl_updates(config: TrainingConfig) -> tuple[float, float, float]:
    """Returns mean numbers of updates on human labels, of updates on pseudo-labels, and of batches to label."""
    slimipl, micro_batches = config.slimipl, config.micro_batches_per_update
    start = min(slimipl.start_update, config.max_updates)
    ratio = slimipl.unsupervised_updates / (slimipl.supervised_updates + slimipl.unsupervised_updates)
    unsupervised = ratio * (config.max_updates - start)
    supervised = config.max_updates - unsupervised
    if slimipl.variant != "fixed-pre-cache":
        return supervised, unsupervised, unsupervised * micro_batches
    filling = min(unsupervised, slimipl.cache_size / micro_batches)
    trained = unsupervised - filling
    batches = micro_batches * (filling + slimipl.cache_update_probability * trained)
    return supervised, trained, batches
