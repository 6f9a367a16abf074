"""The interface of our own model, compared with the model's and its tokenizer's own methods."""

import numpy as np
import pytest
import torch

from hf_mlpl import MlplConfig, MlplFeatureExtractor, MlplForCTC, MlplProcessor, MlplTokenizer
from hf_mlpl.ctc_models import ctc_interface

from ..random_model import SIZES, sweep

TEXTS = ["", " ", "ab", " a  b\u00a0c ", "a|b", "<blank>", "a<blank>b", "xyz", "a x b", "schatz", "o\u0308", "\u00f6"]


@pytest.fixture
def parts(tmp_path):
    (tmp_path / "tokens.lst").write_text("|\na\nb\nc\nsch\nt\nz \u017e\n\u00f6\n", encoding="utf-8")

    def parts(languages, surround=""):
        torch.manual_seed(0)
        model = MlplForCTC(MlplConfig.tiny(9, languages, num_hidden_layers=1, **SIZES, ctc_loss_reduction="mean"))
        processor = MlplProcessor(MlplFeatureExtractor(), MlplTokenizer(tmp_path / "tokens.lst", surround))
        return model, processor, ctc_interface(model.config, processor)

    return parts


@pytest.mark.parametrize("surround", ["", "|"])
def test_labels_are_the_tokenizers(parts, surround):
    _, processor, ctc = parts([], surround)
    for text in TEXTS:
        assert ctc.label_ids(text) == processor.tokenizer(text)["input_ids"], text


@pytest.mark.parametrize("languages", [[], ["de", "sl"]])
def test_losses_and_outputs_are_the_models(parts, languages):
    """A model without languages learns the texts alone, whatever language an utterance has."""
    model, processor, ctc = parts(languages)
    waveforms = [sweep(1.0), np.zeros(0, np.float32)]
    inputs = processor(waveforms, sampling_rate=16000)
    for waveform, features in zip(waveforms, inputs["input_features"], strict=True):
        assert torch.equal(ctc.extract(waveform), features[: ctc.num_inputs(len(waveform))])
    labels, language_ids = torch.tensor([[1, 2, 1], [-100] * 3]), torch.tensor([1, -100])
    expected = model(**inputs, labels=labels, language_ids=language_ids if languages else None, num_utterances=5)
    loss = ctc.loss(model, **inputs, labels=labels, language_ids=language_ids, num_utterances=5)
    assert torch.equal(loss, expected.loss)
    output = ctc.forward(model, **inputs)
    assert torch.equal(output.logits, expected.logits)
    assert output.num_frames.tolist() == [33, 1]
    assert ctc.input_seconds(inputs["attention_mask"].sum(1)).tolist() == pytest.approx([0.98, 0.01])
