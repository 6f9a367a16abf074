"""Compares the feature extractor with the original program's features and with a float64 computation."""

import cmath
import copy
import json
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Wav2Vec2FeatureExtractor

from hf_mlpl.model.feature_extraction_mlpl import BLOCK_FRAMES, MlplFeatureExtractor

RATE = 16000
FILES = ["exact400_wav", "n560_wav", "quiet_wav", "silence_wav", "speech_de_wav", "speech_fr_flac", "speech_fr_wav"]
FILES += ["t2760_wav", "t300_wav", "t301_wav", "t302_wav"]


def features(samples, **settings):
    """Features (T, 80) of one utterance."""
    return MlplFeatureExtractor(**settings)(samples, sampling_rate=RATE)["input_features"][0]


def relative_error(actual, expected):
    assert actual.shape == expected.shape
    return np.linalg.norm(actual - expected) / max(np.linalg.norm(expected), 1e-30)


def noise(num_samples, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(num_samples)).astype(np.float32)


def hertz_to_mel(hertz):
    return 2595 * math.log10(1 + hertz / 700)


def naive_log_mel(samples):
    """Computes features by their definition in float64, one frame and one bin at a time."""
    edges = [700 * (10 ** (mel / 2595) - 1) for mel in np.linspace(0, hertz_to_mel(8000), 82)]
    bins = np.arange(257) * RATE / 512
    rows = []
    for start in range(0, len(samples) - 399, 160):
        frame = [32768 * float(sample) for sample in samples[start : start + 400]]
        emphasised = [0.03 * frame[0]] + [frame[i] - 0.97 * frame[i - 1] for i in range(1, 400)]
        windowed = [x * (0.54 - 0.46 * math.cos(2 * math.pi * i / 399)) for i, x in enumerate(emphasised)]
        magnitudes = np.abs(np.fft.fft(windowed, 512)[:257])
        row = []
        for low, centre, high in zip(edges, edges[1:], edges[2:], strict=False):
            weights = [max(0, min((b - low) / (centre - low), (high - b) / (high - centre))) for b in bins]
            row.append(math.log(max(1.0, float(np.dot(weights, magnitudes)))))
        rows.append(row)
    return np.array(rows)


def naive_normalize(log_mel):
    mean = log_mel.sum() / log_mel.size
    std = math.sqrt(((log_mel - mean) ** 2).sum() / log_mel.size)
    return (log_mel - mean) / std if std > 0 else log_mel - mean


@pytest.mark.parametrize("name", FILES)
def test_features_equal_the_original_programs(golden, name):
    samples = np.load(golden / "features" / f"{name}.samples.npy").reshape(-1)
    expected = np.load(golden / "features" / f"{name}.logmel.npy")
    assert relative_error(features(samples, do_normalize=False), expected) < 1e-5
    assert relative_error(features(samples), np.load(golden / "features" / f"{name}.norm.npy")) < 1e-5


def test_every_golden_file_is_tested(golden):
    found = {path.name.split(".")[0] for path in (golden / "features").glob("*.samples.npy")}
    # The original folds stereo into time, and has no frame for 399 samples: see the next two tests.
    assert found <= {*FILES, "stereo_wav", "short399_wav"}


def test_stereo_is_refused_with_the_way_out(golden):
    samples = np.load(golden / "features" / "stereo_wav.samples.npy")
    assert samples.shape == (45891, 2)
    with pytest.raises(ValueError, match=r"must be mono.*\(45891, 2\).*mean over the channels"):
        features(samples)
    with pytest.raises(ValueError, match="must be mono"):
        features([samples, samples])
    with pytest.raises(ValueError, match=r"must be mono.*\(0, 45891\)"):
        features(samples.T[:0])


def test_rows_of_an_array_are_utterances_as_in_stock_extractors():
    rows = np.random.default_rng(0).normal(0, 0.1, (3, 4000)).astype(np.float32)
    stock = Wav2Vec2FeatureExtractor()(rows, sampling_rate=RATE)["input_values"]
    assert len(stock) == len(rows)
    extractor = MlplFeatureExtractor()
    expected = extractor(list(rows), sampling_rate=RATE)["input_features"]
    for batch in (rows, torch.from_numpy(rows), rows.astype(np.float64)):
        assert np.array_equal(extractor(batch, sampling_rate=RATE)["input_features"], expected)
    assert extractor(rows[:1], sampling_rate=RATE)["input_features"].shape == (1, 23, 80)


def test_less_than_a_window_is_extended_with_zeros(golden):
    samples = np.load(golden / "features" / "short399_wav.samples.npy").reshape(-1)
    extended = np.append(samples, 0.0)
    assert features(samples).shape == (1, 80)
    assert relative_error(features(samples, do_normalize=False), naive_log_mel(extended)) < 1e-5
    for nothing in ([], np.zeros(0, np.float32), torch.zeros(0)):
        assert np.array_equal(features(nothing), np.zeros((1, 80)))
    assert np.isfinite(features([0.5])).all()


def test_fourier_transform_by_its_sum():
    """numpy's FFT is part of the reference above: one frame without it."""
    samples = noise(400)
    x = [0.03 * samples[0], *(samples[1:] - 0.97 * samples[:-1])]
    x = [32768 * float(v) * (0.54 - 0.46 * math.cos(2 * math.pi * i / 399)) for i, v in enumerate(x)]
    k = 100
    magnitude = abs(sum(v * cmath.exp(-2j * math.pi * k * n / 512) for n, v in enumerate(x)))
    assert magnitude == pytest.approx(np.abs(np.fft.fft(x, 512)[k]), rel=1e-9)


@pytest.mark.parametrize("num_samples", [400, 401, 559, 560, 561, 719, 720, 1039, 1040, 4801])
def test_features_equal_the_definition(num_samples):
    samples = noise(num_samples, seed=num_samples)
    log_mel = naive_log_mel(samples)
    assert len(log_mel) == MlplFeatureExtractor().num_frames(num_samples)
    assert relative_error(features(samples, do_normalize=False), log_mel) < 1e-6
    assert relative_error(features(samples), naive_normalize(log_mel)) < 1e-5


@pytest.mark.parametrize("extra_frames", [-1, 0, 1])
def test_blocks_of_frames_join(extra_frames):
    samples = noise(400 + 160 * (BLOCK_FRAMES + extra_frames - 1))
    whole = features(samples, do_normalize=False)
    assert len(whole) == BLOCK_FRAMES + extra_frames
    tail = features(samples[160 * (BLOCK_FRAMES - 3) :], do_normalize=False)
    np.testing.assert_allclose(whole[BLOCK_FRAMES - 3 :], tail, rtol=1e-6)


@pytest.mark.parametrize("num_samples", [0, 1, 399, 400, 559, 560, 16000])
def test_number_of_frames(num_samples):
    assert MlplFeatureExtractor().num_frames(num_samples) == len(features(np.zeros(num_samples)))


def test_silence_and_constant_input():
    assert np.array_equal(features(np.zeros(16000)), np.zeros((98, 80)))
    constant = features(np.full(16000, 0.25, np.float32))
    assert np.isfinite(constant).all()
    assert constant.mean() == pytest.approx(0, abs=1e-5)
    assert constant.std() == pytest.approx(1, abs=1e-5)
    assert np.ptp(constant, axis=0).max() < 1e-5  # every frame is the same


@given(st.lists(st.floats(-1, 1, width=32), max_size=900), st.sampled_from([1.0, 1e-4, 1e-8]))
@settings(max_examples=50, deadline=None)
def test_any_samples_give_finite_normalised_features(samples, scale):
    result = features([scale * sample for sample in samples])
    assert np.isfinite(result).all()
    assert abs(result.mean()) < 1e-4
    assert result.std() == pytest.approx(1, abs=1e-3) or not result.any()


def test_batch_equals_one_by_one():
    extractor = MlplFeatureExtractor()
    utterances = [noise(n, seed=n) for n in (16000, 300, 5000, 5160)]
    batch = extractor(utterances, sampling_rate=RATE, return_tensors="pt")
    assert batch["input_features"].shape == (4, 98, 80)
    assert batch["input_features"].dtype == torch.float32
    lengths = [extractor.num_frames(len(utterance)) for utterance in utterances]
    assert batch["attention_mask"].sum(dim=1).tolist() == lengths == [98, 1, 29, 30]
    for row, mask, utterance in zip(batch["input_features"], batch["attention_mask"], utterances, strict=True):
        assert np.array_equal(row[mask.bool()], features(utterance))
        assert not row[~mask.bool()].any()


def features_of_a_batch(utterances, **settings):
    """Features (T, 80) of each utterance, computed on the CPU as an accelerator's batch is."""
    extractor = MlplFeatureExtractor(**settings)
    return extractor._batch_features([extractor._waveform(samples, torch.device("cpu")) for samples in utterances])


@pytest.mark.parametrize("do_normalize", [True, False])
def test_batch_of_an_accelerator_equals_one_by_one(do_normalize):
    longest = 400 + 160 * (BLOCK_FRAMES + 2)
    utterances = [noise(n, seed=n) for n in (5000, 0, 399, 400, 559, 560, longest)]
    utterances += [np.zeros(3000, np.float32), np.full(3000, 0.25, np.float32)]
    batch = features_of_a_batch(utterances, do_normalize=do_normalize)
    for samples, frames in zip(utterances, batch, strict=True):
        np.testing.assert_allclose(frames, features(samples, do_normalize=do_normalize), rtol=1e-5, atol=2e-5)


def test_batch_of_an_accelerator_equals_the_original_program(golden):
    utterances = [np.load(golden / "features" / f"{name}.samples.npy").reshape(-1) for name in FILES]
    for name, frames in zip(FILES, features_of_a_batch(utterances), strict=True):
        assert relative_error(frames.numpy(), np.load(golden / "features" / f"{name}.norm.npy")) < 1e-5


def test_device():
    extractor = MlplFeatureExtractor()
    utterances = [noise(n, seed=n) for n in (16000, 300, 5000)]
    expected = extractor(utterances, sampling_rate=RATE, return_tensors="pt")
    for device in ("cpu", torch.device("cpu")):
        batch = extractor(utterances, sampling_rate=RATE, return_tensors="pt", device=device)
        assert torch.equal(batch["input_features"], expected["input_features"])
    with pytest.raises(RuntimeError, match="gpu"):
        extractor(utterances, sampling_rate=RATE, device="gpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
def test_features_on_a_gpu():
    extractor = MlplFeatureExtractor()
    utterances = [torch.from_numpy(noise(n, seed=n)) for n in (16000, 300, 160 * (BLOCK_FRAMES + 9))]
    expected = extractor(utterances, sampling_rate=RATE, return_tensors="pt")
    for waveforms in (utterances, [waveform.cuda() for waveform in utterances]):
        batch = extractor(waveforms, sampling_rate=RATE, return_tensors="pt", device="cuda")
        assert batch["input_features"].device.type == batch["attention_mask"].device.type == "cuda"
        assert torch.equal(batch["attention_mask"].cpu(), expected["attention_mask"])
        torch.testing.assert_close(batch["input_features"].cpu(), expected["input_features"], rtol=1e-4, atol=1e-4)
        arrays = extractor(waveforms, sampling_rate=RATE, device="cuda")
        assert np.array_equal(arrays["input_features"], batch["input_features"].cpu())
    assert torch.equal(
        extractor(waveforms, sampling_rate=RATE, return_tensors="pt")["input_features"], expected["input_features"]
    )


padding_arguments = st.fixed_dictionaries(
    {
        "padding": st.sampled_from([True, False, "longest", "max_length", "do_not_pad"]),
        "max_length": st.none() | st.integers(1, 12),
        "truncation": st.booleans(),
        "pad_to_multiple_of": st.none() | st.integers(1, 4),
        "return_attention_mask": st.sampled_from([None, True, False]),
        "return_tensors": st.sampled_from([None, "np", "pt"]),
    }
)


@settings(max_examples=100, deadline=None)
@given(
    num_frames=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    padding_side=st.sampled_from(["left", "right"]),
    arguments=padding_arguments,
)
def test_padding_is_that_of_transformers(num_frames, padding_side, arguments):
    """Frames are treated as Wav2Vec2FeatureExtractor, whose frames are samples, treats those."""
    stock = Wav2Vec2FeatureExtractor(
        padding_side=padding_side, padding_value=-7.0, return_attention_mask=True, do_normalize=False
    )
    ours = MlplFeatureExtractor(padding_side=padding_side, padding_value=-7.0)
    utterances = [noise(240 + 160 * n, seed=n) for n in num_frames]
    try:
        expected = stock([np.ones(n, np.float32) for n in num_frames], sampling_rate=RATE, **arguments)
    except ValueError:
        with pytest.raises(ValueError, match="Use padding=True|max_length"):
            ours(utterances, sampling_rate=RATE, **arguments)
        return
    actual = ours(utterances, sampling_rate=RATE, **arguments)
    assert type(actual["input_features"]) is type(expected["input_values"])
    assert ("attention_mask" in actual) == ("attention_mask" in expected)
    for i, (frames, ones) in enumerate(zip(actual["input_features"], expected["input_values"], strict=True)):
        frames, valid = np.asarray(frames), np.asarray(ones) == 1.0
        assert np.array_equal(frames[valid], features(utterances[i])[: valid.sum()])
        assert (frames[~valid] == -7.0).all()
        if "attention_mask" in expected:
            mask, stock_mask = (np.asarray(inputs["attention_mask"][i]) for inputs in (actual, expected))
            assert np.array_equal(mask, stock_mask) and mask.dtype == stock_mask.dtype


def test_padding_arguments():
    extractor = MlplFeatureExtractor()
    fixed = extractor(noise(5000), sampling_rate=RATE, padding="max_length", max_length=40, return_tensors="np")
    assert fixed["input_features"].shape == (1, 40, 80)
    assert fixed["attention_mask"].sum() == 29
    multiple = extractor([noise(5000)], sampling_rate=RATE, pad_to_multiple_of=16, return_attention_mask=False)
    assert multiple["input_features"].shape == (1, 32, 80)
    assert "attention_mask" not in multiple
    cut = extractor(noise(5000), sampling_rate=RATE, truncation=True, max_length=10)
    assert np.array_equal(cut["input_features"][0], features(noise(5000))[:10])  # normalised before it is cut


@pytest.mark.parametrize(
    "form",
    [
        lambda x: x.astype(np.float64),
        lambda x: x.astype(">f4"),
        lambda x: np.repeat(x, 2)[::2],
        lambda x: x[::-1].copy()[::-1],
        lambda x: x.tolist(),
        lambda x: tuple(x.tolist()),
        lambda x: [x.tolist()],
        lambda x: torch.from_numpy(x),
        lambda x: [torch.from_numpy(x).double()],
        lambda x: torch.from_numpy(x).requires_grad_(),
        lambda x: np.frombuffer(x.tobytes(), np.float32),  # read-only
    ],
)
def test_forms_of_input(form):
    samples = noise(2000)
    assert np.array_equal(features(form(samples)), features(samples))
    assert np.array_equal(samples, noise(2000))  # the input is not written to


def test_wrong_input_is_refused_with_the_way_out():
    extractor = MlplFeatureExtractor()
    with pytest.raises(ValueError, match=r"44100 Hz.*16000 Hz.*load_audio"):
        extractor(noise(500), sampling_rate=44100)
    for integers in (np.zeros(500, np.int16), torch.zeros(500, dtype=torch.int16)):
        with pytest.raises(ValueError, match=r"int16; divide 16-bit samples by 32768"):
            features(integers)
    for bad in (np.nan, np.inf, -np.inf, 1e30, 40000.0):
        samples = noise(500)
        samples[-1] = bad  # not part of any window
        with pytest.raises(ValueError, match="NaN, infinite or beyond 32768"):
            features(samples)
        with pytest.raises(ValueError, match="NaN, infinite or beyond 32768"):
            features([noise(500), samples])
    for other in ("speech.wav", ["speech.wav"], None, {"array": noise(500)}, noise(500).astype(complex)):
        with pytest.raises(ValueError, match=r"must be float samples, got .*load_audio"):
            features(other)
    with pytest.raises(TypeError, match="sample_rate"):
        extractor(noise(500), sample_rate=RATE)
    with pytest.raises(ValueError, match="win_length is 600"):
        MlplFeatureExtractor(win_length=600)


def test_save_and_load(tmp_path):
    extractor = MlplFeatureExtractor(mel_floor=2.0, padding_value=-1.0)
    before = extractor(noise(900), sampling_rate=RATE)["input_features"]
    extractor.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert stored == {
        "auto_map": {"AutoFeatureExtractor": "feature_extraction_mlpl.MlplFeatureExtractor"},
        "do_normalize": True,
        "feature_extractor_type": "MlplFeatureExtractor",
        "feature_size": 80,
        "hop_length": 160,
        "mel_floor": 2.0,
        "n_fft": 512,
        "padding_side": "right",
        "padding_value": -1.0,
        "preemphasis": 0.97,
        "return_attention_mask": True,
        "sampling_rate": 16000,
        "win_length": 400,
    }
    loaded = MlplFeatureExtractor.from_pretrained(tmp_path)
    copies = [loaded, MlplFeatureExtractor.from_dict(extractor.to_dict()), copy.deepcopy(extractor)]
    for other in (*copies, pickle.loads(pickle.dumps(extractor))):
        assert other.to_dict() == extractor.to_dict()
        assert np.array_equal(other(noise(900), sampling_rate=RATE)["input_features"], before)
