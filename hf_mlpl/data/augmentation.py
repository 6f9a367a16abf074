"""Changes training data at random, by pure functions: SpecAugment (https://arxiv.org/abs/1904.08779) and waveforms."""

from __future__ import annotations

import numpy as np
import soxr
import torch
from torch.nn.functional import interpolate

from ..training_config import SpecAugmentConfig, WaveformAugmentConfig

EQUALIZER_POINTS = 6  # of a random curve over the mel bins, which is linear between them


def augment_waveform(
    samples: np.ndarray, sampling_rate: int, config: WaveformAugmentConfig, rng: np.random.Generator
) -> np.ndarray:
    """Returns speech (N,) at another speed, in an echoing room, and with noise, as far as the settings say.

    Args:
        samples: (N,).
        rng: decides how it is changed.
    """
    speed = rng.uniform(1 - config.max_speed_change, 1 + config.max_speed_change)
    samples = soxr.resample(samples, sampling_rate * speed, sampling_rate, quality="MQ")
    if rng.random() < config.echo_probability:
        samples = _echo(samples, sampling_rate, rng)
    if rng.random() < config.noise_probability:
        samples = add_noise(samples, rng.uniform(config.min_snr, config.max_snr), rng)
    return samples


def add_noise(samples: np.ndarray, snr: float, rng: np.random.Generator) -> np.ndarray:
    """Returns samples (N,) with white noise, `snr` decibels below them."""
    level = np.sqrt(np.mean(samples**2)) * 10 ** (-snr / 20)
    return samples + level * rng.standard_normal(len(samples), dtype=np.float32)


def _echo(samples: np.ndarray, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Returns samples (N,) and their echo: noise that fades by 60 dB within 0.1 to 0.6 s, as in rooms of a house."""
    seconds = rng.uniform(0.1, 0.6)
    times = np.arange(round(seconds * sampling_rate), dtype=np.float32) / sampling_rate
    response = rng.standard_normal(len(times), dtype=np.float32) * 10 ** (-3 * times / seconds)
    response *= rng.uniform(0.2, 1.0) / np.sqrt(np.sum(response**2))
    response[0] = 1.0  # of the direct sound
    size = 1 << (len(samples) + len(response) - 1).bit_length()  # other sizes are slow
    echoed = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(response, size), size)
    return echoed[: len(samples)].astype(np.float32)


def spec_augment(
    features: torch.Tensor,
    num_frames: torch.Tensor,
    config: SpecAugmentConfig,
    generator: torch.Generator,
    has_zero_mean: bool = True,
) -> torch.Tensor:
    """Sets random bands of mel bins and spans of frames to the utterance's mean, which is 0 for normalised features.

    Widths are uniform on 1 ... the largest width. Masks are drawn for each utterance and bounded by its length (the
    original draws one set per batch), so that they do not depend on the other utterances of the batch. Before, each
    utterance gets another voice and another microphone, as far as the settings say.

    Args:
        features: (B, T, F).
        num_frames: (B,), valid frames.
        has_zero_mean: whether the features are normalised.
    """
    is_valid = (torch.arange(features.shape[1]) < num_frames[:, None])[:, :, None]
    if config.max_frequency_warp or config.max_equalizer_gain:
        features = _change_voice(features, is_valid, config, generator, has_zero_mean)
    bands = _spans(
        torch.full_like(num_frames, features.shape[2]),
        torch.full_like(num_frames, config.max_frequency_width),
        config.num_frequency_masks,
        features.shape[2],
        generator,
    )
    widths = (num_frames * config.max_time_fraction).long().clamp(max=config.max_time_width)
    times = _spans(num_frames, widths, config.num_time_masks, features.shape[1], generator)
    masks = bands[:, None, :] | times[:, :, None]
    if has_zero_mean:
        return features.masked_fill(masks, 0.0)
    means = features.where(is_valid, 0.0).sum(dim=(1, 2)) / (num_frames * features.shape[2])
    return torch.where(masks & is_valid, means[:, None, None], features)


def _change_voice(
    features: torch.Tensor,
    is_valid: torch.Tensor,
    config: SpecAugmentConfig,
    generator: torch.Generator,
    has_zero_mean: bool,
) -> torch.Tensor:
    """Returns features (B, T, F) as if other people had spoken into other microphones.

    The mel axis is stretched, as vocal tracts of other lengths shift the resonances of a voice (VTLP, Jaitly and
    Hinton 2013), and a smooth random curve is added, as other microphones and rooms do (FilterAugment,
    https://arxiv.org/abs/2107.13260). Features that were normalised are normalised again.

    Args:
        is_valid: (B, T, 1), False for padding, which becomes 0.
    """
    size, num_bins = len(features), features.shape[2]
    factors = 1 + config.max_frequency_warp * (2 * torch.rand(size, 1, 1, generator=generator) - 1)
    curves = 2 * torch.rand(size, 1, EQUALIZER_POINTS, generator=generator) - 1
    places = (torch.arange(num_bins) * factors).clamp(max=num_bins - 1)
    below = places.long()
    shape, share = features.shape, (places - below).to(features.dtype)
    lower = features.gather(2, below.expand(shape))
    upper = features.gather(2, (below + 1).clamp(max=num_bins - 1).expand(shape))
    gains = interpolate(curves, num_bins, mode="linear", align_corners=True) * config.max_equalizer_gain
    counts = is_valid.sum(dim=(1, 2), keepdim=True) * num_bins
    changed = torch.lerp(lower, upper, share) + gains * moments(features, is_valid, counts)[1]
    if has_zero_mean:
        mean, deviation = moments(changed, is_valid, counts)
        changed = (changed - mean) / deviation.clamp(min=1e-5)
    return changed.where(is_valid, 0.0)


def moments(features: torch.Tensor, is_valid: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the mean and the standard deviation (B, 1, 1) of the valid features of each utterance."""
    mean = features.where(is_valid, 0.0).sum(dim=(1, 2), keepdim=True) / counts
    variance = (features - mean).where(is_valid, 0.0).square().sum(dim=(1, 2), keepdim=True) / counts
    return mean, variance.sqrt()


def _spans(
    lengths: torch.Tensor, max_widths: torch.Tensor, num_spans: int, size: int, generator: torch.Generator
) -> torch.Tensor:
    """Returns a (B, size) mask of `num_spans` random spans inside each row's length; none where max_widths is 0."""
    shape = (len(lengths), num_spans)
    max_widths = torch.minimum(max_widths, lengths)[:, None]
    widths = (torch.rand(shape, generator=generator) * max_widths).floor().long() + 1
    widths = torch.minimum(widths, max_widths)
    starts = (torch.rand(shape, generator=generator) * (lengths[:, None] - widths + 1)).floor().long()
    positions = torch.arange(size)
    return ((positions >= starts[..., None]) & (positions < (starts + widths)[..., None])).any(dim=1)
