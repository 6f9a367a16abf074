"""Estimates hours, updates, disk and GPU-hours of every stage of a recipe before it is run, and finds what is missing.

GPU-hours are floating point operations, which `training.operations` counts, divided by a GPU's speed. For a launch
command `training.times` computes the hours of its processes, with exchanging gradients, decoding audio and saving.

Disk: a run keeps `save_total_limit` checkpoints of 4 bytes per parameter for weights, 4 for Adagrad's or 8 for AdamW's
state, and 4 where slimIPL's labels come from a running mean; while one is written there is one more. A model is 4
bytes per parameter. With adapters (LoRA) a checkpoint holds adapters and heads alone, and so does the model unless
they are merged. A pseudo-label is 1000 bytes: 500 in its shard and 500 in the joined file, an estimate for half a
minute of speech. Files that exist already are subtracted.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from ..ctc_models.loading import read_config, student_config
from ..ctc_models.new_tokens import character_tokenizer
from ..data.utterances import SpeechTotals, speech_totals
from ..error_line import error_line
from ..interop.mctct import MCTCTConfig
from ..model.configuration_mlpl import MlplConfig
from ..model.missing_model import OUR_TYPES
from ..remote_path import AnyPath
from ..text_table import aligned
from ..training_config import PRESETS, TrainingConfig, check_our_fields, language_setting, load_config
from .launch import Launch, read_launch
from .memory import STATE_BYTES, USABLE, USUAL_SECONDS, recomputes_activations, training_bytes
from .model_setup import read_tokens
from .operations import (
    Model,
    counted_model,
    decoded_seconds,
    forward_flops,
    is_counted,
    num_parameters,
    num_trained,
    run_flops,
    slimipl_updates,
)
from .times import PARTS, WITHIN_MACHINE, Machines, Work, stage_times

BYTES_PER_LABEL = 1000
MOST_SECONDS = 200  # of a micro-batch that is recommended: the default, slimIPL's
WORTHWHILE = 0.95  # of the hours, for a change that is recommended
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
    work: Work | None = None
    config: TrainingConfig | None = None  # of a stage that trains
    model: Model | None = None
    longest: float = USUAL_SECONDS  # of an utterance


@dataclass
class Estimate:
    """Collects a row for each stage, one line for each problem to be solved before training, and warnings."""

    labels: AnyPath  # folder of the pseudo-labels
    launch: Launch | None = None  # of all stages, if it is known
    memory: float = 80e9  # bytes of a process's GPU
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

    def times_table(self, flops_per_second: float, network: float) -> str:
        """Returns a table of the memory and the hours of the launched processes, and of what bounds each stage.

        The hours of a part are those that it takes if nothing else takes time.

        Args:
            flops_per_second: of a process.
            network: bytes per second between machines, for each of them.
        """
        header = ("stage", "GB each", "hours", *PARTS, "bound by")
        rows: list[tuple[str, ...]] = [header]
        for stage in self.stages:
            gigabytes = None if (needed := self._memory(stage)) is None else needed / 1e9
            numbers: list[float | None] = [gigabytes, *[None] * (1 + len(PARTS))]
            bound = "-"
            if stage.work is not None:
                times = stage_times(stage.work, self._machines(flops_per_second, network))
                numbers[1:] = [seconds / 3600 for seconds in (times.seconds, *times.parts.values())]
                bound = times.bound
            rows.append((stage.name, *map(_rounded, numbers), bound))
        return aligned(rows)

    def advice(self, flops_per_second: float, network: float) -> list[str]:
        """Returns a line, with the stages that it is for, for each change that makes the launched processes faster."""
        stages = defaultdict[str, list[str]](list)
        for stage in self.stages:
            if stage.work is None or stage.config is None or self.launch is None:
                continue
            machines = self._machines(flops_per_second, network)
            now, changes = stage_times(stage.work, machines).seconds, {}
            if not stage.config.bf16_gradients and not machines.shards:
                halved = replace(stage.work, gradient_bytes=stage.work.gradient_bytes / 2)
                changes["bf16_gradients=true takes {} hours, with rounded gradients"] = stage_times(halved, machines)
            if self.launch.machines > 1:
                one = replace(self.launch, processes=self.launch.processes // self.launch.machines, machines=1)
                alone = stage_times(stage.work, self._machines(flops_per_second, network, one))
                changes[f"one machine with {one.processes} processes takes {{}} hours"] = alone
            for line, times in changes.items():
                if times.seconds < WORTHWHILE * now:
                    stages[line.format(_rounded(times.seconds / 3600))].append(stage.name)
            for line in self._larger(stage):
                stages[line].append(stage.name)
        return [f"{', '.join(names)}: {line}" for line, names in stages.items()]

    def _larger(self, stage: Stage) -> Iterator[str]:
        """Yields what a stage could keep in its GPUs' memory."""
        config, launch, usable = stage.config, self.launch, USABLE * self.memory
        if config is None or launch is None or (needed := self._memory(stage)) is None or needed > usable:
            return
        if config.gradient_checkpointing and (kept := self._memory(stage, gradient_checkpointing=False)) <= usable:
            yield f"gradient_checkpointing=null computes no layer twice, for the same result; {kept / 1e9:.0f} GB"
        micro_batches, seconds = config.micro_batches_per_update, config.max_batch_seconds
        for merged in range(min(micro_batches // launch.processes, int(MOST_SECONDS / seconds)), 1, -1):
            if micro_batches % merged == 0 and self._memory(stage, max_batch_seconds=merged * seconds) <= usable:
                yield (
                    f"max_batch_seconds={merged * seconds:g} micro_batches_per_update={micro_batches // merged} has "
                    "as much speech in larger products; but masks and LayerDrop are drawn for each micro-batch"
                )
                return

    def _memory(self, stage: Stage, **changes: Any) -> float | None:
        """Returns the bytes of a process; None where they are not known: adapters, FSDP, and models of others."""
        config, model, launch = stage.config, stage.model, self.launch
        if config is None or config.lora or launch is None or launch.state_dict_type is not None:
            return None
        if not isinstance(model, MlplConfig):
            return None
        return training_bytes(replace(config, **changes), model, launch.processes, stage.longest)

    def _machines(self, flops_per_second: float, network: float, launch: Launch | None = None) -> Machines:
        launch = launch or self.launch or Launch(1)
        bandwidth = network if launch.machines > 1 else WITHIN_MACHINE
        return Machines(launch.processes, flops_per_second, bandwidth, shards=launch.state_dict_type is not None)

    def add_run(self, name: str, config: TrainingConfig, pseudo_labelled: Speech) -> None:
        """Adds the row of one run; `pseudo_labelled` is the speech that earlier stages label."""
        files = [path for path in config.train if not self._is_labelled(path)]
        takes_labels = len(files) < len(config.train)
        train, dev, unlabelled = map(self._totals, (files, config.dev, config.unlabelled or ()))
        model = self._model(config, train)
        self._check_languages(config, model, train, dev)
        self._check_launch(name, config)
        labelled, without_text = sum_speech(train), sum_speech(unlabelled)
        if takes_labels:
            without_text += sum_speech(pseudo_labelled)
        num_languages = len({**train, **pseudo_labelled}) or None
        stage = self._training_stage(name, config, model, labelled + without_text)
        stage.languages, stage.updates, config = num_languages, config.max_updates, stage.config
        self.stages.append(stage)
        stage.labelled_hours = labelled.seconds / 3600 or None
        stage.unlabelled_hours = without_text.seconds / 3600 or None
        if model is None:
            return
        self._check_memory(stage)
        stage.bytes = self._bytes(config, model, [config.output_dir])
        if labelled.seconds and (pseudo_labelled or not takes_labels) and is_counted(model):
            speech = labelled if config.slimipl else labelled + without_text
            stage.flops = run_flops(config, model, speech, sum_speech(unlabelled), sum_speech(dev))
            stage.work = self._work(config, model, stage.flops, decoded_seconds(config, sum_speech(dev).seconds))

    def add_languages(self, name: str, config: TrainingConfig, languages: Sequence[str] | None) -> Speech:
        """Adds rows for slimIPL and for pseudo-labels, of all languages together; returns the speech that is labelled.

        Args:
            languages: by default all with unlabelled and labelled speech.
        """
        train, dev, unlabelled = map(self._totals, (config.train, config.dev, config.unlabelled))
        model = self._model(config, train)
        self._check_launch(name, config)
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
        spoken = sum_speech(train) + sum_speech(speech)
        finetuning, labelling = self._training_stage(name, config, model, spoken), Stage("pseudo-labels")
        config = finetuning.config
        self.stages += [finetuning, labelling]
        if not chosen:
            return {}
        finetuning.languages = labelling.languages = len(chosen)
        finetuning.labelled_hours = sum(train[language].seconds for language in chosen) / 3600
        finetuning.unlabelled_hours = labelling.unlabelled_hours = sum_speech(speech).seconds / 3600
        finetuning.updates = config.max_updates * len(chosen)
        labelling.bytes = 0
        if isinstance(self.labels, Path):  # else they take object storage, and no disk
            labelling.bytes = sum_speech(speech).utterances * BYTES_PER_LABEL
            self.folders.append(self.labels)
        self._check_memory(finetuning)
        if model is not None:
            folders = [config.output_dir.replace("{language}", language) for language in chosen]
            finetuning.bytes = self._bytes(config, model, folders)
        if model is not None and is_counted(model):
            finetuning.flops = sum(
                run_flops(config, model, train[language], speech[language], dev.get(language, SpeechTotals()))
                for language in chosen
            )
            audio_seconds = sum(
                decoded_seconds(config, dev.get(language, SpeechTotals()).seconds) for language in chosen
            )
            finetuning.work = self._work(config, model, finetuning.flops, audio_seconds, len(chosen))
            labelling.flops = forward_flops(model, sum_speech(speech))
            labelling.work = Work(labelling.flops, sum_speech(speech).seconds, config.num_workers)
        return speech

    def _is_labelled(self, path: str) -> bool:
        """Returns whether an utterance file is one of the pseudo-labels."""
        if isinstance(self.labels, Path):
            return self.labels in Path(path).parents
        return path.startswith(f"{str(self.labels).rstrip('/')}/")

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

    def _training_stage(self, name: str, config: TrainingConfig, model: Model | None, speech: SpeechTotals) -> Stage:
        """Returns a row, whose settings have what a run would decide about `gradient_checkpointing`."""
        launch = self.launch or Launch(1)
        is_sharded = launch.state_dict_type is not None
        longest = min(speech.longest or USUAL_SECONDS, config.max_batch_seconds)
        recomputes = recomputes_activations(config, model, launch.processes, self.memory, is_sharded, longest)
        config = replace(config, gradient_checkpointing=recomputes)
        return Stage(name, config=config, model=model, longest=longest)

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

    def _check_launch(self, name: str, config: TrainingConfig) -> None:
        """Compares a run's settings with the processes that will be started for it."""
        if self.launch and (problem := self.launch.problem(config)):
            self.add_problem(f"{name}: {problem}")
        if self.launch and (warning := self.launch.warning(config)):
            self.warnings.append(f"{name}: {warning}")

    def _work(self, config: TrainingConfig, model: Model, flops: float, audio_seconds: float, runs: int = 1) -> Work:
        """Returns what the processes of some runs of these settings do."""
        is_sharded = self.launch is not None and self.launch.state_dict_type is not None
        bytes_each = 2 if config.bf16_gradients or is_sharded and config.bf16 else 4
        updates = sum(slimipl_updates(config)[:2]) if config.slimipl else config.max_updates
        return Work(
            flops,
            audio_seconds,
            config.num_workers,
            config.micro_batches_per_update,
            updates=round(runs * updates),
            gradient_bytes=bytes_each * _num_trained(config, model),
            checkpoint_bytes=_checkpoint_bytes(config, model),
            checkpoints=runs * ((config.max_updates - 1) // config.save_every),
        )

    def _check_memory(self, stage: Stage) -> None:
        """Compares the memory of a stage's process with that of a GPU."""
        if (needed := self._memory(stage)) is not None and needed > self.memory:
            self.warnings.append(
                f"{stage.name}: a process may need {_rounded(needed / 1e9)} GB of memory, and a GPU has "
                f"{_rounded(self.memory / 1e9)}; take a smaller max_batch_seconds, or FSDP"
            )

    def _bytes(self, config: TrainingConfig, model: Model, folders: Sequence[str]) -> float:
        """Returns the disk space of runs of these settings, one in each folder."""
        parameters = _num_trained(config, model) if config.lora and not config.lora.merge else num_parameters(model)
        checkpoint = _checkpoint_bytes(config, model)
        kept = min(config.save_total_limit, (config.max_updates - 1) // config.save_every)
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


def estimate_stages(
    stages: Sequence[Sequence[str]],
    labels: AnyPath,
    languages: Sequence[str] | None = None,
    launch: str | None = None,
    memory: float = 80e9,
) -> Estimate:
    """Estimates stages, each a YAML file and the settings that override it, without training or writing anything.

    Args:
        stages: in order; one with {language} in its settings is slimIPL, and labelling, for each language.
        labels: folder of the pseudo-labels, also in object storage; its files, in later stages, count as written.
        languages: languages that get pseudo-labels; by default all with unlabelled and labelled speech.
        launch: command that will start the stages.
        memory: bytes of a process's GPU.
    """
    estimate, pseudo_labelled = Estimate(labels, memory=memory), {}
    try:
        estimate.launch = read_launch(launch) if launch else None
    except ValueError as error:
        estimate.add_problem(str(error))
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


def _num_trained(config: TrainingConfig, model: Model) -> int:
    return num_trained(model, config.lora) if config.lora else num_parameters(model)


def _checkpoint_bytes(config: TrainingConfig, model: Model) -> int:
    has_teacher = config.slimipl is not None and config.slimipl.ema_decay is not None
    return _num_trained(config, model) * (4 + STATE_BYTES[config.optimizer] + 4 * has_teacher)


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
