"""Every setting of every file of a model folder with values of other kinds, and every file damaged: 2,000 folders.

Each is loaded by all Auto classes and by `pipeline`, in a process of its own with 2 GB of memory and 60 s: all works,
or ends with a one-line `OSError` or `ValueError` that names folder or field. It takes a fixed sample for 4 minutes,
and prints how many folders it has tried, how many loadings worked and were refused, and the most memory that one took.
"""

import json
import os
import random
import resource
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from ..damaged_folders import Damage, copy_folder, damages, outcomes
from ..random_model import LANGUAGES, save_folder

SECONDS = 240
MEMORY = 2**31  # bytes


def load_apart(whole: Path, damaged: Path, damage: Damage) -> tuple[int, dict]:
    """Memory in kB that was taken on top, and what came of each loader, of a process that is forked for it."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        for stream in (0, 1, 2):  # transformers asks whether to run a folder's code; nobody answers
            os.dup2(os.open(os.devnull, os.O_RDWR), stream)
        damage(copy_folder(whole, damaged))
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        signal.alarm(60)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        results = {
            name: [type(result).__name__, isinstance(result, (OSError, ValueError)), str(result)]
            for name, result in outcomes(damaged).items()
        }
        taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        os.write(writing, json.dumps([taken, results]).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        answer = file.read()
    os.waitpid(child, 0)
    return tuple(json.loads(answer)) if answer else (0, {"all": ["no answer: killed, or out of time", False, ""]})


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits the memory of a process, as Linux does")
def test_damaged_model_folders(tmp_path):
    torch.set_num_threads(1)  # a forked process has no others
    whole = save_folder(tmp_path / "whole", LANGUAGES)
    assert set(outcomes(copy_folder(whole, tmp_path / "copy")).values()) == {"works"}
    cases = list(damages(whole))
    random.Random(0).shuffle(cases)
    counts, faults, most, tried, end = Counter(), [], 0, 0, time.monotonic() + SECONDS
    for file, field, kind, damage in cases:
        if time.monotonic() > end:
            break
        tried += 1
        taken, results = load_apart(whole, tmp_path / "damaged", damage)
        most = max(most, taken)
        for loader, (name, is_expected, told) in results.items():
            works = (name, told) == ("str", "works")
            refused = (
                is_expected
                and "\n" not in told
                and any(name in told for name in (str(tmp_path / "damaged"), field or "-"))
            )
            counts["works" if works else "refused" if refused else "fault"] += 1
            if not works and not refused:
                faults.append(f"{file} {field} {kind}: {loader}: {name}: {told[:200]!r}")
    print(f"\n{tried} of {len(cases)} folders, {dict(counts)}, at most {most / 1000:.0f} MB more than before")
    assert not faults, "\n".join(faults)
