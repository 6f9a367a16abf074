"""Stores repositories: contents, commits, branches and tags, with object ids as git and the Hub compute them."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property

import yaml

from .http import HubError


@dataclass(frozen=True)
class Blob:
    """Holds the content of a file, in git itself or as the LFS object of a pointer in git."""

    content: bytes
    lfs: bool = False

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        spec = "version https://git-lfs.github.com/spec/v1"
        return f"{spec}\noid sha256:{self.sha256}\nsize {len(self.content)}\n".encode()

    @cached_property
    def oid(self) -> str:
        """Returns the hash that `git hash-object` computes."""
        stored = self.pointer if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid

    def info(self) -> dict:
        lfs = {"oid": self.sha256, "size": len(self.content), "pointerSize": len(self.pointer)}
        return {"oid": self.oid, "size": len(self.content), **({"lfs": lfs} if self.lfs else {})}


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass(frozen=True, eq=False)
class Commit:
    """Holds the files after a commit, and its parent."""

    title: str
    message: str
    user: str
    files: dict[str, Blob] = field(repr=False)
    parent: Commit | None = field(default=None, repr=False)
    date: str = field(default_factory=_now)

    @cached_property
    def oid(self) -> str:
        tree = sorted((path, blob.oid) for path, blob in self.files.items())
        parent = self.parent and self.parent.oid
        return hashlib.sha1(repr((parent, self.title, self.message, self.user, self.date, tree)).encode()).hexdigest()

    def history(self) -> Iterator[Commit]:
        """Yields this commit and its ancestors, the newest first."""
        commit = self
        while commit is not None:
            yield commit
            commit = commit.parent

    def under(self, path: str) -> dict[str, str]:
        """Returns the oids of a file, or of all files in a folder, by path; empty if the path does not exist."""
        return {name: blob.oid for name, blob in self.files.items() if name == path or name.startswith(f"{path}/")}

    def entry(self, path: str, expand: bool) -> dict:
        """Returns the entry of a file or folder in listings; `expand` adds the last commit that has changed it."""
        if path in self.files:
            entry = {"type": "file", "path": path, **self.files[path].info()}
        else:
            tree = hashlib.sha1(repr(sorted(self.under(path).items())).encode()).hexdigest()
            entry = {"type": "directory", "path": path, "oid": tree, "size": 0}
        if expand:
            last = next(c for c in self.history() if c.parent is None or c.parent.under(path) != c.under(path))
            entry["lastCommit"] = {"id": last.oid, "title": last.title, "date": last.date}
        return entry

    def card_data(self) -> dict:
        """Returns the metadata at the head of README.md."""
        card = self.files["README.md"].content.decode() if "README.md" in self.files else ""
        match = re.match(r"---\r?\n(.*?)\n---", card, re.DOTALL)
        return match and yaml.safe_load(match[1]) or {}


@dataclass
class Repo:
    """Holds the branches, tags and LFS objects of a repository."""

    id: str
    type: str  # model, dataset, space
    private: bool
    branches: dict[str, Commit]
    tags: dict[str, Commit] = field(default_factory=dict)
    objects: dict[str, Blob] = field(default_factory=dict)  # LFS objects by sha256
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)  # of objects whose upload is not complete
    signature: str = field(default_factory=lambda: secrets.token_hex(8))  # of addresses of its objects
    gated: bool = False  # nobody has accepted its terms, so nobody reads it

    @property
    def url(self) -> str:
        """Returns its path at the Hub."""
        return f"/{self.id}" if self.type == "model" else f"/{self.type}s/{self.id}"

    def commit(self, revision: str) -> Commit:
        """Returns the commit of a branch, of a tag, or of 7 or more digits of its oid."""
        names = {**self.tags, **self.branches}
        commits = (commit for head in names.values() for commit in head.history() if len(revision) >= 7)
        found = names.get(revision) or next((c for c in commits if c.oid.startswith(revision)), None)
        if found is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found
