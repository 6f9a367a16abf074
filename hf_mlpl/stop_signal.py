"""Notes the signals by which a scheduler ends a job, so that the job can save its work and end by itself.

They are SIGTERM, which `kill`, Kubernetes, spot machines and `accelerate launch` send, and SIGUSR1 and SIGUSR2, which
`sbatch --signal` sends where it is told so.
"""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing import parent_process
from typing import Any

STOPPED = 75  # exit status EX_TEMPFAIL of sysexits.h: the same command can be given again
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)]


class StoppedError(Exception):
    """Ends a job that was told to stop, after its work was saved: the same command goes on from there."""


class StopSignal:
    """Notes a signal to stop while its block runs, instead of ending the process.

    Outside of the main thread, where Python takes no signals, it notes none.
    """

    def __init__(self):
        self.name: str | None = None  # of the first signal
        self.handlers: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            self.handlers = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        self.name = self.name or signal.Signals(number).name


def outlive_signals(worker: int) -> None:
    """Lets a worker of a DataLoader end with its job alone: the `worker_init_fn` of a job that ends by `StopSignal`.

    A scheduler signals all processes of a job, and torch ends the job with an error where it loses a worker.
    """
    for number in SIGNALS[1:]:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # torch ends by SIGTERM a worker that does not end by itself; not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_end_with_job, args=(parent_process().pid,), daemon=True).start()


def _end_with_job(job: int) -> None:
    """Ends this worker when its job sends SIGTERM."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != job:
        pass
    os._exit(0)
