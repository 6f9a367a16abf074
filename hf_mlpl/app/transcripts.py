"""Transcribes recordings of any length for the page, and says meanwhile how far it has come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from markupsafe import Markup
from transformers import pipeline

from ..audio.reading import audio_duration, stream_audio
from ..inference.ctc_recognizer import CtcRecognizer
from ..inference.pieces import CONTEXT_SECONDS, PIECE_SECONDS
from ..inference.subtitles import to_srt, to_vtt
from ..model.missing_model import OUR_TYPES
from ..pages import SpeechEncoder, Spectrogram, transcript_view
from .model import AppModel

BATCH_SIZE = 8  # pieces in one forward on an accelerator; a CPU takes one, so that it often says how far it is
NEW_SECONDS = PIECE_SECONDS - 2 * CONTEXT_SECONDS  # of each piece of a long recording
TOP_LANGUAGES = 3

Progress = Callable[[float, float], None]  # takes the seconds that are recognised, and those of all


class Transcriber:
    """Transcribes recordings as `hf-mlpl transcribe` does, with a CTC model of any architecture."""

    def __init__(self, model: AppModel):
        self.model = model.model
        self.arguments = {"return_timestamps": "char", "batch_size": 1 if self._is_on_cpu() else BATCH_SIZE}
        if self.model.config.model_type not in OUR_TYPES:
            self.recognize = CtcRecognizer(self.model, model.processor)
            return
        parts = {name: getattr(model.processor, name) for name in ("tokenizer", "feature_extractor")}
        task, device = "automatic-speech-recognition", self.model.device
        self.recognize = pipeline(task, model=self.model, device=device, **parts)
        if model.languages:
            self.arguments["top_k_languages"] = TOP_LANGUAGES

    def __call__(self, path: Path, progress: Progress) -> Markup:
        """Returns the recording with its transcript as HTML.

        Args:
            progress: is called after each forward pass.

        Raises:
            AudioError: for a file that is no recording.
        """
        total = audio_duration(path)
        with self._counted(lambda pieces: progress(min(pieces * NEW_SECONDS, total), total)):
            result = self.recognize(path, **self.arguments)
        rate = self.recognize.feature_extractor.sampling_rate
        encoder, spectrogram, num_samples = SpeechEncoder(rate), Spectrogram(rate), 0
        for block in stream_audio(path, rate):
            encoder.add(block)
            spectrogram.add(block)
            num_samples += len(block)
        seconds = num_samples / rate
        writers = {"srt": to_srt, "vtt": to_vtt}
        downloads = {f"{path.stem}.{suffix}": write(result["chunks"], seconds) for suffix, write in writers.items()}
        pictures = spectrogram.finish()
        return transcript_view(
            result, encoder.source(), seconds, name=path.name, spectrogram=pictures, downloads=downloads
        )

    def _is_on_cpu(self) -> bool:
        return self.model.device.type == "cpu"

    @contextmanager
    def _counted(self, notify: Callable[[int], None]) -> Iterator[None]:
        """Calls a function after each forward pass of the model with the number of pieces that have passed."""
        num_pieces = 0

        def count(module, arguments, named, output) -> None:
            nonlocal num_pieces
            num_pieces += next(len(each) for each in (*arguments, *named.values()) if torch.is_tensor(each))
            notify(num_pieces)

        hook = self.model.register_forward_hook(count, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()
