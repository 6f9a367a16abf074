"""The one training loop: every stage of the recipe is this loop with other settings and other utterances."""

from __future__ import annotations

import dataclasses
import logging
import textwrap
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs, gather_object, set_seed
from datasets import Dataset
from huggingface_hub.errors import StrictDataclassError
from torch.utils.data import DataLoader
from tqdm.contrib.logging import logging_redirect_tqdm

from .checkpoints import Checkpointer, check_same_config, digest, push_result, write_config
from .configuration_mlpl import MlplConfig
from .corpora.texts import NUM_CODE_POINTS, TextBlock
from .corpora.utterances import blocks, distinct, durations_of, filter_rows, read_utterances
from .data import (
    BatchPlan,
    SpeechBatch,
    SpeechBatches,
    micro_batch_seed,
    repetitions,
    select_for_training,
    select_unlabelled,
)
from .error_line import error_line
from .evaluation import evaluate_model
from .feature_extraction_mlpl import MlplFeatureExtractor
from .folder_lock import claimed
from .hub import RunPusher
from .main_process import claimed_by_job, on_main_process
from .missing_model import check_model
from .modeling_mlpl import MlplForCTC
from .processing_mlpl import MlplProcessor, check_parts
from .run_record import RunRecord
from .slimipl import SlimIpl, SlimIplPlan
from .tokenization_mlpl import MlplTokenizer
from .training_config import PRESETS, TrainingConfig
from .training_log import TrainingLog
from .training_problems import Problems, TrainingError

logger = logging.getLogger(__name__)

DECIDED = {"vocab_size", "blank_token_id", "languages", "num_mel_bins"}  # fields of a model that are no free choice


def train(config: TrainingConfig) -> Path:
    """Trains, going on from the last checkpoint in `output_dir` if there is one; returns the trained model's folder.

    Raises:
        ValueError: for settings or data that cannot work, before anything is trained.
        InUseError: where another job works in `output_dir`.
        TrainingError: when the gradient is not finite, or most utterances cannot be used.
    """
    process = PartialState(cpu=not torch.accelerator.is_available())  # as the accelerator's own
    output_dir = Path(config.output_dir)
    if not _is_finished(process, config):
        with claimed_by_job(process, output_dir):
            return output_dir / "model" if _is_finished(process, config) else _train(config)
    if config.push_to_hub and process.is_main_process:
        with claimed(output_dir):
            push_result(RunPusher(config))
    return output_dir / "model"


def _is_finished(process: PartialState, config: TrainingConfig) -> bool:
    """Whether `output_dir` holds the result of these settings; raises a ValueError where its run has others."""

    def look() -> bool:
        check_same_config(Path(config.output_dir), config)
        return (Path(config.output_dir) / "model").exists()

    return on_main_process(process, look)


def _train(config: TrainingConfig) -> Path:
    output_dir = Path(config.output_dir)
    started = check_same_config(output_dir, config)
    set_seed(config.seed)
    languages = [config.language] if config.language else None
    train_set = read_utterances(config.train, languages)
    dev_set = _dev_set(config)
    unlabelled_set = read_utterances(config.unlabelled, languages) if config.slimipl else None
    model, processor = build_model(config, train_set)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable()  # called activation_checkpointing_enable in new releases, not in 5.17
    accelerator = _accelerator(config, model)
    if not accelerator.is_main_process:
        logging.getLogger(select_for_training.__module__).setLevel(logging.ERROR)  # all processes drop the same
    elif config.dev and dev_set is None:
        of = f" of {config.language}" if config.language else ""
        logger.warning("%s: no utterances%s, so the model is not evaluated on the way", ", ".join(config.dev), of)
    train_set, dropped = select_for_training(train_set, processor, model.config, config.max_batch_seconds)
    if unlabelled_set is not None:
        unlabelled_set = select_unlabelled(unlabelled_set, model.config, config.max_batch_seconds)
    model, optimizer = _prepare(accelerator, model, config)
    slimipl = None
    if unlabelled_set is not None:
        slimipl = _slimipl(accelerator, model, processor, train_set, unlabelled_set, config)
    digests = digest(processor, train=train_set, unlabelled=unlabelled_set)
    saves = Checkpointer(accelerator, model, processor, slimipl, config, digests)
    start = saves.load_last(same_data=started)
    if accelerator.is_main_process:
        write_config(config)  # not before all has been checked: a run that is refused does not own its folder
    updates = iter(slimipl) if slimipl else _supervised(accelerator, model, processor, train_set, config, start)

    log = TrainingLog(output_dir, config, start, accelerator.is_main_process)
    log.describe(train_set, dropped, accelerator.unwrap_model(model))
    facts = RunRecord(accelerator, accelerator.unwrap_model(model), config, start, train_set, dropped, unlabelled_set)
    sets = [dataset for dataset in (train_set, unlabelled_set) if dataset is not None]
    problems = Problems(accelerator, min(map(len, sets)))
    with log, logging_redirect_tqdm():
        for update in range(start + 1, config.max_updates + 1):
            rate = config.learning_rate * learning_rate_factor(update - 1, config)
            for group in optimizer.param_groups:
                group["lr"] = rate
            micro_batches = next(updates)
            problems.add(slimipl.loaded if slimipl else (batch for _, batch in micro_batches))
            log.step(**train_step(accelerator, model, optimizer, micro_batches, config))
            if slimipl:
                slimipl.after_update()
            is_last = update == config.max_updates
            if update % config.log_every == 0:
                log.window_ends(update, rate, slimipl.health.report() if slimipl else None, problems.total_lost)
            if slimipl and (update % config.log_every == 0 or is_last):
                _check_labels(slimipl.health.collapsed(), update, config, accelerator.is_main_process)
            if dev_set is not None and (update % config.eval_every == 0 or is_last):
                results = evaluate_model(accelerator, model, processor, dev_set, config.max_batch_seconds)
                log.evaluated(update, results)
                facts.evaluated(update, results)
            elif dev_set is None and (update % config.save_every == 0 or is_last):
                log.draw()
            if update % config.save_every == 0 and not is_last:
                facts.write(update)
                saves.checkpoint(update)
    if start == 0:
        problems.end()
    log.describe_problems(problems.total_lost, problems.total_met)
    facts.write(config.max_updates)
    return saves.result()


def train_step(
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    micro_batches: list[tuple[int, SpeechBatch]],
    config: TrainingConfig,
) -> dict[str, float]:
    """One update: the gradient of the loss over all micro-batches of all processes as if they were one batch.

    Args:
        micro_batches: this process's share, with their numbers; without any nothing happens, and nothing is returned.
    """
    if not micro_batches:
        return {}
    counts = torch.tensor(
        [
            sum(len(batch.indices) for _, batch in micro_batches),
            sum(int(batch.attention_mask.sum()) for _, batch in micro_batches),
        ],
        device=accelerator.device,
    )
    num_utterances, num_frames = accelerator.reduce(counts).tolist()
    model.train()
    total = torch.zeros((), device=accelerator.device)
    for i, (number, batch) in enumerate(micro_batches):
        # Dropout and LayerDrop depend on the micro-batch alone, not on the process that happens to compute it.
        torch.manual_seed(micro_batch_seed(config.seed, number))
        is_last = i == len(micro_batches) - 1
        with nullcontext() if is_last else accelerator.no_sync(model):
            loss = model(**batch.inputs(accelerator.device), num_utterances=num_utterances).loss
            if not batch.indices:  # nothing in it could be used, but every process has to take part
                loss = loss * 0
            # The loss is a share of the whole update's; data parallelism averages gradients where it should add.
            accelerator.backward(loss * accelerator.num_processes)
        total += loss.detach()
    gradient_norm = accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm)
    if not torch.isfinite(gradient_norm):
        # The gradient is that of all processes, so each of them comes here, and says the same.
        numbers = ", ".join(map(str, sorted(gather_object([number for number, _ in micro_batches]))))
        raise TrainingError(
            f"the gradient of micro-batches {numbers} is not finite, its loss is {accelerator.reduce(total).item()}; "
            "lower learning_rate, or look at the utterances of these batches"
        )
    optimizer.step()
    optimizer.zero_grad()
    loss = accelerator.reduce(total).item()
    seconds = num_frames / MlplConfig.frames_per_second
    return {"loss": loss, "gradient_norm": gradient_norm.item(), "audio_seconds": seconds}


def build_model(config: TrainingConfig, train_set: Dataset) -> tuple[MlplForCTC, MlplProcessor]:
    """A new model of a preset's size, with the tokens file of the settings, or a trained one with its own tokens.

    Its tokenizer learns with which characters the languages of the training set are written.
    """
    check_model_fields(config)
    if config.model not in PRESETS:
        check_model(config.model)
        processor = MlplProcessor.from_pretrained(config.model)
        with _fitting_fields(config):
            model = MlplForCTC.from_pretrained(config.model, **config.model_fields)
        check_parts(model.config, processor.feature_extractor, processor.tokenizer)
        processor.tokenizer.learn_language_characters(_human_characters(train_set))
        return model, processor
    if config.tokens is None:
        raise ValueError("a new model needs `tokens`, a tokens file; `hf-mlpl build-tokenizer` writes one")
    tokenizer = MlplTokenizer(config.tokens)
    tokenizer.learn_language_characters(_human_characters(train_set))
    languages = config.languages or distinct(train_set, "language")
    preset = getattr(MlplConfig, config.model)
    with _fitting_fields(config):
        model = MlplForCTC(preset(vocab_size=len(tokenizer), languages=languages, **config.model_fields))
    return model, MlplProcessor(MlplFeatureExtractor(), tokenizer)


def check_model_fields(config: TrainingConfig) -> None:
    """Raises a ValueError for fields that there are not, and for those that tokens, languages and features decide."""
    known = {field.name for field in dataclasses.fields(MlplConfig)}
    if unknown := sorted(map(str, config.model_fields.keys() - known)):
        raise ValueError(f"model_fields has {', '.join(unknown)}, which MlplConfig does not have")
    if decided := sorted(config.model_fields.keys() & DECIDED):
        raise ValueError(f"model_fields has {', '.join(decided)}, which `tokens`, `languages` and the features decide")


@contextmanager
def _fitting_fields(config: TrainingConfig) -> Iterator[None]:
    """Makes one line of what MlplConfig and torch say on `model_fields`."""
    try:
        yield
    except (StrictDataclassError, RuntimeError) as error:
        reason = textwrap.shorten(error_line(error), 500)
        raise ValueError(f"{config.model} cannot have the model_fields {config.model_fields}: {reason}") from error


def _human_characters(train_set: Dataset) -> dict[str, list[str]]:
    """Of each language's transcripts; a pseudo-label says what a model writes, not how the language is written."""
    seen: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(NUM_CODE_POINTS, bool))
    for block in blocks(train_set, ["language", "text", "source"]):
        is_human = pc.equal(block["source"], "human")
        for language in block["language"].unique().to_pylist():
            texts = block["text"].filter(pc.and_(is_human, pc.equal(block["language"], language)))
            code_points, of_language = TextBlock(texts).code_points, seen[language]
            of_language[code_points[~of_language.take(code_points)]] = True  # to set all takes longer
    return {language: list(map(chr, np.flatnonzero(of_language))) for language, of_language in seen.items()}


def build_optimizer(model: MlplForCTC, config: TrainingConfig) -> torch.optim.Optimizer:
    if config.optimizer == "adagrad":
        return torch.optim.Adagrad(model.parameters(), lr=config.learning_rate)
    return torch.optim.AdamW(
        model.parameters(),
        lr=config.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=config.weight_decay,
        fused=True,
    )


def _accelerator(config: TrainingConfig, model: MlplForCTC) -> Accelerator:
    """Raises a ValueError for settings that do not fit what `accelerate launch` was told."""
    ddp = DistributedDataParallelKwargs(find_unused_parameters=_drops_layers(config, model))
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # else processes on a machine without GPU would not find each other
        mixed_precision="bf16" if config.bf16 else None,
        kwargs_handlers=[ddp],
    )
    if accelerator.is_fsdp2 and config.slimipl and config.slimipl.ema_decay is not None:
        raise ValueError(
            f"slimipl.ema_decay is {config.slimipl.ema_decay}, whose second model cannot be sharded; set it to null, "
            "or launch with `accelerate launch --multi_gpu`, without FSDP"
        )
    if config.micro_batches_per_update % accelerator.num_processes:
        raise ValueError(
            f"micro_batches_per_update is {config.micro_batches_per_update}; it must be a multiple of the "
            f"{accelerator.num_processes} processes"
        )
    return accelerator


def _prepare(
    accelerator: Accelerator, model: MlplForCTC, config: TrainingConfig
) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """Wraps the model, whose weights FSDP spreads over the processes, and makes its optimiser."""
    if not accelerator.is_fsdp2:
        return accelerator.prepare(model, build_optimizer(model, config))
    model.get_input_embeddings = lambda: None  # accelerate wants to shard them; transformers' own raises an error
    model, optimizer = accelerator.prepare(model, build_optimizer(model, config))
    optimizer.state = build_optimizer(model, config).state  # Adagrad's sums were made for the whole weights
    if _drops_layers(config, accelerator.unwrap_model(model)):
        model.set_reduce_scatter_unused_params(True)  # as find_unused_parameters does without FSDP
    return model, optimizer


def _drops_layers(config: TrainingConfig, model: MlplForCTC) -> bool:
    """Whether a layer may be skipped in all micro-batches of an update, and then get no gradient."""
    return model.config.layerdrop > 0 or bool(config.slimipl and config.slimipl.dynamic_dropout)


def learning_rate_factor(update: int, config: TrainingConfig) -> float:
    """Share of `learning_rate` for the update after `update` others."""
    if config.schedule == "step":  # which the original multiplies with its warm-up
        halvings = max(0, 1 + (update + 1 - config.first_decay_update) // config.decay_every_updates)
        return 0.5**halvings * min(1.0, (update + 1) / max(1, config.warmup_updates))
    if update < config.warmup_updates:
        return (update + 1) / config.warmup_updates
    if config.schedule == "constant":
        return 1.0
    return (config.max_updates - update) / max(1, config.max_updates - config.warmup_updates)


def _dev_set(config: TrainingConfig) -> Dataset | None:
    """What to evaluate on, if there is anything: not every language of a corpus has speech for that."""
    if not config.dev:
        return None
    dataset = read_utterances(config.dev)
    if config.language:
        dataset = filter_rows(
            dataset, ["language"], lambda block: pc.equal(block["language"], config.language).to_numpy()
        )
    if missing := sum(block["text"].null_count for block in blocks(dataset, ["text"])):
        raise ValueError(
            f"{', '.join(config.dev)}: {missing} of {len(dataset)} utterances have no text to compare with"
        )
    return dataset if len(dataset) else None


def _batch_plan(dataset: Dataset, config: TrainingConfig) -> BatchPlan:
    times = repetitions(dataset, config.language_alpha, config.pseudo_label_weight)
    return BatchPlan(durations_of(dataset), config.max_batch_seconds, config.seed, times)


def _speech_batches(dataset, plan, processor, model, config: TrainingConfig, with_labels: bool) -> SpeechBatches:
    augment_from = config.spec_augment.start_update * config.micro_batches_per_update if config.spec_augment else 0
    return SpeechBatches(
        dataset,
        plan,
        processor,
        model.config,
        with_labels=with_labels,
        augment=config.spec_augment,
        augment_from=augment_from,
        seed=config.seed,
        cache_bytes=int(config.cache_gigabytes * 1e9),
    )


def _supervised(
    accelerator: Accelerator, model: torch.nn.Module, processor: MlplProcessor, train_set: Dataset, config, start: int
) -> Iterator[list[tuple[int, SpeechBatch]]]:
    """This process's share of the micro-batches of each update after `start`, with their numbers."""
    batches = _speech_batches(
        train_set, _batch_plan(train_set, config), processor, accelerator.unwrap_model(model), config, with_labels=True
    )
    per_update = config.micro_batches_per_update
    numbers = range(
        start * per_update + accelerator.process_index, config.max_updates * per_update, accelerator.num_processes
    )
    loader = DataLoader(batches, batch_size=None, sampler=numbers, num_workers=config.num_workers)
    numbered = zip(numbers, loader, strict=True)
    while share := list(islice(numbered, per_update // accelerator.num_processes)):
        yield share


def _slimipl(accelerator, model, processor, train_set, unlabelled_set, config: TrainingConfig) -> SlimIpl:
    model = accelerator.unwrap_model(model)
    plans = [_batch_plan(dataset, config) for dataset in (train_set, unlabelled_set)]
    labelled, unlabelled = (
        _speech_batches(dataset, plan, processor, model, config, with_labels=dataset is train_set)
        for dataset, plan in zip((train_set, unlabelled_set), plans, strict=True)
    )
    plan = SlimIplPlan(config.slimipl, *plans, config.micro_batches_per_update, config.seed)
    return SlimIpl(accelerator, model, processor, plan, labelled, unlabelled, config.num_workers)


def _check_labels(problem: str | None, update: int, config: TrainingConfig, is_main_process: bool) -> None:
    """Warns of pseudo-labels that have collapsed, or stops where the settings say so."""
    if problem and config.slimipl.stop_on_collapse:
        raise TrainingError(f"stopped at update {update}: {problem}")
    if problem and is_main_process:
        logger.warning("update %d: %s", update, problem)
