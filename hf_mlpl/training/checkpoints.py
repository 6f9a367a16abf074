"""Saves the state of a training run in checkpoints, and restores it."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator
from accelerate.checkpointing import save_accelerator_state
from accelerate.utils import OPTIMIZER_NAME, SAFE_WEIGHTS_NAME, save
from datasets import Dataset
from torch import nn
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint import save as save_shards
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict
from transformers import ProcessorMixin

from ..atomic import atomic_write, partial_path, temporary_folder, write_json, writing
from ..data.batches import BatchPlan
from ..data.summary import rows_sha256
from ..hardware import free_memory
from ..main_process import meet, on_main_process, patient_group
from ..training_config import TrainingConfig, has_settings
from .checkpoint_files import (
    FSDP_FOLDERS,
    RUN_FILES,
    TRACKED,
    checkpoint_path,
    first_line,
    last_intact,
    remove_old,
    update_of,
    write_manifest,
)
from .run_record import sessions_of
from .slimipl import SlimIpl
from .trained_weights import frozen_names, host_copy, load_trained, num_bytes

logger = logging.getLogger(__name__)

Write = Callable[[Path], None]  # of a part of a checkpoint into its folder
UNREPORTED = "unreported.json"  # of a checkpoint: what the next rows of the run's log depend on
PASSES = "passes.json"  # of a checkpoint: where passes over the data begin, so that earlier ones need no plan
BASE = "base"  # in the digests: the weights below adapters


def digest(processor: ProcessorMixin, **datasets: Dataset | None) -> dict[str, str]:
    """Returns hashes of the tokens, and of each data set's ids and texts in order, which do not depend on paths."""
    tokens = json.dumps(sorted(processor.tokenizer.get_vocab().items()), ensure_ascii=False)
    digests = {"tokens": hashlib.sha256(tokens.encode()).hexdigest()}
    return digests | {name: rows_sha256(dataset) for name, dataset in datasets.items() if dataset is not None}


def _digests_of(checkpoint: Path) -> dict[str, str]:
    path = checkpoint / "data.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _copy(source: Path, target: Path) -> None:
    with atomic_write(target) as partial:
        shutil.copyfile(source, partial)


def _load_without_frozen(models: list[nn.Module], folder: str) -> None:
    """Loads weights without frozen parameters, in the place of accelerate, which then finds no model to load."""
    for model in models:
        load_trained(model, Path(folder) / "model.safetensors")
    models.clear()


class Checkpointer:
    """Saves the state of a run in checkpoints, and restores it from the newest one that is not damaged.

    The state consists of model and optimizer, of slimIPL's state, of those of random number generators, and of the
    run's files. With adapters it has no frozen weights, which the run's model has, unless FSDP shards them. All
    processes call each method, in the same order. The block of a `with` statement ends when the last checkpoint is
    written.

    Args:
        model, optimizer: as the accelerator has prepared them.
        plans: of the micro-batches of `train` and `unlabelled`.
        digests: of the data, from `digest`; each checkpoint has them.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        slimipl: SlimIpl | None,
        plans: Mapping[str, BatchPlan],
        config: TrainingConfig,
        digests: dict[str, str],
    ):
        self.accelerator, self.model, self.optimizer, self.slimipl = accelerator, model, optimizer, slimipl
        self.plans, self.config, self.digests, self.output_dir = plans, config, digests, Path(config.output_dir)
        self.unreported: dict | None = None  # of the checkpoint that was loaded
        self.thread = ThreadPoolExecutor(1, "checkpoint")
        self.group = patient_group("checkpoints")
        self.saving: Future | None = None
        if config.lora:
            accelerator.register_load_state_pre_hook(_load_without_frozen)

    def load_last(self, same_data: bool) -> int:
        """Restores model, optimizer, pseudo-labels and the run's history; returns the number of their updates.

        Args:
            same_data: requires a checkpoint of the same data.

        Raises:
            ValueError: if the data differ, if all checkpoints are damaged, or if the checkpoint does not fit the
                settings.
        """
        path = on_main_process(self.accelerator, lambda: last_intact(self.output_dir))
        if path is None:
            on_main_process(self.accelerator, self._begin_anew)
            return 0
        self._check_base(path)
        if same_data:
            self._check_data(path)
        elif (settings := path / "config.yaml").exists():
            self._check_optimizer(path, yaml.safe_load(settings.read_text(encoding="utf-8"))["optimizer"])
        try:
            self.accelerator.load_state(str(path))
            if self.slimipl:
                self.slimipl.load(path)
            if same_data and (passes := path / PASSES).exists():  # not in those of earlier versions
                for name, state in json.loads(passes.read_text(encoding="utf-8")).items():
                    self.plans[name].load_state_dict(state)
        except Exception as error:  # of any kind; not for damaged files, which were set aside
            raise ValueError(
                f"{path} cannot be loaded with these settings ({first_line(error)}); give those that it was made "
                "with, or choose another output_dir"
            ) from error
        if (unreported := path / UNREPORTED).exists():  # not in those of earlier versions
            self.unreported = json.loads(unreported.read_text(encoding="utf-8"))
        on_main_process(self.accelerator, lambda: self._restore_history(path))
        self.accelerator.print(f"going on from {path}")
        return update_of(path)

    def _begin_anew(self) -> None:
        """Removes the files of a run that ended before its first checkpoint; it may have had other settings."""
        results = ("results.json", "results.hypotheses.parquet", "curves.png", "report.html")
        for name in ("metrics.jsonl", TRACKED, *results):
            (self.output_dir / name).unlink(missing_ok=True)
        if not has_settings(self.output_dir / "config.yaml", self.config):
            (self.output_dir / "run.json").unlink(missing_ok=True)

    def _check_base(self, checkpoint: Path) -> None:
        """Compares the frozen weights, which a checkpoint with adapters does not hold."""
        if (before := _digests_of(checkpoint).get(BASE)) and before != self.digests.get(BASE):
            raise ValueError(
                f"{checkpoint} has adapters, and the weights of {self.config.model} are not those that they were "
                "trained on; give the model that the run started from, or choose another output_dir"
            )

    def _check_data(self, checkpoint: Path) -> None:
        before = _digests_of(checkpoint)
        differing = [name for name in before if before[name] != self.digests.get(name)]
        if differing:
            raise ValueError(
                f"{checkpoint} belongs to a run with other data: {', '.join(differing)} (ids, texts or their order); "
                "give it the same data, or choose another output_dir"
            )

    def _check_optimizer(self, checkpoint: Path, optimizer: str) -> None:
        """Compares optimizers, because torch loads the state of another one, which then fails when it is used."""
        if optimizer != self.config.optimizer:
            raise ValueError(
                f"{checkpoint} has the state of {optimizer}, and optimizer is {self.config.optimizer!r}; give the one "
                "that it was made with, or choose another output_dir"
            )

    def _restore_history(self, checkpoint: Path) -> None:
        """Copies metrics.jsonl from the checkpoint, and other records if the run's own are lost or damaged."""
        if (history := checkpoint / "metrics.jsonl").exists():
            _copy(history, self.output_dir / "metrics.jsonl")
        if (record := checkpoint / "run.json").exists() and not sessions_of(self.output_dir / "run.json"):
            _copy(record, self.output_dir / "run.json")
        if (tracked := checkpoint / TRACKED).exists() and not (self.output_dir / TRACKED).exists():
            _copy(tracked, self.output_dir / TRACKED)

    def save(self, update: int, unreported: dict, then: Callable[[Path], None] | None = None) -> None:
        """Copies the state to host memory, from which a thread writes it as a checkpoint while training goes on.

        Waits for the checkpoint before this one, and raises its error. Where the copy would take more than half of
        the memory that is free, the state itself is written, and training waits.

        Args:
            unreported: what the next rows of the run's log depend on.
            then: called in the thread of the main process with the folder, when it is complete.

        Raises:
            OSError: where a checkpoint cannot be written.
        """
        self.wait()
        folder = checkpoint_path(self.output_dir, update)
        state = self._state()
        has_room = num_bytes(state) < free_memory() / 2
        with writing(folder):
            parts = self._parts(host_copy(state) if has_room else state)
            if self.slimipl:
                parts.append(self.slimipl.copy_state(has_room))
            if self.accelerator.is_main_process:
                parts.append(self._copy_record(update, unreported))
        self.saving = self.thread.submit(self._write, folder, parts, then)
        if not has_room:
            self._finish()

    def check(self) -> None:
        """Raises the error of a checkpoint that could not be written; does not wait for one that is being written."""
        if self.saving is not None and self.saving.done():
            self._finish()

    def wait(self) -> None:
        """Waits until all processes have written the checkpoint that is being written, and raises its error."""
        self._finish()
        meet()

    def _finish(self) -> None:
        saving, self.saving = self.saving, None
        if saving is not None:
            saving.result()

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        """Waits for the last checkpoint; its error is a warning where another error has ended the run."""
        try:
            self._finish()
        except Exception as error:
            if kind is None:
                raise
            logger.warning("%s", first_line(error))
        finally:
            self.thread.shutdown()

    def _state(self) -> dict[str, dict]:
        """Returns this process's part of the weights and of the optimizer's state, not copied."""
        if self.accelerator.is_fsdp2:
            weights = get_model_state_dict(self.model)
            return {"model": weights, "optimizer": get_optimizer_state_dict(self.model, self.optimizer)}
        if not self.accelerator.is_main_process:
            return {}
        weights = self.accelerator.get_state_dict(self.model)
        if self.config.lora:
            for name in frozen_names(self.accelerator.unwrap_model(self.model)):
                weights.pop(name)
        return {"model": weights, "optimizer": self.optimizer.state_dict()}

    def _parts(self, state: dict[str, dict]) -> list[Write]:
        """Returns functions that write such a state, and the states of random number generators of now."""
        random_states = _random_states(self.accelerator, self.output_dir)
        parts: list[Write] = [lambda folder: _write_files(folder, random_states)]
        if self.accelerator.is_fsdp2:
            parts.append(lambda folder: self._write_shards(folder, state))
        elif state:
            parts.append(lambda folder: save(state["model"], folder / SAFE_WEIGHTS_NAME, safe_serialization=True))
            parts.append(lambda folder: save(state["optimizer"], folder / f"{OPTIMIZER_NAME}.bin"))
        return parts

    def _write_shards(self, folder: Path, shards: dict[str, dict]) -> None:
        for name, (kind, state) in zip(FSDP_FOLDERS, shards.items(), strict=True):
            writer = FileSystemWriter(folder / name)
            save_shards({kind: state}, storage_writer=writer, process_group=self.group)

    def _copy_record(self, update: int, unreported: dict) -> Write:
        """Copies the run's files, which grow while a checkpoint is written, in the main process."""
        used = [update * self.config.micro_batches_per_update]
        if self.slimipl:
            used = [self.slimipl.plan.used[True], self.slimipl.plan.used[False]]
        plans = zip(self.plans.items(), used, strict=True)
        passes = {name: plan.state_dict(number) for (name, plan), number in plans}
        paths = [self.output_dir / name for name in RUN_FILES]
        files = {path.name: path.read_bytes() for path in paths if path.exists()}

        def write(folder: Path) -> None:
            _write_files(folder, files)
            write_json(folder / PASSES, passes)
            write_json(folder / UNREPORTED, unreported)
            write_json(folder / "data.json", self.digests)

        return write

    def _write(self, folder: Path, parts: list[Write], then: Callable[[Path], None] | None) -> None:
        """Writes a checkpoint in the thread of each process; the main process completes it, and removes old ones."""
        is_main_process, partial = self.accelerator.is_main_process, partial_path(folder)
        with atomic_write(folder, shared=True) if is_main_process else writing(folder):
            meet(self.group)  # the main process has removed what a killed job has left there
            partial.mkdir(parents=True, exist_ok=True)
            for write in parts:
                write(partial)
            meet(self.group)
            if is_main_process:
                write_manifest(partial)
        if is_main_process:
            remove_old(self.output_dir, update_of(folder), self.config.save_total_limit)
            if then is not None:
                then(folder)


def _random_states(accelerator: Accelerator, output_dir: Path) -> dict[str, bytes]:
    """Returns the files in which accelerate saves the states of random number generators.

    They are first in `output_dir`, which has room for checkpoints where `TMPDIR` may have none.
    """
    output_dir.mkdir(parents=True, exist_ok=True)  # a machine may not have it yet
    with temporary_folder(output_dir, "partial") as folder:
        step = accelerator.process_index, accelerator.step, accelerator.scaler
        save_accelerator_state(str(folder), [], [], [], [], *step)
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def _write_files(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)
