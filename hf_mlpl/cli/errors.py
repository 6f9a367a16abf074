"""Reports what fails in a command as one line, also when several processes run it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import select
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..stop_signal import STOPPED, StoppedError

LOST_CONNECTION = (  # in messages of gloo, NCCL and the store of a process group
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Connection was likely closed",
    "remote process exited",
)
ANOTHER_FAILED = (
    "another process of this job failed or was killed; the same command again continues from what is saved"
)
NO_MEMORY = ("can't allocate memory", "not enough memory: you tried to allocate")  # in messages of torch on a CPU
LIBRARY_ERRORS = (  # module and class of errors that are neither OSError nor ValueError
    ("pyarrow", "ArrowException"),
    ("huggingface_hub.errors", "HTTPError"),
    ("huggingface_hub.errors", "StrictDataclassError"),
    ("safetensors", "SafetensorError"),
    ("hf_mlpl.training.problems", "TrainingError"),
)
STARTED = time.time()
STARTS_WITHIN = 10  # seconds between the starts of the processes of one job
PRINTS_WITHIN = 5  # seconds from the mark of an error to its line


def exit_status(run: Callable[[], int]) -> int:
    """Runs a command; returns its exit status, or 1 after a line `error: ...` for errors that `describe` knows.

    When several processes of a job fail, only the first prints its error. A process that loses its connection to
    another one, which may have been killed, ends too. If nobody reads standard output any more, as after `| head`, the
    command ends silently with exit status 1. After ^C the exit status is 130. Where a scheduler has stopped a job that
    has saved its work, it is 75, and a line says so.
    """
    try:
        try:
            status = run()
        except SystemExit:  # from --help
            sys.stdout.flush()
            raise
        sys.stdout.flush()  # here, because the interpreter shows a traceback if it finds a closed pipe at its exit
        return status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except StoppedError as error:
        _print_once(str(error), str(error))
        return STOPPED
    except Exception as error:
        if _is_closed_pipe(error):
            return 1
        line = describe(error)
        if line is None:
            raise
        _print_once(line, f"error: {line}")
        return 1


def describe(error: BaseException, *expected: type[BaseException]) -> str | None:
    """Returns an error that users can correct as one line, or None for an error that is a fault of the program.

    Users can correct ValueError, OSError, `expected`, errors of libraries that mean the same, too little memory, a
    lost process, and an ImportError that somebody has raised with a message, such as the one for a missing extra.
    """
    if error.__cause__ is not None and type(error).__module__.startswith("datasets."):  # its own message is empty
        return describe(error.__cause__, *expected)
    message = re.sub(r"\s*\n\s*", " ", str(error).strip()) or type(error).__name__
    if isinstance(error, MemoryError) and error.__cause__ is not None:  # whose message is an explanation
        return message
    if isinstance(error, MemoryError) or _is_of(error, "torch", "OutOfMemoryError"):
        return _no_memory(message)
    if _is_of(error, "huggingface_hub.errors", "StrictDataclassError") and error.__cause__ is not None:
        return describe(error.__cause__, type(error.__cause__))
    if isinstance(error, (ValueError, OSError, *expected)) or any(_is_of(error, *name) for name in LIBRARY_ERRORS):
        return message
    if isinstance(error, ImportError) and error.name is None:  # raised by hand; the interpreter sets the name
        return message
    if isinstance(error, RuntimeError) and any(reason in message for reason in NO_MEMORY):
        return _no_memory(message)
    if isinstance(error, RuntimeError) and any(reason in message for reason in LOST_CONNECTION):
        return ANOTHER_FAILED
    return None


def _is_of(error: BaseException, module: str, name: str) -> bool:
    """Tells whether an error is an instance of a library's class, without importing the library."""
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(error, kind)


def _no_memory(message: str) -> str:
    first = message.partition(". ")[0]
    return f"not enough memory ({first}); smaller batches, shorter recordings or fewer workers need less"


def _is_closed_pipe(error: BaseException) -> bool:
    """Tells whether nobody reads our output any more; then redirects it, so that Python does not complain at exit."""
    if not isinstance(error, BrokenPipeError):
        return False
    closed = [stream for stream in (sys.stdout, sys.stderr) if _has_no_reader(stream)]
    for stream in closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return bool(closed)


def _has_no_reader(stream) -> bool:
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (OSError, ValueError, AttributeError):  # a stream without a file, a system without poll
        return False


# ------------------------------------------------------------------------------------------------- several processes


def _print_once(message: str, line: str) -> None:
    """Prints a line, and gives the launcher the message, if no other process of the job on this machine failed before.

    Else waits for the other process to do so, because launchers end all processes when one has ended.
    """
    if int(os.environ.get("WORLD_SIZE") or 1) < 2:
        print(line, file=sys.stderr)
        return
    job = [os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")]
    key = hashlib.sha256(repr([os.getppid(), *job]).encode()).hexdigest()[:16]
    folder = tempfile.gettempdir()
    reason, loss, printed = (Path(folder, f"hf-mlpl-{kind}-{key}") for kind in ("error", "lost", "printed"))
    is_loss = message == ANOTHER_FAILED  # this must not silence the process that knows the reason
    if (is_loss and _is_marked(reason)) or not _marks_first(loss if is_loss else reason):
        deadline = time.monotonic() + PRINTS_WITHIN
        while not _is_marked(printed) and time.monotonic() < deadline:
            time.sleep(0.01)
        return
    print(line, file=sys.stderr, flush=True)
    if (file := os.environ.get("TORCHELASTIC_ERROR_FILE")) and not is_loss:
        with suppress(OSError):
            Path(file).write_text(json.dumps({"message": f"error: {message}", "timestamp": int(time.time())}))
    _marks_first(printed)


def _is_marked(mark: Path) -> bool:
    """Tells whether a process of this job has created the file `mark`; deletes one of an earlier job."""
    try:
        status = mark.lstat()
        if status.st_mtime >= STARTED - STARTS_WITHIN:
            return status.st_uid == os.getuid()
        mark.unlink()
    except OSError:
        pass
    return False


def _marks_first(mark: Path) -> bool:
    """Creates the file `mark`; tells whether no other process of this job did so before."""
    if _is_marked(mark):
        return False
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return not _is_marked(mark)
    except OSError:  # the disk is full, or there is no folder: print the error rather twice than never
        pass
    return True
