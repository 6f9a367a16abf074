"""Detects speech by the blanks of a CTC model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from ..model.modeling_mlpl import MlplForCTC
from ..model.processing_mlpl import MlplProcessor
from .loading import load_mlpl_model
from .pieces import cut, explain_memory_errors

NEIGHBOURS = 3  # frames before and after a letter that are speech too: CTC says most letters in a single frame


@dataclass(frozen=True)
class BlankDetector:
    """Computes the probabilities that a model's output frames, or the frames beside them, are not blank.

    The model runs on an accelerator if there is one, and else on one thread of each process, so that the results do
    not depend on the number of processes.

    Args:
        model: folder or Hub name.

    Raises:
        OSError: for a model that does not exist.
        ValueError: for a model whose processor does not fit.
    """

    model: str

    def __post_init__(self):
        _load(self.model)

    @property
    def sampling_rate(self) -> int:
        return _load(self.model)[1].feature_extractor.sampling_rate

    @property
    def frame_seconds(self) -> float:
        return _load(self.model)[0].config.inputs_to_logits_ratio / self.sampling_rate

    @property
    def files(self) -> tuple[Path, ...]:
        """Returns the files of a model's folder; none for a name on the Hub."""
        return tuple(sorted(Path(self.model).iterdir())) if Path(self.model).is_dir() else ()

    def __call__(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yields the probabilities (f,) of successive frames; the model reads long recordings in overlapping pieces.

        Args:
            blocks: successive samples (n,) of a recording, at `sampling_rate`.
        """
        model, processor = _load(self.model)
        extractor = processor.feature_extractor
        for piece in cut(blocks, extractor.sampling_rate, model.config.inputs_to_logits_ratio):
            with _one_thread(), torch.inference_mode(), explain_memory_errors("a piece does not fit into memory"):
                inputs = extractor(piece.samples, sampling_rate=extractor.sampling_rate, return_tensors="pt")
                logits = model(**inputs.to(model.device)).logits[0].float()  # (S, V)
                letters = 1 - logits.softmax(-1)[:, model.config.blank_token_id].cpu().numpy()
            padded = np.pad(letters, NEIGHBOURS)
            speech = np.lib.stride_tricks.sliding_window_view(padded, 2 * NEIGHBOURS + 1).max(axis=1)
            yield speech[piece.left : len(speech) - piece.right]


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def _load(name: str) -> tuple[MlplForCTC, MlplProcessor]:
    model, processor = load_mlpl_model(name)
    return model.to(torch.accelerator.current_accelerator() or "cpu"), processor
