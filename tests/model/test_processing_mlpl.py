"""Calls the processor as transformers' users do: in a data collator, on a device, for texts with offsets."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoProcessor, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2Processor
from transformers.utils import to_py_obj

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


def test_a_tokenizer_of_another_class_is_refused(tmp_path):
    """A folder that was saved with it could not be loaded."""
    (tmp_path / "vocab.json").write_text(json.dumps({"|": 0, "a": 1, "<unk>": 2, "<pad>": 3}))
    with pytest.raises(TypeError, match="tokenizer is a Wav2Vec2CTCTokenizer; .* pass MlplTokenizer"):
        MlplProcessor(MlplFeatureExtractor(), Wav2Vec2CTCTokenizer(tmp_path / "vocab.json"))


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


@pytest.fixture
def stock(tmp_path) -> Wav2Vec2Processor:
    """Returns transformers' own processor with the same vocabulary."""
    (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate([*"|abc", "<blank>"])}))
    tokenizer = Wav2Vec2CTCTokenizer(
        tmp_path / "vocab.json", bos_token=None, eos_token=None, unk_token=None, pad_token="<blank>"
    )
    return Wav2Vec2Processor(Wav2Vec2FeatureExtractor(return_attention_mask=True), tokenizer)


def as_lists(encoding) -> dict:
    return {name: to_py_obj(encoding[name]) for name in ("input_ids", "attention_mask")}


def test_transcripts_alone_are_encoded_as_in_the_blogs(processor, stock):
    for text in TEXTS:
        assert processor(text=text).input_ids == stock(text=text).input_ids == processor.tokenizer(text).input_ids
        assert processor(text=text).attention_mask == stock(text=text).attention_mask
    for texts in (TEXTS, tuple(TEXTS), np.array(TEXTS), Dataset.from_dict({"text": TEXTS})["text"]):
        assert processor(text=texts).input_ids == stock(text=TEXTS).input_ids
    lines = [
        {"padding": True},
        {"padding": "max_length", "max_length": 7},
        {"padding": True, "pad_to_multiple_of": 8, "return_tensors": "np"},
        {"truncation": True, "max_length": 2},
        {"text_kwargs": {"padding": True, "padding_side": "left"}, "common_kwargs": {"return_tensors": "pt"}},
        {"text_kwargs": {"truncation": True, "max_length": 3}, "padding": True, "return_tensors": "pt"},
    ]
    for line in lines:
        ours, theirs = processor(text=TEXTS, **line), stock(text=TEXTS, **line)
        assert as_lists(ours) == as_lists(theirs), line
        assert type(ours["input_ids"]) is type(theirs["input_ids"]), line
    padded = processor(text=TEXTS, return_tensors="pt")  # Wav2Vec2's needs padding=True for it
    assert as_lists(padded) == as_lists(stock(text=TEXTS, padding=True, return_tensors="pt"))
    assert torch.equal(padded["labels"], padded["input_ids"].masked_fill(padded["attention_mask"] == 0, -100))


def test_arguments_reach_their_part_as_in_the_stock_processor(processor, stock, recordings):
    def shapes(processor, name, **kwargs):
        batch = processor(audio=recordings, text=TEXTS, sampling_rate=RATE, **kwargs)
        return tuple(batch[name].shape), tuple(batch["labels"].shape)

    tensors = {"padding": True, "return_tensors": "pt"}
    assert shapes(stock, "input_values", **tensors)[1] == shapes(processor, "input_features", **tensors)[1] == (3, 4)
    for kwargs, features, labels in [
        ({"text_kwargs": {"pad_to_multiple_of": 8}}, (3, 75, 80), (3, 8)),
        ({"audio_kwargs": {"pad_to_multiple_of": 8}}, (3, 80, 80), (3, 4)),
        ({"pad_to_multiple_of": 8}, (3, 80, 80), (3, 8)),
        ({"truncation": True, "max_length": 3}, (3, 3, 80), (3, 3)),
        ({"audio_kwargs": {"truncation": True, "max_length": 20}}, (3, 20, 80), (3, 4)),
    ]:
        assert shapes(processor, "input_features", **kwargs) == (features, labels), kwargs
        assert shapes(stock, "input_values", **tensors | kwargs)[1] == labels, kwargs
    batch = processor(recordings, text=TEXTS, sampling_rate=RATE, common_kwargs={"return_tensors": "np"})
    assert {type(value) for value in batch.values()} == {np.ndarray}
    for part, name in (("text_kwargs", "padding"), ("audio_kwargs", "max_length")):
        for either in (processor, stock):
            with pytest.raises(ValueError, match="was passed two times"):
                either(audio=recordings, text=TEXTS, **{part: {name: 1}, name: 2})


def test_arguments_that_no_part_has_are_refused(processor, recordings):
    for name in ("sample_rate", "images"):
        with pytest.raises(TypeError, match=f"^the processor has no argument {name}$"):
            processor(recordings, **{name: RATE})
    for kwargs in ({"audio_kwargs": {"rate": RATE}}, {"text_kwargs": {"rate": RATE}}):
        with pytest.raises(TypeError, match="argument '?rate"):
            processor(recordings, text=TEXTS, sampling_rate=RATE, **kwargs)
    with pytest.raises(ValueError, match="^pass input_features, labels or both$"):
        processor.pad()
    with pytest.raises(AttributeError, match=r"transformers 5 has no as_target_processor; write processor\(text="):
        with processor.as_target_processor():
            pass
    assert not hasattr(processor, "as_target_processor")


def test_labels_are_decoded_as_by_the_stock_processor(processor, stock, recordings):
    """Runs the lines of `compute_metrics` in the blogs."""
    labels = processor(audio=recordings, text=TEXTS, sampling_rate=RATE)["labels"].numpy()
    labels[labels == -100] = processor.tokenizer.pad_token_id
    paths = np.array([[4, 1, 1, 2, 0, 3], [2, 2, 4, 4, 0, 1]])
    for either in (processor, stock):
        assert either.tokenizer.batch_decode(labels, group_tokens=False) == TEXTS
        assert either.batch_decode(labels, group_tokens=False, skip_special_tokens=True) == TEXTS
        assert either.batch_decode(paths) == either.batch_decode(paths, skip_special_tokens=True) == ["ab c", "b a"]
        assert [either.decode(path) for path in paths] == ["ab c", "b a"]
    offsets = [each.batch_decode(paths, output_word_offsets=True).word_offsets for each in (processor, stock)]
    assert offsets[0] == offsets[1]


def test_batches_are_padded_as_by_the_stock_processor(processor, stock):
    labels = [{"input_ids": processor.tokenizer(text).input_ids} for text in TEXTS]
    for kwargs in ({}, {"padding": "longest", "return_tensors": "pt"}, {"padding": "max_length", "max_length": 9}):
        assert as_lists(processor.pad(labels=labels, **kwargs)) == as_lists(stock.pad(labels=labels, **kwargs))
