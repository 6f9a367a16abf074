"""Measures the speed of an evaluation, RTFx, as the Open ASR Leaderboard does, with memory and hardware.

RTFx is seconds of audio over seconds of time. The leaderboard's script (`transformers/run_eval.py` of
github.com/huggingface/open_asr_leaderboard) adds up, over the batches of a test set and after some that warm up, the
time of features, forward pass and text. Audio is decoded before, and not counted.

`results["speed"]` is

    {
        "rtfx": 151.3,             as the leaderboard's; null where all batches warmed up
        "rtfx_wall": 128.9,        all audio over all time of transcribing, with audio decoding and warm-up
        "audio_seconds": 3470.2,   that `rtfx` is of
        "seconds": 22.9,           that `rtfx` is of
        "wall_seconds": 28.1,      that `rtfx_wall` is of
        "batches": 70,             that `rtfx` is of
        "warm_up_batches": 2,      before them
        "batch_size": 11.4,        utterances in a forward pass, on average; null as `rtfx`
        "batch_seconds": 50.0,     most audio in a batch, with padding, as `--batch-seconds`
        "dtype": "float32",        as `--dtype`
        "device": "cpu",           or "cuda", ...
        "hardware": "Intel(R) Xeon(R) Processor",  of the GPUs or the processor
        "processes": 1,
        "threads": 2,              that compute in each process
        "peak_memory_gb": 1.2,     10^9 bytes, of the process with most, as `hardware.peak_memory` counts; or null
        "peak_memory_of": "process",  or "GPU", where it is that of tensors alone
        "versions": {"torch": "2.13.0", "transformers": "5.24.0", "hf_mlpl": "0.1.0"},
    }
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from transformers import PreTrainedModel

from ..hardware import counts_its_memory, hardware_name, peak_memory
from ..inference.clock import Clock, TimedBatch
from ..inference.precision import dtype_of

# The leaderboard warms up with 10 batches. A small test set has few of them.
MOST_WARM_UP_BATCHES, WARM_UP_SHARE = 10, 0.1


@dataclass(frozen=True)
class Totals:
    """Holds what one thread of one process has computed, batch after batch.

    Args:
        audio_seconds, seconds, batches, size, forwards: sums over its batches after the warm-up.
        warm_up_batches: before them; at least the first one.
    """

    audio_seconds: float
    seconds: float
    batches: int
    size: int
    forwards: int
    warm_up_batches: int


def totals(batches: list[TimedBatch]) -> Totals:
    """Adds up the batches of a thread, without those that warm up."""
    warm_up = max(1, min(MOST_WARM_UP_BATCHES, int(WARM_UP_SHARE * len(batches))))
    timed = batches[warm_up:]
    return Totals(
        audio_seconds=math.fsum(batch.audio_seconds for batch in timed),
        seconds=math.fsum(batch.seconds for batch in timed),
        batches=len(timed),
        size=sum(batch.size for batch in timed),
        forwards=sum(batch.forwards for batch in timed),
        warm_up_batches=len(batches) - len(timed),
    )


def measured_speed(accelerator: Accelerator, model: PreTrainedModel, clock: Clock) -> dict:
    """Returns `results["speed"]` of an evaluation; all processes call it together.

    Threads and processes compute at the same time: the audio of all of them was transcribed in the time of the
    slowest.
    """
    device = model.device
    of_process = {
        "threads": [totals(batches) for batches in clock.threads.values()],
        "audio_seconds": math.fsum(batch.audio_seconds for batches in clock.threads.values() for batch in batches),
        "wall_seconds": clock.wall.seconds,
        "batch_seconds": clock.batch_seconds,
        "hardware": hardware_name(device),
        "peak": peak_memory(device),
    }
    processes = gather_object([of_process])
    threads = [of_thread for process in processes for of_thread in process["threads"]]
    audio_seconds = math.fsum(each.audio_seconds for each in threads)
    seconds = max((each.seconds for each in threads), default=0.0)
    wall_seconds = max(process["wall_seconds"] for process in processes)
    forwards = sum(each.forwards for each in threads)
    peaks = [process["peak"] for process in processes if process["peak"] is not None]
    return {
        "rtfx": audio_seconds / seconds if seconds else None,
        "rtfx_wall": math.fsum(process["audio_seconds"] for process in processes) / wall_seconds,
        "audio_seconds": audio_seconds,
        "seconds": seconds,
        "wall_seconds": wall_seconds,
        "batches": sum(each.batches for each in threads),
        "warm_up_batches": sum(each.warm_up_batches for each in threads),
        "batch_size": sum(each.size for each in threads) / forwards if forwards else None,
        "batch_seconds": processes[0]["batch_seconds"],
        "dtype": dtype_of(model),
        "device": device.type,
        "hardware": " and ".join(sorted({process["hardware"] for process in processes})),
        "processes": len(processes),
        "threads": torch.get_num_threads(),
        "peak_memory_gb": max(peaks) / 1e9 if peaks else None,
        "peak_memory_of": "GPU" if counts_its_memory(device) else "process",
        "versions": {name: sys.modules[name].__version__ for name in ("torch", "transformers", "hf_mlpl")},
    }
