"""Pushes a run to the Hub during training: the model and the state of each checkpoint, and at the end the result."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from huggingface_hub.utils import disable_progress_bars
from tqdm import tqdm
from transformers import ProcessorMixin
from transformers.utils import logging as transformers_logging

from ..atomic import atomic_write, partial_path, remove_left, write_json, write_text
from ..sharing.endpoint import write_endpoint
from ..sharing.hub import push_folder
from ..sharing.model_card import model_card
from ..training_config import TrainingConfig, write_config
from .checkpoint_files import RUN_FILES, update_of
from .saved_model import write_weights
from .trained_weights import host_copy

logger = logging.getLogger(__name__)

STATE = "last-checkpoint"  # folder of a pushed run with the state from which training goes on
REPLACED = (f"{STATE}/", "results", "curves.png")  # prefixes of names that each push deletes if it does not write them
RESULT_FILES = ("results.json", "curves.png")  # of a run's folder, as of its last evaluation
MOST_PENDING = 2  # snapshots beside the one that is being pushed; older ones are given up
END_SECONDS = 3600.0  # that a finished run waits for pending snapshots


class RunPusher:
    """Pushes snapshots of a run in their order, one commit each, in a thread, so that training does not wait.

    A snapshot is a folder `OUTPUT_DIR/hub/pending/update-NNNNNNNN` until it is on the Hub, so that the next process
    pushes the snapshots of a killed one. A snapshot without a `last-checkpoint` is the result of a finished run: its
    commit gets the tag of the stage, and `OUTPUT_DIR/hub/pushed` names repository and commit. Only the main process
    has a pusher.
    """

    def __init__(self, config: TrainingConfig):
        self.config = config
        self.folder = Path(config.output_dir) / "hub" / "pending"
        self.lock = threading.Lock()
        self.thread: threading.Thread | None = None
        self.current: Path | None = None  # snapshot that is being pushed
        self.finished = False
        disable_progress_bars()  # they would interrupt training's own
        transformers_logging.disable_progress_bar()
        remove_left(self.folder)
        for incomplete in self.folder.glob(partial_path(Path("update-????????")).name):
            shutil.rmtree(incomplete)
        if self.pending():
            tqdm.write(f"left by an interrupted run, and pushed now: {_list_updates(self.pending())}")
            self._start()

    def pending(self) -> list[Path]:
        """Returns the snapshots that are not on the Hub, the oldest first."""
        return sorted(self.folder.glob("update-????????"))

    def submit(self, update: int, fill: Callable[[Path], None]) -> None:
        """Queues a snapshot, whose folder `fill` writes; if that fails, warns, and training goes on without it."""
        snapshot = self.folder / f"update-{update:08d}"
        if not snapshot.exists():  # else an interrupted run has left the same bits
            try:
                with atomic_write(snapshot) as folder:
                    folder.mkdir()
                    fill(folder)
            except (OSError, ValueError) as error:  # ValueError: of the card
                logger.warning("update %d will not be pushed to %s: %s", update, self.config.push_to_hub, error)
                return
        with self.lock:
            given_up = [waiting for waiting in self.pending() if waiting != self.current][:-MOST_PENDING]
            for old in given_up:
                _remove(old)
        if given_up:
            updates, repo_id = _list_updates(given_up), self.config.push_to_hub
            logger.warning("%s: newer ones are waiting, so it is not pushed any more: %s", repo_id, updates)
        self._start()

    def push_result(self) -> None:
        """Queues the result of a finished run, and waits until nothing is pending, a push fails, or an hour is over.

        Does nothing if the result was pushed to this repository before.
        """
        mark, repo_id = pushed_mark(self.config), self.config.push_to_hub
        if mark.exists() and mark.read_text(encoding="utf-8").split()[:1] == [repo_id] and not self.pending():
            return
        write_config(self.config)  # a finished run may have a new licence
        self.finished, earlier = True, self.thread
        self.submit(self.config.max_updates, partial(fill_result, Path(self.config.output_dir), repo_id=repo_id))
        if pending := self.pending():
            tqdm.write(f"waiting for {repo_id}; pending: {_list_updates(pending)}")
        end = time.monotonic() + END_SECONDS
        if earlier is not None:  # it may be at its last retry, so the result gets another thread
            earlier.join(END_SECONDS)
        self._start()
        if (thread := self.thread) is not None:
            thread.join(max(0.0, end - time.monotonic()))
            if thread.is_alive():
                updates = _list_updates(self.pending())
                logger.warning("%s: too slow; pending: %s; %s", repo_id, updates, self._remedy())

    def _start(self) -> None:
        with self.lock:
            if self.thread is None and (pending := self.pending()):
                self.current = pending[0]  # set before the thread runs, so that it is not given up until then
                self.thread = threading.Thread(target=self._push_pending, daemon=True)
                self.thread.start()

    def _push_pending(self) -> None:
        while True:
            with self.lock:
                self.current = next(iter(self.pending()), None)
                if self.current is None:
                    self.thread = None
                    return
            try:
                self._push(self.current)
            except Exception as error:  # of any kind; training goes on
                logger.warning("%s", error)
                with self.lock:
                    self.thread = None
                return

    def _push(self, snapshot: Path) -> None:
        update, is_final = int(snapshot.name.removeprefix("update-")), not (snapshot / STATE).exists()
        commit = push_folder(
            snapshot,
            self.config.push_to_hub,
            message=f"{self.config.tag}: {'the result, ' if is_final else ''}update {update}",
            pending=f"{_list_updates(self.pending())} pending",
            remedy=self._remedy(),
            private=self.config.hub_private_repo,
            replaced=REPLACED,
            tag=self.config.tag if is_final else None,
        )
        if is_final:
            write_text(pushed_mark(self.config), f"{self.config.push_to_hub} {commit.oid}\n")
        _remove(snapshot)
        tqdm.write(f"pushed update {update} to {commit.repo_url}" + (f", tag {self.config.tag}" if is_final else ""))

    def _remedy(self) -> str:
        if not self.finished:
            return "the next save, or the end, tries again"
        publish = f"hf-mlpl publish --run {self.config.output_dir} --repo {self.config.push_to_hub}"
        return f"the same training command again pushes it, and so does `{publish}`"


def _list_updates(snapshots: list[Path]) -> str:
    return ", ".join(f"update {int(snapshot.name.removeprefix('update-'))}" for snapshot in snapshots)


def _remove(snapshot: Path) -> None:
    """Removes a snapshot after renaming it, so that half a snapshot is never pushed."""
    renamed = partial_path(snapshot)
    shutil.rmtree(renamed, ignore_errors=True)
    snapshot.replace(renamed)
    shutil.rmtree(renamed, ignore_errors=True)


def pushed_mark(config: TrainingConfig) -> Path:
    """Returns the file with the repository and the commit to which a finished run was pushed."""
    return Path(config.output_dir) / "hub" / "pushed"


def prepare_push(
    pusher: RunPusher | None,
    accelerator: Accelerator,
    model: torch.nn.Module,
    processor: ProcessorMixin,
    config: TrainingConfig,
) -> Callable[[Path], None] | None:
    """Returns a function that queues a checkpoint for the Hub, with a usable model at the root of the repository.

    All processes call this before they go on training, and the main process the function, with the checkpoint.

    The weights at the root are the checkpoint's own, which are pushed once. If FSDP shards them, or a checkpoint has
    adapters alone, the root has other files, and the checkpoint's are pushed too.

    Args:
        pusher: None in all processes except the main one.
    """
    has_other_files = accelerator.is_fsdp2 or config.lora is not None
    weights = accelerator.get_state_dict(model) if has_other_files else {}
    if pusher is None:
        return None
    weights = host_copy(weights)
    paths = [Path(config.output_dir) / name for name in RESULT_FILES]
    results = {path.name: path.read_bytes() for path in paths if path.exists()}  # of now, for the card

    def fill(checkpoint: Path, folder: Path) -> None:
        write_weights(folder, accelerator.unwrap_model(model), processor, weights, config)
        for path in checkpoint.rglob("*"):
            name = path.relative_to(checkpoint)
            if path.is_file():
                is_at_root = name.name == "model.safetensors" and not has_other_files
                _link(path, folder / (name if is_at_root else STATE / name))
        write_json(folder / STATE / "update.json", {"update": update_of(checkpoint)})
        for name in RUN_FILES:
            if (checkpoint / name).exists():
                shutil.copyfile(checkpoint / name, folder / name)
        for name, content in results.items():
            (folder / name).write_bytes(content)
        _describe_run(folder, folder, config.push_to_hub)

    return lambda checkpoint: pusher.submit(update_of(checkpoint), partial(fill, checkpoint))


def fill_result(output_dir: Path, folder: Path, repo_id: str, results: Sequence[dict] = ()) -> None:
    """Fills a folder with a finished run for the Hub; `results` are contents of results files, for its card."""
    for path in (output_dir / "model").iterdir():
        _link(path, folder / path.name)
    for name in (*RUN_FILES, *RESULT_FILES):
        if (output_dir / name).exists():
            shutil.copyfile(output_dir / name, folder / name)
    _describe_run(output_dir, folder, repo_id, results)


def _describe_run(output_dir: Path, folder: Path, repo_id: str, results: Sequence[dict] = ()) -> None:
    """Writes card and endpoint; the card's sources, the files of a run, are in `output_dir`."""
    model_card(output_dir, results, repo_id).save(folder / "README.md")
    if not (folder / "adapter_config.json").exists():  # an endpoint would not find the base with its own head
        write_endpoint(folder)


def _link(source: Path, target: Path) -> None:
    """Hard-links a file, or copies it if the file system has no hard links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
