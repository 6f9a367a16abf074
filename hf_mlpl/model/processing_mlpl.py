"""Joins feature extractor and tokenizer in one processor, for training batches and for decoding."""

# Part of hf_mlpl, and copied into every saved model folder. To load such a folder, `pip install hf-mlpl` and
# `import hf_mlpl`; or pass `trust_remote_code=True`, with which transformers runs the copies.

from __future__ import annotations

import os

import numpy as np
from transformers import BatchEncoding, BatchFeature, ProcessorMixin

from .feature_extraction_mlpl import check_extractor_files
from .model_files import CODE, check_file, choice, wrong_settings
from .tokenization_mlpl import IGNORED, check_tokenizer_file

IN_FILE = {
    "processor_class": choice("MlplProcessor", None),
    "auto_map": CODE,
    "audio_tokenizer": (lambda value: False, "left out"),  # transformers would load it
}


class MlplProcessor(ProcessorMixin):
    """
    Prepares audio with [`MlplFeatureExtractor`] and transcripts with [`MlplTokenizer`].

    `decode` and `batch_decode` are the tokenizer's.
    """

    _auto_class = "AutoProcessor"  # saving also writes this code, for trust_remote_code

    def __init__(self, feature_extractor, tokenizer):
        super().__init__(feature_extractor, tokenizer)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs):
        """Loads as every `from_pretrained`; raises `ValueError` for a wrong setting, in one line with its file."""
        check_file(pretrained_model_name_or_path, "processor_config.json", IN_FILE, kwargs)
        check_extractor_files(pretrained_model_name_or_path, kwargs)
        check_tokenizer_file(pretrained_model_name_or_path, kwargs)
        with wrong_settings(pretrained_model_name_or_path, "processor_config.json"):
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    @property
    def model_input_names(self) -> list[str]:
        return [*self.feature_extractor.model_input_names, "labels"]

    def __call__(
        self,
        audio=None,
        text: str | list[str] | None = None,
        sampling_rate: int | None = None,
        return_tensors: str = "pt",
        **audio_kwargs,
    ) -> BatchFeature:
        """
        Prepares model inputs from audio, from transcripts, or from both.

        Args:
            audio (1-d array, tensor or list of `float`, or a list of those): Input of [`MlplFeatureExtractor`].
            text (`str` or `list[str]`): Transcripts, one for each utterance.
            sampling_rate (`int`, *optional*): Samples per second of `audio`.
            return_tensors (`str`): `"pt"` or `"np"`.
            audio_kwargs: Further arguments of [`MlplFeatureExtractor`], such as `padding` or `device`, which is where
                the features are; labels are always in the host's memory.

        Returns:
            [`BatchFeature`]: `input_features` (B, T, F) and `attention_mask` (B, T) for audio; `labels` (B, L), padded
            with -100, for transcripts.

        Raises:
            ValueError: without audio and text, for another number of transcripts than utterances, and whatever the
                feature extractor refuses.
        """
        if audio is None and text is None:
            raise ValueError("pass audio, text or both")
        inputs = {}
        if audio is not None:
            inputs |= self.feature_extractor(
                audio, sampling_rate=sampling_rate, return_tensors=return_tensors, **audio_kwargs
            )
        if text is not None:
            ids = [
                self.tokenizer(transcript)["input_ids"] for transcript in ([text] if isinstance(text, str) else text)
            ]
            if audio is not None and len(ids) != len(inputs["input_features"]):
                raise ValueError(f"{len(ids)} transcripts were passed for {len(inputs['input_features'])} utterances")
            labels = np.full((len(ids), max(map(len, ids), default=0)), IGNORED, dtype=np.int64)
            for row, transcript in zip(labels, ids, strict=True):
                row[: len(transcript)] = transcript
            inputs["labels"] = labels
        return BatchFeature(inputs, tensor_type=return_tensors)

    def pad(self, input_features=None, labels=None, **kwargs) -> BatchFeature | BatchEncoding:
        """
        Batches single examples, as transformers' CTC fine-tuning examples do in their data collator.

        Args:
            input_features: Input of the feature extractor's `pad`, for instance a list of `{"input_features": ...}`.
            labels: Input of the tokenizer's `pad`, for instance a list of `{"input_ids": [...]}`. Padding is the
                blank here, which the collator replaces with -100 where `attention_mask` is 0.
            kwargs: Arguments of both, such as `padding` and `return_tensors`.

        Returns:
            The padded features, the padded labels, or the features with the labels' `input_ids` as `labels`.
        """
        if input_features is None:
            return self.tokenizer.pad(labels, **kwargs)
        inputs = self.feature_extractor.pad(input_features, **kwargs)
        if labels is not None:
            inputs["labels"] = self.tokenizer.pad(labels, **kwargs)["input_ids"]
        return inputs


def check_parts(config, feature_extractor, tokenizer) -> None:
    """Raises `ValueError` for a feature extractor or a tokenizer that was made for another model than `config`'s."""
    if feature_extractor.feature_size != config.num_mel_bins:
        raise ValueError(
            f"{config.name_or_path}: feature_size of the feature extractor is {feature_extractor.feature_size}, and "
            f"num_mel_bins of the model {config.num_mel_bins}; take both from the same folder"
        )
    if len(tokenizer) != config.vocab_size:
        raise ValueError(
            f"{config.name_or_path}: the tokens file has {len(tokenizer) - 1} lines with tokens, and the model needs "
            f"{config.vocab_size - 1}: its vocab_size is {config.vocab_size}, with the blank; take both from the same "
            "folder"
        )


__all__ = ["MlplProcessor"]
