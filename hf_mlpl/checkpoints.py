"""What a training run writes to go on from and to leave behind: checkpoints, the model, and snapshots for the Hub."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator
from datasets import Dataset

from .atomic import partial_path, write_json, write_text, writing, written_whole
from .corpora.utterances import blocks
from .hub import STATE, RunPusher, link, pushed_mark
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
            rows = zip(block["id"].to_pylist(), block["text"].to_pylist(), strict=True)
            sha.update("".join(f"{id}\0{text}\0" for id, text in rows).encode())
        digests[name] = sha.hexdigest()
    return digests


def checkpoints(output_dir: Path) -> list[Path]:
    """The oldest first."""
    return sorted((output_dir / "checkpoints").glob("update-????????"))


def update_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("update-"))


def load_last_checkpoint(
    accelerator: Accelerator, output_dir: Path, slimipl: SlimIpl | None, digests: dict[str, str] | None
) -> int:
    """Restores model, optimiser and pseudo-labels; returns the number of updates that they have seen.

    Raises:
        ValueError: if `digests` are given and not those of the checkpoint.
    """
    if not (found := checkpoints(output_dir)):
        return 0
    path = found[-1] / "data.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() and digests else {}
    differing = [name for name in before if before[name] != digests.get(name)]
    if differing:
        raise ValueError(
            f"{found[-1]} belongs to a run with other data: {', '.join(differing)} (ids, texts or their order); give "
            f"it the same data, or choose another output_dir"
        )
    accelerator.load_state(str(found[-1]))
    if slimipl:
        slimipl.load(found[-1])
    accelerator.print(f"going on from {found[-1]}")
    return update_of(found[-1])


def save_checkpoint(
    accelerator: Accelerator, output_dir: Path, update: int, slimipl: SlimIpl | None, digests: dict[str, str]
) -> Path:
    folder = output_dir / "checkpoints" / f"update-{update:08d}"
    with written_whole(folder) if accelerator.is_main_process else writing(folder):
        accelerator.wait_for_everyone()
        accelerator.save_state(str(partial_path(folder)))
        if slimipl:
            slimipl.save(partial_path(folder))
        if accelerator.is_main_process:
            write_json(partial_path(folder) / "data.json", digests)
        accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        for old in checkpoints(output_dir)[:-CHECKPOINTS_KEPT]:
            shutil.rmtree(old)
    return folder


def save_model(accelerator: Accelerator, model: torch.nn.Module, processor: MlplProcessor, output_dir: Path) -> Path:
    """`model/`: weights, configuration, feature extractor and tokens file; it appears when it is whole."""
    accelerator.wait_for_everyone()
    folder = output_dir / "model"
    weights = accelerator.get_state_dict(model)  # by all processes, which may have a part each
    if accelerator.is_main_process:
        with written_whole(folder) as partial:
            _write_model(partial, accelerator.unwrap_model(model), processor, weights)
    accelerator.wait_for_everyone()
    return folder


def _write_model(folder: Path, model: MlplForCTC, processor: MlplProcessor, weights: dict) -> None:
    """A model's folder; without weights, all the rest of it."""
    with torch.device("meta"):
        whole = MlplForCTC(model.config)
    if weights:
        whole.load_state_dict(weights, assign=True)
    whole.save_pretrained(folder, state_dict=None if weights else {})
    processor.save_pretrained(folder)


def push_checkpoint(
    accelerator: Accelerator, model: torch.nn.Module, processor: MlplProcessor, checkpoint: Path, pusher
) -> None:
    """Queues a checkpoint for the Hub; all processes call it, of which the main one has a `RunPusher`.

    At the root is a usable model. Its weights are the checkpoint's own, once; where FSDP has spread these over the
    processes they are gathered, and the checkpoint keeps its own too.
    """
    weights = accelerator.get_state_dict(model) if accelerator.is_fsdp2 else {}
    if pusher is None:
        return

    def fill(folder: Path) -> None:
        _write_model(folder, accelerator.unwrap_model(model), processor, weights)
        for path in checkpoint.rglob("*"):
            name = path.relative_to(checkpoint)
            if path.is_file():
                link(path, folder / (name if name.name == "model.safetensors" else STATE / name))
        write_json(folder / STATE / "update.json", {"update": update_of(checkpoint)})
        _copy_run(Path(pusher.config.output_dir), folder)

    pusher.submit(update_of(checkpoint), fill)


def push_result(pusher: RunPusher) -> None:
    """Queues a finished run for the Hub, unless it was pushed there before, and waits for it."""
    config, output_dir = pusher.config, Path(pusher.config.output_dir)
    mark = pushed_mark(config)
    if mark.exists() and mark.read_text(encoding="utf-8").split()[0] == config.push_to_hub and not pusher.waiting():
        return
    write_config(config)  # a finished run may get a licence now
    pusher.finish(config.max_updates, lambda folder: fill_result(output_dir, folder))


def fill_result(output_dir: Path, folder: Path, results: Sequence[dict] = ()) -> None:
    """A finished run as it goes to the Hub, with the contents of results files of test sets for its card."""
    for path in (output_dir / "model").iterdir():
        link(path, folder / path.name)
    _copy_run(output_dir, folder, results)


def _copy_run(output_dir: Path, folder: Path, results: Sequence[dict] = ()) -> None:
    """Copies, for metrics.jsonl grows."""
    for name in RUN_FILES:
        if (output_dir / name).exists():
            shutil.copyfile(output_dir / name, folder / name)
