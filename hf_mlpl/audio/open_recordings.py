"""Keeps recordings open while their parts are read, so that a part costs a request, and not a hundred."""

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from ..storage import RemoteFile
from .mp3_frames import starts_as_mp3
from .parts import SeekableFile, head_behind_tags

HEAD = 4096  # bytes that show whether a file is an mp3
MAX_OPEN = 16  # recordings, of which each keeps up to 16 MiB


class OpenRecording:
    """Holds an open file, and what readers have found out about it: the parts of a recording, the kind of a tar."""

    def __init__(self, file: SeekableFile, stack: ExitStack):
        self.file, self.stack, self.known = file, stack, dict[Any, Any]()


class OpenRecordings:
    """Keeps the files that were read last, for readers of many parts of few recordings.

    A file of a disk is read in blocks of 1 MiB then, as one of object storage is, so that what lies near needs no
    further request; an mp3 as a decoder asks. Files stay the ones that were opened, also where others get their names:
    keep them for the time of a job. Threads may share them, as a file is lent to one reader at a time, and a fork
    begins with none.
    """

    def __init__(self, count: int = MAX_OPEN):
        self.count, self.lock = count, threading.Lock()
        self.process, self.idle = os.getpid(), OrderedDict[str, OpenRecording]()

    def __getstate__(self) -> dict:
        return {"count": self.count}

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @contextmanager
    def lent(self, path: str | os.PathLike, open_file: Callable[[ExitStack], SeekableFile]) -> Iterator[OpenRecording]:
        """Yields the file at `path`, which `open_file` opens if none is kept. After an error it is not kept."""
        name = os.fspath(path)
        with self.lock:
            if self.process != os.getpid():  # a fork shares positions with its parent
                self.process, self.idle = os.getpid(), OrderedDict()
            recording = self.idle.pop(name, None)
        if recording is None:
            stack = ExitStack()
            try:
                file = open_file(stack)
                # libsndfile searches an mp3 from its beginning by ten thousand small reads, which C alone makes fast.
                if isinstance(file, io.FileIO) and not starts_as_mp3(head_behind_tags(file, HEAD)):
                    file = RemoteFile(name, file, file.seek(0, os.SEEK_END))
                recording = OpenRecording(file, stack)
            except BaseException:
                stack.close()
                raise
        try:
            yield recording
        except BaseException:
            recording.stack.close()
            raise
        with self.lock:
            left = [self.idle[name]] if name in self.idle else []  # another thread has opened it, too
            self.idle[name] = recording
            while len(self.idle) > self.count:
                left.append(self.idle.popitem(last=False)[1])
        for each in left:
            each.stack.close()

    def close(self) -> None:
        """Closes the files that are not lent."""
        with self.lock:
            left, self.idle = self.idle, OrderedDict()
        if self.process == os.getpid():
            for recording in left.values():
                recording.stack.close()
