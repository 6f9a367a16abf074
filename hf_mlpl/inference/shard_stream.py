"""Decodes shards one after another with one set of loader workers, which prepare the next ones meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, Protocol

import numpy as np
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from .decoding import Hypothesis
from .pieces import prefetch

LONGEST_SECONDS = 600.0  # utterances of which a worker makes batches as a whole
LONG_SHARE = 0.05  # of the audio that longer ones may be, of which the main process makes batches one by one
MOST_BATCHES = 32  # that a worker makes at a time; audio that is far longer than stated makes more


class BatchMaker(Protocol):
    """Plans batches of rows, and makes them."""

    def plan_of(self, rows: np.ndarray) -> list[list[int]]: ...

    def make_batches(self, rows: list[int]) -> Iterator[Any]: ...


class ShardStream:
    """Decodes shards with a model that stays the same, and workers that live as long as the stream.

    Args:
        maker: of the batches.
        decode: yields the hypotheses of batches, in their order.
        long_rows: utterances so long that no worker holds one as a whole.
        num_workers: processes that make batches.
        pin_memory: whether tensors go into memory from which a GPU copies them while it computes.
    """

    def __init__(
        self,
        maker: BatchMaker,
        decode: Callable[[Iterator[Any]], Iterable[list[Hypothesis]]],
        long_rows: Iterable[int],
        num_workers: int,
        pin_memory: bool,
    ):
        self.maker, self.decode, self.planned, self.long_rows = maker, decode, _Planned(), set(long_rows)
        options = {"num_workers": num_workers, "persistent_workers": True, "pin_memory": pin_memory}
        self.make_loader = partial(DataLoader, _Made(maker), sampler=self.planned, batch_size=None, **options)
        self.loader: DataLoader | None = None

    def __call__(self, shards: Iterator[np.ndarray], progress: tqdm) -> Iterator[list[Hypothesis]]:
        """Yields the hypotheses of each shard, in the order of shards, whose rows are those of the data set.

        Workers are given two batches each in advance, and shards are asked for as these need them.
        """
        sizes, waiting = deque[int](), deque[list[int]]()

        def plan() -> Iterator[list[int]]:
            for shard in shards:
                sizes.append(len(shard))
                for rows in self.maker.plan_of(shard):
                    waiting.append(rows)
                    yield rows if self.long_rows.isdisjoint(rows) else []

        def batches() -> Iterator[Any]:
            for made in loader:
                rows = waiting.popleft()
                yield from prefetch(self.maker.make_batches(rows)) if made is None else made

        loader = self.make_loader() if self.loader is None else self.loader
        self.loader = None  # after an error, its workers are not used again
        self.planned.rows, found = plan(), list[Hypothesis]()
        for hypotheses in self.decode(batches()):
            found += hypotheses
            progress.update(len(hypotheses))
            while sizes and len(found) >= sizes[0]:
                size = sizes.popleft()
                yield found[:size]
                found = found[size:]
        self.loader = loader


class _Planned:
    """Yields what workers are to make, as a sampler does."""

    rows: Iterator[list[int]] = iter(())

    def __iter__(self) -> Iterator[list[int]]:
        return self.rows


class _Made(Dataset):
    """Makes the batches of some rows; None for no rows and for too many batches, which the main process makes."""

    def __init__(self, maker: BatchMaker):
        self.maker = maker

    def __getitem__(self, rows: list[int]) -> list[Any] | None:
        if not rows:
            return None
        made = list(islice(self.maker.make_batches(rows), MOST_BATCHES + 1))
        return made if len(made) <= MOST_BATCHES else None
