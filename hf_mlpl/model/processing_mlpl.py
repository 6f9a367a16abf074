"""Combines feature extractor and tokenizer in a processor, for training batches and for decoding."""

# Part of hf_mlpl, and copied into every saved model folder. To load such a folder, `import hf_mlpl` where hf_mlpl is
# installed; or pass `trust_remote_code=True`, with which transformers runs the copies.

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
from transformers import BatchEncoding, BatchFeature, ProcessorMixin
from transformers.processing_utils import AudioKwargs, ProcessingKwargs, TextKwargs

from .feature_extraction_mlpl import check_extractor_files
from .model_files import AUTO_MAP, check_file, choice, setting_errors
from .tokenization_mlpl import IGNORED, check_tokenizer_file

PROCESSOR_SETTINGS = {
    "processor_class": choice("MlplProcessor", None),
    "auto_map": AUTO_MAP,
    "audio_tokenizer": (lambda value: False, "left out"),  # transformers would load it
}

CALL_ARGUMENTS = AudioKwargs.__annotations__.keys() | TextKwargs.__annotations__.keys()
CALL_ARGUMENTS |= {"audio_kwargs", "text_kwargs", "common_kwargs"}


class MlplProcessor(ProcessorMixin):
    """Prepares audio with [`MlplFeatureExtractor`] and transcripts with [`MlplTokenizer`].

    `decode` and `batch_decode` are the tokenizer's. Raises `TypeError` for a tokenizer of another class.
    """

    _auto_class = "AutoProcessor"  # saving also writes this code, for trust_remote_code

    def __init__(self, feature_extractor, tokenizer):
        super().__init__(feature_extractor, tokenizer)
        # By name, because a folder's copy of this code has a class of its own.
        if "MlplTokenizer" not in (parent.__name__ for parent in type(tokenizer).__mro__):
            raise TypeError(
                f"tokenizer is a {type(tokenizer).__name__}; write its tokens into a file, a token a line without "
                'padding, and pass MlplTokenizer("tokens.lst")'
            )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs):
        """Loads a processor; raises `ValueError` for a wrong setting, in one line with its file."""
        check_processor_files(pretrained_model_name_or_path, kwargs)
        with setting_errors(pretrained_model_name_or_path, "processor_config.json"):
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    @property
    def model_input_names(self) -> list[str]:
        return [*self.feature_extractor.model_input_names, "labels"]

    def __call__(self, audio=None, text: str | list[str] | None = None, **kwargs) -> BatchFeature | BatchEncoding:
        """Prepares model inputs from audio, from transcripts, or from both.

        Args:
            audio (1-d array, tensor or list of `float`, or several of those): Input of [`MlplFeatureExtractor`].
            text (`str` or `list[str]`): Transcripts, one for each utterance.
            kwargs: Arguments of [`MlplFeatureExtractor`], such as `sampling_rate` or `device`, which holds the
                features, and of [`MlplTokenizer`], such as `truncation`. What both have, such as `padding`, is for
                both; `audio_kwargs` and `text_kwargs` are dicts of arguments of one of them. `return_tensors` is
                `"pt"` by default; labels are always in the host's memory.

        Returns:
            [`BatchFeature`]: `input_features` (B, T, F) and `attention_mask` (B, T) for audio, and `labels` (B, L),
            padded with -100, if there are transcripts too.

            For transcripts alone, what [`MlplTokenizer`] returns: `input_ids` and `attention_mask`, lists unless
            `return_tensors` is passed. The same `labels` are beside them.

        Raises:
            TypeError: for an argument that none of them has.
            ValueError: without audio and text, for another number of transcripts than utterances, for an argument that
                is passed twice, and for audio that the feature extractor refuses.
        """
        if audio is None and text is None:
            raise ValueError("pass audio, text or both")
        if unknown := sorted(kwargs.keys() - CALL_ARGUMENTS):
            raise TypeError(f"the processor has no argument {', '.join(unknown)}")
        kwargs = self._merge_kwargs(ProcessingKwargs, tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs)
        audio_kwargs, text_kwargs = ({"return_tensors": "pt"} | kwargs[f"{kind}_kwargs"] for kind in ("audio", "text"))
        inputs = BatchFeature() if audio is None else self.feature_extractor(audio, **audio_kwargs)
        if text is None:
            return inputs
        text = text if isinstance(text, str) else list(text)  # the tokenizer takes no columns of data sets
        transcripts = [text] if isinstance(text, str) else text
        if audio is not None and len(transcripts) != len(inputs["input_features"]):
            raise ValueError(
                f"{len(transcripts)} transcripts were passed for {len(inputs['input_features'])} utterances"
            )
        arrays = {"padding": text_kwargs.get("padding") or True, "return_tensors": "np", "return_attention_mask": True}
        padded = self.tokenizer(transcripts, **text_kwargs | arrays)
        labels = np.where(padded["attention_mask"] == 1, padded["input_ids"], IGNORED).astype(np.int64)
        labels = BatchFeature({"labels": labels}, tensor_type=text_kwargs["return_tensors"])
        if audio is None:
            text_kwargs = kwargs["text_kwargs"]
            if text_kwargs.get("return_tensors") is not None:
                text_kwargs = {"padding": True} | text_kwargs
            return BatchEncoding(labels | self.tokenizer(text, **text_kwargs))
        return BatchFeature(inputs | labels)

    def pad(self, input_features=None, labels=None, **kwargs) -> BatchFeature | BatchEncoding:
        """Batches examples, as the data collator of transformers' CTC fine-tuning scripts does.

        Args:
            input_features: Input of the feature extractor's `pad`, for instance a list of `{"input_features": ...}`.
            labels: Input of the tokenizer's `pad`, for instance a list of `{"input_ids": [...]}`. Padding is the
                blank here, which the collator replaces with -100 where `attention_mask` is 0.
            kwargs: Arguments of both, such as `padding` and `return_tensors`.

        Returns:
            The padded features, the padded labels, or the features with the labels' `input_ids` as `labels`.

        Raises `ValueError` without features and labels.
        """
        if input_features is None and labels is None:
            raise ValueError("pass input_features, labels or both")
        if input_features is None:
            return self.tokenizer.pad(labels, **kwargs)
        inputs = self.feature_extractor.pad(input_features, **kwargs)
        if labels is not None:
            inputs["labels"] = self.tokenizer.pad(labels, **kwargs)["input_ids"]
        return inputs

    @property
    def as_target_processor(self):
        """Raises `AttributeError`, which says what replaces this context of transformers 4."""
        raise AttributeError(
            "transformers 5 has no as_target_processor; write processor(text=transcripts).input_ids, and "
            "processor.pad(labels=...)"
        )


def check_processor_files(name_or_path: str | os.PathLike, hub: Mapping, required: Sequence[str] = ()) -> None:
    """Raises `ValueError`, with file and setting, for a wrong setting of a processor or its parts.

    Args:
        hub: arguments of `find_file`.
        required: settings of the feature extractor that must not be missing.
    """
    check_file(name_or_path, "processor_config.json", PROCESSOR_SETTINGS, hub)
    check_extractor_files(name_or_path, hub, required)
    check_tokenizer_file(name_or_path, hub)


def check_parts(config, feature_extractor, tokenizer) -> None:
    """Raises `ValueError` for a feature extractor or a tokenizer that does not fit the model of `config`."""
    if feature_extractor.feature_size != config.num_mel_bins:
        raise ValueError(
            f"{config.name_or_path}: feature_size of the feature extractor is {feature_extractor.feature_size}, and "
            f"num_mel_bins of the model {config.num_mel_bins}; take both from the same folder"
        )
    check_num_tokens(config.name_or_path, tokenizer, config)


def check_num_tokens(source, tokenizer, config) -> None:
    """Raises `ValueError`, with the tokens' source, unless tokenizer and CTC head have the same number of classes."""
    if len(tokenizer) != config.vocab_size:
        raise ValueError(
            f"{source}: has {len(tokenizer) - 1} lines with tokens, but the model needs {config.vocab_size - 1}: its "
            f"CTC head has {config.vocab_size} classes, the last one is the blank; use the tokens file that the model "
            "was trained with"
        )


__all__ = ["MlplProcessor"]
