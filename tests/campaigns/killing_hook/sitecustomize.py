"""Counts what a Python process changes in a folder, and kills it before a change of a given number; see `killing.py`.

Python imports this file first of all where its folder is on PYTHONPATH, hence also in the processes that a job starts.
"""

import os
import signal
import sys

RECORD = 256  # bytes of each line of the log, so that its size tells how many there are
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Which arguments of an audit event are paths, and which one is the descriptor of the folder that they are relative to.
PATHS = {
    "os.rename": ((0, 2), (1, 3)),  # os.replace too
    "os.link": ((0, 2), (1, 3)),
    "os.symlink": ((1, 2),),
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.mkdir": ((0, 2),),
    "os.truncate": ((0, None),),
    "open": ((0, None),),
}


def _absolute(path, folder_descriptor) -> str:
    if isinstance(path, int):
        return os.readlink(f"/proc/self/fd/{path}")
    path = os.fsdecode(path)
    if folder_descriptor in (None, -1):
        return os.path.abspath(path)
    return os.path.join(os.readlink(f"/proc/self/fd/{folder_descriptor}"), path)


def _hook(event: str, arguments: tuple) -> None:
    if event not in PATHS or (event == "open" and not (arguments[2] or 0) & WRITING):
        return
    try:
        places = [_absolute(arguments[i], None if j is None else arguments[j]) for i, j in PATHS[event]]
    except (OSError, TypeError, ValueError):
        return
    if not any(place == FOLDER or place.startswith(FOLDER + os.sep) for place in places):
        return
    os.write(LOG, f"{event} {' '.join(places)}".encode()[: RECORD - 1].ljust(RECORD - 1) + b"\n")
    if os.fstat(LOG).st_size // RECORD == AT:
        os.killpg(0, signal.SIGKILL)


if "KILLING_FOLDER" in os.environ:
    FOLDER = os.path.abspath(os.environ["KILLING_FOLDER"])
    LOG = os.open(os.environ["KILLING_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    AT = int(os.environ["KILLING_AT"])
    sys.addaudithook(_hook)
