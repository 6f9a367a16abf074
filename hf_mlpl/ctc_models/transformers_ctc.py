"""Describes the CTC models of transformers to the recipe, by what their configuration, classes and processor say.

One implementation serves every architecture of `AutoModelForCTC`. Where these differ in what no configuration tells, a
constant below names the architectures and says why.
"""

from __future__ import annotations

import copy
import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import MODEL_FOR_CTC_MAPPING, PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from ..model.ctc_loss import ctc_loss
from ..model.text import normalize_text
from .interface import CtcInterface, CtcOutput, DecodedText
from .new_tokens import blank_of, vocabulary_problem

# Models that read nothing of the padding if they have an attention mask. Others let it in: convolutions between the
# layers of wav2vec2-conformer and data2vec-audio read frames that the mask does not cover, and sew and sew-d join the
# last frame with the padded one after it.
EXACT = {"wav2vec2", "wav2vec2-bert", "hubert", "wavlm", "unispeech", "unispeech-sat"}
EXACT |= {"parakeet_ctc", "lasr_ctc", "omniasr_ctc", "granite_speech5_ctc"}
HAS_UNUSED_LAYERS = {"wav2vec2-conformer"}  # transformers makes a convolution of positions for it, and never calls it

HEADS = ("lm_head", "ctc_head")  # their names in transformers' classes
FEATURE_ENCODERS = ("feature_extractor", "subsampling", "subsampler")
DROPOUTS = ("dropout", "attention_dropout", "activation_dropout", "drop_prob")  # attributes that hold a probability
BATCH_NORM = nn.modules.batchnorm._BatchNorm  # the base class of all kinds


class TransformersInterface(CtcInterface):
    """Describes a model of `AutoModelForCTC`, with the processor that transformers has for it.

    Args:
        config: of the CTC model.
        processor: with a feature extractor and a tokenizer.

    Raises:
        ValueError: for a model without a CTC class, or a tokenizer that does not belong to its head.
    """

    languages = ()
    skips_layers = True

    def __init__(self, config, processor):
        super().__init__(config, processor)
        self.extractor = getattr(processor, "feature_extractor", None)
        self.tokenizer = getattr(processor, "tokenizer", None)
        if self.extractor is None or self.tokenizer is None:
            missing = "feature extractor" if self.extractor is None else "tokenizer"
            raise ValueError(f"{_name(config)} comes with a {type(processor).__name__} that has no {missing}")
        if type(config) not in MODEL_FOR_CTC_MAPPING:
            accepted = ", ".join(sorted(kind.model_type for kind in MODEL_FOR_CTC_MAPPING))
            raise ValueError(f"{_name(config)} is of type {config.model_type!r}; CTC models are of type {accepted}")
        if config.ctc_loss_reduction not in ("mean", "sum"):
            raise ValueError(
                f"ctc_loss_reduction is {config.ctc_loss_reduction!r}; {config.model_type} models have 'mean' or 'sum'"
            )
        self.model_class = MODEL_FOR_CTC_MAPPING[type(config)]
        self._read_tokens()

        self.sampling_rate = self.extractor.sampling_rate
        if type(self.sampling_rate) is not int or self.sampling_rate < 1:
            raise ValueError(
                f"sampling_rate is {self.sampling_rate!r}; it must be a whole number of Hz, such as 16000"
            )
        self.input_name, self.mask_name = [*self.extractor.model_input_names, "attention_mask"][:2]
        if self.input_name != self.model_class.main_input_name:
            raise ValueError(
                f"it makes {self.input_name}, and {config.model_type} models take {self.model_class.main_input_name}; "
                "copy preprocessor_config.json from the model that these weights come from"
            )
        self.takes_samples = self.input_name == "input_values"
        self.takes_mask = self.extractor.return_attention_mask  # wav2vec2-base, for one, was trained without
        self.config_without_adapter = config
        if getattr(config, "add_adapter", False):  # its layers shorten the output of the encoder
            self.config_without_adapter = copy.copy(config)
            self.config_without_adapter.add_adapter = False
        self._measure_extractor()
        length = 2**20  # so long that the ends of convolutions do not count
        num_frames = self.num_output_frames(2 * length) - self.num_output_frames(length)
        self.samples_per_frame = round(length / num_frames) * self.samples_per_input

        mask_probs = [getattr(config, f"mask_{axis}_prob", None) for axis in ("time", "feature")]
        self.masks_itself = bool(mask_probs[0] and getattr(config, "apply_spec_augment", True))
        self.masks_features = not self.takes_samples and mask_probs[0] is None
        self.pads_exactly = (
            config.model_type in EXACT
            and self.takes_mask
            and getattr(config, "feat_extract_norm", None) != "group"  # its statistics are of the row with its padding
            and not getattr(config, "add_adapter", False)  # whose convolutions read past the end of an utterance
            and not getattr(config, "conv_pos_batch_norm", False)  # which adds its bias to the padding
        )
        self.freezes_feature_encoder = self.takes_samples
        # A model with any of these probabilities has a vector for masked frames.
        self.leaves_out_parameters = config.model_type in HAS_UNUSED_LAYERS or (
            any(mask_probs) and not self.masks_itself
        )

    # From audio to the model's inputs

    def extract(self, samples: np.ndarray) -> torch.Tensor:
        missing = max(self.min_samples - len(samples), 0)
        return self._extract(np.pad(samples, (0, missing)))

    def _extract(self, samples: np.ndarray) -> torch.Tensor:
        arguments = {"sampling_rate": self.sampling_rate, "return_tensors": "pt", "return_attention_mask": True}
        features = self.extractor(samples, **arguments)
        inputs = features[self.input_name][0].float()
        # A waveform may have a dimension of channels. Some extractors return a frame more than they call valid.
        return inputs.flatten() if self.takes_samples else inputs[features[self.mask_name][0].bool()]

    def _measure_extractor(self) -> None:
        """Finds out how long the extractor's results are, so that it need not run to plan batches.

        Extractors say it in no common way, but all make T = (N + offset) // H inputs of N samples. Two numbers of
        samples at which T grows by one give H and the offset.
        """
        noise = np.random.default_rng(0).normal(scale=0.1, size=self.sampling_rate).astype(np.float32)
        self.samples_per_input, self.offset, self.has_channel = 1, 0, False
        if self.takes_samples:
            values = self.extractor(noise, sampling_rate=self.sampling_rate, return_tensors="pt")[self.input_name]
            self.has_channel = values.ndim == 3  # OmniASR's waveforms have a dimension for it
        else:
            self.has_zero_mean = bool(self._extract(noise).mean().abs() < 0.01)  # exactly normalised, or not at all

            def length(num_samples: int) -> int:
                return len(self._extract(noise[:num_samples]))

            start = len(noise) // 4
            shorter = length(start)
            first, second = (bisect_left(range(2 * start), shorter + i, lo=start, key=length) for i in (1, 2))
            self.samples_per_input = second - first
            self.offset = (shorter + 1) * self.samples_per_input - first

        def is_usable(num_samples: int) -> bool:
            num_frames = self.num_output_frames((num_samples + self.offset) // self.samples_per_input)
            # SEW joins so many frames to one. Features that are divided by their deviation need more than one frame.
            is_long = num_frames >= getattr(self.config, "squeeze_factor", 1)
            return is_long and bool(self._extract(noise[:num_samples]).isfinite().all())

        self.min_samples = bisect_left(range(len(noise)), True, key=is_usable)

    def num_inputs(self, num_samples: int | np.ndarray) -> int | np.ndarray:
        num_samples = np.maximum(num_samples, self.min_samples)
        num_inputs = (num_samples + self.offset) // self.samples_per_input
        return num_inputs if isinstance(num_inputs, np.ndarray) else int(num_inputs)

    def input_seconds(self, num_inputs: Any) -> Any:
        return num_inputs * self.samples_per_input / self.sampling_rate

    def num_output_frames(self, num_inputs: Any) -> Any:
        return _num_frames(self.model_class, self.config, num_inputs)

    # Between text and labels

    def _read_tokens(self) -> None:
        """Reads the vocabulary; raises ValueError if it is not that of the head."""
        config, tokenizer = self.config, self.tokenizer
        if problem := vocabulary_problem(config, tokenizer):
            raise ValueError(f"{_name(config)}: {problem}; load a model with its own tokenizer, or train a new head")
        self.blank_id = blank_of(config)
        self.tokens = tokenizer.get_vocab()
        self.word_delimiter_id = self.tokens.get(getattr(tokenizer, "word_delimiter_token", None))
        if self.word_delimiter_id is not None and self.word_delimiter_id >= config.vocab_size:
            self.word_delimiter_id = None  # the tokenizer adds one to a vocabulary that has none
        # The first character of a piece that begins a word, of SentencePiece or else of byte-level BPE, where a letter
        # of Maltese means a space.
        has_sentencepiece = any(token.startswith("▁") for token in self.tokens)
        self.word_start = "▁" if has_sentencepiece else "Ġ" if self.tokenizer.is_fast else None
        # Wav2Vec2CTCTokenizer counts the word boundary among the special tokens; transcripts have spaces for it.
        special = {self.tokens[token] for token in tokenizer.all_special_tokens if token in self.tokens}
        self.silent_ids = special - {self.word_delimiter_id} | {self.blank_id}  # without text

        # Letters that are both, as in vocabularies that write bytes as letters, are not put in another case.
        spoken = {token for token, number in self.tokens.items() if number not in self.silent_ids}
        letters = {letter for token in spoken for letter in token if len(letter.upper()) == len(letter.lower()) == 1}
        cases = {case for letter in letters for case in ("lower", "upper") if getattr(letter, f"is{case}")()}
        self.letter_case = cases.pop() if len(cases) == 1 else None
        if self.letter_case == "lower" and getattr(tokenizer, "do_lower_case", False):
            # It would put texts in capitals, none of which the vocabulary has; what it decodes stays the same.
            tokenizer.do_lower_case = tokenizer.init_kwargs["do_lower_case"] = False

    def label_ids(self, text: str) -> list[int]:
        return self._encode(text)[0]

    def unknown_characters(self, text: str) -> Counter[str]:
        return Counter(self._encode(text)[1])

    def _encode(self, text: str) -> tuple[list[int], list[str]]:
        """Returns the labels of a text, and the characters that have none, which are left out.

        The text is normalised, and has the case of the vocabulary if that has one case only.
        """
        return self._encode_normalized(normalize_text(text))

    def _encode_normalized(self, text: str) -> tuple[list[int], list[str]]:
        if self.letter_case:
            text = "".join(letter if letter in self.tokens else getattr(letter, self.letter_case)() for letter in text)
        return self._encode_pieces(text) if self.tokenizer.is_fast else self._encode_characters(text)

    def _encode_characters(self, text: str) -> tuple[list[int], list[str]]:
        ids: list[int] = []
        unknown: list[str] = []
        # Word by word, because Wav2Vec2CTCTokenizer loses the spaces beside a token of several characters.
        for word in text.split():
            before = len(ids)
            for token in self.tokenizer.tokenize(word):
                number = self.tokens.get(token)
                if number is None or number in self.silent_ids:
                    unknown.extend(token.removeprefix(self.word_start or ""))
                elif number != self.word_delimiter_id:  # a literal "|"
                    ids.append(number)
            if before and len(ids) > before and self.word_delimiter_id is not None:
                ids.insert(before, self.word_delimiter_id)
        return ids, unknown

    def _encode_pieces(self, text: str) -> tuple[list[int], list[str]]:
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        has_label = np.array([character.isspace() for character in text], bool)
        pieces = self.tokenizer.convert_ids_to_tokens(encoding["input_ids"])
        for number, piece, (start, end) in zip(encoding["input_ids"], pieces, encoding["offset_mapping"], strict=True):
            # LasrTokenizer gives the bare beginning of a word to unknown characters.
            if number not in self.silent_ids and piece != self.word_start:
                has_label[start:end] = True
        if has_label.all():
            return encoding["input_ids"], []
        known = "".join(character for character, known in zip(text, has_label, strict=True) if known)
        unknown = [character for character, known in zip(text, has_label, strict=True) if not known]
        ids, others = self._encode_pieces(" ".join(known.split()))
        return ids, unknown + others

    def character_labels(self) -> np.ndarray | None:
        if self.tokenizer.is_fast or self.word_delimiter_id is None:
            return None
        labels = np.full(sys.maxunicode + 1, -1, np.int32)
        labels[ord(" ")] = self.word_delimiter_id
        characters = {token for token in self.tokens if len(token) == 1}
        for character in characters | {swapped for token in characters if len(swapped := token.swapcase()) == 1}:
            ids, unknown = self._encode_normalized(character)  # of a joiner, which no text consists of, too
            if len(ids) == 1 and not unknown:
                labels[ord(character)] = ids[0]
        return labels

    def decode(self, path: Sequence[int]) -> DecodedText:
        ids: list[int] = []
        spans: list[tuple[int, int]] = []  # frames of each label
        end = 0
        for number, run in groupby(path):
            start, end = end, end + len(list(run))
            if number not in self.silent_ids:
                ids.append(int(number))
                spans.append((start, end))
        text = self._text(ids)
        words = text.split(" ") if text else []
        frames = [(labels[0][0], labels[-1][1]) for labels in self._labels_of_words(ids, spans, len(words))]
        return DecodedText(text, [(word, *span) for word, span in zip(words, frames, strict=True)])

    def _text(self, ids: list[int]) -> str:
        return " ".join(self.tokenizer.decode(ids, group_tokens=False).split()) if ids else ""

    def _labels_of_words(self, ids, spans, num_words: int) -> list[list[tuple[int, int]]]:
        """Returns the frames of the labels of each word of a text."""
        words: list[list[tuple[int, int]]] = [[]]
        for piece, number, span in zip(self.tokenizer.convert_ids_to_tokens(ids), ids, spans, strict=True):
            if number == self.word_delimiter_id or (self.word_start and piece.startswith(self.word_start)):
                words.append([])
            if number != self.word_delimiter_id and piece != self.word_start:
                words[-1].append(span)
        words = [word for word in words if word]
        if len(words) == num_words:
            return words
        # The tokenizer has spaces of its own; the text of the first labels shows in which word the last of them is.
        words, before = [[] for _ in range(num_words)], 0
        for i, span in enumerate(spans):
            after = len(self._text(ids[: i + 1]).split())
            for word in words[min(before, after - 1) : after] if after else []:
                word.append(span)
            before = after
        return words

    # With the weights

    def forward(self, model: nn.Module, input_features: torch.Tensor, attention_mask: torch.Tensor) -> CtcOutput:
        num_frames = self.num_output_frames(attention_mask.sum(dim=1))
        input_features = input_features.to(next(model.parameters()).dtype)  # which may be bfloat16, for inference
        inputs = {self.input_name: input_features[:, None] if self.has_channel else input_features}
        if self.takes_mask:
            inputs[self.mask_name] = attention_mask
        if self.masks_itself and model.training:
            # transformers cannot mask a batch that is shorter than a mask.
            length = int(_num_frames(self.model_class, self.config_without_adapter, attention_mask.shape[1]))
            if length < self.config.mask_time_length:
                shape = (len(attention_mask), length)
                inputs["mask_time_indices"] = torch.zeros(shape, dtype=torch.bool, device=attention_mask.device)
        return CtcOutput(model(**inputs).logits, num_frames)

    def loss(
        self,
        model: nn.Module,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor,
        language_ids: torch.Tensor,
        num_utterances: int,
    ) -> torch.Tensor:
        """Computes transformers' loss of an update, of which the micro-batch is a part; without a language-ID loss."""
        output = self.forward(model, input_features, attention_mask)
        lengths = (labels >= 0).sum(dim=1)
        log_probs = F.log_softmax(output.logits, dim=-1, dtype=torch.float32)
        with torch.autocast(log_probs.device.type, enabled=False):
            zero_infinity = self.config.ctc_zero_infinity
            losses = ctc_loss(log_probs, labels.clamp(min=0), output.num_frames, lengths, self.blank_id, zero_infinity)
        if self.config.ctc_loss_reduction == "sum":
            return losses.sum()
        return (losses / lengths.clamp(min=1)).sum() / max(num_utterances, 1)  # of an update without a readable one

    def train_mode(self, model: nn.Module) -> None:
        """Turns training on, except in layers that would make an utterance's outputs depend on the rest of its batch,
        or its frames on chance."""
        model.train()
        for module in model.modules():
            if isinstance(module, BATCH_NORM):
                module.eval()
        for adapter in _adapters(model):
            adapter.layerdrop = 0.0

    def set_dropout(self, model: nn.Module, probability: float) -> None:
        layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
        is_found = False
        for place, module in (pair for layer in layers for pair in layer.named_modules()):
            if "lora_dropout" in place:  # of adapters, which have a setting of their own
                continue
            if isinstance(module, nn.Dropout):
                module.p, is_found = probability, True
            for name in DROPOUTS:
                if isinstance(getattr(module, name, None), (int, float)):
                    setattr(module, name, probability)
                    is_found = True
        if not is_found:
            raise ValueError(
                f"no layer of a {self.config.model_type} model has a dropout that can be changed; leave out "
                "dynamic_dropout"
            )
        for stack in _stacks(model):
            if hasattr(stack, "layerdrop"):
                stack.layerdrop = probability
            elif hasattr(stack.config, "layerdrop"):
                # The configuration of the whole model is the same object, and is saved.
                stack.config = copy.copy(stack.config)
                stack.config.layerdrop = probability

    def drops_layers(self, model: nn.Module) -> bool:
        return any(getattr(stack, "layerdrop", getattr(stack.config, "layerdrop", 0)) > 0 for stack in _stacks(model))

    def heads(self, model: nn.Module) -> list[nn.Module]:
        return [module for name, module in model.named_modules() if name.rpartition(".")[2] in HEADS]

    def freeze_feature_encoder(self, model: nn.Module) -> None:
        encoders = [module for name, module in model.named_modules() if name.rpartition(".")[2] in FEATURE_ENCODERS]
        if not encoders:
            raise ValueError(
                f"a {self.config.model_type} model has no feature encoder to freeze; leave out freeze_feature_encoder"
            )
        for encoder in encoders:
            encoder.requires_grad_(False)
            if hasattr(encoder, "_freeze_parameters"):  # else the gradient of the waveform would be computed
                encoder._freeze_parameters()

    def remarks(self, model: nn.Module, training: bool, has_spec_augment: bool = False) -> list[str]:
        remarks = []
        if self.sampling_rate != 16_000:
            remarks.append(f"the model takes audio of {self.sampling_rate} Hz, to which all recordings are resampled")
        if not self.pads_exactly:
            reads = "reads" if self.takes_mask else "has no attention mask, and reads"
            remarks.append(
                f"the model {reads} the padding of a batch, so transcripts and labels are made one by one"
                + (", and in training an utterance's outputs depend on its batch" if training else "")
            )
        if not training:
            return remarks
        if self.letter_case:
            case = f"{self.letter_case} case"
            remarks.append(f"the vocabulary is in {case}, and so are texts for training, but not those of evaluation")
        if any(isinstance(module, BATCH_NORM) for module in model.modules()):
            remarks.append("batch normalisation keeps the statistics of the model, so that utterances do not mix")
        if self.config is not self.config_without_adapter and self.config_without_adapter.layerdrop > 0:
            remarks.append("LayerDrop leaves alone the adapter's layers, because they shorten the output")
        if self.word_delimiter_id is None and not self.tokenizer.is_fast:
            remarks.append("the vocabulary has no word boundary, so transcripts have no spaces")
        if not self.masks_features:
            masks = "no frames"
            if self.masks_itself:
                masks = f"frames itself, with mask_time_prob {self.config.mask_time_prob:g}"
            no_effect = "; spec_augment has no effect" if has_spec_augment else ""
            if self.masks_itself or has_spec_augment:
                remarks.append(f"the model masks {masks}{no_effect}")
        return remarks


def _name(config: PreTrainedConfig) -> str:
    return config.name_or_path or "the model"


def _adapters(model: nn.Module) -> list[nn.Module]:
    """Returns the adapter of Wav2Vec2 and its kin, whose layers shorten the output of the encoder."""
    return [module for module in model.modules() if type(module).__name__.endswith("Adapter")]


def _stacks(model: nn.Module) -> list[nn.Module]:
    """Returns the modules that run the transformer layers, and may leave one out."""
    return [
        module
        for module in model.modules()
        if isinstance(getattr(module, "layers", None), nn.ModuleList) and hasattr(module, "config")
    ]


def _num_frames(model_class: type, config: PreTrainedConfig, num_inputs: Any) -> Any:
    """Computes the number of output frames by the method of the model's class, which reads nothing but `config`."""
    model = SimpleNamespace(config=config)
    for name in ("_get_feat_extract_output_lengths", "_get_subsampling_output_length"):
        if method := getattr(model_class, name, None):
            num_frames = method(model, torch.as_tensor(num_inputs)).long().clamp(min=0)
            if isinstance(num_inputs, torch.Tensor):
                return num_frames
            return num_frames.numpy() if isinstance(num_inputs, np.ndarray) else int(num_frames)
    raise ValueError(f"{model_class.__name__} has no method for the number of its output frames")
