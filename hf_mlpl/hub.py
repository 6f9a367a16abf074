"""Pushes folders to the Hub, one commit each, whatever the network does; and beside training, a run at its saves."""

from __future__ import annotations

import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    DatasetInfo,
    HfApi,
    ModelInfo,
    RepoCard,
)
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import disable_progress_bars
from huggingface_hub.utils import logging as hub_logging
from tqdm import tqdm
from transformers.utils import logging as transformers_logging
from yaml import YAMLError

from .atomic import atomic_write, partial_path, remove_left, write_text
from .error_line import error_line
from .folder_lock import is_lock
from .training_config import TrainingConfig

logger = logging.getLogger(__name__)

FIRST_WAIT, LONGEST_WAIT, PATIENCE = 1.0, 60.0, 150.0  # seconds: of waits that double, and of all of them together
PASSING = {408, 409, 412, 429}  # and 5xx: statuses that may not come again; 409, 412: somebody else was quicker
FAILURES = (HTTPError, OSError, ValueError, RuntimeError)  # HTTPError is also the base of what httpx raises
STATE = "last-checkpoint"  # folder of a pushed run with what training goes on from
OF_ANOTHER_SAVE = (f"{STATE}/", "results", "curves.png")  # starts of names that a push does not leave there
WAITING = 2  # snapshots that are kept beside the one that is begun; older ones are given up
END_SECONDS = 3600.0  # that a finished run waits for what is pending


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    message: str,
    pending: str,
    remedy: str,
    repo_type: str = "model",
    private: bool = False,
    replaced: Sequence[str] = (),
    tag: str | None = None,
    complete: Callable[[ModelInfo | DatasetInfo], None] | None = None,
) -> CommitInfo:
    """Makes one commit of a folder's files, or none if the repository has them all.

    The repository is made if it is not there. What may pass is tried again with waits that double, or are as long as
    the Hub asks for; large files that have arrived are not sent again, and a commit whose answer was lost is found.
    Lock files and half-written files are not pushed.

    Args:
        repo_id: `user/name`, or a name alone for the user's own.
        message: the commit's.
        pending, remedy: clauses for the error: what stays where it is, and what makes up for the failure.
        private: of a repository that has to be made.
        replaced: starts of names; files of the repository with these that the folder does not have are deleted.
        tag: name that the commit gets; another commit that has it loses it.
        complete: writes those files into the folder that depend on what the repository has. It gets the commit that
            this one is to follow, and is called again where somebody else was quicker.

    Raises:
        ValueError: for a folder without a card, `README.md`, that names the licence of what is in it.
        OSError: `REPO: cannot push to it (REASON); PENDING: REMEDY`, without any secret.
    """
    if complete is None:
        _check_card(Path(folder))
    hub_logging.set_verbosity_error()  # what is tried again would be told with signed addresses, which are secrets

    def push() -> CommitInfo:
        api = HfApi()
        name = repo_id if "/" in repo_id else f"{api.whoami()['name']}/{repo_id}"
        head = _head(api, name, repo_type, private)
        if complete is not None:
            complete(head)
            _check_card(Path(folder))
        commit = _commit(api, Path(folder), head, message, repo_type, tuple(replaced))
        if tag is not None:
            _move_tag(api, name, tag, commit.oid, repo_type)
        return commit

    try:
        return with_retries(push)
    except FAILURES as error:
        error = _cause(error)
        refused = isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403)
        login = "give HF_TOKEN or `hf auth login` a token that may write to it, then " if refused else ""
        raise OSError(f"{repo_id}: cannot push to it ({reason(error)}); {pending}: {login}{remedy}") from error


def with_retries(request: Callable):
    """What `request` returns; it is called again after failures that may pass, until `PATIENCE` is used up."""
    wait, waited = FIRST_WAIT, 0.0
    while True:
        try:
            return request()
        except FAILURES as error:
            pause = _pause(_cause(error), wait)
            if pause is None or waited + pause > PATIENCE:
                raise
        time.sleep(pause)
        waited, wait = waited + pause, min(2 * wait, LONGEST_WAIT)


def reason(error: Exception) -> str:
    """Why a request failed, in one line, without token and signed addresses."""
    error = _cause(error)
    line = error_line(error)
    if isinstance(error, HfHubHTTPError):
        line = " ".join((error.server_message or f"HTTP status {error.response.status_code}").split())
    return re.sub(r"\bhf_\w{8,}", "[token]", re.sub(r"(https?://[^\s/]+)\S*", r"\1", line)).rstrip(".")


def _cause(error: Exception) -> Exception:
    """Behind an error that only says which file it was."""
    says_the_file = isinstance(error, (RuntimeError, LocalEntryNotFoundError)) and error.__cause__ is not None
    return error.__cause__ if says_the_file else error


def _pause(error: Exception, wait: float) -> float | None:
    """Seconds after which to try again, None if that would not help."""
    if isinstance(error, HfHubHTTPError):
        status, asked = error.response.status_code, error.response.headers.get("Retry-After", "")
        if status not in PASSING and status < 500:
            return None
        return max(wait, float(asked)) if asked.isdigit() else wait
    return wait if isinstance(error, (HTTPError, RuntimeError)) else None  # hf_xet raises RuntimeErrors


def _head(api: HfApi, repo_id: str, repo_type: str, private: bool) -> ModelInfo | DatasetInfo:
    """The newest commit of a repository, which is made if it is not there."""
    try:
        return api.repo_info(repo_id, repo_type=repo_type)
    except RepositoryNotFoundError:
        api.create_repo(repo_id, repo_type=repo_type, private=private or None)
        return api.repo_info(repo_id, repo_type=repo_type)


def _commit(
    api: HfApi, folder: Path, head: ModelInfo | DatasetInfo, message: str, repo_type: str, replaced
) -> CommitInfo:
    names = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    files = {name: path for name, path in names.items() if not is_lock(path) and "/.partial-" not in f"/{name}"}
    operations = [CommitOperationAdd(name, path) for name, path in files.items()]
    there = [sibling.rfilename for sibling in head.siblings]
    operations += [CommitOperationDelete(name) for name in there if name.startswith(replaced) and name not in files]
    # With its parent named a commit is not made twice; and files that are there already make none. Not upload_folder,
    # which may make several.
    return api.create_commit(head.id, operations, commit_message=message, repo_type=repo_type, parent_commit=head.sha)


def _check_card(folder: Path) -> None:
    card = folder / "README.md"
    try:
        is_licensed = RepoCard.load(card, ignore_metadata_errors=True).data.to_dict().get("license")
    except (OSError, ValueError, YAMLError):
        is_licensed = False
    if not is_licensed:
        raise ValueError(f"{card}: no card that names a licence, without which nothing is pushed")


def _move_tag(api: HfApi, repo_id: str, tag: str, commit: str, repo_type: str) -> None:
    tags = {ref.name: ref.target_commit for ref in api.list_repo_refs(repo_id, repo_type=repo_type).tags}
    if tags.get(tag) == commit:
        return
    if tag in tags:
        api.delete_tag(repo_id, tag=tag, repo_type=repo_type)
    api.create_tag(repo_id, tag=tag, revision=commit, repo_type=repo_type)


def link(source: Path, target: Path) -> None:
    """The same file under another name, or a copy where the file system has no such names."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


class RunPusher:
    """Pushes snapshots of a run in their order, one commit each, in a thread, so that training does not wait.

    A snapshot is a folder `OUTPUT_DIR/hub/pending/update-NNNNNNNN` and goes when it is on the Hub, so that what a
    killed process has left there is pushed by the next one. One without a `last-checkpoint` is a finished run's: its
    commit gets the tag of the stage, and `OUTPUT_DIR/hub/pushed` names repository and commit.
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
        """Snapshots that are not on the Hub, the oldest first."""
        return sorted(self.folder.glob("update-????????"))

    def submit(self, update: int, fill: Callable[[Path], None]) -> None:
        """Queues a snapshot, whose folder `fill` writes; if it cannot, it is said, and training goes on without."""
        snapshot = self.folder / f"update-{update:08d}"
        if not snapshot.exists():  # else it is left of an interrupted run, which was at the same bits here
            try:
                with atomic_write(snapshot) as partial:
                    partial.mkdir()
                    fill(partial)
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

    def finish(self, update: int, fill: Callable[[Path], None]) -> None:
        """Queues the run's result, and waits until nothing is pending or it is clear that it stays so."""
        self.finished, begun = True, self.thread
        self.submit(update, fill)
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
    """First its name: half a snapshot must not be taken for one."""
    gone = partial_path(snapshot)
    shutil.rmtree(gone, ignore_errors=True)
    snapshot.replace(gone)
    shutil.rmtree(gone, ignore_errors=True)


def pushed_mark(config: TrainingConfig) -> Path:
    """File that says to which repository, and in which commit, a finished run was pushed."""
    return Path(config.output_dir) / "hub" / "pushed"
