"""How the recipe's scripts end on an error: with one line, on however many processes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

WAIT_SECONDS = 10  # in which what has started the processes ends them all, because the main process has ended
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")  # as gloo says it


@contextmanager
def one_line_errors(*expected: type[Exception]) -> Iterator[None]:
    """Ends the process with `error: ...` and exit status 1 on what users can mend: ValueError, OSError, `expected`.

    What all processes fail with, the main one says; a process that fails alone is heard after a moment. One that has
    lost another, which may have been killed, ends too.
    """
    try:
        yield
        return
    except (ValueError, OSError, *expected) as error:
        told = str(error)
    except RuntimeError as error:
        if not any(reason in str(error) for reason in LOST):
            raise
        told = "another process of this job has failed or was killed; the same command goes on with what is saved"
    if os.environ.get("RANK", "0") != "0":
        time.sleep(WAIT_SECONDS)
    raise SystemExit(f"error: {told}")
