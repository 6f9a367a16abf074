"""Pushes folders to the Hub, in one commit each, and retries requests that fail temporarily."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias, TypeVar

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    DatasetInfo,
    HfApi,
    ModelInfo,
    RepoCard,
    SpaceInfo,
)
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import logging as hub_logging
from yaml import YAMLError

from ..error_line import error_line
from ..folder_lock import is_lock

Result = TypeVar("Result")
RepoInfo: TypeAlias = ModelInfo | DatasetInfo | SpaceInfo

FIRST_WAIT, LONGEST_WAIT, PATIENCE = 1.0, 60.0, 150.0  # seconds: waits double; PATIENCE bounds their sum
TEMPORARY = {408, 409, 412, 429}  # and 5xx: statuses worth a retry; 409 and 412: somebody else was quicker
FAILURES = (HTTPError, OSError, ValueError, RuntimeError)  # HTTPError is also the base of httpx's errors


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
    complete: Callable[[RepoInfo], None] | None = None,
) -> CommitInfo:
    """Pushes the files of a folder in one commit; makes no commit if the repository already has them.

    Creates the repository if it does not exist. Retries failures that may be temporary, after waits that double or are
    as long as the Hub asks for. Does not resend large files that have arrived, nor repeat a commit whose response was
    lost. Leaves out lock files and partial files.

    Args:
        repo_id: `user/name`, or a name alone for a repository of the user.
        message: of the commit.
        pending, remedy: clauses of the error: what is complete locally, and how to repair the failure.
        private: creates the repository as private.
        replaced: prefixes of names; files of the repository with such names are deleted if the folder lacks them.
        tag: is set to the commit, or moved to it.
        complete: writes files into the folder that depend on the repository. It gets the parent of the new commit, and
            is called again if somebody else has committed meanwhile.

    Raises:
        ValueError: for a folder without a card, `README.md`, that names a licence.
        OSError: `REPO: cannot push to it (REASON); PENDING: REMEDY`, without any secret.
    """
    if complete is None:
        _check_card(Path(folder))
    hub_logging.set_verbosity_error()  # warnings about retries contain signed addresses, which are secrets

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
        raise OSError(
            f"{repo_id}: cannot push to it ({request_problem(error)}); {pending}: {login}{remedy}"
        ) from error


def with_retries(request: Callable[[], Result]) -> Result:
    """Returns the result of `request`; retries failures that may be temporary, until `PATIENCE` is used up."""
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


def request_problem(error: Exception) -> str:
    """Returns why a request failed, in one line, without tokens and signed addresses."""
    error = _cause(error)
    line = error_line(error)
    if isinstance(error, HfHubHTTPError):
        line = " ".join((error.server_message or f"HTTP status {error.response.status_code}").split())
    return re.sub(r"\bhf_\w{8,}", "[token]", re.sub(r"(https?://[^\s/]+)\S*", r"\1", line)).rstrip(".")


def _cause(error: Exception) -> Exception:
    """Returns the cause of an error that itself only names a file."""
    if isinstance(error, (RuntimeError, LocalEntryNotFoundError)) and isinstance(error.__cause__, Exception):
        return error.__cause__
    return error


def _pause(error: Exception, wait: float) -> float | None:
    """Returns the seconds to wait before a retry, or None if a retry would not help."""
    if isinstance(error, HfHubHTTPError):
        status, asked = error.response.status_code, error.response.headers.get("Retry-After", "")
        if status not in TEMPORARY and status < 500:
            return None
        return max(wait, float(asked)) if asked.isdigit() else wait
    return wait if isinstance(error, (HTTPError, RuntimeError)) else None  # hf_xet raises RuntimeErrors


def _head(api: HfApi, repo_id: str, repo_type: str, private: bool) -> RepoInfo:
    """Returns the newest commit of a repository, which is created if it does not exist."""
    try:
        return api.repo_info(repo_id, repo_type=repo_type)
    except RepositoryNotFoundError:
        sdk = "gradio" if repo_type == "space" else None
        api.create_repo(repo_id, repo_type=repo_type, private=private or None, space_sdk=sdk)
        return api.repo_info(repo_id, repo_type=repo_type)


def _commit(
    api: HfApi,
    folder: Path,
    head: RepoInfo,
    message: str,
    repo_type: str,
    replaced: tuple[str, ...],
) -> CommitInfo:
    names = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    files = {name: path for name, path in names.items() if not is_lock(path) and "/.partial-" not in f"/{name}"}
    operations = [CommitOperationAdd(name, path) for name, path in files.items()]
    others = [sibling.rfilename for sibling in head.siblings or () if sibling.rfilename not in files]
    operations += [CommitOperationDelete(name) for name in others if name.startswith(replaced)]
    # Not upload_folder, which may make several commits. Without changes, create_commit makes none; with a parent, it
    # does not make one twice.
    return api.create_commit(head.id, operations, commit_message=message, repo_type=repo_type, parent_commit=head.sha)


def _check_card(folder: Path) -> None:
    card = folder / "README.md"
    license = None
    with suppress(OSError, ValueError, YAMLError):
        license = RepoCard.load(card, ignore_metadata_errors=True).data.to_dict().get("license")
    if not license:
        raise ValueError(f"{card}: no card that names a licence, without which nothing is pushed")


def _move_tag(api: HfApi, repo_id: str, tag: str, commit: str, repo_type: str) -> None:
    tags = {ref.name: ref.target_commit for ref in api.list_repo_refs(repo_id, repo_type=repo_type).tags}
    if tags.get(tag) == commit:
        return
    if tag in tags:
        api.delete_tag(repo_id, tag=tag, repo_type=repo_type)
    api.create_tag(repo_id, tag=tag, revision=commit, repo_type=repo_type)
