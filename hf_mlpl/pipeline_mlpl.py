"""The speech recognition pipeline: reads audio without ffmpeg, torchaudio or torchcodec, and says the language too.

`import hf_mlpl` names this class in transformers' task registry, so that `pipeline("automatic-speech-recognition")`
finds it; it hands every other model to the class that stood there.
"""

from __future__ import annotations

import os

import torch
from huggingface_hub.utils import httpx
from transformers import AutomaticSpeechRecognitionPipeline
from transformers.pipelines import SUPPORTED_TASKS
from transformers.pipelines.automatic_speech_recognition import rescale_stride

from .audio import load_audio


class MlplSpeechRecognitionPipeline(AutomaticSpeechRecognitionPipeline):
    """
    Text and language of recordings; arguments and results as in [`AutomaticSpeechRecognitionPipeline`], but:

    An input is a path, an http(s) address, the bytes of a file, an array at the model's sampling rate, or a dict as
    [`~audio.load_audio`] takes it: `array` (or `raw`) with any `sampling_rate`, `bytes` or `path`, and `start` and
    `end` in seconds. A dict may have `stride`, and other keys are passed through to the result. Whatever cannot be
    read raises [`~audio.AudioError`], a `ValueError` that names the file.

    Results also have `language` and `language_probability`, if the model has languages. With `chunk_length_s`, they
    come from the mean of the chunks' language log-probabilities, weighted by the frames that each chunk contributes
    to the text (that is, without its strides) and normalised again.

    `decoder`, a [`~beam_search.BeamSearchDecoder`], replaces greedy decoding. It sees the logits of all chunks
    together, and words with timestamps then have their `confidence` as well.
    """

    def __new__(cls, model=None, *args, **kwargs):
        if model is not None and model.config.model_type != "mlpl":
            return AutomaticSpeechRecognitionPipeline(model, *args, **kwargs)
        return super().__new__(cls)

    def __init__(self, *args, decoder=None, **kwargs):
        # The stock class, given it, would want pyctcdecode's decoder and warn that it is deprecated.
        super().__init__(*args, **kwargs)
        self.decoder = decoder

    def preprocess(self, inputs, chunk_length_s=0, stride_length_s=None):
        sampling_rate = self.feature_extractor.sampling_rate
        if isinstance(inputs, str) and inputs.startswith(("http://", "https://")):
            response = httpx.get(inputs, follow_redirects=True).raise_for_status()
            inputs = {"bytes": response.content, "path": inputs}
        if isinstance(inputs, (str, os.PathLike, bytes)):
            inputs = load_audio(inputs, sampling_rate)
        elif isinstance(inputs, dict):
            inputs = dict(inputs)
            audio = {key: inputs.pop(key, None) for key in ("array", "bytes", "path", "sampling_rate", "start", "end")}
            raw = inputs.pop("raw", None)
            audio["array"] = audio["array"] if raw is None else raw
            inputs |= {"array": load_audio(audio, sampling_rate), "sampling_rate": sampling_rate}
            if inputs.get("stride") is not None:  # counted in samples of the array that came in
                ratio = sampling_rate / (audio["sampling_rate"] or sampling_rate)
                inputs["stride"] = tuple(round(samples * ratio) for samples in inputs["stride"])
        yield from super().preprocess(inputs, chunk_length_s=chunk_length_s, stride_length_s=stride_length_s)

    def _forward(self, model_inputs, return_timestamps=False, **kwargs):
        # The stock class keeps the logits alone of what the model returns.
        outputs = self.model(
            input_features=model_inputs.pop("input_features"), attention_mask=model_inputs.pop("attention_mask")
        )
        if self.decoder is not None:
            model_inputs["logits"] = outputs.logits
        else:
            model_inputs["tokens"] = outputs.logits.argmax(dim=-1)
        if outputs.language_log_probs is not None:
            model_inputs["language_log_probs"] = outputs.language_log_probs
        stride = model_inputs.pop("stride", None)  # in samples: a tuple, or a list of them for a batch
        if stride is not None:
            ratio = 1 / self._align_to
            is_batch = isinstance(stride, list)
            model_inputs["stride"] = rescale_stride(stride, ratio) if is_batch else rescale_stride([stride], ratio)[0]
        return model_inputs

    def postprocess(self, model_outputs, decoder_kwargs=None, return_timestamps=None):
        language = {}
        chunks = [output.pop("language_log_probs") for output in model_outputs if "language_log_probs" in output]
        if chunks:
            strides = [output.get("stride", (1, 0, 0)) for output in model_outputs]
            weights = torch.tensor([max(frames - left - right, 1) for frames, left, right in strides])
            log_probs = (torch.cat(chunks) * weights[:, None]).sum(dim=0) / weights.sum()
            probability, index = log_probs.softmax(dim=0).max(dim=0)
            language = {
                "language": self.model.config.languages[int(index)],
                "language_probability": float(probability),
            }
        hypothesis = self._beam_search(model_outputs) if self.decoder is not None else None
        result = super().postprocess(model_outputs, decoder_kwargs, return_timestamps)
        if hypothesis is not None and return_timestamps == "word":
            for chunk, word in zip(result["chunks"], hypothesis.words, strict=True):
                chunk["confidence"] = word["confidence"]
        return {"text": result.pop("text"), **language, **result}

    def _beam_search(self, model_outputs):
        """The decoder's hypothesis of all chunks; in `model_outputs` its labels replace the logits."""
        pieces = []
        for output in model_outputs:
            logits = output.pop("logits")[0]
            frames, left, right = output.pop("stride", (len(logits), 0, 0))
            pieces.append(logits[left : frames - right])
        (hypothesis,) = self.decoder.decode(torch.cat(pieces)[None])
        for output, labels in zip(model_outputs, hypothesis.labels.split(list(map(len, pieces))), strict=True):
            output["tokens"] = labels[None]
        return hypothesis


SUPPORTED_TASKS["automatic-speech-recognition"]["impl"] = MlplSpeechRecognitionPipeline

__all__ = ["MlplSpeechRecognitionPipeline"]
