"""Computes the original program's log-mel features from waveforms."""

# Part of hf_mlpl, and copied into every saved model folder. To load such a folder, `import hf_mlpl` where hf_mlpl is
# installed; or pass `trust_remote_code=True`, with which transformers runs the copies.

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.audio_utils import mel_filter_bank
from transformers.utils import PaddingStrategy, TensorType, logging

from .model_files import (
    AUTO_MAP,
    boolean,
    check_settings,
    choice,
    find_file,
    number,
    read_settings,
    setting_errors,
    text,
    whole,
)
from .without_ffmpeg import explain_missing_ffmpeg

logger = logging.get_logger(__name__)

BLOCK_FRAMES = 512  # computed at a time: their windows, 1 MB, stay in the cache
MAX_SAMPLE = 32768.0  # larger ones are mistakes: float samples lie in about [-1, 1]
MAX_BINS = 1024
MAX_FFT = 2**14  # with MAX_BINS, the filters have 64 MB

EXTRACTOR_SETTINGS = {
    "feature_size": whole(1, MAX_BINS),
    "sampling_rate": whole(1000, 1_000_000),
    "n_fft": whole(2, MAX_FFT),
    "win_length": whole(2, MAX_FFT),
    "hop_length": whole(1, MAX_FFT),
    "preemphasis": number(0, 1),
    "mel_floor": number(1e-30, 1e30),
    "padding_value": number(-1e30, 1e30),
    "return_attention_mask": boolean(),
    "do_normalize": boolean(),
    "padding_side": choice("right", "left"),
    # transformers reads these before it makes an extractor
    "feature_extractor_type": choice("MlplFeatureExtractor"),
    "processor_class": text(or_null=True),
    "auto_map": AUTO_MAP,
}


class MlplFeatureExtractor(SequenceFeatureExtractor):
    """
    Computes log-mel features of 25 ms windows every 10 ms, normalised over the utterance as flashlight's `mfsc` does.

    Samples in [-1, 1] are scaled by 32768. Each window is pre-emphasised separately (its first sample is scaled by
    1 - `preemphasis`), multiplied by a symmetric Hamming window, and Fourier-transformed to magnitudes; triangular
    filters of equal width on the HTK mel scale, a floor and the natural logarithm give `feature_size` values. Then the
    utterance's ONE mean over frames and bins is subtracted, and the difference is divided by its ONE population
    standard deviation unless that is zero: digital silence gives zeros.
    (flashlight `lib/audio/feature/Mfsc.cpp`, and `inputFeatures` in `app/asr/data/FeatureTransforms.cpp`.)

    Args:
        feature_size (`int`): Mel bins, from 0 Hz to half of `sampling_rate`.
        sampling_rate (`int`): Samples per second that the input must have.
        hop_length, win_length, n_fft (`int`): Window shift, window length and Fourier transform length in samples,
            in ascending order.
        preemphasis (`float`): Coefficient of the pre-emphasis filter.
        mel_floor (`float`): Smallest value before the logarithm.
        padding_value (`float`): Feature value of padded frames, which `attention_mask` marks with 0.
        return_attention_mask (`bool`): Default of the argument of that name.
        do_normalize (`bool`): Whether mean and standard deviation are normalised.
    """

    model_input_names = ["input_features", "attention_mask"]
    _auto_class = "AutoFeatureExtractor"  # saving also writes this code, for trust_remote_code

    def __init__(
        self,
        feature_size: int = 80,
        sampling_rate: int = 16000,
        hop_length: int = 160,
        win_length: int = 400,
        n_fft: int = 512,
        preemphasis: float = 0.97,
        mel_floor: float = 1.0,
        padding_value: float = 0.0,
        return_attention_mask: bool = True,
        do_normalize: bool = True,
        **kwargs,
    ):
        super().__init__(
            feature_size=feature_size,
            sampling_rate=sampling_rate,
            padding_value=padding_value,
            return_attention_mask=return_attention_mask,
            **kwargs,
        )
        self.hop_length = hop_length
        self.win_length = win_length
        self.n_fft = n_fft
        self.preemphasis = preemphasis
        self.mel_floor = mel_floor
        self.do_normalize = do_normalize
        _check("feature extractor", vars(self))
        if not __name__.startswith("hf_mlpl."):  # a copy in a model folder, hence transformers' own pipeline
            explain_missing_ffmpeg()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs):
        """Loads an extractor; raises `ValueError` for a wrong setting, in one line with its file."""
        check_extractor_files(pretrained_model_name_or_path, kwargs)
        with setting_errors(pretrained_model_name_or_path, "processor_config.json"):
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    def num_frames(self, num_samples: int | np.ndarray) -> int | np.ndarray:
        """Counts the frames of `num_samples`, an int or an array: the complete windows, but at least one."""
        return 1 + np.maximum(num_samples - self.win_length, 0) // self.hop_length

    def __call__(
        self,
        raw_speech: np.ndarray | torch.Tensor | list,
        sampling_rate: int | None = None,
        padding: bool | str | PaddingStrategy = True,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_tensors: str | TensorType | None = None,
        return_attention_mask: bool | None = None,
        device: str | torch.device = "cpu",
    ) -> BatchFeature:
        """Computes the features of one utterance or of a batch, in which utterances do not influence one another.

        Fewer samples than a window, even none, are extended with zeros to one window: one frame. (The original
        program aborts.)

        Args:
            raw_speech (1-d array, tensor or list of `float`, or a list of those, or a 2-d array or tensor):
                Mono samples, floats in about [-1, 1]. Each row of an array (B, N) is an utterance.
            sampling_rate (`int`, *optional*): Samples per second of `raw_speech`, so that a wrong rate is noticed.
            padding, max_length, truncation, pad_to_multiple_of:
                As in [`~SequenceFeatureExtractor.pad`], counted in frames of 10 ms. `truncation` drops the frames
                after the first `max_length`, which still influence mean and standard deviation; to exclude them,
                cut the samples.
            return_tensors (`str`, *optional*): `"pt"` or, by default, `"np"`.
            return_attention_mask (`bool`, *optional*): Overrides the extractor's own setting.
            device (`str` or `torch.device`): Device, with fp64, that computes the features, an accelerator as one
                batch, and holds them with `return_tensors="pt"`. Waveforms that are tensors on it do not pass through
                the host's memory.

        Returns:
            [`BatchFeature`]: `input_features` (B, T, `feature_size`) in fp32 and `attention_mask` (B, T), 1 for valid
            and 0 for padded frames. Without padding, utterances of different lengths give an array of objects, and
            cannot be tensors.

        Raises:
            ValueError: for another sampling rate, more than one channel, integer samples, or samples that are NaN,
                infinite or beyond 32768.
        """
        if sampling_rate is None:
            logger.warning_once(
                f"No sampling_rate was passed to {type(self).__name__}, which assumes samples at "
                f"{self.sampling_rate} Hz. Pass sampling_rate, so that audio at another rate is noticed."
            )
        elif sampling_rate != self.sampling_rate:
            raise ValueError(
                f"the audio is sampled at {sampling_rate} Hz, this extractor needs {self.sampling_rate} Hz; "
                "read it with hf_mlpl.audio.reading.load_audio, which resamples"
            )
        if isinstance(raw_speech, (np.ndarray, torch.Tensor)) and raw_speech.ndim == 2 and len(raw_speech) > 0:
            # A row shorter than a window is no utterance: the array is (samples, channels), which `_waveform` refuses.
            raw_speech = list(raw_speech) if raw_speech.shape[1] >= self.win_length else raw_speech
        is_batch = isinstance(raw_speech, (list, tuple)) and len(raw_speech) > 0 and np.ndim(raw_speech[0]) > 0
        device = torch.device(device)
        features = self._features(
            [self._waveform(samples, device) for samples in (raw_speech if is_batch else [raw_speech])]
        )
        arguments = {
            "padding": padding,
            "max_length": max_length,
            "truncation": truncation,
            "pad_to_multiple_of": pad_to_multiple_of,
        }
        if return_attention_mask is None:
            return_attention_mask = self.return_attention_mask
        if return_tensors == "pt":
            return self._pad_tensors(features, return_attention_mask, arguments)
        return self.pad(
            {"input_features": [frames.cpu().numpy() for frames in features]},
            return_attention_mask=return_attention_mask,
            return_tensors=return_tensors,
            **arguments,
        )

    def _pad_tensors(self, features: list[torch.Tensor], return_attention_mask: bool, arguments: dict) -> BatchFeature:
        """Pads as `pad` does, but on the features' device: `pad` itself gets empty placeholders in host memory."""
        empty = [np.empty((len(frames), 0), dtype=np.float32) for frames in features]
        inputs = self.pad({"input_features": empty}, return_attention_mask=True, return_tensors="pt", **arguments)
        mask = inputs.pop("attention_mask")  # (B, T)
        inputs["input_features"] = features[0].new_full((*mask.shape, self.feature_size), self.padding_value)
        for padded, frames, length in zip(inputs["input_features"], features, mask.sum(dim=1).tolist(), strict=True):
            start = 0 if self.padding_side == "right" else len(padded) - length
            padded[start : start + length] = frames[:length]
        if return_attention_mask:
            inputs["attention_mask"] = mask.to(features[0].device)
        return inputs

    def _waveform(self, samples, device: torch.device) -> torch.Tensor:
        """Converts the samples of one utterance to an fp32 tensor (N,), N >= `win_length`, on `device`."""
        if isinstance(samples, torch.Tensor):
            samples = samples.detach() if samples.is_floating_point() else samples.cpu().numpy()
        if not isinstance(samples, torch.Tensor):
            array = np.asarray(samples)
            if array.dtype.kind in "iu":
                raise ValueError(
                    f"audio must be float samples in about [-1, 1], got {array.dtype}; divide 16-bit samples by 32768"
                )
            if array.dtype.kind != "f":
                raise ValueError(
                    f"audio must be float samples, got {type(samples).__name__}; read files with "
                    "hf_mlpl.audio.reading.load_audio"
                )
            samples = torch.from_numpy(np.require(array, np.float32, ["C", "W"]))  # copies only if necessary
        if samples.ndim != 1:
            raise ValueError(
                f"audio must be mono, of shape (samples,), got {tuple(samples.shape)}; take the mean over the "
                "channels, and pass several utterances as a list of 1-d arrays, list(audio) if each row is one"
            )
        waveform = samples.to(device, torch.float32)
        return pad(waveform, (0, self.win_length - len(waveform))) if len(waveform) < self.win_length else waveform

    def _features(self, waveforms: list[torch.Tensor]) -> list[torch.Tensor]:
        """Computes features (T, `feature_size`) of each waveform (N,)."""
        if waveforms[0].device.type != "cpu":
            return self._batch_features(waveforms)
        # One at a time, so that a block of windows stays in the cache and no padding is computed.
        return [features for waveform in waveforms for features in self._batch_features([waveform])]

    def _batch_features(self, waveforms: list[torch.Tensor]) -> list[torch.Tensor]:
        """Computes features (T, `feature_size`) of waveforms (N,), with one batch of Fourier transforms."""
        batch = pad_sequence(waveforms, batch_first=True) if len(waveforms) > 1 else waveforms[0][None]
        low, high = map(float, batch.aminmax())
        if not (low >= -MAX_SAMPLE and high <= MAX_SAMPLE):  # NaN compares false
            raise ValueError(
                f"audio has samples that are NaN, infinite or beyond {MAX_SAMPLE:g}; samples lie in about [-1, 1]"
            )
        features = [
            frames[: self.num_frames(len(waveform))]
            for frames, waveform in zip(self._log_mel(batch), waveforms, strict=True)
        ]
        if self.do_normalize:
            for frames in features:
                _normalize(frames)
        return features

    def _log_mel(self, waveforms: torch.Tensor) -> torch.Tensor:  # (B, N) -> (B, T, feature_size)
        device = waveforms.device
        first_weight, window = _window(self.win_length, self.preemphasis, device)
        filters = _mel_filters(self.feature_size, self.n_fft, self.sampling_rate, device)
        batch_size, num_frames = len(waveforms), self.num_frames(waveforms.shape[1])

        # Time comes first, so that a block of the whole batch's windows is contiguous.
        mel = waveforms.new_empty(num_frames, batch_size, self.feature_size)
        frames = waveforms.new_zeros(min(num_frames, BLOCK_FRAMES), batch_size, self.n_fft)  # zero beyond win_length
        for start in range(0, num_frames, BLOCK_FRAMES):
            end = min(start + BLOCK_FRAMES, num_frames)
            samples = waveforms[:, start * self.hop_length : (end - 1) * self.hop_length + self.win_length]
            # Pre-emphasis of a sample is the same in all its windows, except in one that begins with it.
            emphasised = torch.sub(samples[:, 1:], samples[:, :-1], alpha=self.preemphasis)
            others = emphasised.unfold(1, self.win_length - 1, self.hop_length).transpose(0, 1)  # (T, B, ...), a view
            firsts = samples[:, : (end - start) * self.hop_length : self.hop_length].T
            block = frames[: end - start]
            torch.mul(firsts, first_weight, out=block[:, :, 0])
            torch.mul(others, window, out=block[:, :, 1 : self.win_length])
            magnitudes = _magnitudes(torch.fft.rfft(block.flatten(0, 1)))
            torch.mm(magnitudes, filters, out=mel[start:end].flatten(0, 1))
        return mel.clamp_(min=self.mel_floor).log_().transpose(0, 1)


def _magnitudes(spectrum: torch.Tensor) -> torch.Tensor:
    if spectrum.device.type == "cpu":  # numpy takes a ninth of the time
        return torch.from_numpy(np.abs(spectrum.numpy()))
    return spectrum.abs()


def _normalize(features: torch.Tensor) -> None:
    """Normalises features in place, without waiting for the device."""
    # In fp64, whose sums do not depend on the number of threads. (One thread computes the sum of a frame.)
    features -= features.mean(dtype=torch.float64).float()
    lengths = torch.linalg.vector_norm(features, dim=1)  # (T,); without a second array of features
    std = (lengths.double().square().mean() / features.shape[1]).sqrt().float()
    features /= torch.where(std > 0, std, 1)


def check_extractor_files(name_or_path: str | os.PathLike, hub: Mapping, required: Sequence[str] = ()) -> None:
    """Raises `ValueError`, with file and setting, for a wrong setting of the extractor in a folder or repository.

    Args:
        hub: arguments of `find_file`.
        required: settings that must not be missing.
    """
    if os.path.isfile(name_or_path):
        return _check(name_or_path, read_settings(name_or_path))
    for file, part in (("processor_config.json", "feature_extractor"), ("preprocessor_config.json", None)):
        path = find_file(name_or_path, file, hub)
        settings = {} if path is None else read_settings(path)
        if part is not None:
            check_settings(path, settings, {part: (lambda value: isinstance(value, dict), "an object of settings")})
            path, settings = f"{path}, {part}", settings.get(part)
        if settings:
            return _check(path, dict.fromkeys(required) | settings)
    raise ValueError(
        f"{name_or_path}: has no settings of a feature extractor, neither as feature_extractor in "
        "processor_config.json nor in preprocessor_config.json"
    )


def _check(source: str | os.PathLike, settings: Mapping) -> None:
    """Raises `ValueError`, with the source, for a wrong setting or for lengths in the wrong order."""
    check_settings(source, settings, EXTRACTOR_SETTINGS)
    for longer, shorter in (("n_fft", "win_length"), ("win_length", "hop_length")):
        length, limit = settings.get(shorter), settings.get(longer)
        if length is not None and limit is not None and length > limit:
            raise ValueError(f"{source}: {shorter} is {length}; it must be at most {longer}, {limit}")


# Not attributes of the extractor, because these are saved to preprocessor_config.json.


@lru_cache
def _window(win_length: int, preemphasis: float, device: torch.device) -> tuple[float, torch.Tensor]:
    """Returns weights, times 32768, of a window's first sample, which includes pre-emphasis, and of the others."""
    window = 32768 * np.hamming(win_length)  # symmetric, 0.54 and 0.46
    return window[0] * (1 - preemphasis), torch.from_numpy(window[1:]).float().to(device)


@lru_cache
def _mel_filters(feature_size: int, n_fft: int, sampling_rate: int, device: torch.device) -> torch.Tensor:
    """Returns the weights of the triangular filters (n_fft // 2 + 1, feature_size)."""
    filters = mel_filter_bank(
        num_frequency_bins=n_fft // 2 + 1,
        num_mel_filters=feature_size,
        min_frequency=0.0,
        max_frequency=sampling_rate / 2,
        sampling_rate=sampling_rate,
        mel_scale="htk",
    )
    return torch.from_numpy(filters).float().to(device)


__all__ = ["MlplFeatureExtractor"]
