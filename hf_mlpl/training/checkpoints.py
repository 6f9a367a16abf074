"""Saves the state of a training run in checkpoints, and restores it."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pyarrow.compute as pc
import torch
import yaml
from accelerate import Accelerator
from datasets import Dataset
from torch import nn
from transformers import ProcessorMixin

from ..atomic import atomic_write, partial_path, write_json, writing
from ..data.rows import blocks
from ..data.text_arrays import join
from ..main_process import on_main_process
from ..training_config import TrainingConfig, has_settings
from .checkpoint_files import (
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
from .trained_weights import frozen_names, load_trained

BASE = "base"  # in the digests: the weights below adapters


def digest(processor: ProcessorMixin, **datasets: Dataset | None) -> dict[str, str]:
    """Returns hashes of the tokens, and of each data set's ids and texts in order, which do not depend on paths."""
    tokens = json.dumps(sorted(processor.tokenizer.get_vocab().items()), ensure_ascii=False)
    digests = {"tokens": hashlib.sha256(tokens.encode()).hexdigest()}
    for name, dataset in datasets.items():
        if dataset is None:
            continue
        sha = hashlib.sha256()
        for block in blocks(dataset, ["id", "text"]):
            ids, texts = (pc.fill_null(block[name], "None") for name in ("id", "text"))
            rows = pc.binary_join_element_wise(ids, texts, "", "\0")  # id, NUL, text, NUL
            sha.update(join(rows.combine_chunks(), ""))
        digests[name] = sha.hexdigest()
    return digests


def _digests_of(checkpoint: Path) -> dict[str, str]:
    path = checkpoint / "data.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _copy(source: Path, target: Path) -> None:
    with atomic_write(target) as partial:
        shutil.copyfile(source, partial)


def _leave_out_frozen(models: list[nn.Module], weights: list[dict[str, torch.Tensor]], folder: str) -> None:
    """Leaves the frozen parameters out of the weights that accelerate saves; FSDP's shards are not among them."""
    for model, state in zip(models, weights, strict=False):
        for name in frozen_names(model):
            state.pop(name)


def _load_without_frozen(models: list[nn.Module], folder: str) -> None:
    """Loads weights without frozen parameters, in the place of accelerate, which then finds no model to load."""
    for model in models:
        load_trained(model, Path(folder) / "model.safetensors")
    models.clear()


class Checkpointer:
    """Saves the state of a run in checkpoints, and restores it from the newest one that is not damaged.

    The state consists of all that the accelerator has prepared, of slimIPL's state, and of the run's files. With
    adapters it has no frozen weights, which the run's model has. All processes call each method, in the same order.

    Args:
        digests: of the data, from `digest`; each checkpoint has them.
    """

    def __init__(
        self, accelerator: Accelerator, slimipl: SlimIpl | None, config: TrainingConfig, digests: dict[str, str]
    ):
        self.accelerator, self.slimipl, self.config, self.digests = accelerator, slimipl, config, digests
        self.output_dir = Path(config.output_dir)
        if config.lora:
            accelerator.register_save_state_pre_hook(_leave_out_frozen)
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
        except Exception as error:  # of any kind; not for damaged files, which were set aside
            raise ValueError(
                f"{path} cannot be loaded with these settings ({first_line(error)}); give those that it was made "
                "with, or choose another output_dir"
            ) from error
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

    def save(self, update: int) -> Path:
        """Writes a checkpoint, and removes old ones; returns its folder."""
        folder = checkpoint_path(self.output_dir, update)
        is_main_process = self.accelerator.is_main_process
        with atomic_write(folder, shared=True) if is_main_process else writing(folder):
            self.accelerator.wait_for_everyone()
            self.accelerator.save_state(str(partial_path(folder)))
            if self.slimipl:
                self.slimipl.save(partial_path(folder))
            self.accelerator.wait_for_everyone()
            if is_main_process:
                self._complete(partial_path(folder))
            self.accelerator.wait_for_everyone()
        if is_main_process:
            remove_old(self.output_dir, update)
        return folder

    def _complete(self, folder: Path) -> None:
        """Adds digests, the run's files and the manifest to a checkpoint, in the main process."""
        write_json(folder / "data.json", self.digests)
        for name in RUN_FILES:
            if (self.output_dir / name).exists():
                shutil.copyfile(self.output_dir / name, folder / name)
        write_manifest(folder)
