# Part of hf_mlpl, and copied into every saved model folder. To load such a folder, `pip install hf-mlpl` and
# `import hf_mlpl`; or pass `trust_remote_code=True`, with which transformers runs the copies.
"""Feature extractor: a waveform to the log-mel features that the original program computes from it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.audio_utils import mel_filter_bank
from transformers.utils import PaddingStrategy, TensorType, logging

logger = logging.get_logger(__name__)

BLOCK_FRAMES = 512  # computed at a time: their windows, 1 MB, stay in the cache
MAX_SAMPLE = 32768.0  # nobody means a larger one: float samples lie in about [-1, 1]


class MlplFeatureExtractor(SequenceFeatureExtractor):
    """
    Log-mel features of 25 ms windows every 10 ms, normalised over the whole utterance as flashlight's `mfsc` features.

    Samples in [-1, 1] are scaled by 32768. Each window is pre-emphasised on its own (its first sample is scaled by
    1 - `preemphasis`), multiplied by a symmetric Hamming window, and turned into the magnitudes of a Fourier
    transform; triangular filters that are equally wide on the HTK mel scale, a floor and the natural logarithm give
    `feature_size` values. Then the utterance's ONE mean over frames and bins is subtracted, and the rest is divided
    by its ONE population standard deviation unless that is zero: digital silence gives zeros.
    (flashlight `lib/audio/feature/Mfsc.cpp`, and `inputFeatures` in `app/asr/data/FeatureTransforms.cpp`.)

    Args:
        feature_size (`int`): Mel bins, from 0 Hz to half of `sampling_rate`.
        sampling_rate (`int`): Samples per second that the input must have.
        hop_length, win_length, n_fft (`int`): Window shift, window length and Fourier transform length in samples.
        preemphasis (`float`): Coefficient of the pre-emphasis filter.
        mel_floor (`float`): Smallest value before the logarithm.
        padding_value (`float`): Feature value of padded frames, which `attention_mask` marks with 0.
        return_attention_mask (`bool`): Whether calls return `attention_mask` when they do not say.
        do_normalize (`bool`): `False` leaves out mean and standard deviation.
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
        if win_length > n_fft:
            raise ValueError(f"win_length is {win_length}; it must be at most n_fft, {n_fft}")
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

    def num_frames(self, num_samples: int) -> int:
        """Frames of an utterance of `num_samples` samples: only whole windows count, but at least one."""
        return 1 + max(num_samples - self.win_length, 0) // self.hop_length

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
    ) -> BatchFeature:
        """
        Features of one utterance or of a batch of utterances, each as if it were alone.

        Fewer samples than a window, even none, are extended with zeros to one window: one frame. (The original
        program aborts.)

        Args:
            raw_speech (1-d array, tensor or list of `float`, or a list of those):
                Mono samples, floats in about [-1, 1].
            sampling_rate (`int`, *optional*): Of `raw_speech`; pass it, so that a wrong one is noticed.
            padding, max_length, truncation, pad_to_multiple_of:
                As in [`~SequenceFeatureExtractor.pad`], counted in frames; features are normalised before.
            return_tensors (`str`, *optional*): `"pt"` or, when not given, `"np"`.
            return_attention_mask (`bool`, *optional*): Overrides the extractor's own setting.

        Returns:
            [`BatchFeature`]: `input_features` (B, T, `feature_size`) in fp32 and `attention_mask` (B, T), 1 for valid
            and 0 for padded frames.

        Raises:
            ValueError: for another sampling rate, more than one channel, integer samples, or samples that are NaN,
                infinite or beyond 32768.
        """
        if sampling_rate is None:
            logger.warning_once(
                f"No sampling_rate was passed to {type(self).__name__}; the samples are taken to be at "
                f"{self.sampling_rate} Hz. Pass sampling_rate, so that audio at another rate is noticed."
            )
        elif sampling_rate != self.sampling_rate:
            raise ValueError(
                f"the audio is sampled at {sampling_rate} Hz, this extractor needs {self.sampling_rate} Hz; "
                "read it with hf_mlpl.audio.load_audio, which resamples"
            )
        is_batch = isinstance(raw_speech, (list, tuple)) and len(raw_speech) > 0 and np.ndim(raw_speech[0]) > 0
        waveforms = [self._waveform(samples) for samples in (raw_speech if is_batch else [raw_speech])]
        return self.pad(
            {"input_features": [self._features(waveform).numpy() for waveform in waveforms]},
            padding=padding,
            max_length=max_length,
            truncation=truncation,
            pad_to_multiple_of=pad_to_multiple_of,
            return_tensors=return_tensors,
            return_attention_mask=return_attention_mask,
        )

    def _waveform(self, samples) -> torch.Tensor:
        """Checked samples as an fp32 tensor (N,), N >= `win_length`."""
        if isinstance(samples, torch.Tensor):
            samples = samples.detach().cpu()
            samples = (samples.float() if samples.is_floating_point() else samples).numpy()
        array = np.asarray(samples)
        if array.dtype.kind in "iu":
            raise ValueError(
                f"audio must be float samples in about [-1, 1], got {array.dtype}; divide 16-bit samples by 32768"
            )
        if array.dtype.kind != "f":
            raise ValueError(
                f"audio must be float samples, got {type(samples).__name__}; read files with hf_mlpl.audio.load_audio"
            )
        if array.ndim != 1:
            raise ValueError(
                f"audio must be mono, of shape (samples,), got {array.shape}; take the mean over the channels, "
                "and pass several utterances as a list of 1-d arrays"
            )
        if array.size and not np.abs(array).max() <= MAX_SAMPLE:  # NaN compares false
            raise ValueError(
                f"audio has samples that are NaN, infinite or beyond {MAX_SAMPLE:g}; samples lie in about [-1, 1]"
            )
        waveform = np.zeros(max(len(array), self.win_length), dtype=np.float32)
        waveform[: len(array)] = array
        return torch.from_numpy(waveform)

    def _features(self, waveform: torch.Tensor) -> torch.Tensor:  # (N,) -> (T, feature_size)
        features = self._log_mel(waveform)
        if self.do_normalize:
            # In fp64, in which the sums do not depend on how many threads share them.
            features -= features.mean(dtype=torch.float64).float()
            std = features.square().mean(dtype=torch.float64).sqrt().float()
            if std > 0:
                features /= std
        return features

    def _log_mel(self, waveform: torch.Tensor) -> torch.Tensor:  # (N,) -> (T, feature_size)
        first_weight, window = _window(self.win_length, self.preemphasis)
        filters = _mel_filters(self.feature_size, self.n_fft, self.sampling_rate)
        num_frames = self.num_frames(len(waveform))

        # Pre-emphasis is the same for a sample in every window that it is in, unless it is the first one there.
        emphasised = waveform[1:] - self.preemphasis * waveform[:-1]
        others = emphasised.unfold(0, self.win_length - 1, self.hop_length)  # (T, win_length - 1), a view
        firsts = waveform[:: self.hop_length]

        mel = waveform.new_empty(num_frames, self.feature_size)
        frames = waveform.new_zeros(min(num_frames, BLOCK_FRAMES), self.n_fft)  # beyond win_length it stays zero
        for start in range(0, num_frames, BLOCK_FRAMES):
            end = min(start + BLOCK_FRAMES, num_frames)
            block = frames[: end - start]
            torch.mul(firsts[start:end], first_weight, out=block[:, 0])
            torch.mul(others[start:end], window, out=block[:, 1 : self.win_length])
            torch.mm(torch.fft.rfft(block).abs(), filters, out=mel[start:end])
        return mel.clamp_(min=self.mel_floor).log_()


# Kept outside of the extractor, whose attributes are saved to preprocessor_config.json.


@lru_cache
def _window(win_length: int, preemphasis: float) -> tuple[float, torch.Tensor]:
    """Weight of a window's first sample, with its pre-emphasis, and the weights of the others; all times 32768."""
    window = 32768 * np.hamming(win_length)  # symmetric, 0.54 and 0.46
    return window[0] * (1 - preemphasis), torch.from_numpy(window[1:]).float()


@lru_cache
def _mel_filters(feature_size: int, n_fft: int, sampling_rate: int) -> torch.Tensor:  # (n_fft // 2 + 1, feature_size)
    filters = mel_filter_bank(
        num_frequency_bins=n_fft // 2 + 1,
        num_mel_filters=feature_size,
        min_frequency=0.0,
        max_frequency=sampling_rate / 2,
        sampling_rate=sampling_rate,
        mel_scale="htk",
    )
    return torch.from_numpy(filters).float()


__all__ = ["MlplFeatureExtractor"]
