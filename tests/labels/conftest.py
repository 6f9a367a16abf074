"""Holds object storage in memory, and pictures that take no time."""

import io
import threading

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from matplotlib.figure import Figure

from hf_mlpl.labels import publishing
from hf_mlpl.remote_path import RemotePath


@pytest.fixture
def bucket(monkeypatch) -> RemotePath:
    """Returns an empty bucket. fsspec's own one in memory lets two threads create a file, and share its position."""
    lock, pipe_file, open_file = threading.Lock(), MemoryFileSystem.pipe_file, MemoryFileSystem._open

    def pipe_one(self, *arguments, **options):
        with lock:
            pipe_file(self, *arguments, **options)

    def open_own(self, path, mode="rb", **options):
        file = open_file(self, path, mode, **options)
        return io.BytesIO(file.getvalue()) if mode == "rb" else file

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", pipe_one)
    monkeypatch.setattr(MemoryFileSystem, "_open", open_own)
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    return RemotePath("memory://bucket")


@pytest.fixture
def empty_picture(monkeypatch) -> None:
    """Makes the picture of a card empty, with the numbers in its metadata; to draw it takes longest in a push."""

    def draw(summaries, path) -> None:
        numbers = sorted((summary.language, str(summary.scores)) for summary in summaries)
        Figure(figsize=(1, 1)).savefig(path, metadata={"Software": None, "Description": str(numbers)})

    monkeypatch.setattr(publishing, "plot_scores", draw)
