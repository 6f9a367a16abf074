"""Recognises recordings of any length piece by piece, with the confidence of each word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel, ProcessorMixin

from ..audio.reading import stream_audio
from ..ctc_models import ctc_interface
from ..inference.decoding import GreedyPath, best_paths, pad
from ..inference.pieces import cut, join_language_log_probs

TOP_LANGUAGES = 3


class Recognizer:
    """Recognises recordings with a CTC model.

    Args:
        model, processor: from `load_recognizer`, a CTC model of any architecture.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin):
        self.model, self.ctc = model.eval(), ctc_interface(model.config, processor)

    def __call__(self, path: Path, progress: Callable[[float, str], None]) -> dict:
        """Returns the result of a pipeline of ours with times of words, `confidence` of each, and three `languages`.

        Args:
            progress: is called after each piece with the seconds that are recognised, and with the text of the piece.

        Raises:
            AudioError: for a file that is no recording.
        """
        rate = self.ctc.sampling_rate
        paths: list[GreedyPath] = []
        seconds = 0.0
        for piece in cut(stream_audio(path, rate), rate, self.ctc.samples_per_frame):
            [whole] = best_paths(self.model, self.ctc, *pad([self.ctc.extract(piece.samples)]))
            paths.append(whole.middle(piece))
            seconds += piece.seconds
            progress(seconds, self.ctc.decode(paths[-1].labels.tolist()).text)
        return self._result(paths, seconds)

    def _result(self, paths: list[GreedyPath], seconds: float) -> dict:
        log_probs = np.concatenate([path.log_probs for path in paths])
        decoded = self.ctc.decode(np.concatenate([path.labels for path in paths]).tolist())
        frame = self.ctc.samples_per_frame / self.ctc.sampling_rate
        chunks = [
            {
                "text": word,
                "timestamp": (start * frame, min(end * frame, seconds)),
                "confidence": float(np.exp(log_probs[start:end].mean())),
            }
            for word, start, end in decoded.words
        ]
        return {"text": decoded.text, "chunks": chunks, "seconds": seconds} | self._languages(paths)

    def _languages(self, paths: list[GreedyPath]) -> dict:
        if not self.ctc.languages:
            return {}
        weights = torch.tensor([max(len(path.labels), 1) for path in paths])
        log_probs = join_language_log_probs(torch.stack([path.language_log_probs for path in paths]), weights)
        best = log_probs.exp().topk(min(TOP_LANGUAGES, len(self.ctc.languages)))
        ranking = [
            {"language": self.ctc.languages[index], "probability": probability}
            for index, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        return {"language": ranking[0]["language"], "language_probability": ranking[0]["probability"]} | {
            "languages": ranking
        }
