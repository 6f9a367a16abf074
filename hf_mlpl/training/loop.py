"""Trains a model: every stage of the recipe runs this loop with its own settings and utterances."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import gather_object, set_seed
from datasets import Dataset
from tqdm.contrib.logging import logging_redirect_tqdm

from ..ctc_models import CtcInterface, ctc_interface
from ..data.batches import SpeechBatch, micro_batch_seed
from ..data.drops import DropFile
from ..data.letter_statistics import drop_misheard
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
                    return _Run(config, SharedArrays(folder)).train()
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


class _Run:
    """Trains in a folder that this job has claimed, and whose run, if any, has these settings.

    Args:
        arrays: of the plans, which the processes of a machine share.
    """

    def __init__(self, config: TrainingConfig, arrays: SharedArrays):
        self.config, self.output_dir = config, Path(config.output_dir)
        is_continued = check_same_config(config, checkpoints(self.output_dir))
        set_seed(config.seed)
        train_set, self.dev_set, unlabelled_set = read_speech(config)
        model, self.processor = build_model(config, train_set, is_continued)
        self.ctc = ctc_interface(model.config, self.processor)
        freeze(model, self.ctc, config)
        base = {BASE: digest_of_frozen(model)} if config.lora else {}
        self.accelerator = make_accelerator(config, self.ctc, model)
        is_main_process = self.accelerator.is_main_process
        with self._drop_file("dropped") as drops, self._drop_file("dropped-unlabelled") as unlabelled_drops:
            # These files appear if no check refuses the run, which then does not own its folder.
            train_set, dropped = self._select_labelled(train_set, drops)
            if unlabelled_set is not None:
                unlabelled_set = self._select_unlabelled(unlabelled_set, unlabelled_drops)
            longest = max(longest_seconds(speech) for speech in (train_set, unlabelled_set) if speech is not None)
            longest = min(longest, config.max_batch_seconds)
            self.model, self.optimizer = prepare(self.accelerator, model, self.ctc, config, longest)
            plans, self.slimipl = plan_passes(train_set, unlabelled_set, config, arrays), None
            if unlabelled_set is not None:
                speech = train_set, unlabelled_set, self.dev_set
                self.slimipl = build_slimipl(self.accelerator, self.model, self.processor, *speech, plans, config)
            digests = on_main_process(
                self.accelerator, lambda: digest(self.processor, train=train_set, unlabelled=unlabelled_set)
            )
            self.pusher = RunPusher(config) if config.push_to_hub and is_main_process else None
            self.checkpointer = Checkpointer(
                self.accelerator, self.model, self.optimizer, self.slimipl, plans, config, digests | base
            )
            self.start = self.checkpointer.load_last(same_data=is_continued)
        if is_main_process:
            write_config(config)  # only after all checks
        supervised = supervised_updates(
            self.accelerator, self.model, self.processor, train_set, plans["train"], config, self.start
        )
        self.updates = iter(self.slimipl or supervised)
        unwrapped = self.accelerator.unwrap_model(self.model)
        self.log = TrainingLog(self.output_dir, config, self.start, is_main_process)
        self.log.describe(train_set, dropped, unwrapped, self.ctc)
        self.record = RunRecord(
            self.accelerator, unwrapped, self.ctc, config, self.start, train_set, dropped, unlabelled_set
        )
        self.problems = {  # by whether an update is supervised: the disk of one data set alone may be missing
            is_supervised: Problems(self.accelerator, len(speech), self.output_dir / "unreadable.txt")
            for is_supervised, speech in ((True, train_set), (False, unlabelled_set))
            if speech is not None
        }
        self.silence = SilenceCheck(self.accelerator, config, train_set, self.dev_set)

    def train(self) -> Path:
        """Makes the updates that are left, and writes the model; returns its folder."""
        config = self.config
        with self.log, logging_redirect_tqdm(), StopSignal() as stop, self.checkpointer:
            self._begin()
            update = self.start
            for update in range(self.start + 1, config.max_updates + 1):
                is_last = self._update(update) or update == config.max_updates
                is_stopped = on_any_process(self.accelerator, stop.name is not None) and not is_last
                self._judge(update, is_last, is_stopped)
                self.checkpointer.check()
                if (update % config.save_every == 0 or is_stopped) and not is_last:
                    self._save(update)
                if is_stopped:
                    self.checkpointer.wait()  # in all processes: a launcher ends them when the first one ends
                    came = f"{stop.name} came" if stop.name else "another process was told to stop"
                    raise StoppedError(
                        f"{came}: update {update} of {config.max_updates} is saved, and the same command goes on "
                        "from it"
                    )
                if is_last:
                    break
            self.checkpointer.wait()
            for each in self.problems.values():
                each.finish(is_whole_run=self.start == 0)
            self.log.describe_problems(self._num_unusable, sum(each.total_read for each in self.problems.values()))
            outcome = self.slimipl.outcome(update) if self.slimipl else None
            self.record.finish(update, problem := self.silence.describe(), outcome)
            # before the log ends, which may wait for trackers in a network
            folder = write_final_model(self.accelerator, self.model, self.processor, config)
        _check_speech(problem, config)
        if self.pusher is not None:
            self.pusher.push_result()
        return folder

    @property
    def _num_unusable(self) -> int:
        return sum(each.total_unusable for each in self.problems.values())

    def _drop_file(self, name: str) -> DropFile:
        return DropFile(self.output_dir / f"{name}.tsv" if self.accelerator.is_main_process else None, DROPPED)

    def _select_labelled(self, speech: Dataset, drops: DropFile) -> tuple[Dataset, Counter]:
        """Returns the utterances that can be trained on, and the amounts of those that cannot, by reason."""
        longest = self.config.max_batch_seconds

        def select(part: Dataset) -> tuple[Dataset, Counter]:
            selected, dropped = select_for_training(part, self.processor, self.ctc.config, longest, drops)
            return (drop_misheard(selected, drops) if self.config.drop_misheard_speakers else selected), dropped

        return select_speech(speech, select)

    def _select_unlabelled(self, speech: Dataset, drops: DropFile) -> Dataset:
        longest = self.config.max_batch_seconds
        selected, _ = select_speech(
            speech, lambda part: (select_unlabelled(part, self.ctc.languages, longest, drops), Counter())
        )
        return selected

    def _begin(self) -> None:
        """Starts the trackers, and takes up what the last checkpoint had not logged yet."""
        on_main_process(self.accelerator, self.log.start_trackers)
        if (unreported := self.checkpointer.unreported) is not None:
            self.log.load_state_dict(unreported["log"])
            if self.slimipl and "labels" in unreported:  # else the run had other settings before
                self.slimipl.health.load_state_dict(unreported["labels"])
        # a signal may have come before the evaluation
        if self.dev_set is not None and self.start and self.start % self.config.eval_every == 0:
            if not on_main_process(self.accelerator, lambda: self.log.has_evaluation(self.start)):
                self._evaluate(self.start)
        if self.slimipl:
            self.slimipl.follow_labels(self.start, self.log)

    def _update(self, update: int) -> bool:
        """Makes an update, and logs it; returns whether slimIPL is over, because its labels no longer get better."""
        config, slimipl, is_over = self.config, self.slimipl, False
        rate = set_learning_rates(self.optimizer, update - 1, config)
        micro_batches = next(self.updates)
        loaded = slimipl.loaded if slimipl else [batch for _, batch in micro_batches]
        self.problems[slimipl is None or slimipl.step.supervised].add(loaded)
        step = train_step(self.accelerator, self.ctc, self.model, self.optimizer, micro_batches, config, update)
        self.log.count_update(**step)
        if slimipl:
            slimipl.after_update()
            is_over = slimipl.follow_labels(update, self.log)
        is_logged = update % config.log_every == 0
        if is_logged:
            self.log.log_window(update, rate, slimipl.health.report() if slimipl else None, self._num_unusable)
        if slimipl and (is_logged or is_over or update == config.max_updates):
            _check_labels(slimipl.health.detect_collapse(), update, config, self.accelerator.is_main_process)
        return is_over

    def _judge(self, update: int, is_last: bool, is_stopped: bool) -> None:
        """Evaluates where it is time; without dev speech, sees whether the model says something."""
        if self.dev_set is not None and (update % self.config.eval_every == 0 or is_last):
            if not is_stopped:  # else there may be no time, and the next process does it
                self._evaluate(update)
        elif self.dev_set is None and (update % self.config.save_every == 0 or is_last):
            self.log.draw()
            self.silence.judge_probes(update, self.model, self.processor)

    def _evaluate(self, update: int) -> None:
        results = evaluate_model(
            self.accelerator,
            self.model,
            self.processor,
            self.dev_set,
            self.config.max_batch_seconds,
            hypotheses_file=hypotheses_path(self.output_dir / "results.json"),
        )
        self.log.log_evaluation(update, results)
        self.silence.judge_results(update, results)
        self.record.write_evaluation(update, results)

    def _save(self, update: int) -> None:
        self.record.write(update)
        for each in self.problems.values():
            each.write()
        unreported = {"log": self.log.state_dict(self._num_unusable)}
        if self.slimipl:
            unreported["labels"] = self.slimipl.health.state_dict()
        push = None
        if self.config.push_to_hub:
            push = prepare_push(self.pusher, self.accelerator, self.model, self.processor, self.config)
        self.checkpointer.save(update, unreported, push)


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
