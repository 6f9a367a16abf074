"""SpecAugment: which values are masked, and the distributions of widths and starts. Waveforms: speed, noise, echo."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mlpl.data.augmentation import augment_waveform, spec_augment
from hf_mlpl.training_config import SpecAugmentConfig, WaveformAugmentConfig


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def masks(num_frames, config, seed=0, num_frames_padded=None, num_bins=80):
    """Returns the masked bins (B, F) and frames (B, T) of utterances; checks that nothing else is masked."""
    lengths = torch.tensor(num_frames)
    ones = torch.ones(len(num_frames), num_frames_padded or max(num_frames), num_bins)
    masked = spec_augment(ones, lengths, config, generator(seed)) == 0
    bins, frames = masked.all(dim=1), masked.all(dim=2)
    assert torch.equal(masked, bins[:, None, :] | frames[:, :, None])
    return bins, frames


def width_of_one_span(mask):
    """Returns the width of the only run of True in a mask."""
    positions = np.flatnonzero(mask)
    assert np.array_equal(positions, np.arange(positions[0], positions[0] + len(positions)))
    return len(positions)


@settings(max_examples=50, deadline=None)
@given(
    num_frames=st.lists(st.integers(1, 700), min_size=1, max_size=4),
    padding=st.integers(0, 5),
    num_masks=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    widths=st.tuples(st.integers(1, 12), st.integers(1, 60)),
    seed=st.integers(0, 2**32),
)
def test_masks_are_spans_within_the_limits(num_frames, padding, num_masks, widths, seed):
    config = SpecAugmentConfig(
        num_frequency_masks=num_masks[0],
        num_time_masks=num_masks[1],
        max_frequency_width=widths[0],
        max_time_width=widths[1],
    )
    bins, frames = masks(num_frames, config, seed, max(num_frames) + padding)
    for i, length in enumerate(num_frames):
        max_time_width = min(widths[1], length // 10)
        assert (num_masks[0] > 0) <= bins[i].sum() <= num_masks[0] * widths[0]
        assert (num_masks[1] > 0 and max_time_width > 0) <= frames[i].sum() <= num_masks[1] * max_time_width
        assert not frames[i, length:].any()
        if num_masks[0] == 1:
            assert width_of_one_span(bins[i]) <= widths[0]
        if num_masks[1] == 1 and max_time_width:
            assert width_of_one_span(frames[i]) <= max_time_width


def test_masked_values_are_zero_and_no_others_change():
    features = torch.randn(3, 200, 80, generator=generator(1))
    before = features.clone()
    result = spec_augment(features, torch.tensor([200, 120, 5]), SpecAugmentConfig(), generator())
    assert torch.equal(features, before)
    masked = result != features
    assert torch.equal(result, features.masked_fill(masked, 0.0))
    assert 0 < masked[0].sum() < masked[0].numel()
    # an utterance has masks of its own
    assert not torch.equal(masked[0], masked[1])
    # a tenth of five frames is no frame, but bands are masked
    assert 2 <= masked[2].all(dim=0).sum() <= 60 and not masked[2].all(dim=1).any()


def test_masks_do_not_depend_on_padding():
    features = torch.randn(2, 150, 80, generator=generator(1))
    lengths = torch.tensor([150, 90])
    padded = torch.nn.functional.pad(features, (0, 0, 0, 77))
    expected = spec_augment(features, lengths, SpecAugmentConfig(), generator())
    result = spec_augment(padded, lengths, SpecAugmentConfig(), generator())
    assert torch.equal(result[:, :150], expected)
    assert not result[:, 150:].any()


def test_the_generator_decides():
    first = masks([300], SpecAugmentConfig(), seed=1)
    assert all(map(torch.equal, first, masks([300], SpecAugmentConfig(), seed=1)))
    assert not all(map(torch.equal, first, masks([300], SpecAugmentConfig(), seed=2)))


def test_no_masks():
    features = torch.randn(2, 100, 80)
    config = SpecAugmentConfig(num_frequency_masks=0, num_time_masks=0)
    assert torch.equal(spec_augment(features, torch.tensor([100, 60]), config, generator()), features)


def test_features_that_are_not_normalised_are_masked_with_their_mean():
    """The utterance's own mean, without padding; so its mean stays near what it was, and masks are where they are."""
    features = torch.randn(2, 50, 80, generator=generator(1)) - 7
    lengths = torch.tensor([50, 30])
    features[1, 30:] = 0.0
    zeros = spec_augment(features, lengths, SpecAugmentConfig(), generator())
    result = spec_augment(features, lengths, SpecAugmentConfig(), generator(), has_zero_mean=False)
    for row, length in enumerate(lengths):
        masked = (zeros[row] == 0)[:length]
        torch.testing.assert_close(result[row, :length][masked], features[row, :length].mean().expand(masked.sum()))
        assert torch.equal(result[row, length:], features[row, length:])  # padding
        assert masked.any() and torch.equal(result[row, :length][~masked], features[row, :length][~masked])


def assert_uniform(values, low, high):
    """Checks that the integers low ... high are equally frequent, within five standard deviations."""
    counts = np.bincount(values, minlength=high + 1)
    assert counts[:low].sum() == 0 and len(counts) == high + 1
    expected = len(values) / (high - low + 1)
    assert np.abs(counts[low:] - expected).max() < 5 * expected**0.5


@pytest.mark.parametrize("size, max_width", [(80, 30), (120, 12), (600, 50)], ids=["bins", "short", "long"])
def test_widths_and_starts_are_uniform(size, max_width):
    masks_bins = size == 80
    config = SpecAugmentConfig(num_frequency_masks=int(masks_bins), num_time_masks=int(not masks_bins))
    num_frames, num_bins = (9, size) if masks_bins else (size, 2)
    spans = masks([num_frames] * 5000, config, num_bins=num_bins)[0 if masks_bins else 1]
    widths, starts = spans.sum(dim=1).numpy(), spans.int().argmax(dim=1).numpy()
    assert_uniform(widths, 1, max_width)
    last_starts = size - widths
    assert (starts <= last_starts).all() and (starts == last_starts).any() and (starts == 0).any()
    # starts of spans, as tenths of the possible starts
    assert_uniform((10 * (starts + 0.5) / (last_starts + 1)).astype(int), 0, 9)


def test_bands_and_spans_are_independent():
    config = SpecAugmentConfig(num_frequency_masks=1, num_time_masks=1)
    bins, frames = masks([600] * 400, config)
    assert abs(np.corrcoef(bins.sum(dim=1), frames.sum(dim=1))[0, 1]) < 0.2


# ---- waveforms

RATE = 16000
UNCHANGED = {"max_speed_change": 0.0, "noise_probability": 0.0, "echo_probability": 0.0}


def changed(samples, seed=0, **settings):
    return augment_waveform(samples, RATE, WaveformAugmentConfig(**UNCHANGED | settings), np.random.default_rng(seed))


def tone(hertz=1000, seconds=1.0):
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE).astype(np.float32)


def test_the_waveform_stays_where_nothing_is_set():
    assert np.array_equal(changed(tone()), tone())


def test_speed_changes_length_and_pitch_together():
    lengths = []
    for seed in range(20):
        faster = changed(tone(), seed, max_speed_change=0.2)
        assert faster.dtype == np.float32
        hertz = np.abs(np.fft.rfft(faster)).argmax() * RATE / len(faster)
        assert hertz == pytest.approx(1000 * RATE / len(faster), rel=0.005)
        lengths.append(len(faster) / RATE)
    assert min(lengths) > 1 / 1.2 - 0.01 and max(lengths) < 1 / 0.8 + 0.01
    assert min(lengths) < 0.93 and max(lengths) > 1.07 and len(set(lengths)) == 20


def test_noise_is_as_loud_as_it_should_be():
    decibels = []
    for seed in range(40):
        noise = changed(tone(), seed, noise_probability=0.5, min_snr=10.0, max_snr=20.0) - tone()
        if noise.any():
            decibels.append(10 * np.log10(np.mean(tone() ** 2) / np.mean(noise**2)))
            spectrum = np.abs(np.fft.rfft(noise)) ** 2
            assert spectrum[:4000].mean() == pytest.approx(spectrum[4000:].mean(), rel=0.1)  # white
    assert 10 < len(decibels) < 30 and 9.9 < min(decibels) < 13 and 17 < max(decibels) < 20.1


def test_an_echo_follows_each_sound_and_fades():
    click = np.zeros(RATE, np.float32)
    click[1000] = 1.0
    for seed in range(10):
        echoed = changed(click, seed, echo_probability=1.0)
        assert echoed.shape == click.shape and np.abs(echoed[:1000]).max() < 1e-5  # nothing before the sound
        assert echoed[1000] == pytest.approx(1.0, abs=1e-4)
        energy = [np.sum(echoed[1001 + first : 1801 + first] ** 2) for first in (0, 4800, 9600)]
        assert energy[0] > 100 * energy[1] and 1e-8 > energy[2] and energy[0] < 1.01
    other = changed(click * 0.5, 9, echo_probability=1.0)
    np.testing.assert_allclose(other, 0.5 * echoed, atol=1e-6)  # it is linear


CHANGE = SpecAugmentConfig(
    num_frequency_masks=0, num_time_masks=0, max_frequency_warp=0.2, max_equalizer_gain=0.5, start_update=0
)


def normalized(lengths, seed=0):
    """Returns features (B, T, 40) as extractors make them: mean 0 and deviation 1 of each utterance, 0 in padding."""
    features = torch.zeros(len(lengths), max(lengths), 40)
    for row, length in zip(features, lengths, strict=True):
        speech = torch.randn(length, 40, generator=generator(seed)).cumsum(dim=1)
        row[:length] = (speech - speech.mean()) / speech.std(correction=0)
    return features, torch.tensor(lengths)


def test_changed_voices_are_normalized_and_differ_by_utterance_and_seed():
    features, lengths = normalized([60, 60, 23])
    changed = spec_augment(features, lengths, CHANGE, generator())
    for row, length in zip(changed, lengths, strict=True):
        assert row[:length].mean().abs() < 1e-5 and (row[:length].std(correction=0) - 1).abs() < 1e-4
        assert not row[length:].any()
    assert torch.equal(features[0], features[1]) and not torch.allclose(changed[0], changed[1], atol=0.05)
    assert torch.equal(changed, spec_augment(features, lengths, CHANGE, generator()))
    assert not torch.equal(changed, spec_augment(features, lengths, CHANGE, generator(1)))


def test_a_voice_does_not_depend_on_padding():
    features, lengths = normalized([50, 23])
    padded = torch.nn.functional.pad(features, (0, 0, 0, 9))
    changed, longer = (spec_augment(each, lengths, CHANGE, generator()) for each in (features, padded))
    assert torch.allclose(changed, longer[:, :50], atol=1e-6)


def test_a_warp_moves_resonances_by_its_factor():
    """A peak at mel bin k moves to k / factor, by numpy's interpolation, and factors lie within the limits."""
    config = SpecAugmentConfig(num_frequency_masks=0, num_time_masks=0, max_frequency_warp=0.2)
    bins = torch.arange(40.0)
    features = (-(((bins - 20) / 4) ** 2)).exp().expand(500, 3, 40)
    changed = spec_augment(features, torch.full((500,), 3), config, generator(), has_zero_mean=False)
    factors = 20 / (changed[:, 0] * bins).sum(1) * changed[:, 0].sum(1)
    assert 0.78 < factors.min() < 0.85 and 1.15 < factors.max() < 1.22
    draws = 1 + 0.2 * (2 * torch.rand(500, 1, 1, generator=generator()) - 1)
    for row in (0, 7):
        expected = np.interp(np.minimum(bins.numpy() * draws[row].item(), 39), bins.numpy(), features[row, 0].numpy())
        assert np.allclose(changed[row, 0].numpy(), expected, atol=1e-5)


def test_an_equalizer_adds_the_same_smooth_curve_to_each_frame():
    config = SpecAugmentConfig(num_frequency_masks=0, num_time_masks=0, max_equalizer_gain=0.5)
    features, lengths = normalized([30, 30])
    curves = spec_augment(3 * features + 2, lengths, config, generator(), has_zero_mean=False) - (3 * features + 2)
    assert torch.allclose(curves, curves[:, :1].expand_as(curves), atol=1e-5)
    assert 0.3 < curves.abs().max() <= 0.5 * 3 + 1e-5  # of a deviation of 3
    bends = curves[:, 0].diff(dim=1).diff(dim=1).abs() > 1e-5
    assert (bends.sum(dim=1) <= 8).all()  # linear between six points, whose ends are the first and the last bin
