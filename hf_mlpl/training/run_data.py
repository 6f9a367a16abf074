"""Reads the dev set of a run, and makes the micro-batches of its updates."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from accelerate import Accelerator, PartialState
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, ProcessorMixin

from ..data.batches import BatchPlan, SpeechBatch, SpeechBatches, fill_share, repetitions, short_utterances
from ..data.collapse import (
    HUMAN,
    NOT_LEARNED,
    LabelTexts,
    collapse_line,
    collapse_report,
    describe_collapse,
    num_characters,
)
from ..data.conventions import Conventions, differences
from ..data.drops import audio_problem, blame_disk
from ..data.rows import blocks, durations_of, filter_rows, select_rows, whole
from ..data.shared_arrays import SharedArrays
from ..data.summary import Summary, remember_summary, summary_of
from ..data.utterances import read_columns, read_utterances, utterance_files
from ..main_process import on_main_process
from ..stop_signal import outlive_signals
from ..training_config import TrainingConfig
from .label_probe import LabelProbes
from .slimipl import SlimIpl, SlimIplPlan

logger = logging.getLogger(__name__)

NUM_TRIED = 10  # utterances of dev, before training


def check_train_files(config: TrainingConfig) -> None:
    """Checks that each file of `train` has a text, and that `unlabelled` names none of them.

    A line in the log names files without utterances.

    Raises:
        ValueError: with the file, and the setting that takes it.
    """
    counts = dict(utterance_files(config.train))
    files = [path for path, num_rows in counts.items() if num_rows]
    if empty := [str(path) for path in counts if path not in files]:
        logger.warning("%s: no utterances", ", ".join(empty))
    for path in files:
        if all(block["text"].null_count == len(block) for block in read_columns([path], ["text"])):
            raise ValueError(
                f"{path}: no utterance has a text, so `train` cannot use it; slimIPL learns from it as `unlabelled`, "
                "and `hf-mlpl pseudo-label` writes its labels"
            )
    if config.slimipl:
        unlabelled = {path.resolve(): path for path, _ in utterance_files(config.unlabelled)}
        if both := [unlabelled[path.resolve()] for path in files if path.resolve() in unlabelled]:
            raise ValueError(
                f"{both[0]}: is in `train` and in `unlabelled`; slimIPL needs other speech there, whose texts it does "
                "not learn"
            )


def check_pseudo_labels(train_set: Dataset) -> None:
    """Raises a ValueError for languages whose pseudo-labels in a training set have collapsed."""
    summary = summary_of(train_set)
    pairs = map(summary.of_language, summary.languages)
    reports = [collapse_report(pseudo.texts, human.texts) for human, pseudo in pairs if pseudo.texts.texts]
    if not any(map(describe_collapse, reports)):
        return
    # The summary may say too much about the commonest text of several teachers.
    human, pseudo = LabelTexts(), LabelTexts()
    for block in blocks(train_set, ["source", "language", "text", "duration_seconds"]):
        block = block.filter(block["text"].is_valid())
        is_human = pc.is_in(block["source"], pa.array(HUMAN, pa.string()))
        human.add(block.filter(is_human))
        pseudo.add(block.filter(pc.invert(is_human)))
    if problems := pseudo.problems(human):
        raise ValueError(
            f"train: {collapse_line(problems)}: {NOT_LEARNED}, or leave out their files; allow_collapsed=true trains "
            "on them all the same"
        )


def compare_conventions(train_set: Dataset) -> None:
    """Logs a line for each teacher whose labels are written otherwise than the transcripts of the same language."""
    transcripts, labels = Conventions(), defaultdict[str, Conventions](Conventions)  # of each teacher
    for (language, source), group in summary_of(train_set).groups.items():
        (transcripts if source in HUMAN else labels[source]).counts[language].update(group.conventions)
    found: defaultdict[str, list[str]] = defaultdict(list)
    for teacher, conventions in sorted(labels.items()):
        for language in sorted(conventions.counts):
            if clauses := differences(conventions.report(language), transcripts.report(language)):
                found[teacher].append(f"{language}: {', '.join(clauses)}")
    for teacher, lines in found.items():
        logger.warning(
            "%s writes otherwise than people in `train`, and the model learns both: %s; `hf-mlpl filter-labels "
            "--normalize` rewrites labels, and `hf-mlpl prepare-data --normalize` transcripts",
            teacher,
            "; ".join(lines),
        )


def read_speech(config: TrainingConfig) -> tuple[Dataset, Dataset | None, Dataset | None]:
    """Reads the utterances for training and for development, and without transcripts; checks and compares labels.

    The main process looks at each row, and the others take its word.
    """
    languages, sets = [config.language] if config.language else None, {}
    process = PartialState()

    def read(is_checked: bool) -> None:
        sets["train"] = read_utterances(config.train, languages, is_checked)
        if config.slimipl:
            sets["unlabelled"] = read_utterances(config.unlabelled, languages, is_checked)

    def look() -> tuple[Summary, dict[str, int]]:
        check_train_files(config)
        read(is_checked=False)
        if not config.allow_collapsed:
            check_pseudo_labels(sets["train"])
        compare_conventions(sets["train"])
        return summary_of(sets["train"]), {name: len(dataset) for name, dataset in sets.items()}

    summary, counts = on_main_process(process, look)
    if not process.is_main_process:
        read(is_checked=True)
        remember_summary(sets["train"], summary)
    for name, dataset in sets.items():
        if len(dataset) != counts[name]:
            raise ValueError(
                f"{name} has {len(dataset)} utterances on this machine, and {counts[name]} on that of the main "
                "process; copy the same files to all machines, or use those of a shared disk"
            )
    return sets["train"], read_dev_set(config), sets.get("unlabelled")


def select_speech(dataset: Dataset, select: Callable[[Dataset], tuple[Dataset, Counter]]) -> tuple[Dataset, Counter]:
    """Selects rows in the main process, for all processes; `select` keeps the order of the rows."""
    process, selected = PartialState(), dataset

    def work() -> tuple[np.ndarray | None, Counter]:
        nonlocal selected
        selected, dropped = select(dataset)
        if selected is dataset:
            return None, dropped
        is_kept = np.zeros(len(dataset.data), bool)
        is_kept[selected._indices.column("indices").to_numpy()] = True
        return np.packbits(is_kept), dropped

    bits, dropped = on_main_process(process, work)
    if bits is not None and not process.is_main_process:
        is_kept = np.unpackbits(bits, count=len(dataset.data)).view(bool)
        selected = select_rows(whole(dataset), np.flatnonzero(is_kept))
    return selected, dropped


def read_dev_set(config: TrainingConfig) -> Dataset | None:
    """Reads the utterances to evaluate on; returns None if there are none, as for some languages of a corpus."""
    if not config.dev:
        return None
    dataset = read_utterances(config.dev)
    if config.language:
        chosen = config.language
        dataset = filter_rows(dataset, ["language"], lambda block: pc.equal(block["language"], chosen).to_numpy())
    if missing := sum(block["text"].null_count for block in blocks(dataset, ["text"])):
        raise ValueError(
            f"{', '.join(config.dev)}: {missing} of {len(dataset)} utterances have no text to compare with"
        )
    characters = (num_characters(block["text"]) for block in blocks(dataset, ["text"]))
    if len(dataset) and not any(pc.any(pc.greater(numbers, 0)).as_py() for numbers in characters):
        raise ValueError(f"{', '.join(config.dev)}: all {len(dataset)} utterances have an empty text to compare with")
    if not len(dataset) and PartialState().is_main_process:
        files, language = ", ".join(config.dev), f" of {config.language}" if config.language else ""
        logger.warning("%s: no utterances%s, so the model is not evaluated during training", files, language)
    _check_audio(dataset)
    return dataset if len(dataset) else None


def _check_audio(dataset: Dataset) -> None:
    """Raises a ValueError if none of some utterances can be read, which an evaluation would find out hours later."""
    rows = np.linspace(0, len(dataset) - 1, NUM_TRIED).round().astype(int) if len(dataset) else []
    problems = []
    for row in np.unique(rows):
        if (problem := audio_problem(dataset[int(row)]["audio"])) is None:
            return
        problems.append(problem)
    if problems:
        raise ValueError(blame_disk(f"none of {len(problems)} utterances of dev could be used", problems[0]))


def plan_passes(
    train_set: Dataset, unlabelled_set: Dataset | None, config: TrainingConfig, arrays: SharedArrays
) -> dict[str, BatchPlan]:
    """Plans the endless micro-batches of a run's data sets, `train` and, for slimIPL, `unlabelled`.

    Args:
        arrays: of the processes of this machine, of which one plans each pass.
    """
    plans = {}
    for name, dataset in {"train": train_set, "unlabelled": unlabelled_set}.items():
        if dataset is not None:
            own = arrays.within(name)
            durations = own.get("durations", partial(durations_of, dataset))
            rates = partial(repetitions, dataset, config.language_alpha, config.pseudo_label_weight)
            is_short: np.ndarray | bool = True
            num_short = 0
            if config.curriculum and name == "train":
                is_short = own.get("is_short", partial(short_utterances, dataset, config.curriculum.share))
                num_short = config.curriculum.updates * config.micro_batches_per_update
            batching = config.max_batch_seconds, config.seed, own.get("repetitions", rates)
            plans[name] = BatchPlan(durations, *batching, own, is_short, num_short)
    return plans


def supervised_updates(
    accelerator: Accelerator,
    model: torch.nn.Module,
    processor: ProcessorMixin,
    train_set: Dataset,
    plan: BatchPlan,
    config: TrainingConfig,
    start: int,
) -> Iterator[list[tuple[int, SpeechBatch]]]:
    """Yields this process's share of the micro-batches of each update after `start`, with their numbers."""
    batches = _speech_batches(train_set, processor, accelerator.unwrap_model(model), config, with_labels=True)
    per_update, step = config.micro_batches_per_update, accelerator.num_processes

    def shares() -> Iterator[range]:
        for first in range(start * per_update, config.max_updates * per_update, per_update):
            yield range(first + accelerator.process_index, first + per_update, step)

    numbered_rows = ((number, plan[number]) for number in chain.from_iterable(shares()))
    workers = {"num_workers": config.num_workers, "worker_init_fn": outlive_signals}
    loaded = iter(DataLoader(_NumberedBatches(batches), batch_size=None, sampler=numbered_rows, **workers))
    empty = batches.batch([], None)
    for share in shares():
        yield fill_share([(number, next(loaded)) for number in share], (share.start, empty), per_update, step)


class _NumberedBatches(torch.utils.data.Dataset):
    """Makes the tensors of rows that come with their micro-batch's number, so that loader workers need no plan."""

    def __init__(self, batches: SpeechBatches):
        self.batches = batches

    def __getitem__(self, numbered_rows: tuple[int, list[int]]) -> SpeechBatch:
        number, rows = numbered_rows
        return self.batches.batch(rows, number)


def build_slimipl(
    accelerator: Accelerator,
    model: torch.nn.Module,
    processor: ProcessorMixin,
    train_set: Dataset,
    unlabelled_set: Dataset,
    dev_set: Dataset | None,
    plans: dict[str, BatchPlan],
    config: TrainingConfig,
) -> SlimIpl:
    """Builds slimIPL from a run's labelled and unlabelled utterances and the plans of both, with its probes."""
    model = accelerator.unwrap_model(model)
    labelled = _speech_batches(train_set, processor, model, config, with_labels=True)
    unlabelled = _speech_batches(unlabelled_set, processor, model, config, with_labels=False)
    per_update = config.micro_batches_per_update
    plan = SlimIplPlan(config.slimipl, plans["train"], plans["unlabelled"], per_update, config.seed)
    slimipl = SlimIpl(
        accelerator,
        model,
        processor,
        plan,
        labelled,
        unlabelled,
        config.num_workers,
        config.max_updates,
        config.max_batch_seconds,
    )
    dev = None if dev_set is None else _speech_batches(dev_set, processor, model, config, with_labels=False)
    slimipl.probes = LabelProbes(accelerator, config, slimipl.health, unlabelled, dev)
    return slimipl


def _speech_batches(
    dataset: Dataset, processor: ProcessorMixin, model: PreTrainedModel, config: TrainingConfig, with_labels: bool
) -> SpeechBatches:
    """Makes the tensors of a data set's batches, whose rows and numbers come with each."""
    augment_from, waveform_augment_from = (
        augment.start_update * config.micro_batches_per_update if augment else 0
        for augment in (config.spec_augment, config.waveform_augment)
    )
    return SpeechBatches(
        dataset,
        [],
        processor,
        model.config,
        with_labels=with_labels,
        augment=config.spec_augment,
        augment_from=augment_from,
        waveform_augment=config.waveform_augment,
        waveform_augment_from=waveform_augment_from,
        seed=config.seed,
        cache_bytes=int(config.cache_gigabytes * 1e9),
    )
