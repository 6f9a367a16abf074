"""Checks arguments of the pipeline: what other pipelines have is accepted or refused with what to write instead."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from inspect import signature

STOCK_ARGUMENTS = ("chunk_length_s", "stride_length_s", "return_timestamps", "decoder_kwargs")
OTHER_ARGUMENTS = ("language", "top_k_languages", "return_confidence", "generate_kwargs", "batch_size", "num_workers")
# The stock class ignores them for CTC models, whose batches are always padded, and never truncated.
WITHOUT_EFFECT = {"truncation", "padding", "ignore_warning", "framework"}


def is_own(decoder) -> bool:
    """Returns whether a decoder is a `BeamSearchDecoder`."""
    beam_search = sys.modules.get(f"{__package__}.beam_search")  # which needs flashlight; whoever has a decoder has it
    return beam_search is not None and isinstance(decoder, beam_search.BeamSearchDecoder)


def check_labels(decoder, tokenizer) -> None:
    """Raises `TypeError` for a decoder that is not pyctcdecode's, `ValueError` for one with other labels."""
    if not hasattr(decoder, "decode_beams"):
        raise TypeError(f"decoder is a {type(decoder).__name__}; pass a BeamSearchDecoder, or one of pyctcdecode")
    special = {tokenizer.word_delimiter_token: " ", tokenizer.pad_token: ""}
    labels = [special.get(token, token) for token in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))]
    if (found := decoder._alphabet.labels) != labels:
        raise ValueError(
            f"the decoder has {len(found)} labels, {found[:3]}...; build it with the model's {len(labels)}, "
            f"tokenizer.convert_ids_to_tokens(range(len(tokenizer))), of which {special} are replaced"
        )


def check_arguments(names: set[str]) -> None:
    """Raises `TypeError` for the first of the arguments that has no meaning for any speech recognition pipeline."""
    if not names - WITHOUT_EFFECT:
        return
    from transformers import GenerationConfig, GenerationMixin, Pipeline, WhisperForConditionalGeneration, pipeline

    generate = {*vars(GenerationConfig())}
    for model in (GenerationMixin, WhisperForConditionalGeneration):
        generate.update(signature(model.generate).parameters)
    construction = {"decoder", *signature(pipeline).parameters, *signature(Pipeline.__init__).parameters} - generate
    for name in sorted(names - WITHOUT_EFFECT - generate):
        if name == "sampling_rate":
            raise TypeError('sampling_rate belongs to the input: pass {"array": samples, "sampling_rate": rate}')
        if name in OTHER_ARGUMENTS:
            raise TypeError(f"{name} is an argument of the pipeline, not one of generate_kwargs")
        if name in construction:
            raise TypeError(f"{name} is an argument of pipeline(...), not of a call")
        near = get_close_matches(name, (*STOCK_ARGUMENTS, *OTHER_ARGUMENTS, *construction), 1)
        way_out = f"do you mean {near[0]}?" if near else f"it has {', '.join((*STOCK_ARGUMENTS, *OTHER_ARGUMENTS))}"
        raise TypeError(f"the pipeline has no argument {name}; {way_out}")
