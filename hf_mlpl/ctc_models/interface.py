"""Defines the interface between the recipe and a CTC model of any architecture.

The recipe knows a model by this interface alone: which tensors it takes, how many frames it returns, which labels a
text has, and which text a path of labels has. No other room asks what class a model is of.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, ProcessorMixin


@dataclass
class CtcOutput:
    """Holds a model's outputs for a batch."""

    logits: torch.Tensor  # (B, S, V); frames from `num_frames` on have no meaning
    num_frames: torch.Tensor  # (B,), valid output frames
    language_log_probs: torch.Tensor | None = None  # (B, L); None for a model without a language-ID head


@dataclass(frozen=True)
class DecodedText:
    """Holds the text of a path, and the words of it with the output frames that say them, end excluded."""

    text: str
    words: Sequence[tuple[str, int, int]]


class CtcInterface(ABC):
    """Describes a CTC model to the recipe, by its configuration and processor, without its weights.

    Loader workers hold it, so it can be pickled and is small. Methods that need the weights take the model, which may
    be wrapped for data parallelism.

    Args:
        config: of the model.
        processor: its feature extractor and tokenizer.
    """

    sampling_rate: int  # of the waveforms that `extract` takes
    samples_per_frame: int  # of audio, from one output frame to the next
    blank_id: int
    languages: Sequence[str]  # classes of the language-ID head; empty for a model without one
    pads_exactly: bool  # whether an utterance has the same outputs in a padded batch as by itself
    runs_in_threads = False  # whether several threads may run the model at a time: its forward changes no state
    masks_features: bool  # whether SpecAugment may mask what `extract` returns; else the model masks by itself
    has_zero_mean = True  # whether features are normalised, so that 0 is their mean, with which SpecAugment masks
    freezes_feature_encoder: bool  # whether fine-tuning leaves its feature encoder as it is by default
    skips_layers: bool  # whether LayerDrop leaves out a layer's parameters, instead of giving them zeros as gradients
    leaves_out_parameters: bool  # whether a forward pass may not use some, so that data parallelism must look for them

    def __init__(self, config: PreTrainedConfig, processor: ProcessorMixin):
        self.config, self.processor = config, processor

    # From audio to the model's inputs

    @abstractmethod
    def extract(self, samples: np.ndarray) -> torch.Tensor:
        """Returns the inputs of one utterance, features (T, F) or samples (T,), from a waveform (N,).

        A waveform that is too short, even an empty one, is extended with zeros until it has one output frame. The
        inputs of silence are finite.
        """

    @abstractmethod
    def num_inputs(self, num_samples: int | np.ndarray) -> int | np.ndarray:
        """Returns the length T of what `extract` returns for a waveform of N samples; of a number or an array."""

    @abstractmethod
    def input_seconds(self, num_inputs: Any) -> Any:
        """Returns the seconds of audio in inputs of length T; of a number, an array or a tensor."""

    @abstractmethod
    def num_output_frames(self, num_inputs: Any) -> Any:
        """Returns the output frames S of inputs of length T; of a number, an array or a tensor."""

    # Between text and labels

    @abstractmethod
    def label_ids(self, text: str) -> list[int]:
        """Returns the labels of a text, which are those of `model.text.normalize_text(text)` too."""

    @abstractmethod
    def unknown_characters(self, text: str) -> Counter[str]:
        """Counts the characters of a text for which the model has no label."""

    def character_labels(self) -> np.ndarray | None:
        """Returns a label for each Unicode code point, -1 for one without a label; None where that has no meaning.

        With them millions of texts are checked at once. For a text in which each character, and a space, has a label
        here, `label_ids` has at most two labels more than the text has characters, and equal neighbours only where
        these labels are equal neighbours too.
        """
        return None

    @abstractmethod
    def decode(self, path: Sequence[int]) -> DecodedText:
        """Returns the text of a path, the likeliest class (S,) of each output frame, not collapsed."""

    # With the weights

    @abstractmethod
    def forward(self, model: nn.Module, input_features: torch.Tensor, attention_mask: torch.Tensor) -> CtcOutput:
        """Computes the outputs of a batch.

        Args:
            input_features: (B, T, F) features or (B, T) samples, padded on the right, on the model's device.
            attention_mask: (B, T), 1 for valid inputs.
        """

    @abstractmethod
    def loss(
        self,
        model: nn.Module,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor,
        language_ids: torch.Tensor,
        num_utterances: int,
    ) -> torch.Tensor:
        """Computes the loss of a micro-batch, so that the losses of all micro-batches of an update add up to its loss.

        Args:
            labels: (B, L), padded with -100.
            language_ids: (B,), -100 where unknown.
            num_utterances: in all micro-batches of the update.
        """

    def train_mode(self, model: nn.Module) -> None:
        """Turns training on, except what would make the outputs of an utterance depend on the others of its batch."""
        model.train()

    @abstractmethod
    def set_dropout(self, model: nn.Module, probability: float) -> None:
        """Sets dropout and LayerDrop of the transformer layers, as the original's `slimIPL_dyn_dropout` does.

        Raises:
            ValueError: for a model whose dropout cannot be changed.
        """

    @abstractmethod
    def drops_layers(self, model: nn.Module) -> bool:
        """Returns whether training may skip a layer, so that it gets no gradient."""

    @abstractmethod
    def heads(self, model: nn.Module) -> list[nn.Module]:
        """Returns the heads on top of the encoder."""

    @abstractmethod
    def freeze_feature_encoder(self, model: nn.Module) -> None:
        """Freezes the layers below the transformer.

        Raises:
            ValueError: for a model without such layers.
        """

    def remarks(self, model: nn.Module, training: bool, has_spec_augment: bool = False) -> list[str]:
        """Says what is different with this model, in a line each, which training and labelling log once.

        Args:
            has_spec_augment: whether the settings of training ask for SpecAugment.
        """
        return []

    def remove_gradients_of_dropped_layers(self, model: nn.Module) -> None:  # noqa: B027
        """Removes the zeros that data parallelism gives to layers which all micro-batches of an update have dropped.

        One process has no gradient for them, and AdamW would go on moving a layer whose gradient is zero. Models with
        `skips_layers` have no such zeros.
        """
