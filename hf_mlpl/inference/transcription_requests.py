"""Makes the inputs of models that generate text: the audio, and the request to transcribe speech of a language.

The model's own processor makes them. Whisper and SeamlessM4T have requests of their own kind.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, EncoderDecoderCache, GenerationMixin, PreTrainedModel, ProcessorMixin
from transformers.modeling_outputs import BaseModelOutput

from ..error_line import error_line

# Audio that a model gets at a time, at most: Whisper's window. Others that take more were trained on about as much.
WINDOW_SECONDS = 30.0
CACHE_BYTES = 2**29  # keys and values of the windows in a Whisper's batch on a CPU, about
INSTRUCTION = "can you transcribe the speech into a written format?"  # from the model card of Granite Speech
# Names of languages that models have for those of Common Voice's locales, after the ISO code itself.
OTHER_NAMES = {"jv": "jw", "nb": "no", "no": "nb", "tl": "fil", "fil": "tl", "he": "iw", "zh-HK": "yue"}
HEARD = -1  # in a Whisper's prompt, stands for the token of the likeliest language
# The names of the parameter by which a processor takes the language of the speech.
LANGUAGE_PARAMETERS = ("language", "source_language")


def names_of_language(locale: str) -> list[str]:
    """Returns the names that models may have for the language of a locale, the likeliest first.

    >>> names_of_language("sv-SE"), names_of_language("nb-NO")
    (['sv-SE', 'sv', 'swe'], ['nb-NO', 'nb', 'no', 'nob'])
    """
    code = locale.split("-")[0]
    names = [OTHER_NAMES.get(locale), locale, code, OTHER_NAMES.get(code), _three_letters(code)]
    return list(dict.fromkeys(name for name in names if name))


def _three_letters(code: str) -> str | None:
    """Returns the ISO 639-3 code for one of ISO 639-1; None if transformers has no model that knows it."""
    try:
        from transformers.models.omniasr.processing_omniasr import ISO_639_1_TO_LANGUAGE
    except ImportError:  # an older transformers
        return None
    return ISO_639_1_TO_LANGUAGE[code].split("_")[0] if code in ISO_639_1_TO_LANGUAGE else None


class Request:
    """Makes a model's inputs from waveforms, with the request to transcribe speech of a language.

    Loader workers hold it, so it is without the weights.
    """

    languages: Sequence[str] = ()  # whose probabilities `look` returns
    runs_in_threads = False  # whether threads may generate with one model at a time
    hears_language = False  # whether `look` fills in the language of the speech where the inputs have none

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin):
        self.processor, self.name = processor, model.config._name_or_path
        # Granite's processor has another name for it.
        self.extractor = getattr(processor, "feature_extractor", None) or processor.audio_processor
        self.sampling_rate: int = getattr(self.extractor, "sampling_rate", 16_000)
        self.has_own_request = hasattr(processor, "apply_transcription_request")
        self.is_chat = not self.has_own_request and hasattr(processor, "audio_token")
        method = type(processor).apply_transcription_request if self.has_own_request else type(processor).__call__
        self.parameters = set(inspect.signature(method).parameters)
        self.decode_options: dict[str, Any] = {"skip_special_tokens": True}
        if "return_format" in inspect.signature(type(processor).decode).parameters:
            # Qwen3-ASR and VibeVoice write the language or speakers before the text.
            self.decode_options["return_format"] = "transcription_only"
        self.is_encoder_decoder = bool(model.config.is_encoder_decoder)

    @property
    def window_seconds(self) -> float:
        """Returns the audio that the model gets at a time, at most."""
        return min(WINDOW_SECONDS, getattr(self.extractor, "chunk_length", None) or WINDOW_SECONDS)

    @property
    def language_parameter(self) -> str | None:
        return next((name for name in LANGUAGE_PARAMETERS if name in self.parameters), None)

    def language(self, locale: str) -> str | None:
        """Returns the model's name of a locale's language; None for a model that is not told the language.

        Raises:
            ValueError: for a language that the model does not know.
        """
        if self.language_parameter is None:
            return None
        problem = None
        # OmniASR-LLM's names have a script: kmr_latn.
        spelled = re.compile(rf"<\|lang:({re.escape(locale.split('-')[0])}_\w+)\|>")
        found = (spelled.fullmatch(token) for token in sorted(self.processor.tokenizer.get_vocab()))
        for name in chain(names_of_language(locale), (match[1] for match in found if match)):
            try:
                self.inputs_of_one(np.zeros(self.sampling_rate, np.float32), name)
                return name
            except (KeyError, ValueError) as error:
                problem = problem or error
        raise self.unknown(locale, error_line(problem)[:200])

    def unknown(self, locale: str, reason: str) -> ValueError:
        return ValueError(
            f"{self.name} does not know the language {locale} ({reason}); leave it out with --languages, or take "
            "another teacher for it"
        )

    def inputs(self, samples: Sequence[np.ndarray], language: str | None) -> dict:
        """Returns the arguments of the model's `generate`.

        The processor makes those of one waveform at a time: some make other features at the end of an utterance that
        has a longer one beside it (Qwen3-ASR's).

        Args:
            samples: waveforms (N,).
            language: of all of them, from `language`.
        """
        made = [self.inputs_of_one(waveform, language) for waveform in samples]
        return {name: self._padded(name, [inputs[name] for inputs in made]) for name in made[0]}

    def inputs_of_one(self, samples: np.ndarray, language: str | None) -> dict:
        """Returns what the processor makes of a waveform (N,)."""
        options = {"sampling_rate": self.sampling_rate, "return_tensors": "pt"}
        asked: dict[str, Any] = {} if language is None else {self.language_parameter: language}
        if self.has_own_request:
            if "model_id" in self.parameters:  # Voxtral's, which encodes the samples as files
                asked |= {"model_id": self.name, "format": "wav", "sampling_rate": self.sampling_rate}
            return dict(self.processor.apply_transcription_request([samples], return_tensors="pt", **asked))
        if self.is_chat:
            chat = [{"role": "user", "content": f"{self.processor.audio_token}{INSTRUCTION}"}]
            template = getattr(self.processor, "chat_template", None)
            text = self.processor.tokenizer.apply_chat_template(
                chat, chat_template=template, tokenize=False, add_generation_prompt=True
            )
            return dict(self.processor(text=[text], audio=[samples], return_tensors="pt"))
        return dict(self.processor(audio=[samples], **asked, return_attention_mask=True, **options))

    def _padded(self, name: str, values: list) -> Any:
        """Joins the tensors of an input, padded with zeros; prompts of language models are padded on the left."""
        if not torch.is_tensor(values[0]):
            return values[0]
        shape = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
        is_prompt = not self.is_encoder_decoder and name in ("input_ids", "attention_mask")
        fill = self.processor.tokenizer.pad_token_id or 0 if name == "input_ids" else 0
        padded = []
        for value in values:
            missing = [size - given for size, given in zip(shape, value.shape[1:], strict=True)]
            widths = [width for size in reversed(missing) for width in ((size, 0) if is_prompt else (0, size))]
            padded.append(torch.nn.functional.pad(value, widths, value=fill))
        return torch.cat(padded)

    def look(self, model: PreTrainedModel, inputs: dict) -> tuple[dict, list[float] | None, torch.Tensor | None]:
        """Returns the inputs, and what the model hears before it writes, for models that say it.

        These are the probability of no speech of each row, and the log-probabilities (B, L) of `self.languages`.
        """
        return inputs, None, None

    def cpu_batch_seconds(self, model: PreTrainedModel) -> float:
        """Returns the audio of a batch on a CPU, by default."""
        return 240.0

    def generate(self, model: PreTrainedModel, inputs: dict, **options) -> torch.Tensor:
        """Returns the generated token ids (B, L); they may begin with the prompt."""
        return model.generate(**inputs, **options)

    def text(self, tokens: torch.Tensor) -> str:
        return self.processor.decode(tokens, **self.decode_options).strip()


class WhisperRequest(Request):
    """Makes Whisper's inputs: a window of features, and the prompt of its decoder."""

    runs_in_threads = True

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin):
        super().__init__(model, processor)
        config = model.generation_config
        is_multilingual = getattr(config, "is_multilingual", True)
        needed = ["no_timestamps_token_id", *(["lang_to_id", "task_to_id"] if is_multilingual else [])]
        if missing := [name for name in needed if not getattr(config, name, None)]:
            raise ValueError(
                f"{self.name}: its generation_config.json has no {' and '.join(missing)}; take that of the model from "
                "which it was fine-tuned, such as openai/whisper-small"
            )
        self.start = config.decoder_start_token_id
        self.no_timestamps, self.task = config.no_timestamps_token_id, []
        self.ids: dict[str, int] = {}  # of the languages' tokens
        if is_multilingual:
            self.ids = {token.strip("<|>"): number for token, number in config.lang_to_id.items()}
            self.task = [config.task_to_id["transcribe"]]
        self.languages = list(self.ids)
        self.hears_language = is_multilingual

    def cpu_batch_seconds(self, model: PreTrainedModel) -> float:
        # Products with fewer than 16 rows are slow. But the decoder of a large model needs much memory for a window,
        # and takes a small share of the time.
        config = model.config
        num_bytes = 2 * config.decoder_layers * config.max_source_positions * config.d_model * model.dtype.itemsize
        return self.window_seconds * min(max(CACHE_BYTES // num_bytes, 4), 16)

    def language(self, locale: str) -> str:
        known = self.languages or ["en"]
        if language := next((name for name in names_of_language(locale) if name in known), None):
            return language
        raise self.unknown(locale, f"it knows {', '.join(known[:5])}{', ...' if len(known) > 5 else ''}")

    def inputs_of_one(self, samples: np.ndarray, language: str | None) -> dict:
        features = self.extractor(samples, sampling_rate=self.sampling_rate, return_tensors="pt")["input_features"]
        said = [HEARD if language is None else self.ids[language]] if self.ids else []
        prompt = [self.start, *said, *self.task, self.no_timestamps]
        return {"input_features": features, "decoder_input_ids": torch.tensor([prompt])}

    def look(self, model: PreTrainedModel, inputs: dict) -> tuple[dict, list[float] | None, torch.Tensor | None]:
        features, encoder = inputs["input_features"], model.get_encoder()
        # A CPU's cache holds the layers' outputs of one window, but not those of a batch.
        windows = features.split(1 if features.device.type == "cpu" else len(features))
        encoded = BaseModelOutput(torch.cat([encoder(window).last_hidden_state for window in windows]))
        start = inputs["decoder_input_ids"][:, :1]
        output = model(encoder_outputs=encoded, decoder_input_ids=start, use_cache=True)
        logits = output.logits[:, 0].float()
        # The token for no speech precedes that for no timestamps, as transformers' `WhisperNoSpeechDetection` has it.
        no_speech = logits.softmax(-1)[:, self.no_timestamps - 1].tolist()
        languages = logits[:, list(self.ids.values())].log_softmax(-1).cpu() if self.ids else None
        mask = torch.ones(features.shape[0], encoded[0].shape[1], dtype=torch.long, device=start.device)
        prompt = inputs["decoder_input_ids"]
        if languages is not None:
            heard = torch.tensor(list(self.ids.values()))[languages.argmax(-1)].to(prompt.device)
            prompt = torch.where(prompt == HEARD, heard[:, None], prompt)
        inputs = {"decoder_input_ids": prompt, "encoder_outputs": encoded}
        inputs["attention_mask"] = mask  # `generate` warns without one
        # The decoder need not make keys and values of the windows again. Older releases have the other name.
        name = "cache" if "cache" in output else "past_key_values"
        cache = EncoderDecoderCache(DynamicCache(), output[name].cross_attention_cache)
        return inputs | {name: cache}, no_speech, languages

    def generate(self, model: PreTrainedModel, inputs: dict, **options) -> torch.Tensor:
        # Whisper's own `generate` would encode again, and adds a search in several windows, which pieces do not need.
        # `look` has made the cache, whatever kind `generation_config.json` names.
        return GenerationMixin.generate(model, **inputs, **options, cache_implementation=None)


class SeamlessRequest(Request):
    """Makes the inputs of SeamlessM4T, whose `generate` takes the language."""

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin):
        super().__init__(model, processor)
        self.known = getattr(model.generation_config, "text_decoder_lang_to_code_id", ())
        if not self.known:
            raise ValueError(
                f"{self.name}: its generation_config.json has no text_decoder_lang_to_code_id; take that of the model "
                "from which it was fine-tuned"
            )

    def language(self, locale: str) -> str:
        if language := next((name for name in names_of_language(locale) if name in self.known), None):
            return language
        raise self.unknown(locale, f"it knows {len(self.known)} others")

    def inputs_of_one(self, samples: np.ndarray, language: str | None) -> dict:
        return super().inputs_of_one(samples, None) | {"tgt_lang": language}


def make_request(model: PreTrainedModel, processor: ProcessorMixin) -> Request:
    parameters = inspect.signature(type(model).generate).parameters
    if "return_timestamps" in parameters:
        return WhisperRequest(model, processor)
    if "tgt_lang" in parameters:
        return SeamlessRequest(model, processor)
    return Request(model, processor)
