"""Loads any model that recognises speech, and transcribes with it: a CTC model, or one that generates text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import (
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.models.auto import modeling_auto

from ..ctc_models.loading import adapter_languages, check_extractor, load_adapter, read_config
from ..data.heard_speech import HeardSpeech
from ..data.rows import durations_of
from ..data.summary import languages_in
from ..error_line import error_line
from ..model.model_files import list_names
from .candidates import PathSearch
from .clock import Clock
from .decoding import Hypothesis, PieceBatches, decode_beside, default_batch_seconds, transcribe, workers_of
from .generation import GenerativeTranscriber, generates
from .loading import load_model
from .shard_stream import LONG_SHARE, LONGEST_SECONDS, ShardStream
from .transcription_requests import names_of_language

Transcribe = Callable[..., Iterator[Hypothesis]]  # as `transcribe`, with a model


def load_recognizer(name: str, locales: Sequence[str] = (), any_language: bool = False) -> tuple[PreTrainedModel, Any]:
    """Loads a model in evaluation mode, and its processor.

    Args:
        name: folder or Hub name.
        locales: languages of the utterances. An MMS model gets its adapter for the language.
        any_language: accepts several for an MMS model, which gets an adapter of one of them, and those that it has no
            adapter for; `transcriber_of_languages` loads the others.

    Raises:
        OSError: for a model that does not exist.
        ValueError: for a model that does not recognise speech, and for one whose parts cannot be loaded; as
            `adapter_of` does.
    """
    config = read_config(name)
    if not generates(config):
        if any_language:
            locales = [*adapters_of(name, config, locales), *locales][:1]
        return load_model(name, adapter_of(name, config, locales))
    check_extractor(name)
    is_speech_model = type(config) in modeling_auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING
    kind = AutoModelForSpeechSeq2Seq if is_speech_model else modeling_auto.AutoModelForMultimodalLM
    try:
        processor = AutoProcessor.from_pretrained(name)
        if not isinstance(processor, ProcessorMixin):  # without a tokenizer, say
            raise ValueError(f"it has a {type(processor).__name__} alone")
        if not (hasattr(processor, "feature_extractor") or hasattr(processor, "audio_processor")):
            raise ValueError(f"it is a {type(processor).__name__}, which takes no sound")
    except Exception as error:  # damaged files make readers raise nearly anything
        raise ValueError(f"{name}: its processor cannot be loaded ({error_line(error)[:300]})") from error
    try:
        model, loading = kind.from_pretrained(name, output_loading_info=True)
    except Exception as error:
        raise ValueError(f"{name}: its weights cannot be loaded ({error_line(error)[:300]})") from error
    num_tokens, num_classes = len(processor.tokenizer), model.config.get_text_config(decoder=True).vocab_size
    if num_tokens < num_classes / 2:  # transformers makes an empty tokenizer where a file is missing
        raise ValueError(
            f"{name}: its tokenizer has {num_tokens} tokens, but its model {num_classes}; a file of the tokenizer is "
            "missing, download it again"
        )
    if missing := sorted(loading["missing_keys"]):
        raise ValueError(f"{name}: its weights lack {len(missing)} tensors, such as {missing[0]}; download it again")
    return model.eval(), processor


def adapter_of(name: str, config: PreTrainedConfig, locales: Sequence[str]) -> str | None:
    """Returns the adapter of an MMS model for a language; None for other models, and without a language.

    Raises:
        ValueError: for several languages, as one adapter is loaded at a time, and for one that has no adapter.
    """
    adapters = adapter_languages(name, config)
    if not adapters or not locales:
        return None
    if len(locales) > 1:
        raise ValueError(
            f"{name}: has an adapter for each language, and the utterances are in {', '.join(locales)}; give one of "
            "them at a time, with --languages"
        )
    if of_locale := adapters_of(name, config, locales):
        return of_locale[locales[0]]
    raise ValueError(f"{name}: has no adapter for the language {locales[0]}; it has {list_names(adapters)}")


def adapters_of(name: str, config: PreTrainedConfig, locales: Iterable[str]) -> dict[str, str]:
    """Returns the adapters of an MMS model for languages, as far as it has one; none for other models."""
    adapters = adapter_languages(name, config)
    found = {locale: [known for known in names_of_language(locale) if known in adapters] for locale in locales}
    return {locale: names[0] for locale, names in found.items() if names}


def transcriber(
    model: PreTrainedModel,
    processor: Any,
    dataset: Dataset,
    search: PathSearch | None = None,
    heard: HeardSpeech | None = None,
) -> Transcribe:
    """Returns a function with the arguments of `transcribe` after the processor, for parts of a data set.

    Args:
        search, heard: of `transcribe`, for a CTC model.

    Raises:
        ValueError: for utterances of a language that a generating model does not know.
    """
    if not generates(model.config):
        return partial(transcribe, model, processor, search=search, heard=heard)
    return GenerativeTranscriber(model, processor, languages_in(dataset))


def shard_stream(
    transcribe: Transcribe,
    model: PreTrainedModel,
    processor: Any,
    dataset: Dataset,
    max_batch_seconds: float | None,
    num_workers: int | None,
    search: PathSearch | None = None,
    heard: HeardSpeech | None = None,
) -> ShardStream | None:
    """Returns a stream that decodes shards of a data set as `transcribe`, from `transcriber`, decodes each of them.

    None without loader workers, and where much of the audio is utterances so long that a worker must not hold one.
    """
    num_workers, seconds = workers_of(model, num_workers), durations_of(dataset)
    is_long = seconds > LONGEST_SECONDS
    if not num_workers or seconds[is_long].sum() > LONG_SHARE * seconds.sum():
        return None
    model.eval()
    if isinstance(transcribe, GenerativeTranscriber):
        maker, decode = transcribe.batches_of(dataset, max_batch_seconds), partial(transcribe.decode, clock=Clock())
    else:
        seconds = default_batch_seconds(model, max_batch_seconds)
        maker = PieceBatches(dataset, processor, model.config, seconds, heard)
        decode = partial(decode_beside, model, maker.ctc, search=search)
    long_rows = np.flatnonzero(is_long).tolist()
    return ShardStream(maker, decode, long_rows, num_workers, pin_memory=model.device.type == "cuda")


@dataclass(frozen=True)
class LanguagesOfModel:
    """Says what a model does with the languages of a test set.

    Args:
        transcribe: as `transcribe`, with a model.
        unknown: locales that the model does not know, and transcribes as if they were others.
        left_out: locales that it cannot transcribe.
    """

    transcribe: Transcribe
    unknown: list[str]
    left_out: list[str]


def transcriber_of_languages(
    name: str, model: PreTrainedModel, processor: Any, locales: Sequence[str], search: PathSearch | None = None
) -> LanguagesOfModel:
    """Finds out how a model from `load_recognizer` transcribes each of several languages, also those it does not know.

    An MMS model gets the adapter of each language in its turn.

    Args:
        search: of `transcribe`, for a CTC model.

    Raises:
        ValueError: for a model that can transcribe none of the languages.
    """
    if generates(model.config):
        writer = GenerativeTranscriber(model, processor, locales, any_language=True)
        return LanguagesOfModel(writer, writer.unknown, writer.left_out)
    if adapters := adapters_of(name, read_config(name), locales):
        left_out = [locale for locale in locales if locale not in adapters]
        return LanguagesOfModel(partial(_transcribe_by_adapter, name, adapters, model, processor), [], left_out)
    known = getattr(model.config, "languages", None) or locales
    unknown = [locale for locale in locales if locale not in known]
    return LanguagesOfModel(partial(transcribe, model, processor, search=search), unknown, [])


def _transcribe_by_adapter(
    name: str, adapters: Mapping[str, str], model: PreTrainedModel, processor: Any, dataset: Dataset, *arguments
) -> Iterator[Hypothesis]:
    """Transcribes the languages of a data set one after another, as `transcribe` does each of them."""
    languages = np.array(dataset["language"][:])
    for locale in sorted(set(languages.tolist())):
        if len(adapters) > 1:
            load_adapter(name, model, processor.tokenizer, adapters[locale])
        rows = np.flatnonzero(languages == locale)
        for hypothesis in transcribe(model, processor, dataset.select(rows), *arguments):
            yield replace(hypothesis, row=int(rows[hypothesis.row]))
