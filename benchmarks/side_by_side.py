"""What the benchmarks share: peers in environments of their own, rounds in turns, and results of one shape.

A benchmark measures `hf_mlpl` and what users would pick instead in one run, in turns, so that a busy machine slows
both. What counts is the median over the rounds of their ratio; ratios say how many times better ours is, so that more
is better in all of them. `check.py` holds them against those that are committed in results/.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path

import torch
from huggingface_hub.constants import HF_HOME

from hf_mlpl.atomic import write_json
from hf_mlpl.text_table import aligned

RESULTS = Path(__file__).resolve().parent / "results"
PEERS = Path(HF_HOME) / "hf_mlpl" / "bench-peers"
ISA = "avx2 avx512f avx512_vnni avx512_bf16 avx512_fp16 amx_bf16 amx_int8 neon asimd sve".split()


def benchmark_arguments(description: str) -> argparse.ArgumentParser:
    """A parser of what all benchmarks understand; `results` is the folder to write to."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="default: benchmarks/results")
    return parser


# ---- measuring


def seconds(function: Callable, *arguments) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def in_turns(candidates: dict[str, Callable[[], float]], rounds: int, warm_up: bool = True) -> dict[str, list[float]]:
    """What each candidate measures in each round, after one that warms up; every other round goes backwards."""
    measured: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + warm_up):
        for name in list(candidates)[:: -1 if number % 2 else 1]:
            value = candidates[name]()
            if number >= warm_up:
                measured[name].append(value)
    return measured


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Median of the ratios of rounds, which a slow minute of the machine changes less than the ratio of medians."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def peak_mb() -> float:
    """The most memory that this process has held. (`ru_maxrss` would begin with that of the parent process.)"""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def alone(function: Callable, *arguments) -> tuple[object, float]:
    """What a function of a module returns in a process of its own, and the peak of that process's memory in MB."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(function, *arguments).result(), process.submit(peak_mb).result()


# ---- peers


def peer_environment(name: str, packages: Sequence[str]) -> Path:
    """The Python of an environment with these packages, made once by pip, in the user's cache."""
    folder, wanted = PEERS / name, "\n".join(packages)
    complete, python = folder / "complete.txt", folder / "bin" / "python"
    if not complete.exists() or complete.read_text(encoding="utf-8") != wanted:
        print(f"installing {' '.join(packages)} into {folder} ...", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages], check=True
        )
        complete.write_text(wanted, encoding="utf-8")
    return python


SERVER = """
import json, sys, time
from pathlib import Path
sys.stdout, answers = sys.stderr, sys.stdout  # what libraries print is no answer
exec(compile({program!r}, "program of {name}", "exec"))
for line in sys.stdin:
    request, start = json.loads(line), time.perf_counter()
    answered = {{"answer": answer(request), "seconds": time.perf_counter() - start}}
    status = Path("/proc/self/status").read_text().partition("VmHWM:")[2]
    print(json.dumps(answered | {{"peak_mb": int(status.split()[0]) / 1024}}), file=answers, flush=True)
"""


class WorkerError(RuntimeError):
    """A worker that has ended; the message is the last line that it wrote."""


class Worker:
    """A process that answers requests until it is closed; candidates can so take turns, each loaded once.

    Args:
        name: for messages.
        program: source text that defines `answer(request)`; both are what JSON can say.
        threads: of torch, numpy and other libraries that compute.
        python: of a peer's environment; by default this one, with this copy of hf_mlpl.
        variables: more of the environment.
    """

    def __init__(
        self, name: str, program: str, threads: int, python: Path | None = None, variables: dict | None = None
    ):
        limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        environment = os.environ | limits | {"HF_HUB_OFFLINE": "1"} | (variables or {})
        if python is None:
            environment["PYTHONPATH"] = str(RESULTS.parents[1])
        self.name = name
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [python or sys.executable, "-c", SERVER.format(name=name, program=program)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def ask(self, request) -> dict:
        """`answer`; the `seconds` that `answer(request)` took; `peak_mb`, the process's memory at most until now.

        Raises:
            WorkerError: if the process has ended.
        """
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
        except BrokenPipeError:
            pass  # it left a reason
        if line := self.process.stdout.readline():
            return json.loads(line)
        self.errors.seek(0)
        raise WorkerError(f"{self.name}: {(self.errors.read().strip().splitlines() or ['it ended'])[-1]}")

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_) -> None:
        self.process.communicate()


# ---- results


def machine() -> dict:
    """What the numbers were measured on."""
    try:
        cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except FileNotFoundError:
        cpu = ""
    facts = dict(line.split(":", 1) for line in cpu.replace("\t", "").splitlines() if ":" in line)
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    return {
        "cpu": facts.get("model name", platform.processor()).strip(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "isa": [platform.machine(), *(name for name in ISA if name in flags)],
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "os": platform.platform(),
    }


def versions(packages: Sequence[str] = (), python: Path | None = None) -> dict[str, str]:
    """Versions of Python, torch, transformers, numpy and these packages here, or of these in a peer's environment."""
    if python is None:
        names = ("torch", "transformers", "numpy", *packages)
        return {"python": platform.python_version(), **{name: version(name) for name in names}}
    program = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    told = subprocess.run([python, "-c", program, *packages], check=True, capture_output=True, text=True).stdout
    return dict(zip(packages, told.split(), strict=True))


def print_table(rows: Sequence[dict]) -> None:
    """A table for each run of rows with the same columns."""
    for names, group in groupby(rows, key=tuple):
        cells = [[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row.values()] for row in group]
        print(aligned([names, *map(tuple, cells)]), flush=True)


def write_results(
    folder: Path, name: str, rounds: int, rows: Sequence[dict], ratios: dict[str, float], versions: dict
) -> None:
    """Prints the rows and ratios, and writes them to FOLDER/NAME.json; for `bench_NAME.py`, by which `check.py` goes.

    Args:
        ratios: how many times better ours is, more is better: the numbers that must not get worse.
        versions: of "hf_mlpl" and of each peer, as `versions` gives them.
    """
    print_table(rows)
    print_table([{"ratio": name, "value": value} for name, value in ratios.items()])
    content = {"machine": machine(), "versions": versions, "rounds": rounds, "rows": list(rows), "ratios": ratios}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{name}.json", content)
    print(f"results: {folder / f'{name}.json'}")
