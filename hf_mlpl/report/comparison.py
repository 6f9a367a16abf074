"""Reports several runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def comparison_report(run_dirs: Sequence[Path], results: Sequence[Path] = ()) -> str:
    """Returns a page on several runs."""
    raise NotImplementedError
