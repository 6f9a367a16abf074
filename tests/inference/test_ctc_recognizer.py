"""Transcribes recordings with CTC models of transformers' own architectures, as `hf-mlpl transcribe` does."""

import json

import numpy as np
import pytest
import soundfile
import torch
from datasets import Dataset
from transformers import AutoModelForCTC, AutoProcessor

from hf_mlpl.data.utterances import FEATURES
from hf_mlpl.inference.ctc_recognizer import CtcRecognizer
from hf_mlpl.inference.decoding import transcribe
from hf_mlpl.inference.loading import load_model

from ..commands import run_command
from ..random_model import sweep
from ..small_models import save_small_encoder, save_small_mms, save_small_model


@pytest.mark.parametrize("architecture", ["wav2vec2-group", "parakeet_ctc", "omniasr_ctc"])
def test_recordings_of_any_length(architecture, tmp_path, capsys):
    """Texts are transformers' own, in any batch, and labels are the same."""
    folder = save_small_model(tmp_path / architecture, architecture, num_hidden_layers=1)
    waveforms = [sweep(1.96), sweep(0.6), np.tile(sweep(4), 10), sweep(1.0)]  # the third is cut
    for i, waveform in enumerate(waveforms):
        soundfile.write(tmp_path / f"{i}.wav", waveform, 16_000, subtype="FLOAT")
    paths = [tmp_path / f"{i}.wav" for i in range(4)]
    assert run_command("transcribe.py", "--model", folder, *paths, "--format", "json", "--timestamps", "word") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["file"] for line in lines] == list(map(str, paths))
    for line, waveform in zip(lines, waveforms, strict=True):
        assert " ".join(word["word"] for word in line["words"]) == line["text"] != ""
        times = [time for word in line["words"] for time in (word["start"], word["end"])]
        assert times == sorted(times) and 0 <= times[0] < times[-1] <= len(waveform) / 16_000 + 0.04

    model, processor = AutoModelForCTC.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    with torch.no_grad():
        inputs = processor.feature_extractor(waveforms[0], sampling_rate=16_000, return_tensors="pt")
        path = model(**inputs).logits[0].argmax(-1)
    text = processor.decode(path, skip_special_tokens=processor.tokenizer.is_fast)
    assert lines[0]["text"] == " ".join(text.split())
    recognize = CtcRecognizer(*load_model(folder))
    singly = [recognize(waveform)["text"] for waveform in waveforms]
    assert singly == [line["text"] for line in lines]
    rows = [
        {"id": str(i), "audio": {"path": str(path), "bytes": None}, "duration_seconds": len(waveform) / 16_000}
        | {"language": "br", "text": None, "speaker": None, "source": None}
        for i, (path, waveform) in enumerate(zip(paths, waveforms, strict=True))
    ]
    hypotheses = list(transcribe(*load_model(folder), Dataset.from_list(rows, features=FEATURES)))
    assert {hypothesis.row: hypothesis.text for hypothesis in hypotheses} == dict(enumerate(singly))
    for hypothesis in hypotheses:  # of a recording in pieces too
        words = recognize(waveforms[hypothesis.row], return_timestamps="word", return_confidence=True)["chunks"]
        lowest = min(word["confidence"] for word in words)
        assert lowest == pytest.approx(hypothesis.lowest_word_confidence, rel=1e-3)
    chunks = recognize(waveforms[0], return_timestamps="char")["chunks"]
    assert "".join(chunk["text"] for chunk in chunks) == singly[0]


def test_models_that_transcribe_refuses(tmp_path, error_of, capfd):
    soundfile.write(tmp_path / "a.wav", sweep(1), 16_000)
    encoder = save_small_encoder(tmp_path / "encoder", "wav2vec2")
    assert f"{encoder}: has no CTC head" in error_of("transcribe.py", "--model", encoder, tmp_path / "a.wav")
    mms = save_small_mms(tmp_path / "mms", {"eng": "abc", "bre": "deñ"})
    assert run_command("transcribe.py", "--model", mms, "--language", "br", tmp_path / "a.wav") == 0
    name, language, text = capfd.readouterr().out.rstrip("\n").split("\t")
    assert language == "-" and set(text) <= set("deñ ") and text
    error = error_of("transcribe.py", "--model", mms, "--language", "de", tmp_path / "a.wav")
    assert error == f"{mms}: has no adapter for the language de; it has bre, eng"
