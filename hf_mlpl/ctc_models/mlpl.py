"""Describes `MlplForCTC` to the recipe: features of 10 ms, graphemes of a tokens file, a language-ID head."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from .interface import CtcInterface, CtcOutput, DecodedText


class MlplInterface(CtcInterface):
    """Describes `MlplForCTC` with an `MlplProcessor`."""

    pads_exactly = True
    runs_in_threads = True
    masks_features = True
    freezes_feature_encoder = False
    skips_layers = False
    leaves_out_parameters = False

    def __init__(self, config, processor):
        super().__init__(config, processor)
        self.extractor, self.tokenizer = processor.feature_extractor, processor.tokenizer
        self.sampling_rate = self.extractor.sampling_rate
        self.samples_per_frame = config.inputs_to_logits_ratio
        self.blank_id = config.blank_token_id
        self.languages = config.languages

    def extract(self, samples: np.ndarray) -> torch.Tensor:
        return self.extractor(samples, sampling_rate=self.sampling_rate, return_tensors="pt")["input_features"][0]

    def num_inputs(self, num_samples: int | np.ndarray) -> int | np.ndarray:
        return self.extractor.num_frames(num_samples)

    def input_seconds(self, num_inputs: Any) -> Any:
        return num_inputs / (self.sampling_rate / self.extractor.hop_length)

    def num_output_frames(self, num_inputs: Any) -> Any:
        return self.config.num_output_frames(num_inputs)

    def label_ids(self, text: str) -> list[int]:
        # The same as tokenizer(text)["input_ids"], which takes twice as long.
        return self.tokenizer.convert_tokens_to_ids(self.tokenizer.tokenize(text))

    def unknown_characters(self, text: str) -> Counter[str]:
        return self.tokenizer.unknown_characters(text)

    def character_labels(self) -> np.ndarray:
        # An entry of several characters replaces at least two of them, and its repetition costs only one more frame.
        # If it shares its line, other characters may have the same label; then all labels are made equal.
        ids = self.tokenizer.get_vocab()
        characters = [entry for entry in ids if len(entry) == 1]
        known = [character for character in characters if not self.unknown_characters(character)]
        labels = np.full(sys.maxunicode + 1, -1, np.int32)
        labels[[ord(character) for character in known]] = [ids[character] for character in known]
        labels[ord(" ")] = self.tokenizer.word_delimiter_token_id
        lines = Counter(ids.values())
        if any(len(entry) > 1 and lines[number] > 1 for entry, number in ids.items()):
            labels = np.minimum(labels, 0)
        return labels

    def decode(self, path: Sequence[int]) -> DecodedText:
        decoded = self.tokenizer.decode(path, output_word_offsets=True)
        words = [(word["word"], word["start_offset"], word["end_offset"]) for word in decoded.word_offsets]
        return DecodedText(decoded.text, words)

    def forward(self, model: nn.Module, input_features: torch.Tensor, attention_mask: torch.Tensor) -> CtcOutput:
        output = model(input_features=input_features, attention_mask=attention_mask)
        num_frames = self.num_output_frames(attention_mask.sum(dim=1))
        return CtcOutput(output.logits, num_frames, output.language_log_probs)

    def loss(
        self,
        model: nn.Module,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor,
        language_ids: torch.Tensor,
        num_utterances: int,
    ) -> torch.Tensor:
        return model(
            input_features=input_features,
            attention_mask=attention_mask,
            labels=labels,
            language_ids=language_ids if self.languages else None,
            num_utterances=num_utterances,
        ).loss

    def set_dropout(self, model: nn.Module, probability: float) -> None:
        for layer in model.model.layers:
            layer.layerdrop = probability
            layer.activation_dropout.p = probability
            layer.attention.attention_dropout = probability

    def drops_layers(self, model: nn.Module) -> bool:
        return any(layer.layerdrop > 0 for layer in model.model.layers)

    def heads(self, model: nn.Module) -> list[nn.Module]:
        return [head for head in (model.ctc_head, model.lid_head) if head is not None]

    def freeze_feature_encoder(self, model: nn.Module) -> None:
        model.freeze_feature_encoder()

    def remove_gradients_of_dropped_layers(self, model: nn.Module) -> None:
        layers = [_with_gradient(layer.attention, layer.up_proj, layer.down_proj) for layer in model.model.layers]
        layers = [layer for layer in layers if layer]  # adapters may be in some layers alone
        is_not_0 = [
            torch.stack([parameter.grad.any() for parameter in parameters]).any()
            for parameters in (_with_gradient(*self.heads(model)), *layers)
        ]
        has_loss, *is_kept = torch.stack(is_not_0).tolist()
        for layer, kept in zip(layers, is_kept, strict=True):
            for parameter in layer if has_loss and not kept else ():
                parameter.grad = None


def _with_gradient(*modules: nn.Module) -> list[nn.Parameter]:
    return [parameter for module in modules for parameter in module.parameters() if parameter.grad is not None]
