"""Calls the processor as transformers' users do: in a data collator, on a device, for texts with offsets."""

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from hf_mlpl import MlplConfig, MlplFeatureExtractor, MlplProcessor, MlplTokenizer
from hf_mlpl.model.text import write_tokens

RATE = 16_000
TEXTS = ["ab c", "b", "aab"]
BLANK = 4


@pytest.fixture
def processor(tmp_path) -> MlplProcessor:
    write_tokens(tmp_path / "tokens.lst", "|abc")
    MlplConfig(vocab_size=5).save_pretrained(tmp_path / "model")
    MlplProcessor(MlplFeatureExtractor(), MlplTokenizer(tmp_path / "tokens.lst")).save_pretrained(tmp_path / "model")
    return AutoProcessor.from_pretrained(tmp_path / "model")


@pytest.fixture
def recordings() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [(0.1 * rng.standard_normal(n)).astype(np.float32) for n in (9000, 4000, 12345)]


def test_auto_processor_loads_it_with_its_parts(processor):
    assert type(processor) is MlplProcessor
    assert type(processor.feature_extractor) is MlplFeatureExtractor and type(processor.tokenizer) is MlplTokenizer


def test_data_collator_of_transformers_ctc_examples(processor, recordings):
    """Examples of their own length, padded later, are the batch that the processor makes at once."""
    examples = [
        {
            "input_features": processor.feature_extractor(samples, sampling_rate=RATE)["input_features"][0],
            "labels": processor.tokenizer(text)["input_ids"],
        }
        for samples, text in zip(recordings, TEXTS, strict=True)
    ]
    batch = processor.pad(
        [{"input_features": example["input_features"]} for example in examples], padding=True, return_tensors="pt"
    )
    labels = [{"input_ids": example["labels"]} for example in examples]
    padded = processor.pad(labels=labels, padding=True, return_tensors="pt")
    batch["labels"] = padded["input_ids"].masked_fill(padded.attention_mask.ne(1), -100)
    expected = processor(audio=recordings, text=TEXTS, sampling_rate=RATE)
    assert list(batch) == list(expected)
    for name, value in expected.items():
        assert torch.equal(batch[name], value), name
    both = processor.pad(batch, labels, padding=True, return_tensors="pt")
    assert torch.equal(both["labels"], padded["input_ids"])


def test_device_and_feature_extractor_arguments(processor, recordings):
    batch = processor(recordings, sampling_rate=RATE, device="cpu", pad_to_multiple_of=64, padding="longest")
    assert batch["input_features"].shape == (3, 128, 80) and batch["input_features"].device.type == "cpu"
    assert batch["attention_mask"].sum(dim=1).tolist() == [54, 23, 75]
    with pytest.raises(TypeError, match="sample_rate"):
        processor(recordings, sample_rate=RATE)


def test_decoding_with_offsets(processor):
    paths = torch.tensor([[1, 1, BLANK, 2, 0, 3], [BLANK, 2, 2, 2, BLANK, BLANK]])
    output = processor.batch_decode(paths, output_word_offsets=True)
    assert output.text == ["ab c", "b"]
    assert output.word_offsets == [
        [{"word": "ab", "start_offset": 0, "end_offset": 4}, {"word": "c", "start_offset": 5, "end_offset": 6}],
        [{"word": "b", "start_offset": 1, "end_offset": 4}],
    ]
    assert processor.decode(paths[0], output_char_offsets=True).char_offsets[0] == (
        {"char": "a", "start_offset": 0, "end_offset": 2}
    )
