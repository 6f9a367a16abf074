"""Ends commands that fail with one line, on however many processes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import select
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# As gloo, NCCL and the store of a process group say it
LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Connection was likely closed",
    "remote process exited",
)
ANOTHER_FAILED = "another process of this job has failed or was killed; the same command goes on with what is saved"
NO_MEMORY = ("can't allocate memory", "not enough memory: you tried to allocate")  # as torch says it on a CPU
# Errors that are neither OSError nor ValueError: module, where it was imported, and class
LIBRARIES = (
    ("pyarrow", "ArrowException"),
    ("huggingface_hub.errors", "HTTPError"),
    ("huggingface_hub.errors", "StrictDataclassError"),
    ("safetensors", "SafetensorError"),
    ("hf_mlpl.training.problems", "TrainingError"),
)
STARTED = time.time()
STARTS_WITHIN = 10  # seconds, of the processes of one job


def exit_status(run: Callable[[], int]) -> int:
    """
    Runs a command; returns its exit status, or 1 after `error: ...` on what users can mend, see `describe`.

    Of several processes of a job the first one that fails says it, and the others end without a word; a process that
    fails alone is heard. One that has lost another, which may have been killed, ends too. Where nobody reads standard
    output any more, as after `| head`, the end is silent, with exit status 1; after ^C it is 130.
    """
    try:
        with flushed_output():
            return run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if is_end_of_reading(error):
            return 1
        line = describe(error)
        if line is None:
            raise
        if _speaks_first(line):
            print(f"error: {line}", file=sys.stderr)
        return 1


@contextmanager
def flushed_output() -> Iterator[None]:
    """Writes out what is printed, before the interpreter's exit does it, at which a closed pipe is a traceback."""
    try:
        yield
    except SystemExit:  # of --help
        sys.stdout.flush()
        raise
    sys.stdout.flush()


def describe(error: BaseException, *expected: type[BaseException]) -> str | None:
    """
    Returns one line on what users can mend: ValueError, OSError, `expected`, too little memory, a lost process, and
    the errors of libraries that mean the same; None for all else, which is a fault of the program.
    """
    if error.__cause__ is not None and type(error).__module__.startswith("datasets."):  # says nothing itself
        return describe(error.__cause__, *expected)
    message = re.sub(r"\s*\n\s*", " ", str(error).strip()) or type(error).__name__
    if isinstance(error, MemoryError) and error.__cause__ is not None:  # explained where it was caught
        return message
    if isinstance(error, MemoryError) or _is_of(error, "torch", "OutOfMemoryError"):
        return _no_memory(message)
    if _is_of(error, "huggingface_hub.errors", "StrictDataclassError") and error.__cause__ is not None:
        return describe(error.__cause__, type(error.__cause__))
    if isinstance(error, (ValueError, OSError, *expected)) or any(_is_of(error, *name) for name in LIBRARIES):
        return message
    if isinstance(error, RuntimeError) and any(reason in message for reason in NO_MEMORY):
        return _no_memory(message)
    if isinstance(error, RuntimeError) and any(reason in message for reason in LOST):
        return ANOTHER_FAILED
    return None


def _is_of(error: BaseException, module: str, name: str) -> bool:
    """Tells whether an error is of a class of a library, which is not imported for that."""
    known = getattr(sys.modules.get(module), name, None)
    return known is not None and isinstance(error, known)


def _no_memory(message: str) -> str:
    first = message.partition(". ")[0]
    return f"not enough memory ({first}); smaller batches, shorter recordings or fewer workers need less"


def is_end_of_reading(error: BaseException) -> bool:
    """Tells whether a pipe broke because nobody reads our output, and keeps Python from complaining of it at exit."""
    if not isinstance(error, BrokenPipeError):
        return False
    ours = [stream for stream in (sys.stdout, sys.stderr) if _has_no_reader(stream)]
    for stream in ours:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return bool(ours)


def _has_no_reader(stream) -> bool:
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (OSError, ValueError, AttributeError):  # a stream without a file, a system without poll
        return False


# ------------------------------------------------------------------------------------------------- several processes


def _speaks_first(message: str) -> bool:
    """Tells whether no other process of the job on this machine has said why it fails; the launcher repeats it."""
    if int(os.environ.get("WORLD_SIZE") or 1) < 2:
        return True
    job = [os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")]
    key = hashlib.sha256(repr([os.getppid(), *job]).encode()).hexdigest()[:16]
    reason, loss = (Path(tempfile.gettempdir(), f"hf-mlpl-{kind}-{key}") for kind in ("error", "lost"))
    if message == ANOTHER_FAILED:  # must not silence the process that knows why
        return not _is_marked(reason) and _marks_first(loss)
    if not _marks_first(reason):
        return False
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        with suppress(OSError):
            Path(file).write_text(json.dumps({"message": f"error: {message}", "timestamp": int(time.time())}))
    return True


def _is_marked(mark: Path) -> bool:
    """Tells whether a process of this job has made a mark; one of an earlier job is removed."""
    try:
        made = mark.lstat()
        if made.st_mtime >= STARTED - STARTS_WITHIN:
            return made.st_uid == os.getuid()
        mark.unlink()
    except OSError:
        pass
    return False


def _marks_first(mark: Path) -> bool:
    if _is_marked(mark):
        return False
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return not _is_marked(mark)
    except OSError:  # no room, or no folder: twice is better than not at all
        pass
    return True
