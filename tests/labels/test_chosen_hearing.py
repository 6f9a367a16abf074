"""Tests how a teacher hears the speech that it labels: its inputs, its choice, and the names of its labels."""

import re

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from rapidfuzz.distance import Levenshtein

from hf_mlpl import MlplForCTC, MlplProcessor
from hf_mlpl.audio.reading import load_audio
from hf_mlpl.ctc_models import ctc_interface
from hf_mlpl.data.batches import SpeechBatches
from hf_mlpl.data.heard_speech import HeardSpeech
from hf_mlpl.data.rows import recording_of
from hf_mlpl.data.speaker_spectra import SpeakerSpectra
from hf_mlpl.data.utterances import read_utterances, write_utterances
from hf_mlpl.inference.decoding import PieceBatches, transcribe

from ..changed_audio import RATE, with_hum, write_changed
from ..commands import run_command
from ..ranks import run_on_two
from ..small_teachers import make_whisper

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def teacher(tone_run):
    return MlplForCTC.from_pretrained(tone_run / "model").eval(), MlplProcessor.from_pretrained(tone_run / "model")


@pytest.fixture(scope="module")
def hummed(tone_data, tmp_path_factory):
    """Writes speech of one speaker with a hum, which a matched spectrum takes away; returns the file."""
    folder = tmp_path_factory.mktemp("hummed")
    return write_changed(tone_data / "unlabelled.parquet", folder, "hum", with_hum, speaker="ada")


@pytest.fixture(scope="module")
def heard(teacher, hummed, tone_data):
    """Returns speech with the spectrum of what the teacher has learned, and with noise."""
    model, processor = teacher
    files = hummed, tone_data / "train.parquet"
    batches = [SpeechBatches(read_utterances([path], ["sv-SE"]), [], processor, model.config, False) for path in files]
    return HeardSpeech("heard", 15.0, SpeakerSpectra.measure(*batches))


@pytest.fixture
def label(tone_run, hummed, tmp_path, capfd):
    """Returns a function that labels with the tones' model; it returns the labels by id, and what was printed."""

    def label(name, *options, data=hummed) -> tuple[dict[str, tuple[str, str]], str]:
        files = ["--data", data, "--languages", "sv-SE", "--output", tmp_path / name, "--num-workers", 0]
        assert run_command("pseudo_label.py", "--model", tone_run / "model", *files, *options) == 0
        rows = pq.read_table(tmp_path / name / "labels.parquet").to_pylist()
        return {row["id"]: (row["text"], row["source"]) for row in rows}, capfd.readouterr().out

    return label


def inputs(teacher, speech: Dataset, rows, heard=None) -> list[torch.Tensor]:
    model, processor = teacher
    [batch] = PieceBatches(speech, processor, model.config, 1e4, heard).make_batches(rows)
    return [each[mask.bool()] for each, mask in zip(batch.input_features, batch.attention_mask, strict=True)]


def test_noise_comes_before_the_features_and_the_spectrum_after_them(teacher, hummed, heard):
    """An utterance gets the same in a batch as alone, and each of its pieces other noise."""
    speech, ctc = read_utterances([hummed]), ctc_interface(teacher[0].config, teacher[1])
    for row, together in enumerate(inputs(teacher, speech, [*range(6)], heard)):
        [alone] = inputs(teacher, speech, [row], heard)
        torch.testing.assert_close(together, alone, rtol=0, atol=0)
        name, samples = speech[row]["id"], load_audio(speech[row]["audio"], RATE)
        noises = [heard.samples(samples, *of) - samples for of in ((name, 0), (name, 1), (f"{name}x", 0))]
        for noise in noises:
            level = 10 * np.log10(np.mean(samples**2) / np.mean(noise**2))
            assert level == pytest.approx(15.0, abs=0.2)
        assert max(abs(np.corrcoef(noises)[np.triu_indices(3, 1)])) < 0.05
        frames = ctc.extract(samples + noises[0])
        expected = heard.match(frames[None], torch.tensor([len(frames)]), ["ada"])[0]
        torch.testing.assert_close(alone, expected)
    spoken = speech.remove_columns("speaker")  # of recordings whose spectra nobody has measured
    noisy = HeardSpeech("heard", heard.snr)
    torch.testing.assert_close(inputs(teacher, spoken, [0], heard), inputs(teacher, spoken, [0], noisy))
    assert recording_of(speech[0]["audio"]) not in heard.match.changes


def test_batched_labels_equal_single_ones(teacher, hummed, heard):
    speech = read_utterances([hummed])
    together = {each.row: each.text for each in transcribe(*teacher, speech, heard=heard)}
    by_workers = {each.row: each.text for each in transcribe(*teacher, speech, num_workers=2, heard=heard)}
    alone = [next(transcribe(*teacher, speech.select([row]), heard=heard)).text for row in range(len(speech))]
    assert by_workers == together == dict(enumerate(alone))


def test_labels_are_those_of_the_speech_without_the_hum(label, tone_data):
    labelled = ["--labelled", tone_data / "train.parquet"]
    chosen, printed = label("chosen", *labelled)
    assert re.match(r"the teacher hears matched speakers( and noise of 15 dB)?; distances of its labels", printed)
    assert all(re.search(r"@\w+\+heard-m[0-9a-f]{12}(-n15)?$", source) for _, source in chosen.values())
    plain, printed = label("plain")
    clean, _ = label("clean", *labelled, data=tone_data / "unlabelled.parquet")
    assert "hears" not in printed and not any("heard" in source for _, source in [*plain.values(), *clean.values()])

    def edits(labels) -> int:
        return sum(Levenshtein.distance(text, clean[name][0]) for name, (text, _) in labels.items())

    assert 2 * edits(chosen) < edits(plain)


def test_a_job_that_has_begun_hears_as_before(label, tone_data, tmp_path, tone_run, hummed, error_of):
    labelled = ["--labelled", tone_data / "train.parquet"]
    begun, _ = label("begun", *labelled)
    (tmp_path / "begun" / "labels.parquet").unlink()
    (tmp_path / "begun" / "complete.json").unlink()
    again, printed = label("begun", *labelled)
    assert again == begun and "hears" not in printed
    plain, _ = label("plain")
    assert label("plain", *labelled)[0] == plain

    rows = read_utterances([tone_data / "train.parquet"], ["sv-SE"]).to_list()
    write_utterances(rows[1:], tmp_path / "fewer.parquet")  # another spectrum
    job = ["--model", tone_run / "model", "--data", hummed, "--output", tmp_path / "begun"]
    assert "+heard-m" in error_of("pseudo_label.py", *job, "--labelled", tmp_path / "fewer.parquet")


def test_speech_that_cannot_choose(tone_data, tone_run, hummed, tmp_path, error_of):
    job = ["--data", hummed, "--output", tmp_path / "labels"]
    unlabelled = ["--labelled", hummed]
    line = error_of("pseudo_label.py", "--model", tone_run / "model", *job, *unlabelled)
    assert line.startswith(f"--labelled {hummed}: has no transcript in sv-SE; give the speech")
    rows = read_utterances([hummed]).to_list()
    write_utterances(rows[:0], tmp_path / "none.parquet")
    nothing = ["--data", tmp_path / "none.parquet", "--labelled", tone_data / "train.parquet"]
    line = error_of("pseudo_label.py", "--model", tone_run / "model", *nothing, "--output", tmp_path / "nothing")
    assert line == f"{tmp_path / 'none.parquet'}: no utterances to label"
    make_whisper(tmp_path / "whisper")
    line = error_of("pseudo_label.py", "--model", tmp_path / "whisper", *job, *unlabelled)
    assert line == f"{tmp_path / 'whisper'}: --labelled is for CTC models; this one is used without it"


@pytest.mark.slow
def test_two_processes_hear_the_same(label, tone_run, hummed, tone_data, tmp_path):
    labelled = ["--labelled", tone_data / "train.parquet"]
    expected, _ = label("one", *labelled)
    command = ["--model", tone_run / "model", "--data", hummed, *labelled, "--output", tmp_path / "two"]
    done = run_on_two(tmp_path, "pseudo_label.py", *command)
    assert [status for status, _ in done] == [0, 0], done
    rows = pq.read_table(tmp_path / "two" / "labels.parquet").to_pylist()
    assert {row["id"]: (row["text"], row["source"]) for row in rows} == expected
