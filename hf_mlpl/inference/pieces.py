"""Cuts long recordings into overlapping pieces, and joins what models compute from the pieces.

A model's memory grows with the square of its input's length. So everything that recognises speech cuts here, and
gives the same result for a long recording. Only the middle of a piece counts; its ends are context, which another
piece has in its middle. Pieces begin at output frames, so that their middles have together as many frames as the
whole recording.

Each piece is normalised by itself. For `MlplForCTC`, normalising features by the statistics of the whole recording
would give the same result: its first layer normalises its input once more. For other models it is what transformers'
pipeline does with its chunks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

Item = TypeVar("Item")

# The original trains on batches of up to 35 s: the released model has never seen longer utterances.
LONGEST_SECONDS = 35.0
# All frames of a piece lie within the released model's table of relative positions, 27.6 s. A sixth at each end is
# context, as transformers' pipeline has it.
PIECE_SECONDS = 25.0
CONTEXT_SECONDS = PIECE_SECONDS / 6


@dataclass(frozen=True)
class Piece:
    """Holds a recording, or a part of a long one."""

    samples: np.ndarray | None  # (N,); None where only the features of the piece are kept
    left: int  # output frames of context before its middle
    right: int  # and after it
    is_last: bool
    seconds: float  # duration of its middle
    end: int | None = None  # output frame where its middle ends: some models give fewer frames after it than `right`


def cut(blocks: Iterable[np.ndarray], sampling_rate: int, samples_per_frame: int) -> Generator[Piece, None, None]:
    """
    Yields a recording as one piece if it has at most `LONGEST_SECONDS`, else in pieces of `PIECE_SECONDS`.

    Args:
        blocks: successive samples (n,), of any number. No more of them are held than the next piece needs.
        sampling_rate: samples per second.
        samples_per_frame: samples per output frame.
    """
    context = round(CONTEXT_SECONDS * sampling_rate / samples_per_frame)
    length = round(PIECE_SECONDS * sampling_rate / samples_per_frame) * samples_per_frame
    step = length - 2 * context * samples_per_frame
    longest, left = round(LONGEST_SECONDS * sampling_rate), 0
    held = np.empty(0, np.float32)
    for block in blocks:
        held = np.concatenate([held, block]) if len(held) else block
        while len(held) > longest:
            seconds = (length - (left + context) * samples_per_frame) / sampling_rate
            yield Piece(held[:length], left, context, False, seconds, length // samples_per_frame - context)
            held, longest, left = held[step:], length, context
    yield Piece(held, left, 0, True, (len(held) - left * samples_per_frame) / sampling_rate)


def seconds_in_pieces(seconds: np.ndarray) -> np.ndarray:
    """Returns the seconds of audio (N,) that a model processes for recordings of `seconds` (N,), context included."""
    num_pieces = 1 + np.ceil((seconds - PIECE_SECONDS) / (PIECE_SECONDS - 2 * CONTEXT_SECONDS))
    return np.where(seconds > LONGEST_SECONDS, num_pieces * PIECE_SECONDS, seconds)


def join_language_log_probs(log_probs: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
    """
    Returns a recording's log-probabilities (L,) of the languages: the mean of its pieces', normalised again.

    Args:
        log_probs: (P, L), of the pieces.
        num_frames: (P,), output frames in the middle of each, the weights of the mean.
    """
    weights = num_frames / num_frames.sum()
    return (log_probs * weights[:, None]).sum(dim=0).log_softmax(dim=0)


def prefetch(items: Iterator[Item], count: int = 1) -> Generator[Item, None, None]:
    """Yields the items of an iterator, of which another thread makes up to `count` in advance."""
    executor, end = ThreadPoolExecutor(max_workers=1), object()
    upcoming: deque[Future] = deque()
    try:
        while True:
            while len(upcoming) <= count:
                upcoming.append(executor.submit(next, items, end))
            if (item := upcoming.popleft().result()) is end:
                return
            yield item
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


@contextmanager
def explain_memory_errors(explanation: str) -> Iterator[None]:
    """Raises `MemoryError` with an explanation in place of the errors of torch, CUDA and numpy without memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_memory_error(error):
            raise
        raise MemoryError(explanation) from error


def is_memory_error(error: BaseException) -> bool:
    """Returns whether an error reports lack of memory; torch raises a `RuntimeError` where a CPU lacks it."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )
