"""Trains a model: every stage of the recipe runs this loop with its own settings and utterances."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import gather_object, set_seed
from tqdm.contrib.logging import logging_redirect_tqdm

from ..ctc_models import CtcInterface, ctc_interface
from ..data.batches import SpeechBatch, micro_batch_seed
from ..data.drops import DropFile
from ..data.rows import longest_seconds
from ..data.selection import DROPPED, select_for_training, select_unlabelled
from ..data.shared_arrays import SharedArrays
from ..evaluation.hypotheses import hypotheses_path
from ..evaluation.scoring import evaluate_model
from ..folder_lock import claimed
from ..main_process import claimed_by_job, job_state, machine_folder, on_any_process, on_main_process
from ..stop_signal import StoppedError, StopSignal
from ..training_config import TrainingConfig, check_same_config, write_config
from .checkpoint_files import checkpoints
from .checkpoints import BASE, Checkpointer, digest
from .log import TrainingLog
from .model_setup import build_model
from .optimization import (
    freeze,
    make_accelerator,
    prepare,
    remove_gradients_of_dropped_layers,
    remove_gradients_of_encoder,
    set_learning_rates,
)
from .problems import Problems, TrainingError
from .run_data import (
    build_slimipl,
    plan_passes,
    read_speech,
    select_speech,
    supervised_updates,
)
from .run_pusher import RunPusher, prepare_push
from .run_record import RunRecord, collapse_of_run
from .saved_model import write_final_model
from .silence import SilenceCheck
from .trained_weights import digest_of_frozen

logger = logging.getLogger(__name__)


def train(config: TrainingConfig) -> Path:
    """Trains, going on from the last checkpoint in `output_dir` if there is one; returns the trained model's folder.

    Raises:
        ValueError: for settings or data that cannot work, before training begins.
        InUseError: if another job works in `output_dir`.
        TrainingError: if the gradient is not finite, most utterances cannot be used, or pseudo-labels have collapsed;
            and, after the model is written, if it has learned to say nothing.
        StoppedError: in all processes after a signal of a scheduler to one of them, when the last update is saved.
    """
    process = job_state()  # which the accelerator will share
    output_dir = Path(config.output_dir)
    if not _is_finished(process, config):
        with claimed_by_job(process, output_dir):
            if not _is_finished(process, config):
                with machine_folder() as folder:
                    return _train(config, SharedArrays(folder))
    _check_speech(on_main_process(process, lambda: collapse_of_run(output_dir)), config)
    if config.push_to_hub and process.is_main_process:
        with claimed(output_dir):
            RunPusher(config).push_result()
    return output_dir / "model"


def _is_finished(process: PartialState, config: TrainingConfig) -> bool:
    """Returns whether `output_dir` holds the result of these settings; raises a ValueError for that of others."""

    def check() -> bool:
        check_same_config(config, checkpoints(Path(config.output_dir)))
        return (Path(config.output_dir) / "model").exists()

    return on_main_process(process, check)


def _train(config: TrainingConfig, arrays: SharedArrays) -> Path:
    """Trains in a folder that this job has claimed, and whose run, if any, has these settings."""
    output_dir = Path(config.output_dir)
    is_continued = check_same_config(config, checkpoints(output_dir))
    set_seed(config.seed)
    train_set, dev_set, unlabelled_set = read_speech(config)
    model, processor = build_model(config, train_set, is_continued)
    ctc = ctc_interface(model.config, processor)
    freeze(model, ctc, config)
    base = {BASE: digest_of_frozen(model)} if config.lora else {}
    accelerator = make_accelerator(config, ctc, model)
    lists = [
        DropFile(output_dir / f"{name}.tsv" if accelerator.is_main_process else None, DROPPED)
        for name in ("dropped", "dropped-unlabelled")
    ]
    with lists[0], lists[1]:  # they appear if no check refuses the run, which then does not own its folder
        longest = config.max_batch_seconds
        train_set, dropped = select_speech(
            train_set, lambda speech: select_for_training(speech, processor, model.config, longest, lists[0])
        )
        if unlabelled_set is not None:
            unlabelled_set, _ = select_speech(
                unlabelled_set,
                lambda speech: (select_unlabelled(speech, ctc.languages, longest, lists[1]), Counter()),
            )
        spoken = max(longest_seconds(speech) for speech in (train_set, unlabelled_set) if speech is not None)
        model, optimizer = prepare(accelerator, model, ctc, config, min(spoken, longest))
        plans, slimipl = plan_passes(train_set, unlabelled_set, config, arrays), None
        if unlabelled_set is not None:
            slimipl = build_slimipl(accelerator, model, processor, train_set, unlabelled_set, dev_set, plans, config)
        digests = on_main_process(accelerator, lambda: digest(processor, train=train_set, unlabelled=unlabelled_set))
        digests |= base
        pusher = RunPusher(config) if config.push_to_hub and accelerator.is_main_process else None
        checkpointer = Checkpointer(accelerator, model, optimizer, slimipl, plans, config, digests)
        start = checkpointer.load_last(same_data=is_continued)
    if accelerator.is_main_process:
        write_config(config)  # only after all checks
    supervised = supervised_updates(accelerator, model, processor, train_set, plans["train"], config, start)
    updates = iter(slimipl or supervised)

    log = TrainingLog(output_dir, config, start, accelerator.is_main_process)
    log.describe(train_set, dropped, accelerator.unwrap_model(model), ctc)
    record = RunRecord(
        accelerator, accelerator.unwrap_model(model), ctc, config, start, train_set, dropped, unlabelled_set
    )
    problems = {  # by whether an update is supervised: the disk of one data set may be missing, and not the other's
        supervised: Problems(accelerator, len(dataset), output_dir / "unreadable.txt")
        for supervised, dataset in ((True, train_set), (False, unlabelled_set))
        if dataset is not None
    }
    num_unusable, silence = 0, SilenceCheck(accelerator, config, train_set, dev_set)

    def evaluate(update: int) -> None:
        hypotheses_file = hypotheses_path(output_dir / "results.json")
        results = evaluate_model(
            accelerator, model, processor, dev_set, config.max_batch_seconds, hypotheses_file=hypotheses_file
        )
        log.log_evaluation(update, results)
        silence.judge_results(update, results)
        record.write_evaluation(update, results)

    with log, logging_redirect_tqdm(), StopSignal() as stop, checkpointer:
        on_main_process(accelerator, log.start_trackers)
        if (unreported := checkpointer.unreported) is not None:
            log.load_state_dict(unreported["log"])
            if slimipl and "labels" in unreported:  # else the run had other settings before
                slimipl.health.load_state_dict(unreported["labels"])
        if dev_set is not None and start and start % config.eval_every == 0:  # a signal may have come before it
            if not on_main_process(accelerator, lambda: log.has_evaluation(start)):
                evaluate(start)
        update, is_over = start, slimipl is not None and slimipl.follow_labels(start, log)
        for update in range(start + 1, config.max_updates + 1):
            rate = set_learning_rates(optimizer, update - 1, config)
            micro_batches = next(updates)
            loaded = slimipl.loaded if slimipl else [batch for _, batch in micro_batches]
            problems[slimipl is None or slimipl.step.supervised].add(loaded)
            num_unusable = sum(each.total_unusable for each in problems.values())
            log.count_update(**train_step(accelerator, ctc, model, optimizer, micro_batches, config, update))
            if slimipl:
                slimipl.after_update()
                is_over = slimipl.follow_labels(update, log)
            is_last = is_over or update == config.max_updates
            if update % config.log_every == 0:
                log.log_window(update, rate, slimipl.health.report() if slimipl else None, num_unusable)
            if slimipl and (update % config.log_every == 0 or is_last):
                _check_labels(slimipl.health.detect_collapse(), update, config, accelerator.is_main_process)
            is_stopped = on_any_process(accelerator, stop.name is not None) and not is_last
            if dev_set is not None and (update % config.eval_every == 0 or is_last):
                if not is_stopped:  # else there may be no time, and the next process does it
                    evaluate(update)
            elif dev_set is None and (update % config.save_every == 0 or is_last):
                log.draw()
                silence.judge_probes(update, model, processor)
            checkpointer.check()
            if (update % config.save_every == 0 or is_stopped) and not is_last:
                record.write(update)
                for each in problems.values():
                    each.write()
                unreported = {"log": log.state_dict(num_unusable)}
                if slimipl:
                    unreported["labels"] = slimipl.health.state_dict()
                push = prepare_push(pusher, accelerator, model, processor, config) if config.push_to_hub else None
                checkpointer.save(update, unreported, push)
            if is_stopped:
                checkpointer.wait()  # in all processes: a launcher ends them when the first one ends
                came = f"{stop.name} came" if stop.name else "another process was told to stop"
                raise StoppedError(
                    f"{came}: update {update} of {config.max_updates} is saved, and the same command goes on from it"
                )
            if is_over:
                break
        checkpointer.wait()
        _finish_problems(problems.values(), num_unusable, log, is_whole_run=start == 0)
        record.finish(update, problem := silence.describe(), slimipl.probes.outcome(update) if slimipl else None)
        # before the log ends, which may wait for trackers in a network
        folder = write_final_model(accelerator, model, processor, config)
    _check_speech(problem, config)
    if pusher is not None:
        pusher.push_result()
    return folder


def _finish_problems(problems: Collection[Problems], num_unusable: int, log: TrainingLog, is_whole_run: bool) -> None:
    """Writes the list of utterances that could not be used, and counts them in a line."""
    for each in problems:
        each.finish(is_whole_run)
    log.describe_problems(num_unusable, sum(each.total_read for each in problems))


def _check_speech(problem: str | None, config: TrainingConfig) -> None:
    """Raises a TrainingError for a trained model that says nothing, unless the settings accept it."""
    if problem and not config.allow_collapsed:
        folder = Path(config.output_dir) / "model"
        raise TrainingError(f"{folder} is written, but {problem}; allow_collapsed=true accepts the model")


def train_step(
    accelerator: Accelerator,
    ctc: CtcInterface,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    micro_batches: list[tuple[int, SpeechBatch]],
    config: TrainingConfig,
    update: int | None = None,
) -> dict[str, float]:
    """Makes one update, with the gradient of all micro-batches of all processes as if they were one batch.

    Args:
        micro_batches: this process's share, with their numbers; if it is empty, there is no update and no result.
        update: its number, from 1, by which `freeze_encoder_updates` trains the heads alone; None trains all.
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
    num_utterances, num_inputs = accelerator.reduce(counts).tolist()
    ctc.train_mode(model)
    total = torch.zeros((), device=accelerator.device)
    for i, (number, batch) in enumerate(micro_batches):
        # Dropout, LayerDrop and masks depend on the micro-batch alone, not on the process that computes it.
        seed = micro_batch_seed(config.seed, number)
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # models of transformers draw their masks with it
        is_last = i == len(micro_batches) - 1
        with nullcontext() if is_last else accelerator.no_sync(model):
            loss = ctc.loss(model, **batch.inputs(accelerator.device), num_utterances=num_utterances)
            if not batch.indices:  # no utterance, but every process has to take part
                loss = loss * 0
            # The losses of an update add up, but data parallelism averages gradients.
            accelerator.backward(loss * accelerator.num_processes)
        total += loss.detach()
    unwrapped = accelerator.unwrap_model(model)
    remove_gradients_of_dropped_layers(accelerator, unwrapped, ctc, config)
    if update is not None and update <= config.freeze_encoder_updates:
        remove_gradients_of_encoder(unwrapped, ctc.heads(unwrapped))
    gradient_norm = accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm)
    if not torch.isfinite(gradient_norm):
        # The gradient is that of all processes, so all of them raise the same error.
        numbers = gather_object([number for number, batch in micro_batches if batch.indices])
        numbers = ", ".join(map(str, sorted(numbers)))
        raise TrainingError(
            f"the gradient of micro-batches {numbers} is not finite, its loss is {accelerator.reduce(total).item()}; "
            "lower learning_rate, or look at the utterances of these batches"
        )
    optimizer.step()
    optimizer.zero_grad()
    loss = accelerator.reduce(total).item()
    audio_seconds = ctc.input_seconds(num_inputs)
    return {"loss": loss, "gradient_norm": gradient_norm.item(), "audio_seconds": audio_seconds}


def _check_labels(problem: str | None, update: int, config: TrainingConfig, is_main_process: bool) -> None:
    """Warns of pseudo-labels that have collapsed, or stops where the settings say so."""
    if problem and config.slimipl.stop_on_collapse:
        raise TrainingError(f"stopped at update {update}: {problem}")
    if problem and is_main_process:
        logger.warning("update %d: %s", update, problem)
