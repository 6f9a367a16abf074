"""Draws the spectrogram of a recording as small pictures side by side."""

from __future__ import annotations

import base64
import io

import numpy as np
from matplotlib import colormaps
from PIL import Image

TILE_SECONDS = 20.0  # of one picture
COLUMN_SECONDS = 0.02
WINDOW_SECONDS = 0.025
ROWS = 80
RANGE_DB = 60.0  # below the loudest sound so far, what is quieter is the darkest colour
HIGHEST = 8000.0  # Hz


class Spectrogram:
    """
    Draws the energy of speech from 0 to 8 kHz, block after block.

    Args:
        sampling_rate: of the samples, in samples per second.
    """

    def __init__(self, sampling_rate: int):
        self._tiles: list[str] = []
        self._hop = round(COLUMN_SECONDS * sampling_rate)
        self._window = np.hanning(round(WINDOW_SECONDS * sampling_rate)).astype(np.float32)
        size = 1 << (len(self._window) - 1).bit_length()
        bins = np.arange(size // 2 + 1) * sampling_rate / size
        self._row_of_bin = np.minimum((bins / HIGHEST * ROWS).astype(int), ROWS)
        self._size, self._held, self._loudest = size, np.empty(0, np.float32), 1e-6
        self._columns_of_tile = round(TILE_SECONDS / COLUMN_SECONDS)

    def add(self, samples: np.ndarray) -> None:
        """Adds samples (n,)."""
        self._held = np.concatenate([self._held, np.asarray(samples, dtype=np.float32)])
        tile = self._columns_of_tile * self._hop
        while len(self._held) >= tile + len(self._window):
            self._draw(self._columns_of_tile)
            self._held = self._held[tile:]

    def finish(self) -> list[str]:
        """Returns `data:` addresses of the pictures of all samples, of 20 s each; the last is shorter."""
        if len(self._held):
            num_columns = -(-len(self._held) // self._hop)
            self._held = np.pad(self._held, (0, len(self._window) + self._hop))
            for begin in range(0, num_columns, self._columns_of_tile):
                self._draw(min(self._columns_of_tile, num_columns - begin))
                self._held = self._held[self._columns_of_tile * self._hop :]
            self._held = np.empty(0, np.float32)
        return self._tiles

    def _draw(self, num_columns: int) -> None:
        starts = np.arange(num_columns) * self._hop
        frames = self._held[starts[:, None] + np.arange(len(self._window))] * self._window
        power = np.abs(np.fft.rfft(frames, self._size)) ** 2  # (columns, bins)
        rows = np.zeros((ROWS + 1, num_columns), dtype=np.float32)
        np.maximum.at(rows, self._row_of_bin, power.T)
        rows = rows[:ROWS][::-1]
        self._loudest = max(self._loudest, float(rows.max()))
        decibels = 10 * np.log10(rows / self._loudest + 1e-12)
        colours = colormaps["magma"](np.clip(1 + decibels / RANGE_DB, 0, 1), bytes=True)[..., :3]
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(colours)).save(file, "WEBP", quality=30)
        self._tiles.append(f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}")
