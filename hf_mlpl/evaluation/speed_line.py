"""Describes the speed of an evaluation, as results have it, for terminals, cards and pages; imports nothing heavy."""

from __future__ import annotations

import math

NUMBERS = "rtfx_wall audio_seconds seconds wall_seconds batches warm_up_batches processes threads".split()
NUMBERS_OR_NULL = "rtfx batch_size batch_seconds peak_memory_gb".split()
TEXTS = "dtype device hardware peak_memory_of".split()


def is_speed(value: object) -> bool:
    """Returns whether a value, from a stranger's file perhaps, has the form of `results["speed"]`."""
    if not isinstance(value, dict) or not value.keys() >= {*NUMBERS, *NUMBERS_OR_NULL, *TEXTS}:
        return False
    numbers = [value[name] for name in NUMBERS]
    numbers += [value[name] for name in NUMBERS_OR_NULL if value[name] is not None]
    return all(type(each) in (int, float) and 0 <= each < math.inf for each in numbers) and all(
        isinstance(value[name], str) for name in TEXTS
    )


def describe_speed(speed: dict) -> str:
    """Returns `results["speed"]` in one line, for terminals, cards and pages."""
    rtfx, batch_size = speed["rtfx"], speed["batch_size"]
    parts = [speed["hardware"], speed["dtype"]]
    if speed["batch_seconds"] is not None:
        size = "" if batch_size is None else f" ({batch_size:.1f} utterances)"
        parts.append(f"batches of {speed['batch_seconds']:g} s{size}")
    processes, threads = speed["processes"], speed["threads"]
    parts.append(f"{processes} {'process' if processes == 1 else 'processes'}")
    if speed["device"] == "cpu":
        parts[-1] += f" of {threads} {'thread' if threads == 1 else 'threads'}"
    if speed["peak_memory_gb"] is not None:
        parts.append(f"at most {speed['peak_memory_gb']:.1f} GB of memory in a {speed['peak_memory_of']}")
    warm = f"RTFx {_rounded(rtfx)}" if rtfx is not None else "RTFx not measured: all batches warmed up"
    return f"{warm}, {_rounded(speed['rtfx_wall'])} with audio decoding and warm-up; {', '.join(parts)}"


def _rounded(rtfx: float) -> str:
    return f"{rtfx:,.0f}" if rtfx >= 100 else f"{rtfx:.3g}"
