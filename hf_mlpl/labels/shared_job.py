"""Shares a labelling job between processes that know of each other only what lies in its folder."""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property, partial

import numpy as np
import pyarrow as pa
from accelerate import Accelerator
from datasets import Dataset
from tqdm import tqdm

from ..atomic import write_json
from ..corpora.sources import Source
from ..data.rows import blocks, select_rows
from ..remote_path import AnyPath
from . import claims
from .claims import Claims, LostClaimError
from .disk import disk_of
from .folder import begin, complete_summary, is_labelled, join_shards, remove_claims, shard_path, shards_there
from .shards import write_shard

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0  # seconds between looks at what others do
PATIENCE = 2.0  # with a shard of another process, in times of an own one
LOOK_SECONDS = 30.0  # between looks at all shards, which are tens of thousands in a large job
_random = random.Random()  # not the program's own, which may be seeded


class SharedJob:
    """Takes part in a labelling job, which is begun in `folder` unless it is there.

    Args:
        job: content of `job.json`.
        shards: the rows of each shard.
        sources: of the speech, for `complete.json`.
        accelerator: the processes of one launch, of which the main process shows the progress of the whole job.

    Attributes:
        summary: of the folder, if it was complete at the beginning.
        bar: counts the utterances of the job that are labelled.

    Raises:
        ValueError: for a folder of another job, and for a damaged `job.json`.
    """

    def __init__(
        self,
        folder: AnyPath,
        job: dict,
        dataset: Dataset,
        shards: Sequence[np.ndarray],
        sources: Sequence[Source],
        accelerator: Accelerator,
    ):
        self.folder, self.job, self.dataset, self.shards, self.sources = folder, job, dataset, shards, sources
        self.index, self.num_processes = accelerator.process_index, accelerator.num_processes
        self.disk = disk_of(folder)
        self.first_stamp = self._stamp()
        self.summary = begin(folder, job, logging.WARNING if accelerator.is_main_process else logging.DEBUG)
        self.found = self._there()
        self.unchecked = self.found.copy()  # shards that may be damaged, or lack what can be read now
        self.num_made, self.seconds = 0, 0.0  # shards by this process, and the time that they took
        self.held: dict[int, ExitStack] = {}  # shards that this process makes, and what gives their claims back
        self.last_written = 0.0
        self.claims = Claims(self.disk)
        self.bar = tqdm(
            total=len(dataset),
            initial=self._num_labelled(self.found),
            unit=" utterances",
            desc="labelled",
            disable=not accelerator.is_main_process,
        )

    def __enter__(self) -> SharedJob:
        self.claims.__enter__()
        return self

    def __exit__(self, *exception) -> None:
        self.claims.__exit__(*exception)
        self.bar.close()

    def has_lost_shards(self) -> bool:
        """Returns whether the folder was complete, but somebody has removed shards since."""
        return self.summary is not None and len(self.found) < len(self.shards)

    def claimed_shards(self) -> Iterator[tuple[np.ndarray, Callable[[Iterable[dict]], None]]]:
        """Yields the rows of shards that this process has claimed, with a function that writes labels as the shard.

        The next shards may be asked for before the ones before are written, by another thread, too. Then it ends when
        no other shard is free, and is to be called again when those are written. Else it ends when all shards are
        there, whoever has made them; called again it yields nothing.

        Shards of processes that have died are claimed as those of nobody are. When no others are left, and a shard is
        waited for longer than this process takes for two, it is made here as well, without a claim, and the first one
        to end has made it. So a job does not wait for a process that is slow, or that hangs.
        """
        pauses, waiting = _pauses(), dict[int, float]()  # since when a shard is waited for
        while missing := self._missing():
            own = missing[self.index :: self.num_processes]  # the first choice: others of this launch have others
            num_claimed = 0
            for choice in (own, sorted(set(missing) - set(own))):
                for number, claim in self._claim(choice):
                    num_claimed += 1
                    yield self.shards[number], partial(self._write, number, claim, time.monotonic())
                if num_claimed:
                    break
            if num_claimed:
                pauses, waiting = _pauses(), {}
                continue
            if self.held:
                return
            self._show(f"waiting for {len(missing)} shards of other processes")
            waiting = {number: waiting.get(number, time.monotonic()) for number in missing}
            patience = PATIENCE * self.seconds / self.num_made if self.num_made else claims.LEASE_SECONDS
            if late := [number for number, since in waiting.items() if time.monotonic() - since > patience]:
                number = _random.choice(late)
                self.held[number] = ExitStack()
                yield self.shards[number], partial(self._write, number, None, time.monotonic())
            else:
                time.sleep(next(pauses))

    def join(self) -> dict | None:
        """Joins the shards, or waits until another process has; returns the summary, or None if shards are missing.

        Shards that lay there at the beginning are checked first, and removed if they must be made anew.
        """
        for pause in _pauses():
            with self.claims.claimed(self.folder / "complete.json") as claim:
                if self._stamp() != self.first_stamp and (summary := complete_summary(self.folder, self.job)):
                    self._show()
                    return summary
                if claim is not None:
                    try:
                        return self._join(claim)
                    except LostClaimError as error:
                        logger.warning("%s; its end is waited for", error)
            self._show("waiting for the process that joins the shards")
            time.sleep(pause)
        return None

    def _join(self, claim: AnyPath) -> dict | None:
        there = shards_there(self.folder)
        paths = {number: there.get(number, shard_path(self.folder, number)) for number in sorted(self.unchecked)}
        bad = [
            path
            for number, path in paths.items()
            if not is_labelled(path, select_rows(self.dataset, self.shards[number]), self.job["teacher"])
        ]
        self.unchecked.clear()
        self.claims.check(claim)
        if bad:
            (self.folder / "complete.json").unlink(missing_ok=True)  # it is made anew at the end
            for path in bad:
                path.unlink(missing_ok=True)
            self.bar.n = 0  # the next look at the folder counts anew
        if len(self._there()) < len(self.shards):
            return None
        if self.summary is not None and self._stamp() == self.first_stamp:
            write_json(self.folder / "complete.json", self.summary)  # says to others that the shards have been checked
            return self.summary

        def finish() -> None:
            self.claims.check(claim)
            remove_claims(self.folder)

        transcripts = self._transcripts if self._has_transcripts else None
        summary = join_shards(self.folder, self.job, len(self.shards), transcripts, self.sources, finish)
        self._show()
        return summary

    def _claim(self, numbers: Sequence[int]) -> Iterator[tuple[int, AnyPath]]:
        """Yields shards of some that are missing, and their claims, for as long as the list is not too old."""
        queue, started = deque(numbers), time.monotonic()
        shard_path(self.folder, 0).parent.mkdir(exist_ok=True)
        while queue and time.monotonic() - started < LOOK_SECONDS:
            number = queue.popleft()
            path = shard_path(self.folder, number)
            with ExitStack() as stack:
                claim = stack.enter_context(self.claims.claimed(path))
                if claim is None:  # another launch works along the same shards; elsewhere it is not in the way
                    queue.rotate(_random.randrange(len(queue) + 1))
                elif not path.exists():  # after the claim: before it, another process may just have finished
                    self.held[number] = stack.pop_all()  # until it is written
                    yield number, claim

    def _write(self, number: int, claim: AnyPath | None, claimed_at: float, labels: Iterable[dict]) -> None:
        def held() -> Iterator[dict]:
            yield from labels
            if claim is not None:
                self.claims.check(claim)

        try:
            with self.held[number]:
                transcripts = self._transcripts(number) if self._has_transcripts else None
                write_shard(held(), shard_path(self.folder, number), transcripts)
            now = time.monotonic()
            self.num_made, self.seconds = self.num_made + 1, self.seconds + now - max(claimed_at, self.last_written)
            self.last_written = now
        except LostClaimError as error:
            logger.warning("%s; its labels are used", error)
        finally:
            del self.held[number]

    def _missing(self) -> list[int]:
        there = self._there()
        self.bar.n = max(self.bar.n, self._num_labelled(there))  # it has counted some of the shards in work
        others = len(there - self.found) - self.num_made
        self._show(f"{others} shards by other processes" if others > 0 else "")
        return [number for number in range(len(self.shards)) if number not in there and number not in self.held]

    def _there(self) -> set[int]:
        return shards_there(self.folder).keys() & set(range(len(self.shards)))

    def _num_labelled(self, there: set[int]) -> int:
        return sum(len(self.shards[number]) for number in there)

    def _show(self, state: str = "") -> None:
        self.bar.set_postfix_str(state)

    def _stamp(self) -> Hashable | None:
        """Returns what changes whenever `complete.json` is written, None if it is not there."""
        return self.disk.stamp(self.folder / "complete.json")

    @cached_property
    def _has_transcripts(self) -> bool:
        return any(block["text"].null_count < len(block) for block in blocks(self.dataset, ["text"]))

    def _transcripts(self, number: int) -> pa.Table:
        rows = select_rows(self.dataset, self.shards[number])
        table = pa.concat_tables(blocks(rows, ["id", "text"]))
        return table.filter(table["text"].is_valid())


def _pauses() -> Iterator[float]:
    """Yields seconds that grow, as who waits long can wait a little longer."""
    pause = FIRST_PAUSE
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE)
