# Part of hf_mlpl, and copied into every saved model folder. To load such a folder, `pip install hf-mlpl` and
# `import hf_mlpl`; or pass `trust_remote_code=True`, with which transformers runs the copies.
"""Processor: feature extractor and tokenizer in one, for training batches and for decoding."""

from __future__ import annotations

import numpy as np
from transformers import BatchEncoding, BatchFeature, ProcessorMixin

from .tokenization_mlpl import IGNORED_LABEL


class MlplProcessor(ProcessorMixin):
    """
    [`MlplFeatureExtractor`] for audio and [`MlplTokenizer`] for transcripts.

    `decode` and `batch_decode` are the tokenizer's.
    """

    _auto_class = "AutoProcessor"  # saving also writes this code, for trust_remote_code

    def __init__(self, feature_extractor, tokenizer):
        super().__init__(feature_extractor, tokenizer)

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
        Model inputs for audio, for transcripts, or for both.

        Args:
            audio (1-d array, tensor or list of `float`, or a list of those): As [`MlplFeatureExtractor`] takes it.
            text (`str` or `list[str]`): Transcripts, one for each utterance.
            sampling_rate (`int`, *optional*): Of `audio`.
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
            labels = np.full((len(ids), max(map(len, ids), default=0)), IGNORED_LABEL, dtype=np.int64)
            for row, transcript in zip(labels, ids, strict=True):
                row[: len(transcript)] = transcript
            inputs["labels"] = labels
        return BatchFeature(inputs, tensor_type=return_tensors)

    def pad(self, input_features=None, labels=None, **kwargs) -> BatchFeature | BatchEncoding:
        """
        Batch of single examples, as transformers' CTC fine-tuning examples make it in their data collator.

        Args:
            input_features: What the feature extractor's `pad` takes, for instance a list of `{"input_features": ...}`.
            labels: What the tokenizer's `pad` takes, for instance a list of `{"input_ids": [...]}`. Padding is the
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


__all__ = ["MlplProcessor"]
