"""Reports a training run: what was trained on what, its curves, its error rates and its worst utterances."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def is_run(path: Path) -> bool:
    """Returns whether a path is the folder of a training run."""
    return (path / "run.json").is_file() or (path / "metrics.jsonl").is_file()


def run_report(run_dir: Path, results: Sequence[Path] = ()) -> str:
    """Returns a page on a run."""
    raise NotImplementedError
