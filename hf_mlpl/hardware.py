"""Names the hardware that a model runs on, and measures the most memory that it has taken there."""

from __future__ import annotations

import platform
import re
import sys
from pathlib import Path

import psutil
import torch


def hardware_name(device: torch.device) -> str:
    """Returns the model of a GPU, or of the processor."""
    if name := getattr(torch.get_device_module(device), "get_device_name", None):
        return name(device)
    if device.type != "cpu":
        return device.type
    processors = Path("/proc/cpuinfo")  # on Linux, where `platform` knows only the architecture
    match = re.search(r"^model name\s*:\s*(.+)", processors.read_text() if processors.is_file() else "", re.MULTILINE)
    return match[1] if match else platform.processor() or platform.machine()


def counts_its_memory(device: torch.device) -> bool:
    """Returns whether torch counts the memory of a device: of CUDA's, ROCm's and Intel's, not of a CPU or an Apple."""
    return hasattr(torch.get_device_module(device), "max_memory_allocated")


def peak_memory(device: torch.device) -> int | None:
    """Returns the most bytes of memory that this process has held at once; None where the system does not count them.

    On a GPU these are the bytes of tensors, weights included, by torch's own counter, since the last
    `reset_peak_memory`. What torch keeps for later tensors, and what the driver needs, comes on top.

    Elsewhere it is the resident memory of the process since its start: Python and its libraries, the weights, also
    those that are mapped from their file and have been read, audio and activations, and what loading took. Processes
    that decode audio are not counted.
    """
    if counts_its_memory(device):
        return torch.get_device_module(device).max_memory_allocated(device)
    status = Path("/proc/self/status")
    # On Linux `ru_maxrss` begins with the memory of the process that started this one.
    if status.is_file() and (line := re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE)):
        return int(line[1]) * 1024
    try:
        import resource
    except ImportError:  # of Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def total_memory(device: torch.device) -> int:
    """Returns the bytes of memory of a GPU, or of the machine."""
    if counts_its_memory(device):
        return torch.get_device_module(device).get_device_properties(device).total_memory
    return psutil.virtual_memory().total


def free_memory() -> int:
    """Returns the bytes of host memory that programs can still have without swapping."""
    return psutil.virtual_memory().available


def reset_peak_memory(device: torch.device) -> None:
    """Lets `peak_memory` of a GPU begin anew; that of a process cannot."""
    if counts_its_memory(device):
        torch.get_device_module(device).reset_peak_memory_stats(device)
