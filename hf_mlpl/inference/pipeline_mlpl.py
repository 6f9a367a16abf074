"""Recognises speech and its language in a transformers pipeline, without ffmpeg, torchaudio or torchcodec.

`import hf_mlpl` registers this class for the task "automatic-speech-recognition", so that `pipeline` finds it. For
models of other kinds it makes transformers' own pipeline.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np
import torch
from transformers import AutomaticSpeechRecognitionPipeline
from transformers.pipelines import SUPPORTED_TASKS, automatic_speech_recognition
from transformers.pipelines.automatic_speech_recognition import rescale_stride

from ..audio.addresses import fetched
from ..audio.reading import stream_audio
from ..model.processing_mlpl import check_parts
from .pieces import cut, explain_memory_errors, join_language_log_probs, prefetch
from .pipeline_arguments import STOCK_ARGUMENTS, check_arguments, check_labels, is_own
from .pipeline_inputs import collect_inputs, split_input

# An input's value under one of these keys, such as the reference text of a row, must not pass for the model's result.
RESULT_KEYS = {"text", "chunks", "language", "language_probability", "languages"}

PREFETCHED_PIECES = 8  # of a long recording; each takes 2.4 MB

# A forked child lacks the threads that torch has started, and would wait for them forever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))


class MlplSpeechRecognitionPipeline(AutomaticSpeechRecognitionPipeline):
    """
    Recognises text and language of recordings as [`AutomaticSpeechRecognitionPipeline`] does, with these differences:

    An input is a path, an http(s) address, the bytes of a file, an open binary file, an array or a tensor at the
    model's sampling rate, or a dict as [`~reading.load_audio`] takes it: `array` (or `raw`) with any `sampling_rate`,
    `bytes` or `path`, and `start` and `end` in seconds. A dict may have `stride`. A row of a data set is a dict with
    any of these under `audio`. Other keys are passed through to the result, each as a list of one value, except those
    that the result has itself, such as a row's `text`. Audio that cannot be read raises [`~decoders.AudioError`], a
    `ValueError` that names the file or address.

    A list or a tuple of inputs gives a list of results. An iterator, a [`datasets.Dataset`] or
    [`datasets.IterableDataset`] or one of their columns, or a `KeyDataset` of transformers gives an iterator of
    results, which reads at most a batch in advance. A data set needs a column `audio`, or one column of audio.

    A recording of more than 35 s is recognised in overlapping pieces, see [`~pieces.cut`], which are read as they are
    needed: memory does not grow with its length. `chunk_length_s` and `stride_length_s` ask for other pieces, and
    `chunk_length_s=0` for the recording at once. Too little memory raises a `MemoryError` of one line.

    Results also have `language` and `language_probability`, if the model has languages. For pieces, they come from the
    mean of the pieces' language log-probabilities, weighted by the frames that each contributes to the text (that is,
    without its strides) and normalised again.

    `decoder`, a [`~beam_search.BeamSearchDecoder`], replaces greedy decoding. It sees the logits of all pieces
    together, which are kept until then, and words with timestamps then have their `confidence` as well. A
    `BeamSearchDecoderCTC` of pyctcdecode with the model's labels works as in the stock class.

    `truncation` and the arguments of `generate`, such as `max_new_tokens`, are accepted without effect, as the stock
    class does for CTC models; `language` may be among `generate_kwargs`. Other arguments raise a `TypeError`.

    Args:
        language (`str`, *optional*): one of the tokenizer's languages, also as an argument of a call. The text has its
            characters only; the `language` of the result is still the one that the model recognises.
        top_k_languages (`int`, *optional*): adds `languages` to the result, a list of this many dicts of `language`
            and `probability`, the likeliest first; also as an argument of a call.
        return_confidence (`bool`, *optional*): adds `confidence` to each of the `chunks` of `return_timestamps`, the
            geometric mean, over its output frames, of the probability of the frame's class; also as an argument of a
            call. Not with a decoder of pyctcdecode.
    """

    # Gradio takes a pipeline by the module of its class.
    __module__ = automatic_speech_recognition.__name__

    def __new__(cls, model=None, *args, **kwargs):
        if model is not None and model.config.model_type != "mlpl":
            return AutomaticSpeechRecognitionPipeline(model, *args, **kwargs)
        return super().__new__(cls)

    def __init__(self, *args, decoder=None, **kwargs):
        self.decoder = decoder
        # The stock class would take a decoder of ours for pyctcdecode's.
        super().__init__(*args, decoder=None if is_own(decoder) else decoder, **kwargs)
        check_parts(self.model.config, self.feature_extractor, self.tokenizer)
        if self.type == "ctc_with_lm":
            check_labels(decoder, self.tokenizer)

    def __reduce_ex__(self, protocol):
        make, arguments, *state = super().__reduce_ex__(protocol)
        if type(self) is MlplSpeechRecognitionPipeline:  # which that module lacks, where hf_mlpl is not imported
            make, arguments = _empty_pipeline, ()
        return make, arguments, *state

    def __call__(self, inputs, **kwargs):
        collected = collect_inputs(inputs)
        if isinstance(collected, list) and not collected:  # the stock class looks at the first one
            return []
        answers = super().__call__(collected, **kwargs)
        return list(answers) if isinstance(inputs, list) else answers

    def _sanitize_parameters(self, generate_kwargs=None, **kwargs):
        kwargs = {**(generate_kwargs or {}), **kwargs}
        language, top_k_languages = kwargs.pop("language", None), kwargs.pop("top_k_languages", None)
        return_confidence = kwargs.pop("return_confidence", None)
        wants_language = kwargs.pop("return_language", False)  # the result has it in any case
        if kwargs.get("task", "transcribe") != "transcribe":
            raise ValueError(f"task is {kwargs['task']!r}; this model writes what is said, task='transcribe'")
        if kwargs.get("return_timestamps") is False:  # the stock class would ask for "char" or "word"
            del kwargs["return_timestamps"]
        if kwargs.get("decoder_kwargs") and is_own(self.decoder):
            raise ValueError(
                "decoder_kwargs are for pyctcdecode's decoder; a BeamSearchDecoder is made with its options"
            )
        check_arguments(kwargs.keys() - set(STOCK_ARGUMENTS))
        # The stock class would have other arguments for `generate`.
        kwargs = {name: kwargs[name] for name in STOCK_ARGUMENTS if name in kwargs}
        preprocess_params, _, postprocess_params = super()._sanitize_parameters(**kwargs)
        forward_params = {} if language is None else {"allowed_ids": self.tokenizer.allowed_ids(language)}
        if return_confidence is not None:
            if return_confidence and self.type == "ctc_with_lm":
                raise ValueError("return_confidence was given, but a decoder of pyctcdecode gives no frames of words")
            forward_params["return_confidence"] = postprocess_params["return_confidence"] = return_confidence
        if top_k_languages is not None:
            if top_k_languages < 1:
                raise ValueError(f"top_k_languages is {top_k_languages}; it must be at least 1")
            postprocess_params["top_k_languages"] = top_k_languages
        if (top_k_languages or wants_language) and not self.model.config.languages:
            name = "top_k_languages" if top_k_languages else "return_language"
            raise ValueError(f"{name} was given, but this model has no languages")
        return preprocess_params, forward_params, postprocess_params

    def preprocess(self, inputs, chunk_length_s=None, stride_length_s=None):
        audio, stride, others = split_input(inputs, self.feature_extractor.sampling_rate)
        # One key, so that inputs with other keys fit into one batch, and none of them replaces one of ours.
        others = {"others": {key: value for key, value in others.items() if key not in RESULT_KEYS}}
        with fetched(audio) as audio:
            if chunk_length_s is None and stride is None:
                chunks = self._pieces(audio)
                yield others | (first := next(chunks))
                if first["is_last"]:
                    return
                chunks = prefetch(chunks, PREFETCHED_PIECES)  # while the model is at work
            else:
                chunks = self._chunks(audio, stride, chunk_length_s, stride_length_s)
            for chunk in chunks:
                yield others | chunk

    def _chunks(self, audio: dict, stride, chunk_length_s, stride_length_s) -> Iterator[dict]:
        """Yields the chunks of the stock class, which needs the whole recording in memory."""
        sampling_rate = self.feature_extractor.sampling_rate
        samples = np.concatenate([np.empty(0, dtype=np.float32), *self._blocks(audio)])
        inputs = {"array": samples, "sampling_rate": sampling_rate}
        if stride is not None:  # in samples of the input's own rate
            ratio = sampling_rate / (audio["sampling_rate"] or sampling_rate)
            inputs["stride"] = tuple(round(samples * ratio) for samples in stride)
        for chunk in super().preprocess(inputs, chunk_length_s=chunk_length_s, stride_length_s=stride_length_s):
            num_samples, left, right = chunk.get("stride", (len(samples), 0, 0))
            yield {"num_samples": num_samples - left - right} | chunk

    def _pieces(self, audio: dict) -> Iterator[dict]:
        """Yields the pieces of a recording as chunks of the stock class, reading them as they are needed."""
        extractor, samples_per_frame = self.feature_extractor, self._align_to
        for piece in cut(self._blocks(audio), extractor.sampling_rate, samples_per_frame):
            features = extractor(
                piece.samples, sampling_rate=extractor.sampling_rate, return_tensors="pt", return_attention_mask=True
            )
            num_frames = self.model.config.num_output_frames(features["input_features"].shape[1])
            yield {
                "is_last": piece.is_last,
                "stride": tuple(frames * samples_per_frame for frames in (num_frames, piece.left, piece.right)),
                "num_samples": len(piece.samples) - (piece.left + piece.right) * samples_per_frame,
                **features.to(dtype=self.dtype),
            }

    def _blocks(self, audio: dict) -> Iterable[np.ndarray]:
        if audio["array"] is not None and not audio["array"].size:
            return []  # an empty array is silence, whereas a file without samples is damaged
        return stream_audio(audio, self.feature_extractor.sampling_rate)

    def _forward(self, model_inputs, allowed_ids=None, return_confidence=False):
        # The stock class would keep the logits alone.
        features, mask = model_inputs.pop("input_features"), model_inputs.pop("attention_mask")
        batch_size, num_frames = mask.shape
        seconds = num_frames * self.feature_extractor.hop_length / self.feature_extractor.sampling_rate
        with explain_memory_errors(
            f"a batch of {batch_size} x {seconds:.0f} s of speech does not fit into memory; pass a smaller "
            "batch_size, or a chunk_length_s of some seconds"
        ):
            outputs = self.model(input_features=features, attention_mask=mask)
        logits = outputs.logits
        if allowed_ids is not None:
            is_forbidden = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device)
            is_forbidden[allowed_ids] = False
            logits = logits.masked_fill(is_forbidden, -torch.inf)
        if self.decoder is None:
            model_inputs["tokens"] = logits.argmax(dim=-1)
            if return_confidence:
                model_inputs["log_probs"] = logits.float().log_softmax(dim=-1).amax(dim=-1)
        else:
            # pyctcdecode takes logits of which a frame's sum is 1 for probabilities
            model_inputs["logits"] = logits if self.type == "ctc" else logits.float().log_softmax(dim=-1)
        if outputs.language_log_probs is not None:
            model_inputs["language_log_probs"] = outputs.language_log_probs
        stride = model_inputs.pop("stride", None)  # in samples: a tuple, or a list of them for a batch
        if stride is not None:
            is_batch = isinstance(stride, list)
            strides = rescale_stride(stride if is_batch else [stride], 1 / self._align_to)
            model_inputs["stride"] = strides if is_batch else strides[0]
        return model_inputs

    def postprocess(
        self,
        model_outputs,
        decoder_kwargs=None,
        return_timestamps=None,
        top_k_languages=None,
        return_confidence=False,
    ):
        others = [output.pop("others") for output in model_outputs][0]
        num_samples = sum(output.pop("num_samples") for output in model_outputs)
        languages = self._recognized_languages(model_outputs, top_k_languages)
        hypothesis = self._beam_search(model_outputs) if is_own(self.decoder) else None
        log_probs = _pop_log_probs(model_outputs)
        result = super().postprocess(model_outputs, decoder_kwargs, return_timestamps)
        if hypothesis is not None and return_timestamps == "word":
            for chunk, word in zip(result["chunks"], hypothesis.words, strict=True):
                chunk["confidence"] = word["confidence"]
        elif return_confidence:
            frames_per_second = self.feature_extractor.sampling_rate / self._align_to
            for chunk in result.get("chunks", ()):
                start, end = (round(second * frames_per_second) for second in chunk["timestamp"])
                chunk["confidence"] = float(log_probs[start:end].mean().exp())
        seconds = num_samples / self.feature_extractor.sampling_rate
        for chunk in result.get("chunks", ()):  # the recording may end within the last frame
            chunk["timestamp"] = tuple(min(second, seconds) for second in chunk["timestamp"])
        others = {key: [value] for key, value in others.items()}  # a list, as in the stock class
        return {"text": result.pop("text"), **languages, **result, **others}

    def _recognized_languages(self, model_outputs, top_k: int | None) -> dict:
        """Returns the entries of the result about its language; removes the chunks' log-probabilities from outputs."""
        chunks = [output.pop("language_log_probs") for output in model_outputs if "language_log_probs" in output]
        if not chunks:
            return {}
        strides = [output.get("stride", (1, 0, 0)) for output in model_outputs]
        weights = torch.tensor([max(frames - left - right, 1) for frames, left, right in strides])
        log_probs = join_language_log_probs(torch.cat(chunks), weights)
        names = self.model.config.languages
        probabilities, indices = (best.tolist() for best in log_probs.exp().topk(min(top_k or 1, len(names))))
        ranking = [
            {"language": names[index], "probability": probability}
            for index, probability in zip(indices, probabilities, strict=True)
        ]
        entries = {"language": ranking[0]["language"], "language_probability": ranking[0]["probability"]}
        return entries if top_k is None else entries | {"languages": ranking}

    def _beam_search(self, model_outputs):
        """Returns the decoder's hypothesis for all chunks; its labels replace the logits in `model_outputs`."""
        pieces = []
        for output in model_outputs:
            logits = output.pop("logits")[0]
            frames, left, right = output.pop("stride", (len(logits), 0, 0))
            pieces.append(logits[left : frames - right])
        num_frames = sum(map(len, pieces))
        with explain_memory_errors(
            f"the logits of {num_frames} frames, which beam search needs together, do not fit into memory; pass parts "
            "of the recording (start, end), or no decoder"
        ):
            (hypothesis,) = self.decoder.decode(torch.cat(pieces)[None])
        lengths = list(map(len, pieces))
        for name, values in (("tokens", hypothesis.labels), ("log_probs", hypothesis.log_probs)):
            for output, part in zip(model_outputs, values.split(lengths), strict=True):
                output[name] = part[None]
        return hypothesis


def _pop_log_probs(model_outputs: list[dict]) -> torch.Tensor | None:
    """Removes the log-probabilities (1, S) of pieces' labels; returns those of the middles (S,), if any."""
    middles = []
    for output in model_outputs:
        if (log_probs := output.pop("log_probs", None)) is not None:
            frames, left, right = output.get("stride", (log_probs.shape[1], 0, 0))
            middles.append(log_probs[0, left : frames - right])
    return torch.cat(middles) if middles else None


def _empty_pipeline() -> MlplSpeechRecognitionPipeline:
    return object.__new__(MlplSpeechRecognitionPipeline)  # pickle fills it


SUPPORTED_TASKS["automatic-speech-recognition"]["impl"] = MlplSpeechRecognitionPipeline
automatic_speech_recognition.MlplSpeechRecognitionPipeline = MlplSpeechRecognitionPipeline  # for pickle

__all__ = ["MlplSpeechRecognitionPipeline"]
