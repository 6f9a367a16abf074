"""Loads the model that the app shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from ..inference.generation import generates
from ..inference.precision import convert
from ..inference.recognition import load_recognizer
from ..sharing.model_card import teacher_revision


@dataclass(frozen=True)
class AppModel:
    """Holds a model, from `load_recognizer`: a CTC model, or one that writes text, which can only label.

    Args:
        revision: from `teacher_revision`: the model's name, `@`, and the commit or checksum of its weights.
    """

    model: PreTrainedModel
    processor: Any
    revision: str
    accelerator: Accelerator

    @classmethod
    def load(cls, name: str, language: str | None = None, dtype: str = "float32") -> AppModel:
        """Loads a model, onto an accelerator if there is one.

        Args:
            name: folder or Hub name.
            language: of the adapter of an MMS model.
            dtype: one of `DTYPES`.

        Raises:
            OSError, ValueError: as `load_recognizer` does.
        """
        accelerator = Accelerator(cpu=dtype == "int8" or not torch.accelerator.is_available())
        model, processor = load_recognizer(name, [] if language is None else [language])
        revision = teacher_revision(model, name)  # before the conversion, which changes the checksum
        return cls(convert(model.to(accelerator.device), dtype), processor, revision, accelerator)

    @property
    def name(self) -> str:
        """Returns the Hub name, or the end of the folder's path."""
        return self.revision.rpartition("@")[0]

    @property
    def languages(self) -> Sequence[str]:
        """Returns the languages that the model tells apart; none for a model without a language-ID head."""
        return getattr(self.model.config, "languages", None) or ()

    @property
    def generates(self) -> bool:
        return generates(self.model.config)
