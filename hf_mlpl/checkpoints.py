"""What a training run writes to go on from and to leave behind: checkpoints, the model, and snapshots for the Hub."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow.compute as pc
import torch
import yaml
from accelerate import Accelerator
from datasets import Dataset

from .atomic import atomic_write, partial_path, write_json, writing
from .hub import STATE, RunPusher, link, pushed_mark
from .main_process import on_main_process
from .manifest import damage_of, write_manifest
from .model_card import model_card
from .modeling_mlpl import MlplForCTC
from .processing_mlpl import MlplProcessor
from .rows import blocks
from .run_record import sessions_of
from .slimipl import SlimIpl
from .text_arrays import join
from .training_config import TrainingConfig, has_settings, write_config

logger = logging.getLogger(__name__)

CHECKPOINTS_KEPT = 2
COPIED = ("config.yaml", "metrics.jsonl", "run.json")  # into each checkpoint, as they are when it is written
RUN_FILES = ("config.yaml", "metrics.jsonl", "run.json", "results.json", "curves.png")  # beside model/, as they come


def digest(processor: MlplProcessor, **datasets: Dataset | None) -> dict[str, str]:
    """What makes a run the same wherever its files are: the tokens, and ids and texts of its utterances, in order."""
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


def checkpoints(output_dir: Path) -> list[Path]:
    """The oldest first."""
    return sorted((output_dir / "checkpoints").glob("update-????????"))


def update_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def newest_whole(output_dir: Path, instead: str | None = None) -> Path | None:
    """The newest checkpoint that is not damaged; newer ones are set aside, with a line each.

    A checkpoint `damaged-NNNNNNNN` is kept until the run has come beyond it.

    Args:
        instead: what the run can go on from where all are damaged.

    Raises:
        ValueError: where all of them are damaged, and there is nothing `instead`.
    """
    damaged = {}
    for path in reversed(checkpoints(output_dir)):
        if not (problem := damage_of(path)):
            instead = path.name
            break
        damaged[path] = problem
    else:
        path = None
    if damaged and not instead:
        raise ValueError(
            f"{'; '.join(damaged.values())}; no checkpoint is whole: restore one from a backup, or remove "
            f"{output_dir / 'checkpoints'} to begin anew"
        )
    for other, problem in damaged.items():
        logger.warning("%s; set aside as damaged-%08d, going on from %s", problem, update_of(other), instead)
        _set_aside(other)
    return path


def _set_aside(checkpoint: Path) -> None:
    target = checkpoint.with_name(f"damaged-{update_of(checkpoint):08d}")
    if target.exists():
        shutil.rmtree(target)
    checkpoint.replace(target)


def _remove_old(output_dir: Path, update: int) -> None:
    damaged = [path for path in (output_dir / "checkpoints").glob("damaged-????????") if update_of(path) <= update]
    for old in [*checkpoints(output_dir)[:-CHECKPOINTS_KEPT], *damaged]:
        shutil.rmtree(old)


def _copy(source: Path, target: Path) -> None:
    with atomic_write(target) as partial:
        shutil.copyfile(source, partial)


class Checkpointer:
    """What a run saves, and goes on from: its checkpoints, its model, and all of it to the Hub where that is wanted.

    All processes call each method, in the same order. Each checkpoint knows `digests`, as `digest` makes them.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: torch.nn.Module,
        processor: MlplProcessor,
        slimipl: SlimIpl | None,
        config: TrainingConfig,
        digests: dict[str, str],
    ):
        self.accelerator, self.model, self.processor, self.slimipl = accelerator, model, processor, slimipl
        self.config, self.digests, self.output_dir = config, digests, Path(config.output_dir)
        self.pusher = RunPusher(config) if config.push_to_hub and accelerator.is_main_process else None

    def load_last(self, same_data: bool) -> int:
        """Restores model, optimiser, pseudo-labels and the run's history; returns how many updates they have seen.

        Raises:
            ValueError: if it must be the `same_data`, and is not; where no checkpoint is whole; where it does not fit
                the settings.
        """
        path = on_main_process(self.accelerator, lambda: newest_whole(self.output_dir))
        if path is None:
            on_main_process(self.accelerator, self._begin_anew)
            return 0
        if same_data:
            self._check_data(path)
        elif (settings := path / "config.yaml").exists():
            self._check_optimizer(path, yaml.safe_load(settings.read_text(encoding="utf-8"))["optimizer"])
        try:
            self.accelerator.load_state(str(path))
            if self.slimipl:
                self.slimipl.load(path)
        except Exception as error:  # of whatever kind: its files are as they were written
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"{path} cannot be loaded with these settings ({reason}); give those that it was made with, or choose "
                "another output_dir"
            ) from error
        on_main_process(self.accelerator, lambda: self._restore_history(path))
        self.accelerator.print(f"going on from {path}")
        return update_of(path)

    def _begin_anew(self) -> None:
        """Removes what a run without a checkpoint has left, of which this one may be no continuation."""
        for name in ("metrics.jsonl", "results.json", "curves.png"):
            (self.output_dir / name).unlink(missing_ok=True)
        if not has_settings(self.output_dir / "config.yaml", self.config):
            (self.output_dir / "run.json").unlink(missing_ok=True)

    def _check_data(self, checkpoint: Path) -> None:
        path = checkpoint / "data.json"
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        differing = [name for name in before if before[name] != self.digests.get(name)]
        if differing:
            raise ValueError(
                f"{checkpoint} belongs to a run with other data: {', '.join(differing)} (ids, texts or their order); "
                "give it the same data, or choose another output_dir"
            )

    def _check_optimizer(self, checkpoint: Path, optimizer: str) -> None:
        """Compares what torch does not: another optimiser's state is loaded, and fails when it is used."""
        if optimizer != self.config.optimizer:
            raise ValueError(
                f"{checkpoint} has the state of {optimizer}, and optimizer is {self.config.optimizer!r}; give the one "
                "that it was made with, or choose another output_dir"
            )

    def _restore_history(self, checkpoint: Path) -> None:
        """Takes metrics.jsonl as the checkpoint has it, and run.json where the run's own is lost or damaged."""
        if (history := checkpoint / "metrics.jsonl").exists():
            _copy(history, self.output_dir / "metrics.jsonl")
        if (facts := checkpoint / "run.json").exists() and not sessions_of(self.output_dir / "run.json"):
            _copy(facts, self.output_dir / "run.json")

    def checkpoint(self, update: int) -> None:
        """Writes a checkpoint, and queues it for the Hub."""
        folder = self.output_dir / "checkpoints" / f"update-{update:08d}"
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
            _remove_old(self.output_dir, update)
        if self.config.push_to_hub:
            self._push(folder)

    def _complete(self, folder: Path) -> None:
        """Adds to a checkpoint what the main process alone writes, and the manifest of it all."""
        write_json(folder / "data.json", self.digests)
        for name in COPIED:
            if (self.output_dir / name).exists():
                shutil.copyfile(self.output_dir / name, folder / name)
        write_manifest(folder)

    def _push(self, checkpoint: Path) -> None:
        """At the root is a usable model. Its weights are the checkpoint's own, once; where FSDP has spread these over
        the processes they are gathered, and the checkpoint keeps its parts too.
        """
        weights = self.accelerator.get_state_dict(self.model) if self.accelerator.is_fsdp2 else {}
        if self.pusher is None:
            return

        def fill(folder: Path) -> None:
            self._write_model(folder, weights)
            for path in checkpoint.rglob("*"):
                name = path.relative_to(checkpoint)
                if path.is_file():
                    link(path, folder / (name if name.name == "model.safetensors" else STATE / name))
            write_json(folder / STATE / "update.json", {"update": update_of(checkpoint)})
            _describe_run(self.output_dir, folder, self.config.push_to_hub)

        self.pusher.submit(update_of(checkpoint), fill)

    def result(self) -> Path:
        """Writes `model/`: weights, configuration, feature extractor and tokens file; and waits until it is pushed."""
        self.accelerator.wait_for_everyone()
        folder = self.output_dir / "model"
        weights = self.accelerator.get_state_dict(self.model)  # by all processes, which may have a part each
        if self.accelerator.is_main_process:
            with atomic_write(folder) as partial:
                self._write_model(partial, weights)
        self.accelerator.wait_for_everyone()
        if self.pusher is not None:
            push_result(self.pusher)
        return folder

    def _write_model(self, folder: Path, weights: dict) -> None:
        """A model's folder; without weights, all the rest of it."""
        with torch.device("meta"):
            whole = MlplForCTC(self.accelerator.unwrap_model(self.model).config)
        if weights:
            whole.load_state_dict(weights, assign=True)
        whole.save_pretrained(folder, state_dict=None if weights else {})
        self.processor.save_pretrained(folder)


def push_result(pusher: RunPusher) -> None:
    """Queues a finished run for the Hub, unless it was pushed there before, and waits for it."""
    config, output_dir = pusher.config, Path(pusher.config.output_dir)
    mark = pushed_mark(config)
    repo_id = mark.read_text(encoding="utf-8").split()[:1] if mark.exists() else []
    if repo_id == [config.push_to_hub] and not pusher.waiting():
        return
    write_config(config)  # a finished run may get a licence now
    pusher.finish(config.max_updates, lambda folder: fill_result(output_dir, folder, config.push_to_hub))


def fill_result(output_dir: Path, folder: Path, repo_id: str, results: Sequence[dict] = ()) -> None:
    """A finished run as it goes to the Hub, with the contents of results files of test sets for its card."""
    for path in (output_dir / "model").iterdir():
        link(path, folder / path.name)
    _describe_run(output_dir, folder, repo_id, results)


def _describe_run(output_dir: Path, folder: Path, repo_id: str, results: Sequence[dict] = ()) -> None:
    """The card, and copies of the files of which it is made: metrics.jsonl grows while they wait."""
    for name in RUN_FILES:
        if (output_dir / name).exists():
            shutil.copyfile(output_dir / name, folder / name)
    model_card(output_dir, results, repo_id).save(folder / "README.md")
