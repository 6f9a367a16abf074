"""Tests how slimIPL's teacher hears: what noise and spectra do to its input, and which way it chooses."""

import json
import re
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from transformers import AutoModelForCTC, AutoProcessor

from hf_mlpl import MlplForCTC, MlplProcessor
from hf_mlpl.audio.reading import load_audio
from hf_mlpl.data.batches import SpeechBatches
from hf_mlpl.data.speaker_spectra import SpeakerSpectra
from hf_mlpl.data.utterances import read_utterances
from hf_mlpl.inference import hearing
from hf_mlpl.inference.hearing import HEARINGS, SNR, Hearing, choose_hearing, hear
from hf_mlpl.training.loop import train
from hf_mlpl.training_config import load_config

from ..changed_audio import with_hum, write_changed
from ..small_models import save_small_model
from ..two_processes import slimipl_overrides
from .test_loop import Killed, assert_equal_bits, assert_equal_runs, kill_at

pytestmark = pytest.mark.usefixtures("one_thread")

SEED, LONGEST = 3, 30.0


@pytest.fixture(scope="module")
def trained(tone_run):
    return MlplForCTC.from_pretrained(tone_run / "model").eval(), MlplProcessor.from_pretrained(tone_run / "model")


@pytest.fixture
def make(trained):
    """Returns a function that makes batches of the utterances of sv-SE in a file."""
    model, processor = trained

    def make(path, with_labels=False):
        speech = read_utterances([path], ["sv-SE"])
        return SpeechBatches(speech, [], processor, model.config, with_labels, seed=SEED, cache_bytes=10**9)

    return make


@pytest.fixture(scope="module")
def changed(tone_data, tmp_path_factory):
    """Returns a function that writes the unlabelled utterances with other samples; returns their file."""
    return partial(write_changed, tone_data / "unlabelled.parquet", tmp_path_factory.mktemp("changed"))


def test_noise_is_added_to_what_is_labelled_and_to_nothing_else(make, tone_data, trained):
    """The power of the noise is that of the speech divided by 10^(SNR / 10), and each row has its own."""
    speech, plain = make(tone_data / "unlabelled.parquet"), make(tone_data / "unlabelled.parquet")
    hear(Accelerator(cpu=True), Hearing(SNR, False), speech, make(tone_data / "train.parquet", True))
    for row in range(3):
        samples = load_audio(speech.dataset[row]["audio"], 16000).astype(np.float64)
        noise = np.random.default_rng([SEED, row]).standard_normal(len(samples), dtype=np.float32)
        noisy = samples + noise * np.sqrt(np.mean(samples**2) / 10 ** (SNR / 10))
        expected = speech.ctc.extract(noisy.astype(np.float32))
        for _ in range(2):  # computed, and kept
            torch.testing.assert_close(speech.batch([row], None).input_features[0], expected, atol=1e-3, rtol=0)
        assert not torch.allclose(plain.batch([row], None).input_features[0], expected, atol=0.1)
        assert torch.equal(speech.batch([row], 7).input_features, plain.batch([row], 7).input_features)


def test_spectra_are_measured_with_the_noise(make, tone_data):
    speech, reference = make(tone_data / "unlabelled.parquet"), make(tone_data / "train.parquet", True)
    hear(Accelerator(cpu=True), Hearing(SNR, True), speech, reference)
    matched = speech.match
    assert reference.snr is None
    speech.match, reference.snr = None, SNR
    expected = SpeakerSpectra.measure(speech, reference)
    assert matched.changes.keys() == expected.changes.keys()
    assert all(torch.equal(matched.changes[name], change) for name, change in expected.changes.items())


def distance_by_hand(texts, transcripts):
    """Returns the total variation of the letter trigrams of texts and of transcripts."""
    shares = []
    for each in (texts, transcripts):
        counts = Counter(text[i : i + 3] for text in (f"  {text} " for text in each) for i in range(len(text) - 2))
        shares.append({trigram: count / counts.total() for trigram, count in counts.items()})
    labels, known = shares
    return 1 - sum(min(share, known.get(trigram, 0)) for trigram, share in labels.items())


@pytest.mark.parametrize(("sound", "speaker"), [("as it is", "ada"), ("with hum", "ada"), ("with hum", None)])
def test_the_nearest_labels_choose(make, changed, trained, tone_data, capsys, sound, speaker):
    """All distances are those of labels that the model's own classes make from the same features."""
    model, processor = trained
    change = with_hum if sound == "with hum" else lambda samples, number: samples
    # One speaker, or none that is known: what is expected by chance is nearly the same for each hearing.
    path = changed(f"{sound} {speaker}", change, speaker=speaker)
    speech, reference = make(path), make(tone_data / "train.parquet", True)
    chosen = choose_hearing(Accelerator(cpu=True), model, speech, reference, LONGEST)
    out = capsys.readouterr().out
    distances = {}
    for each in HEARINGS:
        other = make(path)
        hear(Accelerator(cpu=True), each, other, reference)
        texts = []
        for row in range(len(other.dataset)):
            batch = other.batch([row], None)
            with torch.no_grad():
                logits = model(batch.input_features, batch.attention_mask).logits
            texts.append(processor.decode(logits.argmax(dim=-1)[0].tolist()))
        distances[each] = distance_by_hand(texts, reference.dataset["text"])
    nearest = min(distances, key=distances.get)
    gain = distances[Hearing(None, False)] - distances[nearest]
    assert (gain > 0.05) if sound == "with hum" else (0 < gain < 0.01)  # which may be by chance
    assert chosen == (nearest if sound == "with hum" else Hearing(None, False))
    assert (speech.snr, speech.match is not None) == chosen
    assert out.startswith(f"the teacher hears {chosen}; ")
    excesses = [float(number) for number in re.findall(r" (0\.\d\d)", out)]
    by_chance = np.array([*distances.values()]) - excesses  # the same for nearly as many letters
    assert np.ptp(by_chance) < 0.03


def test_a_run_keeps_its_choice(tone_data, tone_run, changed, tmp_path, monkeypatch, capsys):
    """It is made once, when slimIPL begins; a run that goes on hears the same, with the bits of a whole run."""
    settings = slimipl_overrides(tone_run / "model", changed("in a run", with_hum, speaker="ada"))

    def run(name):
        return train(load_config(tone_data / "tones.yaml", [f"output_dir={tmp_path / name}", *settings])).parent

    whole = run("whole")
    kill_at(monkeypatch, 9)
    with pytest.raises(Killed):
        run("interrupted")
    monkeypatch.undo()
    assert capsys.readouterr().out.count("the teacher hears") == 2
    interrupted = run("interrupted")
    assert "the teacher hears" not in capsys.readouterr().out
    assert_equal_bits(interrupted, whole)
    state = json.loads((interrupted / "checkpoints" / "update-00000006" / "slimipl-selection.json").read_text())
    assert state["hearing"] in ([None, True], [SNR, True])
    record = json.loads((interrupted / "run.json").read_text())
    assert record["slimipl"]["hearing"] == str(Hearing(*state["hearing"]))


def test_two_processes_hear_the_same(tone_data, tone_run, two_processes, tmp_path, monkeypatch):
    """One process measures the spectra for both."""
    monkeypatch.setattr(hearing, "HEARINGS", hearing.HEARINGS[-1:])  # as in the two processes
    settings = slimipl_overrides(tone_run / "model", tone_data / "unlabelled.parquet")
    one = train(load_config(tone_data / "tones.yaml", [f"output_dir={tmp_path}", *settings])).parent
    assert_equal_runs(one, two_processes / "heard")
    record = json.loads((two_processes / "heard" / "run.json").read_text())
    assert record["slimipl"]["hearing"] == "matched speakers and noise of 15 dB"


def test_models_of_waveforms_hear_noise_or_none(tone_data, tmp_path):
    save_small_model(tmp_path, "wav2vec2")
    model, processor = AutoModelForCTC.from_pretrained(tmp_path).eval(), AutoProcessor.from_pretrained(tmp_path)
    sets = [
        read_utterances([path], ["sv-SE"]) for path in (tone_data / "unlabelled.parquet", tone_data / "train.parquet")
    ]
    batches = [SpeechBatches(speech, [], processor, model.config, with_labels=False) for speech in sets]
    chosen = choose_hearing(Accelerator(cpu=True), model, *batches, LONGEST)
    assert not chosen.is_matched and batches[0].match is None
