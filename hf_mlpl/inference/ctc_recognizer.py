"""Recognises speech with CTC models of transformers' own architectures, as a pipeline of ours does with `MlplForCTC`.

The pipeline of transformers holds a whole recording, does not know the frames of Parakeet, and cannot call OmniASR.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from os import PathLike
from typing import Any, BinaryIO

import numpy as np
from transformers import PreTrainedModel, ProcessorMixin

from ..audio.reading import stream_audio
from ..ctc_models import ctc_interface
from .decoding import pad
from .paths import GreedyPath, best_paths
from .pieces import Piece, cut

Audio = np.ndarray | PathLike | BinaryIO  # samples (N,) at the model's sampling rate, or a file


class CtcRecognizer:
    """Transcribes recordings; its results are those of a pipeline, `text`, and with timestamps `chunks`.

    Args:
        model, processor: from `load_model`, of another architecture than ours.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin):
        self.model, self.ctc = model.eval(), ctc_interface(model.config, processor)
        self.feature_extractor, self.samples_per_frame = processor.feature_extractor, self.ctc.samples_per_frame

    def __call__(
        self,
        audio: Any,
        batch_size: int = 1,
        return_timestamps: str | None = None,
        return_confidence: bool = False,
    ) -> Any:
        """Returns the result for a recording, or an iterator over those of an iterator of recordings.

        Args:
            batch_size: recordings, or pieces of long ones, in one forward.
            return_timestamps: adds the times of words, with "char" also of the spaces between them.
            return_confidence: adds `confidence` to each of these chunks, the geometric mean, over its output frames,
                of the probability of the frame's class.
        """
        if isinstance(audio, Iterator):
            return self._results(audio, batch_size, return_timestamps, return_confidence)
        return next(self._results(iter([audio]), batch_size, return_timestamps, return_confidence))

    def _results(
        self, recordings: Iterator[Audio], batch_size: int, return_timestamps: str | None, return_confidence: bool
    ) -> Iterator[dict[str, Any]]:
        paths: list[GreedyPath] = []  # of the recording whose last piece is to come
        all_pieces = self._pieces(recordings)
        while pieces := list(islice(all_pieces, batch_size)):
            inputs = pad([self.ctc.extract(piece.samples) for piece in pieces])
            for piece, path in zip(pieces, best_paths(self.model, self.ctc, *inputs), strict=True):
                paths.append(path.middle(piece))
                if piece.is_last:
                    yield self._result(paths, return_timestamps, return_confidence)
                    paths = []

    def _pieces(self, recordings: Iterator[Audio]) -> Iterator[Piece]:
        rate = self.ctc.sampling_rate
        for audio in recordings:
            blocks = [audio] if isinstance(audio, np.ndarray) else stream_audio(audio, rate)
            yield from cut(blocks, rate, self.samples_per_frame)

    def _result(
        self, paths: list[GreedyPath], return_timestamps: str | None, return_confidence: bool
    ) -> dict[str, Any]:
        decoded = self.ctc.decode(np.concatenate([path.labels for path in paths]).tolist())
        if return_timestamps is None:
            return {"text": decoded.text}
        log_probs = np.concatenate([path.log_probs for path in paths])
        chunks: list[dict[str, Any]] = []
        seconds = self.samples_per_frame / self.ctc.sampling_rate
        for word, start, end in decoded.words:
            if return_timestamps == "char" and chunks:
                chunks.append({"text": " ", "timestamp": (chunks[-1]["timestamp"][1], start * seconds)})
            confidence = {"confidence": float(np.exp(log_probs[start:end].mean()))} if return_confidence else {}
            chunks.append({"text": word, "timestamp": (start * seconds, end * seconds)} | confidence)
        return {"text": decoded.text, "chunks": chunks}
