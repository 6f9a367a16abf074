"""Tests the spectra of speakers: whose are measured, and what the features of matched speech are."""

import numpy as np
import pytest
import soundfile
import torch
from datasets import Dataset
from transformers import AutoConfig, AutoProcessor

from hf_mlpl import MlplConfig, MlplFeatureExtractor, MlplProcessor, MlplTokenizer
from hf_mlpl.data import speaker_spectra
from hf_mlpl.data.batches import SpeechBatches
from hf_mlpl.data.speaker_spectra import SpeakerSpectra
from hf_mlpl.data.utterances import FEATURES
from hf_mlpl.training_config import SpecAugmentConfig

from ..small_models import save_small_model

# By speaker: the pole of a filter, so that one sounds dull and another one shrill, and the share of noise.
VOICES = {"anna": (0.95, 0.3), "ben": (-0.6, 0.02), "cene": (0.5, 0.1), "dana": (0.9, 0.01)}
CLIPS = 12
MODEL = {"hidden_size": 16, "num_attention_heads": 2, "attention_head_dim": 8, "intermediate_size": 32}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Writes clips of noise whose loudness changes, by the filters of the speakers."""
    folder = tmp_path_factory.mktemp("voices")
    for number, (speaker, (pole, noise)) in enumerate(VOICES.items()):
        for clip in range(CLIPS):
            rng = np.random.default_rng([number, clip])
            seconds = rng.uniform(0.8, 1.6)
            loudness = np.repeat(rng.random(20), round(800 * seconds))
            spoken = np.fft.rfft(loudness * rng.normal(size=len(loudness)))
            spoken /= 1 - pole * np.exp(-1j * np.linspace(0, np.pi, len(spoken)))
            samples = 0.02 * (np.fft.irfft(spoken, len(loudness)) + noise * rng.normal(size=len(loudness)))
            soundfile.write(folder / f"{speaker}{clip}.wav", samples, 16000, subtype="FLOAT")
    return folder


def speech_of(folder, speakers, are_named=True) -> Dataset:
    rows = [
        {
            "id": f"{speaker}{clip}",
            "audio": {"path": str(folder / f"{speaker}{clip}.wav"), "start": None, "end": None},
            "duration_seconds": soundfile.info(folder / f"{speaker}{clip}.wav").duration,
            "language": "sl",
            "text": None,
            "speaker": speaker if are_named else None,
            "source": None,
        }
        for clip in range(CLIPS)
        for speaker in speakers
    ]
    return Dataset.from_list(rows, features=FEATURES)


@pytest.fixture(scope="module")
def make(folder, tmp_path_factory):
    """Returns a function that makes batches of the speech of some speakers."""
    tokens = tmp_path_factory.mktemp("tokens") / "tokens.lst"
    tokens.write_text("|\na\n")
    processor = MlplProcessor(MlplFeatureExtractor(), MlplTokenizer(tokens))
    config = MlplConfig.tiny(3, ["sl"], num_hidden_layers=1, **MODEL)

    def make(speakers, are_named=True, **settings):
        return SpeechBatches(speech_of(folder, speakers, are_named), [], processor, config, False, **settings)

    return make


def frames_of(speech, rows=None):
    batch = speech.batch(list(range(len(speech.dataset))) if rows is None else rows, None)
    return [
        frames[mask.bool()].double().numpy()
        for frames, mask in zip(batch.input_features, batch.attention_mask, strict=True)
    ]


def spectrum(speech, speaker):
    rows = [row for row, name in enumerate(speech.dataset["speaker"]) if name == speaker]
    frames = np.concatenate(frames_of(speech, rows))
    return frames.mean(axis=0), frames.std(axis=0)


def test_matched_speech_has_the_spectrum_of_the_reference(make, monkeypatch):
    """Without a prior: mean and deviation become those of the reference, up to the utterances' own normalisation."""
    monkeypatch.setattr(speaker_spectra, "PRIOR_FRAMES", 0.0)
    reference, speech = make(["cene", "dana"]), make(["anna", "ben"])
    known = np.concatenate(frames_of(reference))
    target = known.mean(axis=0), known.std(axis=0)
    before = {speaker: spectrum(speech, speaker) for speaker in ("anna", "ben")}
    plain = frames_of(speech)
    speech.match = SpeakerSpectra.measure(speech, reference)
    for speaker, (mean, deviation) in before.items():
        [new_mean, new_deviation] = spectrum(speech, speaker)
        assert np.abs(mean - target[0]).mean() > 5 * np.abs(new_mean - target[0]).mean()
        assert np.abs(deviation - target[1]).mean() > 2 * np.abs(new_deviation - target[1]).mean()
    for speaker, old, new in zip(speech.dataset["speaker"], plain, frames_of(speech), strict=True):
        mean, deviation = before[speaker]
        expected = (old - mean) / deviation * target[1] + target[0]
        expected = (expected - expected.mean()) / expected.std()
        np.testing.assert_allclose(new, expected, atol=0.01)


def test_little_speech_is_changed_less(make):
    """A speaker of N frames goes N / (N + 500) of the way."""
    reference, speech = make(["cene"]), make(["anna", "ben"])
    spectra = SpeakerSpectra.measure(speech, reference)
    target = spectrum(reference, "cene")
    for speaker in ("anna", "ben"):
        mean, deviation = spectrum(speech, speaker)
        rows = [row for row, name in enumerate(speech.dataset["speaker"]) if name == speaker]
        num_frames = sum(map(len, frames_of(speech, rows)))
        share = num_frames / (num_frames + 500)
        factor = (target[1] / deviation) ** share
        offset = mean + share * (target[0] - mean) - factor * mean
        np.testing.assert_allclose(spectra.changes[speaker].numpy(), [factor, offset], atol=2e-3)


def test_no_more_than_two_minutes_are_measured(make, monkeypatch):
    """Utterances are chosen until a speaker has so many seconds, with no more than the last one beyond it."""
    monkeypatch.setattr(speaker_spectra, "SECONDS", 5.0)
    speech = make(["anna", "ben"])
    rows, names = speaker_spectra._sample(speech.dataset)
    assert names == [speech.dataset["speaker"][row] for row in rows] and list(rows) == sorted(set(rows.tolist()))
    for speaker in ("anna", "ben"):
        own = [row for row, name in zip(rows, names, strict=True) if name == speaker]
        assert 5.0 <= sum(speech.dataset["duration_seconds"][row] for row in own) < 5.0 + 1.6


def test_utterances_without_a_speaker_count_as_those_of_their_recording(make):
    speech = make(["anna", "ben"], are_named=False)
    speech.match = SpeakerSpectra.measure(speech, make(["cene"], are_named=False))
    assert speech.match.changes.keys() == {audio["path"] for audio in speech.dataset["audio"]}
    named = make(["anna", "ben"])
    named.match = SpeakerSpectra({"anna": speech.match.changes[speech.dataset["audio"][0]["path"]]}, True)
    np.testing.assert_array_equal(frames_of(speech, [0])[0], frames_of(named, [0])[0])


def test_augmented_and_unknown_speech_stays_as_it_is(make):
    """What a model learns is not matched, and neither is a speaker that could not be measured."""
    augment = SpecAugmentConfig(start_update=0)
    plain, speech = make(["anna", "ben"], augment=augment), make(["anna", "ben"], augment=augment)
    speech.match = SpeakerSpectra.measure(make(["anna"]), make(["cene"]))
    assert torch.equal(speech.batch([0, 1], 7).input_features, plain.batch([0, 1], 7).input_features)
    anna, ben = (
        torch.allclose(*(each.batch([row], None).input_features for each in (speech, plain)), atol=1e-4)
        for row in (0, 1)
    )
    assert not anna and ben
    assert speech.batch([], None).indices == []


def test_batched_equals_single(make):
    speech = make(["anna", "ben"])
    speech.match = SpeakerSpectra.measure(speech, make(["cene"]))
    for row, frames in enumerate(frames_of(speech)):
        np.testing.assert_allclose(frames, frames_of(speech, [row])[0], atol=1e-6)


def test_clips_that_cannot_be_read_are_left_out(make, tmp_path):
    speech = make(["anna", "ben"])
    whole = SpeakerSpectra.measure(speech, make(["cene"]))
    rows = speech.dataset.to_list()
    rows.append(rows[0] | {"id": "lost", "audio": {"path": str(tmp_path / "lost.wav"), "start": None, "end": None}})
    speech.dataset = Dataset.from_list(rows, features=FEATURES)
    again = SpeakerSpectra.measure(speech, make(["cene"]))
    assert all(torch.equal(change, again.changes[name]) for name, change in whole.changes.items())


def test_models_of_waveforms_have_no_spectra(folder, tmp_path):
    save_small_model(tmp_path, "wav2vec2")
    config, processor = AutoConfig.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    speech = SpeechBatches(speech_of(folder, ["anna"]), [], processor, config, False)
    assert SpeakerSpectra.measure(speech, speech) is None
