"""Transcribes recordings of any length for the page, and says meanwhile how far it has come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import torch
from markupsafe import Markup
from transformers import pipeline

from ..audio.reading import audio_duration
from ..inference.ctc_recognizer import CtcRecognizer
from ..inference.pieces import CONTEXT_SECONDS, PIECE_SECONDS
from ..inference.transcript_page import recording_view, view_arguments
from ..inference.transcription import Recording
from ..model.missing_model import OUR_TYPES
from .model import AppModel

BATCH_SIZE = 8  # pieces in one forward on an accelerator; a CPU takes one, so that it often says how far it is
NEW_SECONDS = PIECE_SECONDS - 2 * CONTEXT_SECONDS  # in each piece of a long recording; the first has no context before

Progress = Callable[[float, float], None]  # takes the seconds that are recognised, and those of all


class Transcriber:
    """Transcribes recordings as `hf-mlpl transcribe` does, with a CTC model of any architecture."""

    def __init__(self, model: AppModel):
        self.model = model.model
        if self.model.config.model_type in OUR_TYPES:
            parts = {name: getattr(model.processor, name) for name in ("tokenizer", "feature_extractor")}
            task, device = "automatic-speech-recognition", self.model.device
            self.recognize = pipeline(task, model=self.model, device=device, **parts)
        else:
            self.recognize = CtcRecognizer(self.model, model.processor)
        batch_size = 1 if self.model.device.type == "cpu" else BATCH_SIZE
        self.arguments = view_arguments(self.recognize) | {"batch_size": batch_size}

    def __call__(self, path: Path, progress: Progress) -> Markup:
        """Returns the recording with its transcript as HTML.

        Args:
            progress: is called after each forward pass.

        Raises:
            AudioError: for a file that is no recording.
        """
        recording = Recording(path, Path(path.stem), seconds=audio_duration(path))
        total = recording.seconds
        with self._counted(lambda pieces: progress(min(CONTEXT_SECONDS + pieces * NEW_SECONDS, total), total)):
            recording.result = self.recognize(path, **self.arguments)
        return recording_view(recording, address=f"gradio_api/file={quote(str(path))}")  # where gradio has an upload

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
