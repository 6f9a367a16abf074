"""Computes how long the processes of a launch take for a stage, and what bounds them.

A process computes the products of its micro-batches, while workers of its loader decode their audio, and once in
an update exchanges gradients with the others. It computes the last micro-batch's gradients at the same time, so only
what takes longer than that is waited for. Checkpoints are copied to the host's memory, and written beside training.

The rates are assumptions, for which `docs/scale.md` has the sources. `--measure` replaces that of the products.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

DECODED = 1000  # seconds of speech that a core decodes in a second, features included; mp3 at 48 kHz
WITHIN_MACHINE = 200e9  # bytes per second of an all-reduce, as nccl-tests count them ("busbw"): NVLink
HOST_COPY = 6e9  # bytes per second from a GPU to pageable memory
DISK = 0.5e9  # bytes per second: 1e9 to write, and to read for the checksum
BACKWARD = 2 / 3  # of the products of a micro-batch, without recomputation
PARTS = ("products", "gradients", "audio", "checkpoints")


@dataclass(frozen=True)
class Work:
    """Holds what the processes of a stage do together.

    Args:
        flops: operations of the products.
        audio_seconds: of speech that is decoded.
        workers: processes that decode it, for each process that computes.
        micro_batches: of an update; None where no gradients are computed, as for pseudo-labels.
        updates: of all runs of the stage.
        gradient_bytes: that a process exchanges in an update.
        checkpoint_bytes: of a checkpoint.
        checkpoints: that are written.
    """

    flops: float
    audio_seconds: float
    workers: int
    micro_batches: int | None = None
    updates: int = 0
    gradient_bytes: float = 0.0
    checkpoint_bytes: float = 0.0
    checkpoints: int = 0


@dataclass(frozen=True)
class Machines:
    """Holds what runs a stage.

    Args:
        processes: on all machines.
        flops_per_second: of a process.
        bandwidth: bytes per second of an all-reduce: those of the slowest link.
        shards: FSDP gathers the weights twice in each micro-batch, and scatters the sums of gradients.
    """

    processes: int
    flops_per_second: float
    bandwidth: float
    shards: bool = False


@dataclass(frozen=True)
class Times:
    """Holds the seconds of a stage, and of each of `PARTS` if nothing else took time."""

    seconds: float
    parts: dict[str, float]

    @property
    def bound(self) -> str:
        """Names the part that takes longest."""
        return max(self.parts, key=self.parts.__getitem__)


def stage_times(work: Work, machines: Machines) -> Times:
    """Computes the times of a stage.

    A ring's all-reduce of b bytes among n processes moves 2 b (n - 1) / n over each link
    (https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md).
    """
    n = machines.processes
    busy = n  # processes, on average
    rounds = 1
    if work.micro_batches is not None:
        rounds = math.ceil(work.micro_batches / n)  # micro-batches of the process that has most
        busy = work.micro_batches / rounds
    products = work.flops / busy / machines.flops_per_second
    audio = work.audio_seconds / busy / (DECODED * max(1, work.workers))
    moved = work.gradient_bytes * (n - 1) / n * (3 * rounds if machines.shards else 2)
    gradients = work.updates * moved / machines.bandwidth
    hidden = BACKWARD * products * (1 if machines.shards else 1 / rounds)
    training = max(products + max(0.0, gradients - hidden), audio)
    kept = work.checkpoint_bytes / (n if machines.shards else 1)
    between = training / (work.checkpoints + 1)
    waited = kept / HOST_COPY + max(0.0, kept / DISK - between)
    checkpoints = work.checkpoints * waited
    parts = dict(zip(PARTS, (products, gradients, audio, checkpoints), strict=True))
    return Times(training + checkpoints, parts)
