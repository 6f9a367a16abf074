"""Utterance files as an endless stream, for more utterances than one wants to index: exact, cheap to go on with.

A `torch.utils.data.IterableDataset` rather than that of `datasets`, which loses the rows in its shuffle buffer when it
goes on from a state, and gives ranks and workers whole files: here the order is a function of (seed, number), so that
the state is one number, and every rank and worker takes every so-many-th utterance of the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from datasets.table import table_cast
from torch.utils.data import get_worker_info

from ..rows import BLOCK
from .utterances import DAMAGED, FEATURES, arrow_errors, check_rows, utterance_files

PYTHON_ROWS = 100  # rows that are Python objects at a time


class StreamedUtterances(torch.utils.data.IterableDataset):
    """Utterances one by one, in the schema of `FEATURES`, pass after pass.

    The order is one for all: utterance number i of it goes to rank i % num_ranks, whose workers take turns. So
    together they give all utterances, each once in a pass, whatever their numbers, no rank ever has two more than
    another, and a `DataLoader` with `batch_size=None` gives the same order with any number of workers.

    An iteration begins where the state that was loaded last says, by default at the beginning.

    Memory: the rows of one buffer, or of one row group of the files, which `write_utterances` makes 10,000 rows long;
    it does not grow with the files, but for 24 bytes a row group.

    Args:
        paths: utterance files, with `*` in a name for all that match.
        languages: Locales to keep; by default all.
        seed: Shuffles, differently in each pass: the row groups, then the rows within a buffer of them. None keeps
            the order of the files.
        buffer_rows: How many rows are shuffled at a time, in whole row groups; without a seed it changes nothing.
        passes: How often everything is given; None for ever.
        rank: Of this process, of `num_ranks`.

    Raises:
        FileNotFoundError: for a file that is not there.
        ValueError: for a file without a column of the schema, languages without any utterance, a wrong rank.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        languages: Sequence[str] | None = None,
        seed: int | None = None,
        buffer_rows: int = 4 * BLOCK,
        passes: int | None = None,
        rank: int = 0,
        num_ranks: int = 1,
    ):
        if not 0 <= rank < num_ranks:
            raise ValueError(f"rank {rank} of {num_ranks}; ranks go from 0 to {num_ranks - 1}")
        self.paths = [str(path) for path, _ in utterance_files(paths)]
        self.languages = None if languages is None else pa.array(languages, pa.string())
        self.seed, self.buffer_rows, self.passes = seed, buffer_rows, passes
        self.rank, self.num_ranks = rank, num_ranks
        groups = [
            (number, group, rows)
            for number, path in enumerate(self.paths)
            for group, rows in enumerate(self._rows_of_groups(path))
            if rows
        ]
        self.groups = np.array(groups, np.int64).reshape(-1, 3)  # (G, 3): file, row group in it, rows that are kept
        self.num_rows = int(self.groups[:, 2].sum())
        if not self.num_rows:
            of = f" of {', '.join(languages)}" if languages else ""
            raise ValueError(f"{', '.join(map(str, paths))}: no utterances{of}")
        self.start = self.position = 0

    def state_dict(self) -> dict[str, int]:
        """Where the stream is: the utterances that all ranks have taken, if each has taken as many as this one.

        Exact in the process that iterates, hence in each worker too. What a `DataLoader` with workers has given is
        known to its user alone: the state is then `state_after` that many.
        """
        return {"position": self.position, "rows": self.num_rows}

    def state_after(self, taken: int) -> dict[str, int]:
        """The state after this rank has taken that many utterances since the very beginning."""
        return {"position": taken * self.num_ranks, "rows": self.num_rows}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on from a state, also on other numbers of ranks and workers where all ranks had taken equally many.

        Raises:
            ValueError: for the state of a stream of other utterances.
        """
        if state["rows"] != self.num_rows:
            raise ValueError(f"the state is of {state['rows']} utterances, these are {self.num_rows}")
        self.start = self.position = state["position"]

    def __iter__(self) -> Iterator[dict]:
        worker = get_worker_info()
        stride = self.num_ranks * (worker.num_workers if worker else 1)
        mine = (self.rank - self.start) % self.num_ranks + self.num_ranks * (worker.id if worker else 0)
        next_one = self.start + mine
        end = None if self.passes is None else self.passes * self.num_rows
        while end is None or next_one < end:
            for row in self._pass(*divmod(next_one, self.num_rows), stride):
                next_one += stride
                self.position = next_one - mine
                yield row

    def _pass(self, number: int, start: int, stride: int) -> Iterator[dict]:
        """Utterances start, start + stride, ... of a pass over everything."""
        groups, buffer_rows = self.groups, 1
        if self.seed is not None:
            groups = groups[np.random.default_rng([self.seed, number]).permutation(len(groups))]
            buffer_rows = self.buffer_rows
        ends = np.cumsum(groups[:, 2])
        begins = ends - groups[:, 2]
        buffer_of = begins // buffer_rows  # equal for groups that are shuffled together
        open_file = lru_cache(maxsize=16)(pq.ParquetFile)
        group = int(np.searchsorted(ends, start, side="right"))
        while group < len(groups):
            of_buffer = np.flatnonzero(buffer_of == buffer_of[group])
            begin, end = int(begins[of_buffer[0]]), int(ends[of_buffer[-1]])
            rows = np.arange(end - begin)
            if self.seed is not None:
                np.random.default_rng([self.seed, number, begin]).shuffle(rows)
            rows = rows[start - begin :: stride]
            if len(rows):
                numbers = groups[of_buffer, :2].tolist()
                read = [self._read(open_file(self.paths[file]), part, self.paths[file]) for file, part in numbers]
                table = pa.concat_tables(read)
                for first in range(0, len(rows), PYTHON_ROWS):
                    yield from table.take(rows[first : first + PYTHON_ROWS]).to_pylist()
            start += len(rows) * stride
            group = int(of_buffer[-1]) + 1

    def _rows_of_groups(self, path: str) -> list[int]:
        with arrow_errors(path, DAMAGED), pq.ParquetFile(path) as file:
            groups = range(file.num_row_groups)
            if self.languages is None:
                return [file.metadata.row_group(group).num_rows for group in groups]
            spoken = (file.read_row_group(group, columns=["language"])["language"] for group in groups)
            return [pc.sum(pc.is_in(column, self.languages)).as_py() or 0 for column in spoken]

    def _read(self, file: pq.ParquetFile, group: int, path: str) -> pa.Table:
        with arrow_errors(path, DAMAGED):
            # Without threads: a loader worker may be the fork of a process that has them.
            table = file.read_row_group(group, columns=list(FEATURES), use_threads=False)
            table = table_cast(table.select(list(FEATURES)), FEATURES.arrow_schema)
        check_rows(table, f"{path}, row group {group}" if group else path, 0)
        return table if self.languages is None else table.filter(pc.is_in(table["language"], self.languages))
