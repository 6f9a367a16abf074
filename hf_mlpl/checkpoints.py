"""What a training run writes to go on from and to leave behind: checkpoints, the model, and snapshots for the Hub."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow.compute as pc
import torch
import yaml
from accelerate import Accelerator
from datasets import Dataset

from .atomic import partial_path, write_json, write_text, writing, written_whole
from .corpora.texts import join
from .corpora.utterances import blocks
from .hub import STATE, RunPusher, link, pushed_mark
from .model_card import model_card
from .modeling_mlpl import MlplForCTC
from .processing_mlpl import MlplProcessor
from .slimipl import SlimIpl
from .training_config import FREE_ON_RESUME, TrainingConfig

CHECKPOINTS_KEPT = 2
RUN_FILES = ("config.yaml", "metrics.jsonl", "run.json", "results.json", "curves.png")  # beside model/, as they come


def plain(config: TrainingConfig) -> dict:
    """Settings as YAML gives them back, lists instead of tuples."""
    return yaml.safe_load(yaml.safe_dump(dataclasses.asdict(config)))


def write_config(config: TrainingConfig) -> None:
    text = yaml.safe_dump(plain(config), allow_unicode=True, sort_keys=False)
    write_text(Path(config.output_dir) / "config.yaml", text)


def changed_settings(path: Path, config: TrainingConfig, free: Iterable[str]) -> str:
    """What differs from the settings in a `config.yaml`, except for those that are `free`; empty if nothing does."""
    settings, started = plain(config), yaml.safe_load(path.read_text(encoding="utf-8"))
    # What an earlier version did not know yet, it left at what is now the default.
    started = {field.name: field.default for field in dataclasses.fields(config)} | started
    differing = [name for name in settings if name not in free and started[name] != settings[name]]
    return "; ".join(f"{name} was {started.get(name)!r}, is {settings[name]!r}" for name in differing)


def check_same_config(output_dir: Path, config: TrainingConfig) -> bool:
    """Whether the folder holds a run that was started before, as its `config.yaml` shows.

    Raises:
        ValueError: if settings that the result depends on are not those of that run.
    """
    path = output_dir / "config.yaml"
    if not path.exists():
        return False
    if changes := changed_settings(path, config, FREE_ON_RESUME):
        raise ValueError(
            f"{output_dir} belongs to a run with other settings: {changes}. Choose another output_dir, or remove it; "
            f"to go on with other settings from its last checkpoint, remove {path}"
        )
    return True


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
    return int(checkpoint.name.removeprefix("update-"))


class Saves:
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
        """Restores model, optimiser and pseudo-labels; returns the number of updates that they have seen.

        Raises:
            ValueError: if it must be the `same_data`, and is not.
        """
        if not (found := checkpoints(self.output_dir)):
            return 0
        path = found[-1] / "data.json"
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() and same_data else {}
        differing = [name for name in before if before[name] != self.digests.get(name)]
        if differing:
            raise ValueError(
                f"{found[-1]} belongs to a run with other data: {', '.join(differing)} (ids, texts or their order); "
                "give it the same data, or choose another output_dir"
            )
        self.accelerator.load_state(str(found[-1]))
        if self.slimipl:
            self.slimipl.load(found[-1])
        self.accelerator.print(f"going on from {found[-1]}")
        return update_of(found[-1])

    def checkpoint(self, update: int) -> None:
        """Writes a checkpoint, and queues it for the Hub."""
        folder = self.output_dir / "checkpoints" / f"update-{update:08d}"
        is_main_process = self.accelerator.is_main_process
        with written_whole(folder, shared=True) if is_main_process else writing(folder):
            self.accelerator.wait_for_everyone()
            self.accelerator.save_state(str(partial_path(folder)))
            if self.slimipl:
                self.slimipl.save(partial_path(folder))
            if is_main_process:
                write_json(partial_path(folder) / "data.json", self.digests)
            self.accelerator.wait_for_everyone()
        if is_main_process:
            for old in checkpoints(self.output_dir)[:-CHECKPOINTS_KEPT]:
                shutil.rmtree(old)
        if self.config.push_to_hub:
            self._push(folder)

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
            with written_whole(folder) as partial:
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
    if mark.exists() and mark.read_text(encoding="utf-8").split()[0] == config.push_to_hub and not pusher.waiting():
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
