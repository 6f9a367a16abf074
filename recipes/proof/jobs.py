"""Runs jobs that need one another, several at a time; a job that is complete is skipped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from hf_mlpl.atomic import write_text
from hf_mlpl.stop_signal import STOPPED, StoppedError, StopSignal

POLL_SECONDS = 0.1
SAVING_SECONDS = 120  # within which a job that is told to stop has to save its work


@dataclass(frozen=True, eq=False)
class Job:
    """Describes a command that writes a file or a folder.

    Args:
        kind: what it does; jobs of a kind take about the same time.
        result: the file or folder that appears when the job is complete.
        needs: names of jobs that must be complete before.
        sources: the job is not complete if one is newer than the result, as a model that was trained once more.
        inputs: small files that are written before the command starts.
        is_whole: tells a result that another job has begun from a complete one.
    """

    name: str
    kind: str
    command: tuple[str, ...]
    result: Path
    needs: tuple[str, ...] = ()
    sources: tuple[Path, ...] = ()
    inputs: dict[Path, str] = field(default_factory=dict)
    is_whole: Callable[[], bool] | None = None

    def is_complete(self) -> bool:
        if not self.result.exists() or self.is_whole is not None and not self.is_whole():
            return False
        made = self.result.stat().st_mtime
        return all(source.stat().st_mtime <= made for source in self.sources if source.exists())


class Runner:
    """Runs the jobs that are not complete, each as soon as those that it needs are, in the given order.

    A job that fails ends those that need it, and no other. Output of a job goes to `LOGS/NAME.log`.

    Args:
        jobs: in an order in which each stands after those that it needs.
        at_once: number of jobs that run at the same time.
    """

    def __init__(self, jobs: Sequence[Job], at_once: int, logs: Path):
        self.jobs = {job.name: job for job in jobs}
        self.at_once, self.logs = at_once, logs
        self.waiting = [job for job in jobs if not job.is_complete()]
        self.running: dict[str, tuple[subprocess.Popen, float]] = {}
        self.failed: dict[str, str] = {}  # why, by name
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)  # of complete jobs, by kind

    def run(self) -> dict[str, str]:
        """Runs all jobs; returns by name why some failed or could not run.

        Raises:
            KeyboardInterrupt, StoppedError: after ^C, or a scheduler's signal; running jobs have saved their work.
        """
        try:
            with StopSignal() as stop:
                while self.waiting or self.running:
                    self._start_ready()
                    time.sleep(POLL_SECONDS)
                    self._collect()
                    if stop.name:
                        raise StoppedError(f"stopped by {stop.name}; the same command goes on from there")
        finally:
            self._end_running()
        return self.failed

    def _start_ready(self) -> None:
        for job in list(self.waiting):
            lost = [name for name in job.needs if name in self.failed]
            if lost:
                self.waiting.remove(job)
                self.failed[job.name] = f"needs {lost[0]}, which failed"
        unfinished = {job.name for job in self.waiting} | self.running.keys()
        for job in list(self.waiting):
            if len(self.running) < self.at_once and unfinished.isdisjoint(job.needs):
                self.waiting.remove(job)
                self.running[job.name] = (self._start(job), time.monotonic())

    def _start(self, job: Job) -> subprocess.Popen:
        for path, text in job.inputs.items():
            write_text(path, text)
        log = self.log_of(job.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        with open(log, "ab") as file:
            file.write(f"$ {' '.join(job.command)}\n".encode())
            file.flush()
            # a session of its own, so that ^C reaches this process alone, which tells the job to save its work
            return subprocess.Popen(
                job.command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def log_of(self, name: str) -> Path:
        return self.logs / f"{name.replace('/', '-')}.log"

    def _collect(self) -> None:
        for name, (process, start) in list(self.running.items()):
            if (status := process.poll()) is None:
                continue
            del self.running[name]
            seconds, job = time.monotonic() - start, self.jobs[name]
            if status == 0 and job.is_complete():
                self.seconds[job.kind].append(seconds)
                print(f"{name}: {duration(seconds)}; {self._what_is_left()}", flush=True)
                continue
            self.failed[name] = reason = _reason(status, self.log_of(name), job)
            print(f"{name}: failed after {duration(seconds)}, {reason}", file=sys.stderr, flush=True)

    def _what_is_left(self) -> str:
        left = [*self.running, *(job.name for job in self.waiting)]
        if not left:
            return "nothing is left"
        kinds = [self.jobs[name].kind for name in left]
        time_left = ""
        if all(self.seconds[kind] for kind in kinds):
            total = sum(fmean(self.seconds[kind]) for kind in kinds) / min(self.at_once, len(left))
            time_left = f", about {duration(total)}"
        at_work = f", at work: {', '.join(self.running)}" if self.running else ""
        return f"{len(left)} left{time_left}{at_work}"

    def _end_running(self) -> None:
        """Tells running jobs to save their work and end, waits for them, and kills those that do not; ^C kills all."""
        if not self.running:
            return
        print(f"stopping {', '.join(self.running)}; they save their work", file=sys.stderr, flush=True)
        processes = [process for process, _ in self.running.values()]
        try:
            for process in processes:
                _signal_group(process, signal.SIGTERM)
            deadline = time.monotonic() + SAVING_SECONDS
            while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
        finally:
            for process in processes:
                _signal_group(process, signal.SIGKILL)  # also of workers that outlived their job
                process.wait()
            self.running.clear()


def _signal_group(process: subprocess.Popen, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _reason(status: int, log: Path, job: Job) -> str:
    """Returns one line on a job that failed: its exit status, the error at the end of its log, and the log."""
    if status == STOPPED:
        how = "was told to stop"
    elif status < 0:
        how = f"ended by signal {-status}"
    else:
        how = f"exit status {status}" if status else f"it wrote no {job.result}"
    text = log.read_text(encoding="utf-8", errors="replace").rpartition("\n$ ")[2]  # of this attempt
    lines = [line for each in text.replace("\r", "\n").split("\n") if (line := each.strip())]
    errors = [line for line in lines if line.startswith("error: ")]  # the first is the cause of the others
    return f"{how}: {(errors or lines[-1:])[0][:500]} (all output: {log})"


def duration(seconds: float) -> str:
    """Returns a duration as people read it.

    >>> [duration(each) for each in (7.4, 83, 3700)]
    ['7 s', '1 min 23 s', '1 h 2 min']
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
