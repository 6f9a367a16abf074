"""Applies SpecAugment (https://arxiv.org/abs/1904.08779) to normalised features, as a pure function."""

from __future__ import annotations

import torch

from ..training_config import SpecAugmentConfig


def spec_augment(
    features: torch.Tensor, num_frames: torch.Tensor, config: SpecAugmentConfig, generator: torch.Generator
) -> torch.Tensor:
    """Sets random bands of mel bins and spans of frames to 0, the mean of normalised features.

    Widths are uniform on 1 ... the largest width. Masks are drawn for each utterance and bounded by its length (the
    original draws one set per batch), so that they do not depend on the other utterances of the batch.

    Args:
        features: (B, T, F).
        num_frames: (B,), valid frames.
    """
    bands = _spans(
        torch.full_like(num_frames, features.shape[2]),
        torch.full_like(num_frames, config.max_frequency_width),
        config.num_frequency_masks,
        features.shape[2],
        generator,
    )
    widths = (num_frames * config.max_time_fraction).long().clamp(max=config.max_time_width)
    times = _spans(num_frames, widths, config.num_time_masks, features.shape[1], generator)
    return features.masked_fill(bands[:, None, :] | times[:, :, None], 0.0)


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
