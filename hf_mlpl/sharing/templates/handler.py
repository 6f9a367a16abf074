"""Answers requests to an Inference Endpoint with this model, where hf_mlpl is not installed.

The endpoint installs requirements.txt, and calls `EndpointHandler(path)(data)`.
"""

import base64
import io
import threading

import av
import numpy as np
import torch
from transformers import pipeline

LONGEST_SECONDS, PIECE_SECONDS = 35.0, 25.0  # longer recordings are cut into pieces, as hf_mlpl cuts them
CONTEXT_SECONDS = PIECE_SECONDS / 6  # at each end of a piece


class EndpointHandler:
    """Recognises speech, and its language if the model tells it.

    Args:
        path: folder of the model.
    """

    def __init__(self, path: str = ""):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.recognize = pipeline("automatic-speech-recognition", model=path, trust_remote_code=True, device=device)
        # `pipeline` passes no mask as None, which OmniASR's model of transformers 5.24 does not accept.
        self.recognize.model.register_forward_pre_hook(
            lambda model, args, kwargs: (args, {k: v for k, v in kwargs.items() if v is not None}), with_kwargs=True
        )
        self.lock = threading.Lock()  # one recording at a time, for `pieces`
        self.pieces: list[tuple] = []  # of a recording: output frames and language log-probabilities (1, L) or None
        self.recognize.model.register_forward_hook(
            lambda model, inputs, outputs: self.pieces.append(
                (outputs.logits.shape[1], getattr(outputs, "language_log_probs", None))
            )
        )

    def __call__(self, data: dict) -> dict:
        """Returns `text`, `language` and `language_probability` if the model has them, and `chunks` if timestamps are
        asked for.

        Args:
            data: `inputs` are the bytes of a recording, the same in base64, or a dict of samples, `array`, and their
                `sampling_rate`; `parameters` may have `return_timestamps`, `word` or `char`.

        Raises:
            ValueError: for other inputs or parameters.
        """
        parameters = data.get("parameters") or {}
        if unknown := sorted(parameters.keys() - {"return_timestamps"}):
            raise ValueError(f"there is no parameter {', '.join(unknown)}; only return_timestamps, word or char")
        rate = self.recognize.feature_extractor.sampling_rate
        samples = _read(data.get("inputs"), rate)
        # `pipeline` can join the pieces if the model says how many samples an output frame has.
        can_cut = hasattr(self.recognize.model.config, "inputs_to_logits_ratio")
        is_long = can_cut and len(samples) > LONGEST_SECONDS * rate
        cutting = {"chunk_length_s": PIECE_SECONDS, "stride_length_s": CONTEXT_SECONDS} if is_long else {}
        with self.lock:
            self.pieces.clear()
            result = self.recognize(samples, **cutting, **parameters)
            answer = {"text": result["text"], **self._language(rate)}
        if "chunks" in result:
            answer["chunks"] = [
                {"text": chunk["text"], "timestamp": [float(second) for second in chunk["timestamp"]]}
                for chunk in result["chunks"]
            ]
        return answer

    def _language(self, rate: int) -> dict:
        """Returns the language of the mean of the pieces' log-probabilities, weighted by their frames of text."""
        lengths, log_probs = zip(*self.pieces, strict=True)
        if log_probs[0] is None:
            return {}
        config, last = self.recognize.model.config, len(lengths) - 1
        context = round(CONTEXT_SECONDS * rate / config.inputs_to_logits_ratio)
        frames = [length - context * ((number > 0) + (number < last)) for number, length in enumerate(lengths)]
        weights = torch.tensor(frames, dtype=torch.float32) / sum(frames)
        probability, index = (weights @ torch.cat(log_probs).float().cpu()).softmax(dim=0).max(dim=0)
        return {"language": config.languages[int(index)], "language_probability": float(probability)}


def _read(inputs, rate: int) -> np.ndarray:
    """Returns the samples (N,) of a recording, mono, at a sampling rate."""
    try:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
        frames = [frame for source in (*_frames(inputs), None) for frame in resampler.resample(source)]
        samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    except (av.FFmpegError, ValueError, TypeError, KeyError, IndexError) as error:
        raise ValueError(
            "inputs are not audio that can be decoded: they must be the bytes of a file, the same in base64, or a "
            f"dict of array and sampling_rate ({type(error).__name__}: {error})"
        ) from error
    return samples


def _frames(inputs) -> list:
    if isinstance(inputs, dict):
        frame = av.AudioFrame.from_ndarray(np.asarray(inputs["array"], np.float32)[None], format="flt", layout="mono")
        frame.sample_rate = inputs["sampling_rate"]
        return [frame]
    content = base64.b64decode(inputs, validate=True) if isinstance(inputs, str) else inputs
    with av.open(io.BytesIO(content)) as container:
        return list(container.decode(audio=0))
