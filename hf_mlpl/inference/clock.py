"""Times what a transcriber computes, batch by batch, without the decoding of audio."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from threading import current_thread
from time import perf_counter


class Stopwatch:
    """Adds up the `seconds` of its `with` blocks."""

    def __init__(self):
        self.seconds, self._start = 0.0, 0.0

    def __enter__(self) -> Stopwatch:
        self._start = perf_counter()
        return self

    def __exit__(self, *_) -> None:
        self.seconds += perf_counter() - self._start


@dataclass(frozen=True)
class TimedBatch:
    """Holds the time of one batch.

    Args:
        audio_seconds: of its utterances and pieces, without padding and context.
        seconds: of features, model and text, one after the other. Decoding audio is left out, which may happen in the
            same thread, and waiting for a process that does it. A GPU has finished when a batch's text is there.
        size: utterances and pieces in it.
        forwards: 1, or `size` for a model that computes them one by one.
    """

    audio_seconds: float
    seconds: float
    size: int
    forwards: int = 1


class Clock:
    """Collects the times of batches from all threads of a transcriber.

    Attributes:
        threads: name -> batches of the thread, in their order. Threads compute at the same time: their times do not
            add up. Those that follow each other have the same names.
        batch_seconds: longest audio of a batch, padding counted.
        wall: time of the whole work.
    """

    def __init__(self):
        self.threads: dict[str, list[TimedBatch]] = defaultdict(list)
        self.batch_seconds: float | None = None
        self.wall = Stopwatch()

    def add(self, batch: TimedBatch) -> None:
        """Adds a batch that the calling thread has computed."""
        self.threads[current_thread().name].append(batch)
