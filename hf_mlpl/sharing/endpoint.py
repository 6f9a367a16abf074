"""Writes the files with which an Inference Endpoint of the Hub serves a published model."""

import shutil
from pathlib import Path

TEMPLATES = Path(__file__).parent / "templates"


def write_endpoint(folder: Path) -> None:
    """Writes handler.py, which works without hf_mlpl, and its requirements.txt into a model's folder."""
    for name in ("handler.py", "requirements.txt"):
        shutil.copyfile(TEMPLATES / name, folder / name)
