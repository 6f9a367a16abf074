"""Writes utterances with other samples, for tests of how models hear them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from hf_mlpl.audio.reading import load_audio
from hf_mlpl.data.utterances import read_utterances, write_utterances

RATE = 16_000


def write_changed(source: Path, folder: Path, name: str, change: Callable, language="sv-SE", **columns) -> Path:
    """Writes the utterances of a language with the samples that `change(samples, number)` returns; returns their file.

    Args:
        columns: values that all rows get.
    """
    rows = read_utterances([source], [language]).to_list()
    for number, row in enumerate(rows):
        samples = change(load_audio(row["audio"], RATE), number)
        soundfile.write(path := folder / f"{name}{number}.wav", samples, RATE, subtype="FLOAT")
        row["audio"] = {"path": str(path), "start": None, "end": None}
        row["duration_seconds"] = len(samples) / RATE
        row |= columns
    write_utterances(rows, folder / f"{name}.parquet")
    return folder / f"{name}.parquet"


def with_hum(samples: np.ndarray, number: int) -> np.ndarray:
    """Returns samples with a hum in them, which is in one mel bin and has nothing to do with what is said."""
    return samples + 0.05 * np.sin(2 * np.pi * 1000 * np.arange(len(samples)) / RATE).astype(np.float32)
