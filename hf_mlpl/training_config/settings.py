"""Defines every setting of a training run, with all checks that need no data."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.utils import validate_repo_id

from ..installation import install_command, is_installed
from ..model.missing_model import may_be_ours
from ..storage import is_remote, parse_location, shown

PRESETS = ("tiny", "base", "large")  # of `MlplConfig`
OPTIMIZERS = ("adagrad", "adamw")
TRACKERS = ("tensorboard", "trackio", "wandb", "mlflow", "swanlab", "comet_ml")  # of Accelerate's, those that resume
TRACKER_EXTRAS = ("tensorboard", "trackio")
SCHEDULES = ("constant", "linear", "step", "tri-stage")
DEFAULT_WARMUP = 64_000  # updates
VARIANTS = ("naive", "cache", "pre-cache", "fixed-pre-cache")  # of slimIPL
# Fields of `MlplConfig`, which is not imported: that takes seconds.
FREE_MODEL_FIELDS = (
    "hidden_size num_hidden_layers num_attention_heads attention_head_dim intermediate_size max_position_embeddings "
    "layer_norm_eps layer_norm_per_channel conv_dropout attention_dropout activation_dropout layerdrop "
    "ctc_loss_reduction ctc_zero_infinity lid_loss_weight"
).split()
DECIDED_MODEL_FIELDS = ("vocab_size", "blank_token_id", "languages", "num_mel_bins")


@dataclass(frozen=True, kw_only=True)
class SpecAugmentConfig:
    """Configures SpecAugment's masks; the defaults are the flags of the released checkpoint (`--saug_*`).

    The last two change the voice and the microphone of log-mel features, which costs no decoding of audio. The paper
    has neither; they help where few people have spoken the labels (recipes/README.md).

    Args:
        max_frequency_warp: each utterance's mel axis is stretched or squeezed by up to this share, like the voice of a
            person with another vocal tract.
        max_equalizer_gain: a random smooth curve over the mel bins, of up to so many standard deviations of the
            features, is added to each utterance, like another microphone.
    """

    start_update: int = 50_000
    num_frequency_masks: int = 2
    max_frequency_width: int = 30  # mel bins
    num_time_masks: int = 2
    max_time_width: int = 50  # frames of 10 ms
    max_time_fraction: float = 0.1  # of the utterance, for the width of one mask
    max_frequency_warp: float = 0.0
    max_equalizer_gain: float = 0.0

    def __post_init__(self):
        _check_least(self, 0, *(field.name for field in dataclasses.fields(self)))
        _check(self, lambda value: value <= 1, "it must be at most 1", "max_time_fraction")
        _check(self, lambda value: value <= 0.5, "it must be at most 0.5", "max_frequency_warp")


@dataclass(frozen=True, kw_only=True)
class WaveformAugmentConfig:
    """Configures random changes of the audio, from which features are then made anew for each update.

    On spoken digits of one labelled person, the defaults nearly halved the errors for another one (recipes/README.md).

    Args:
        start_update: updates before the first change.
        max_speed_change: utterances become faster or slower, and their pitch with it, by up to this share.
        noise_probability: of adding white noise, `min_snr` to `max_snr` decibels below the speech.
        echo_probability: of adding the echo of a room, which fades within 0.1 to 0.6 s.
    """

    start_update: int = 0
    max_speed_change: float = 0.1
    noise_probability: float = 0.5
    min_snr: float = 5.0
    max_snr: float = 30.0
    echo_probability: float = 0.5

    def __post_init__(self):
        _check_least(self, 0, "start_update")
        fraction = "it must be at least 0 and at most 1"
        _check(self, lambda value: 0 <= value <= 1, fraction, "noise_probability", "echo_probability")
        _check(self, lambda value: 0 <= value <= 0.5, "it must be at least 0 and at most 0.5", "max_speed_change")
        if self.min_snr > self.max_snr:
            raise ValueError(f"min_snr is {self.min_snr}; it must be at most max_snr, {self.max_snr}")


@dataclass(frozen=True, kw_only=True)
class CurriculumConfig:
    """Configures a curriculum: the first updates learn from short utterances alone.

    The longer an utterance is, the less CTC knows of where its letters are spoken, and a new model may never find out:
    it stays on a plateau, where all outputs are blanks. Deep Speech 2 (https://arxiv.org/abs/1512.02595, SortaGrad)
    sorts a first pass by length for that; the paper has no curriculum.

    Args:
        updates: that learn from short utterances alone.
        share: of the utterances of each language that are short.
    """

    updates: int = 300
    share: float = 0.3

    def __post_init__(self):
        _check_least(self, 1, "updates")
        _check(self, lambda value: 0 < value <= 1, "it must be above 0 and at most 1", "share")


@dataclass(frozen=True, kw_only=True)
class SlimIplConfig:
    """Configures slimIPL. The original's flags are in brackets, the defaults those of its recipe with 10 h of labels.

    Args:
        start_update: updates on labelled speech alone before the first pseudo-label (`slimIPL_start`).
        variant: `fixed-pre-cache` trains on the labels of a cache of fixed size, and replaces some of its batches at
            each update; `naive` on labels made for the same update; `cache` and `pre-cache` on the label that an
            utterance got in its last update, from the model after or before that update (`slimIPL_type`).
        cache_size: batches in the cache of `fixed-pre-cache`, over all processes (`slimIPL_fixed_cache_updates`).
        supervised_updates, unsupervised_updates: number of each in a cycle, in random order
            (`slimIPL_sup_updates`, `slimIPL_unsup_updates`).
        cache_update_probability: of replacing a batch of the cache when it is used
            (`slimIPL_fixed_cache_update_prob`).
        dynamic_dropout: dropout and LayerDrop of the transformer layers, not the convolution, from `start_update` on;
            null keeps the model's own (`slimIPL_dyn_dropout`).
        ema_decay: labels come from a running mean of the weights with this decay; null takes the model itself
            (`slimIPL_ema_decay`).
        first_label_share: share of the labels that are learned when slimIPL begins, those with the best
            log-probability per letter among the last 300 of the language; it grows evenly to 1 at `max_updates`. The
            paper learns all.
        prior_strength: shifts the teacher's outputs, so that its labels have no letter much more often than the
            transcripts of the language: by the logarithm of the ratio, times this; 0 does nothing, as the paper.
        choose_hearing: before the first pseudo-label, the teacher labels up to 400 utterances in four ways: as they
            are; with the mean and the spread of the mel bins that labelled speech has, for each speaker, or recording
            where no speaker is known (two minutes of each are measured; not for models of waveforms); with white noise
            of 15 dB; with both. It then hears all unlabelled speech in the way whose labels' letter trigrams are
            nearest to those of transcripts; the model learns the speech as it is. The paper has no such thing.
        stop_on_collapse: ends training when nearly all labels are empty or the same, instead of warning.
        auto_stop: ends slimIPL where it no longer helps, as the labels of a fixed sample of the unlabelled utterances
            tell: when they become too short, or more of them empty, when another language is recognised in them, when
            they hardly change any more, or when the error rate on a sample of `dev` grows. The result is then the
            teacher of the best such sample, the one before slimIPL if none is better. By default, a line warns.
    """

    start_update: int = 20_000
    variant: str = "fixed-pre-cache"
    cache_size: int = 1000
    supervised_updates: int = 1
    unsupervised_updates: int = 10
    cache_update_probability: float = 0.1
    dynamic_dropout: float | None = 0.1
    ema_decay: float | None = None
    first_label_share: float = 1.0
    prior_strength: float = 0.0
    choose_hearing: bool = False
    stop_on_collapse: bool = False
    auto_stop: bool = False

    def __post_init__(self):
        _check_choice(self, "variant", VARIANTS)
        _check_least(self, 0, "start_update", "supervised_updates")
        _check_least(self, 1, "unsupervised_updates", "cache_size")
        above_0 = "it must be above 0 and at most 1"
        _check(self, lambda value: 0 < value <= 1, above_0, "cache_update_probability", "first_label_share")
        _check(self, lambda value: 0 <= value <= 1, "it must be at least 0 and at most 1", "prior_strength")
        fraction = "it must be at least 0 and below 1, or null"
        _check(self, lambda value: value is None or 0 <= value < 1, fraction, "dynamic_dropout", "ema_decay")


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Configures adapters of low rank (LoRA, https://arxiv.org/abs/2106.09685) through `peft`, with its names.

    Layers keep their weights, and each adapted one adds `lora_alpha` / `r` times the product of two new matrices; the
    model's heads are trained as a whole.

    Args:
        r: rank of these matrices.
        lora_alpha: scales their product.
        lora_dropout: of their input.
        target_modules: endings of the names of the layers to adapt, such as `[q_proj, v_proj]`; by default the linear
            layers of attention, or all in the transformer for models whose attention bypasses its layers (WavLM).
        merge: writes the result as a whole model, with the adapters added to its weights; else `model/` has the
            adapters as PEFT saves them, which need the model that the run started from.
    """

    r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    target_modules: Sequence[str] | None = None
    merge: bool = False

    def __post_init__(self):
        _check_least(self, 1, "r", "lora_alpha")
        _check(self, lambda value: 0 <= value < 1, "it must be at least 0 and below 1", "lora_dropout")
        if self.target_modules is not None and not all([self.target_modules, *self.target_modules]):
            raise ValueError(
                f"target_modules is {self.target_modules!r}; name layers such as [q_proj, v_proj], or null"
            )


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Configures a run of `hf-mlpl train`. Seconds are seconds of audio; updates are optimizer steps.

    Args:
        output_dir: a local folder, which holds `checkpoints/`, `model/` (the result), `report.html`, `metrics.jsonl`,
            `curves.png`, `config.yaml`, `run.json` and `results.json`, from which the model card is rendered, and
            lists of utterances that cannot be used: `dropped.tsv`, `dropped-unlabelled.tsv` and `unreadable.txt`.
        model: `tiny`, `base` or `large` for a new model, or the folder or Hub name of a trained one to start from: of
            ours, of any other CTC architecture of transformers, or an encoder of one.
        model_fields: fields of the configuration that differ from the model's own, for example `layerdrop: 0.1`, or
            `encoder_config: {layerdrop: 0.1}`; `target_lang` loads the adapter of an MMS model.
        tokens: tokens file of a new model, or of an encoder that gets a CTC head. A trained model has its own; with
            this file, its CTC head gets a row for each token of the file, and tokens that it knows keep theirs.
        train: utterance files to train on, paths or URLs such as `s3://bucket/train.parquet`; dev: utterance files to
            evaluate on, may be empty.
        unlabelled: utterance files for slimIPL; their texts, if any, are compared with the labels, and not learned.
        language: uses the utterances of this language alone; `{language}` in other settings stands for its name.
        languages: classes of the language-ID head, of a new model by default those of `train`, sorted. A trained model
            of ours has its own; with this list its head is resized, and languages that it knows keep their rows.
        language_alpha: a language's share of training is proportional to its hours to this power, with human and
            pseudo-labels as separate groups: 1 takes the data as they are, 0 gives each group the same share.
        pseudo_label_weight: multiplies the frequency of pseudo-labels that `language_alpha` gives.
        drop_misheard_speakers: leaves out the pseudo-labels of a speaker, or a recording where no speaker is known, if
            their letter trigrams are much further from those of human transcripts than other speakers' labels.
        max_updates: updates of the whole run.
        max_batch_seconds: audio of one micro-batch, including padding; longer utterances are dropped.
        micro_batches_per_update: over all processes; one process with 4 equals 4 processes with 1 each, or 3, of which
            one has 2. With more processes than micro-batches, some have nothing to do.
        optimizer: `adagrad`, the paper's, or `adamw`.
        learning_rate: maximum, reached after `warmup_updates` of linear growth.
        head_learning_rate: the same for the heads; null gives them `learning_rate`.
        schedule: `constant` after the warm-up, `linear` decrease to 0 at `max_updates`, or `step`: halved at
            `first_decay_update`, and again after every `decay_every_updates` (the original's `lr_decay` and
            `lr_decay_step`, which count passes over the data). `tri-stage` is that of wav2vec 2.0: 10 % of
            `max_updates` warm-up from 1 % of the maximum, 40 % at it, 50 % exponential decrease to 5 %.
        weight_decay: of AdamW.
        max_grad_norm: gradients are clipped to this norm.
        freeze_feature_encoder: leaves the convolutions below the transformer as they are; null does so for trained
            models with the feature encoder of wav2vec 2.0.
        freeze_encoder_updates: updates at the beginning that change the heads alone (fairseq's
            `freeze_finetune_updates`, 10,000 for wav2vec 2.0).
        lora: fields of `LoraConfig`, or null for training all weights. Adapters need the extra `peft`.
        curriculum: fields of `CurriculumConfig`, or null for utterances of all lengths from the first update on.
        spec_augment: fields of `SpecAugmentConfig`, or null for none.
        waveform_augment: fields of `WaveformAugmentConfig`, or null for none.
        slimipl: fields of `SlimIplConfig`, or null for training on labelled speech alone.
        bf16: computes in bfloat16, except for weights and loss; else in the precision of `accelerate launch`.
        bf16_gradients: lets processes exchange gradients in bfloat16, half the bytes, which slow networks need; the
            sum is rounded, so other numbers of processes no longer give nearly the same. FSDP does so with `bf16`.
        gradient_checkpointing: recomputes the layers in the backward pass instead of storing their activations, with
            the same result; null does so only where they would not fit into the GPU's memory.
        allow_collapsed: trains on pseudo-labels of a language that are nearly all empty or the same text, and accepts
            a model that has learned to say nothing; by default both are errors.
        log_every, eval_every, save_every: updates between lines of metrics, evaluations, checkpoints.
        save_total_limit: newest checkpoints that are kept. With two or more, a damaged one costs little.
        num_workers: processes that decode audio ahead of training.
        cache_gigabytes: memory of each worker for what the next passes over the data use again: features, or decoded
            samples where `waveform_augment` changes them anew in each pass.
        seed: of all random numbers.
        report_to: trackers that get all numbers of `metrics.jsonl` too: `tensorboard`, whose files go into the folder
            `tensorboard` of `output_dir`, `trackio`, `wandb`, `mlflow`, `swanlab` or `comet_ml`. `trackers.json` in
            `output_dir` names the run in them, for going on in the same one.
        project: of these trackers, in which each run has its tag and six more characters as its name.
        push_to_hub: repository, such as `me/my-model`, to which the run is pushed at each checkpoint and at the end.
        hub_private_repo: creates the repository as private if it does not exist.
        license: identifier for the model card, such as `apache-2.0`; push_to_hub needs it.
        stage: name of the run in its card, and of the pushed result's tag, which with `language` is STAGE-LANGUAGE;
            by default the YAML file's name without its ending.
    """

    output_dir: str
    model: str
    train: Sequence[str]
    max_updates: int
    model_fields: dict = field(default_factory=dict)
    tokens: str | None = None
    dev: Sequence[str] = field(default_factory=list)
    unlabelled: Sequence[str] | None = None
    language: str | None = None
    languages: Sequence[str] | None = None
    language_alpha: float = 1.0
    pseudo_label_weight: float = 1.0
    drop_misheard_speakers: bool = False
    max_batch_seconds: float = 200.0
    micro_batches_per_update: int = 1
    optimizer: str = "adagrad"
    learning_rate: float = 0.03
    head_learning_rate: float | None = None
    warmup_updates: int = DEFAULT_WARMUP
    schedule: str = "constant"
    first_decay_update: int | None = None
    decay_every_updates: int | None = None
    weight_decay: float = 0.0
    max_grad_norm: float = 0.1
    freeze_feature_encoder: bool | None = None
    freeze_encoder_updates: int = 0
    lora: LoraConfig | None = None
    curriculum: CurriculumConfig | None = None
    spec_augment: SpecAugmentConfig | None = field(default_factory=SpecAugmentConfig)
    waveform_augment: WaveformAugmentConfig | None = None
    slimipl: SlimIplConfig | None = None
    bf16: bool = False
    bf16_gradients: bool = False
    gradient_checkpointing: bool | None = False
    allow_collapsed: bool = False
    log_every: int = 100
    eval_every: int = 5_000
    save_every: int = 1_000
    save_total_limit: int = 2
    num_workers: int = 2
    cache_gigabytes: float = 1.0
    seed: int = 0
    report_to: Sequence[str] = field(default_factory=list)
    project: str = "hf_mlpl"
    push_to_hub: str | None = None
    hub_private_repo: bool = False
    license: str | None = None
    stage: str = "train"

    def __post_init__(self):
        self._check_values()
        self._check_model_fields()
        self._check_tuning()
        self._check_trackers()
        if self.push_to_hub is not None:
            self._check_push()

    def _check_values(self) -> None:
        """Checks places, choices, ranges, and settings that depend on one another."""
        self._check_places()
        _check_choice(self, "optimizer", OPTIMIZERS)
        _check_choice(self, "schedule", SCHEDULES)
        at_least_1 = "max_updates micro_batches_per_update log_every eval_every save_every save_total_limit"
        _check_least(self, 1, *at_least_1.split())
        at_least_0 = "warmup_updates freeze_encoder_updates num_workers cache_gigabytes seed weight_decay"
        _check_least(self, 0, *at_least_0.split())
        for name in ("first_decay_update", "decay_every_updates"):
            value = getattr(self, name)
            if (value is None) == (self.schedule == "step") or value is not None and value < 1:
                raise ValueError(f"{name} is {value}; only schedule step has it, and needs 1 or more")
        if self.weight_decay and self.optimizer != "adamw":
            raise ValueError(f"weight_decay is {self.weight_decay}; optimizer {self.optimizer} has none, adamw has it")
        above_0 = ("max_batch_seconds", "learning_rate", "max_grad_norm", "pseudo_label_weight")
        _check(self, lambda value: value > 0, "it must be above 0", *above_0)
        _check(self, lambda value: value is None or value > 0, "it must be above 0, or null", "head_learning_rate")
        if self.schedule == "tri-stage" and self.warmup_updates != DEFAULT_WARMUP:
            raise ValueError(
                f"warmup_updates is {self.warmup_updates}; schedule tri-stage warms up for a tenth of max_updates, so "
                "leave warmup_updates out"
            )
        _check(self, lambda value: value < 2**32, "it must be below 2^32", "seed")
        _check(self, lambda value: 0 <= value <= 1, "it must be between 0 and 1", "language_alpha")
        if not self.train:
            raise ValueError("train is empty; name at least one utterance file, as `hf-mlpl prepare-data` writes them")
        if (self.unlabelled is None) != (self.slimipl is None):
            given, missing = ("slimipl", "unlabelled") if self.unlabelled is None else ("unlabelled", "slimipl")
            raise ValueError(f"{given} is set and {missing} is not; slimIPL needs both, other training neither")
        if self.slimipl and self.slimipl.variant == "fixed-pre-cache":  # which whole updates fill
            per_update = self.micro_batches_per_update
            multiple = f"it must be a multiple of micro_batches_per_update, {per_update}"
            _check(self.slimipl, lambda value: value % per_update == 0, multiple, "cache_size")

    def _check_places(self) -> None:
        """Checks that object storage is named only where it is read, by URLs that are complete and hold no secret."""
        for path in (self.output_dir, *self.train, *self.dev, *(self.unlabelled or ())):
            parse_location(path)
            if path != shown(path):
                raise ValueError(
                    f"{shown(path)} is given with a password, or with `?` and a signature, and the settings of a run "
                    "are published with its model; leave them out, or download the file"
                )
        if "://" in self.output_dir:
            raise ValueError(
                f"output_dir is {shown(self.output_dir)}, and checkpoints are written to a local folder; give one, "
                "and push_to_hub, if the run is to be copied while it is trained"
            )
        for name, accepted in {"model": "a folder or a name on the Hub", "tokens": "a local file"}.items():
            _check(self, lambda value: not is_remote(value), f"give {accepted}", name)

    def _check_model_fields(self) -> None:
        """Checks that a new model has a tokens file, and that `model_fields` are fields that can be set."""
        if self.model in PRESETS and self.tokens is None:
            raise ValueError("a new model needs `tokens`, a tokens file; `hf-mlpl build-tokenizer` writes one")
        is_on_hub = "/" in self.model and not Path(self.model).is_dir()
        if self.model in PRESETS or not is_on_hub and may_be_ours(self.model):
            check_our_fields(self.model_fields)

    def _check_tuning(self) -> None:
        """Checks that no weights of a new model are frozen, and that adapters can be trained, and loaded by others."""
        kept = {
            "lora": self.lora is not None,
            "freeze_feature_encoder": bool(self.freeze_feature_encoder),
            "freeze_encoder_updates": self.freeze_encoder_updates > 0,
        }
        if self.model in PRESETS and (names := [name for name, is_set in kept.items() if is_set]):
            raise ValueError(
                f"{names[0]} is set and model is {self.model}, a new one; give a trained model, or leave it out"
            )
        if self.lora and not is_installed("peft"):
            raise ValueError(f"lora is set, which needs peft; it comes with {install_command('peft')}")
        if self.lora and self.freeze_feature_encoder is False:
            raise ValueError(
                "freeze_feature_encoder is False, and lora freezes the whole encoder; leave out one of them"
            )
        if self.push_to_hub and self.lora and not self.lora.merge and Path(self.model).is_dir():
            raise ValueError(
                f"model is {self.model}, a folder on this machine, without which nobody can use the adapters that "
                "push_to_hub pushes; set lora.merge to true, or give the model's name on the Hub"
            )

    def _check_trackers(self) -> None:
        """Checks that all trackers are known and installed."""
        for name in self.report_to:
            if name not in TRACKERS:
                raise ValueError(f"report_to has {name!r}; accepted are {', '.join(TRACKERS)}")
            if not is_installed(name):
                command = install_command(name) if name in TRACKER_EXTRAS else f"pip install {name.replace('_', '-')}"
                raise ValueError(f"report_to has {name}, which is not installed; it comes with {command}")
        if self.report_to and not self.project.strip():
            raise ValueError(f"project is {self.project!r}; give the name under which the trackers show the run")

    def _check_push(self) -> None:
        """Checks the licence, and the names that the Hub would refuse."""
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


def check_our_fields(model_fields: dict) -> None:
    """Raises a ValueError for `model_fields` that a model of ours does not have, or that cannot be set."""
    if decided := sorted(model_fields.keys() & set(DECIDED_MODEL_FIELDS)):
        raise ValueError(f"model_fields has {', '.join(decided)}, which `tokens`, `languages` and the features decide")
    if unknown := sorted(map(str, model_fields.keys() - set(FREE_MODEL_FIELDS))):
        raise ValueError(f"model_fields has {', '.join(unknown)}; accepted are {', '.join(FREE_MODEL_FIELDS)}")


def _check(config: Any, is_accepted: Callable[[Any], bool], description: str, *names: str) -> None:
    """Raises a ValueError for the first of the named settings that is not accepted."""
    for name in names:
        if not is_accepted(value := getattr(config, name)):
            raise ValueError(f"{name} is {value!r}; {description}")


def _check_choice(config: Any, name: str, choices: Sequence[str]) -> None:
    _check(config, lambda value: value in choices, f"accepted are {', '.join(choices)}", name)


def _check_least(config: Any, least: int, *names: str) -> None:
    _check(config, lambda value: value >= least, f"it must be at least {least}", *names)
