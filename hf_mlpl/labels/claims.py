"""Divides the work of a job between processes by files in a common folder: on any machines, which come and go.

A process claims a piece of work when it creates the file `.NAME.claim-0`, and renews the claim as long as it lives.
The claim of a process that was killed is no longer renewed: after `LEASE_SECONDS` the first process to create
`.NAME.claim-1` has the work, and so on. No claim is ever taken over in place, as two processes could do that at once.

- The disk must create files exclusively; `labels.disk` says which ones do. No locks are needed.
- No clock is compared with another one, neither of machines nor of file servers. A process looks whether a claim is
  still the same when its own clock says that the lease is over.
- A process that was stopped for longer than its lease, and goes on, finds a newer claim and drops what it has made. If
  it is stopped again between this look and its writing, two processes have done the same work. So all that is made
  under a claim must depend on the work alone, and appear at once: then the second writing changes nothing.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, suppress

from ..atomic import has_ended, machine, writing
from ..remote_path import AnyPath
from .disk import Disk, LocalDisk

# A process that is stopped or cut off from the disk for so long loses its work to another one. NFS may show changes of
# other machines a minute late.
LEASE_SECONDS = 120.0
RENEWALS = 6  # in that time
CLAIM = ".claim-"


class LostClaimError(Exception):
    """Says that another process has claimed what this one was doing, because this one was stopped for too long."""


class Claims:
    """Claims pieces of work for this process, and renews its claims in a thread while the `with` block runs."""

    def __init__(self, disk: Disk | None = None):
        self.disk: Disk = disk or LocalDisk()
        self.held: dict[AnyPath, str] = {}  # claims of this process, and their content
        # Claims of others: the version, and when it was seen.
        self.watched: dict[AnyPath, tuple[Hashable, float]] = {}
        self.ended, self.lock = threading.Event(), threading.Lock()

    def __enter__(self) -> Claims:
        threading.Thread(target=self._renew, daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self.ended.set()
        for claim in list(self.held):
            self._release(claim)

    def _renew(self) -> None:
        while not self.ended.wait(LEASE_SECONDS / RENEWALS):
            for path, content in list(self.held.items()):
                # A claim that is given up meanwhile must not be written again. An error: it is gone, or the disk will
                # answer the next time.
                with self.lock, suppress(OSError):
                    if path in self.held:
                        self.disk.renew(path, content)

    @contextmanager
    def claimed(self, work: AnyPath) -> Iterator[AnyPath | None]:
        """Claims the work on the file `work`, until the block ends; yields the claim, or None if another has it."""
        claim = self._take(work)
        try:
            yield claim
        finally:
            if claim is not None:
                self._release(claim)

    def is_held(self, claim: AnyPath) -> bool:
        """Returns whether this process still has the work."""
        try:
            return self.disk.read(claim)[1] == self.held.get(claim) and not _next(claim).exists()
        except FileNotFoundError:
            return False

    def check(self, claim: AnyPath) -> None:
        """Raises a LostClaimError if another process has the work by now."""
        if not self.is_held(claim):
            raise LostClaimError(f"{claim}: another process has claimed this, as nothing was heard of this one")

    def _take(self, work: AnyPath) -> AnyPath | None:
        holder = {"machine": machine(), "process": os.getpid(), "host": socket.gethostname()}
        content = json.dumps(holder | {"claim": secrets.token_hex(8)})
        claim = work.with_name(f".{work.name}{CLAIM}0")
        while True:
            with writing(work):
                is_own = self.disk.create(claim, content)
            try:
                # The answer to a first request may have been lost on the way, and the second was refused.
                if is_own or (found := self.disk.read(claim))[1] == content:
                    self.held[claim] = content
                    return claim
            except FileNotFoundError:  # the work is done, or free again
                return None
            if not self._has_expired(claim, *found):
                return None
            claim = _next(claim)

    def _release(self, claim: AnyPath) -> None:
        with self.lock:
            with suppress(OSError):  # a disk that does not answer: then the lease ends by itself
                if self.is_held(claim):
                    # Older ones first: as long as the newest is there, who comes back knows that it is late.
                    name, _, number = claim.name.rpartition("-")
                    for earlier in range(int(number) + 1):
                        claim.with_name(f"{name}-{earlier}").unlink(missing_ok=True)
            self.held.pop(claim, None)

    def _has_expired(self, claim: AnyPath, version: Hashable, content: str) -> bool:
        with suppress(ValueError, KeyError, TypeError):  # not written yet
            holder = json.loads(content)
            if has_ended(holder["machine"], holder["process"]):
                return True
        if self.watched.get(claim, (None,))[0] != version:
            self.watched[claim] = version, time.monotonic()
        return time.monotonic() - self.watched[claim][1] > LEASE_SECONDS


def is_claim(name: str) -> bool:
    """Returns whether a file is a claim, by its name."""
    return name.startswith(".") and CLAIM in name


def _next(claim: AnyPath) -> AnyPath:
    name, _, number = claim.name.rpartition("-")
    return claim.with_name(f"{name}-{int(number) + 1}")
