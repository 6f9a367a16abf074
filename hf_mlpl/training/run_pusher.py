"""Pushes a run to the Hub while it trains: the model and the state of each checkpoint, and at the end the result."""

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
from transformers.utils import logging as transformers_logging

from ..atomic import atomic_write, partial_path, remove_left, write_json, write_text
from ..model.processing_mlpl import MlplProcessor
from ..sharing.hub import push_folder
from ..sharing.model_card import model_card
from ..training_config import TrainingConfig, write_config
from .checkpoint_files import RUN_FILES, update_of
from .saved_model import write_model

logger = logging.getLogger(__name__)

STATE = "last-checkpoint"  # folder of a pushed run with what training goes on from
OF_ANOTHER_SAVE = (f"{STATE}/", "results", "curves.png")  # starts of names that a push does not leave there
WAITING = 2  # snapshots that are kept beside the one that is begun; older ones are given up
END_SECONDS = 3600.0  # that a finished run waits for what is pending


class RunPusher:
    """Pushes snapshots of a run in their order, one commit each, in a thread, so that training does not wait.

    A snapshot is a folder `OUTPUT_DIR/hub/pending/update-NNNNNNNN` and goes when it is on the Hub, so that what a
    killed process has left there is pushed by the next one. One without a `last-checkpoint` is a finished run's: its
    commit gets the tag of the stage, and `OUTPUT_DIR/hub/pushed` names repository and commit. Only the main process
    has a pusher.
    """

    def __init__(self, config: TrainingConfig):
        self.config = config
        self.folder = Path(config.output_dir) / "hub" / "pending"
        self.lock = threading.Lock()
        self.thread: threading.Thread | None = None
        self.begun: Path | None = None
        self.finished = False
        disable_progress_bars()  # they would go through training's own
        transformers_logging.disable_progress_bar()
        remove_left(self.folder)
        for left in self.folder.glob(partial_path(Path("update-????????")).name):
            shutil.rmtree(left)
        if self.waiting():
            tqdm.write(f"left by an interrupted run, and pushed now: {_named(self.waiting())}")
            self._start()

    def waiting(self) -> list[Path]:
        """Returns the snapshots that are not on the Hub, the oldest first."""
        return sorted(self.folder.glob("update-????????"))

    def submit(self, update: int, fill: Callable[[Path], None]) -> None:
        """Queues a snapshot, whose folder `fill` writes; where it cannot, warns, and training goes on without."""
        snapshot = self.folder / f"update-{update:08d}"
        if not snapshot.exists():  # else it is left of an interrupted run, which was at the same bits here
            try:
                with atomic_write(snapshot) as unfinished:
                    unfinished.mkdir()
                    fill(unfinished)
            except (OSError, ValueError) as error:  # ValueError: of the card
                logger.warning("update %d will not be pushed to %s: %s", update, self.config.push_to_hub, error)
                return
        with self.lock:
            given_up = [waiting for waiting in self.waiting() if waiting != self.begun][:-WAITING]
            for old in given_up:
                _remove(old)
        if given_up:
            logger.warning(
                "%s: newer ones are waiting, so it is not pushed any more: %s",
                self.config.push_to_hub,
                _named(given_up),
            )
        self._start()

    def push_result(self) -> None:
        """Queues the result of a finished run, and waits until nothing is pending or it is clear that it stays so.

        Does nothing where the result was pushed there before.
        """
        mark, repo_id = pushed_mark(self.config), self.config.push_to_hub
        if mark.exists() and mark.read_text(encoding="utf-8").split()[:1] == [repo_id] and not self.waiting():
            return
        write_config(self.config)  # a finished run may get a licence now
        self.finished, begun = True, self.thread
        self.submit(self.config.max_updates, partial(fill_result, Path(self.config.output_dir), repo_id=repo_id))
        if waiting := self.waiting():
            tqdm.write(f"waiting for {self.config.push_to_hub}; pending: {_named(waiting)}")
        end = time.monotonic() + END_SECONDS
        if begun is not None:  # it may have used up its patience before
            begun.join(max(0.0, end - time.monotonic()))
        self._start()
        if (thread := self.thread) is not None:
            thread.join(max(0.0, end - time.monotonic()))
            if thread.is_alive():
                named, remedy = _named(self.waiting()), self._remedy()
                logger.warning("%s: too slow; pending: %s; %s", self.config.push_to_hub, named, remedy)

    def _start(self) -> None:
        with self.lock:
            if self.thread is None and (waiting := self.waiting()):
                self.begun = waiting[0]  # not only when the thread comes to it: until then it could be given up
                self.thread = threading.Thread(target=self._push_waiting, daemon=True)
                self.thread.start()

    def _push_waiting(self) -> None:
        while True:
            with self.lock:
                waiting = self.waiting()
                self.begun = waiting[0] if waiting else None
                if self.begun is None:
                    self.thread = None
                    return
            try:
                self._push(self.begun)
            except Exception as error:  # whatever it is, training goes on
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
            pending=f"{_named(self.waiting())} pending",
            remedy=self._remedy(),
            private=self.config.hub_private_repo,
            replaced=OF_ANOTHER_SAVE,
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


def _named(snapshots: list[Path]) -> str:
    return ", ".join(f"update {int(snapshot.name.removeprefix('update-'))}" for snapshot in snapshots)


def _remove(snapshot: Path) -> None:
    """Removes a snapshot, first its name: half a snapshot must not be taken for one."""
    gone = partial_path(snapshot)
    shutil.rmtree(gone, ignore_errors=True)
    snapshot.replace(gone)
    shutil.rmtree(gone, ignore_errors=True)


def pushed_mark(config: TrainingConfig) -> Path:
    """Returns the file that says to which repository, and in which commit, a finished run was pushed."""
    return Path(config.output_dir) / "hub" / "pushed"


def push_checkpoint(
    pusher: RunPusher | None,
    checkpoint: Path,
    accelerator: Accelerator,
    model: torch.nn.Module,
    processor: MlplProcessor,
) -> None:
    """Queues a checkpoint for the Hub, with a usable model at the root of the repository.

    The weights at the root are the checkpoint's own, once. Where FSDP has spread these over the processes they are
    gathered, and the checkpoint keeps its parts too.

    Args:
        pusher: None in all processes but the main one; all of them call this.
    """
    weights = accelerator.get_state_dict(model) if accelerator.is_fsdp2 else {}
    if pusher is None:
        return

    def fill(folder: Path) -> None:
        write_model(folder, accelerator.unwrap_model(model).config, processor, weights)
        for path in checkpoint.rglob("*"):
            name = path.relative_to(checkpoint)
            if path.is_file():
                _link(path, folder / (name if name.name == "model.safetensors" else STATE / name))
        write_json(folder / STATE / "update.json", {"update": update_of(checkpoint)})
        _describe_run(Path(pusher.config.output_dir), folder, pusher.config.push_to_hub)

    pusher.submit(update_of(checkpoint), fill)


def fill_result(output_dir: Path, folder: Path, repo_id: str, results: Sequence[dict] = ()) -> None:
    """Fills a folder with a finished run as it goes to the Hub.

    Args:
        results: contents of results files of test sets, for the card.
    """
    for path in (output_dir / "model").iterdir():
        _link(path, folder / path.name)
    _describe_run(output_dir, folder, repo_id, results)


def _describe_run(output_dir: Path, folder: Path, repo_id: str, results: Sequence[dict] = ()) -> None:
    """Writes the card, and copies the files of which it is made: metrics.jsonl grows while they wait."""
    for name in (*RUN_FILES, "results.json", "curves.png"):
        if (output_dir / name).exists():
            shutil.copyfile(output_dir / name, folder / name)
    model_card(output_dir, results, repo_id).save(folder / "README.md")


def _link(source: Path, target: Path) -> None:
    """Gives a file another name, or copies it where the file system has no such names."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
