"""pyctcdecode decodes what our models say, by itself and as the decoder of the pipeline."""

import random

import numpy as np
import pytest
import torch
from pyctcdecode import build_ctcdecoder
from transformers import AutoModelForCTC, AutoProcessor, Wav2Vec2ProcessorWithLM, pipeline

import hf_mlpl  # noqa: F401

from ..tones import RATE, random_text, speak

pytestmark = pytest.mark.slow

TASK = "automatic-speech-recognition"


@pytest.fixture(scope="module")
def model(tone_run):
    return AutoModelForCTC.from_pretrained(tone_run / "model")


@pytest.fixture(scope="module")
def processor(tone_run):
    return AutoProcessor.from_pretrained(tone_run / "model")


@pytest.fixture(scope="module")
def decoder(processor):
    labels = processor.tokenizer.convert_ids_to_tokens(range(len(processor.tokenizer)))
    return build_ctcdecoder([{"|": " ", "<blank>": ""}.get(label, label) for label in labels])


@pytest.fixture(scope="module")
def speech():
    letters, noise = random.Random(5), np.random.default_rng(5)
    texts = [random_text(language, letters) for language in ("de", "sv-SE") for _ in range(6)]
    return texts, [speak(text, noise) for text in texts]


@pytest.fixture(scope="module")
def emissions(model, processor, speech):
    """Returns logits (S, V) of each utterance."""
    with torch.no_grad():
        return [
            model(**processor(samples, sampling_rate=RATE, return_tensors="pt")).logits[0] for samples in speech[1]
        ]


def test_one_beam_is_greedy_decoding(processor, decoder, emissions):
    greedy = [processor.decode(logits.argmax(dim=-1)) for logits in emissions]
    assert sum(" " in text for text in greedy) > 3 and all(map(len, greedy))
    options = {"beam_width": 1, "token_min_logp": -1e9, "beam_prune_logp": -1e9}
    assert [decoder.decode(logits.numpy(), **options) for logits in emissions] == greedy


def test_many_beams_are_those_of_our_beam_search(processor, decoder, emissions):
    pytest.importorskip("flashlight.lib.text", reason="needs the extra lm")
    from hf_mlpl.inference.beam_search import BeamSearchDecoder

    ours = BeamSearchDecoder(processor.tokenizer, beam_size=100)
    # Unsure logits, of which the sums over label paths decide, beside those of the model.
    unsure = list(1.5 * torch.randn(20, 10, 10, generator=torch.Generator().manual_seed(5)))
    for logits in unsure:
        logits[:, 0] = -20.0  # pyctcdecode merges texts that differ in spaces at their end
    options = {"beam_width": 100, "token_min_logp": -1e9, "beam_prune_logp": -1e9, "prune_history": False}
    texts = [decoder.decode_beams(logits.numpy(), **options)[0][0] for logits in emissions + unsure]
    assert texts == [ours.decode(logits[None])[0].text for logits in emissions + unsure]
    greedy = [processor.decode(logits.argmax(dim=-1)) for logits in unsure]
    assert sum(text != best for text, best in zip(texts[len(emissions) :], greedy, strict=True)) > 5


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_pipeline_with_this_decoder(tone_run, processor, decoder, emissions, speech, batch_size):
    recognize = pipeline(TASK, model=tone_run / "model", decoder=decoder)
    greedy = pipeline(TASK, model=tone_run / "model")(speech[1], return_timestamps="word")
    answers = recognize(speech[1], batch_size=batch_size, return_timestamps="word")
    assert [answer["text"] for answer in answers] == [decoder.decode(logits.numpy()) for logits in emissions]
    assert [answer["language"] for answer in answers] == [answer["language"] for answer in greedy]
    same = [pair for pair in zip(answers, greedy, strict=True) if pair[0]["text"] == pair[1]["text"]]
    assert len(same) > 6
    for answer, expected in same:
        assert [word["text"] for word in answer["chunks"]] == [word["text"] for word in expected["chunks"]]
        for word, reference in zip(answer["chunks"], expected["chunks"], strict=True):
            assert word["timestamp"] == pytest.approx(reference["timestamp"], abs=0.0601)  # of two frames

    german = [answer["text"] for answer in recognize(speech[1], language="de")]
    assert set("abd ") <= set().union(*german) <= set("abcde ")
    assert {"f", "g"} <= set().union(*(answer["text"] for answer in answers))

    long = np.concatenate(speech[1])
    chunked = recognize(long, chunk_length_s=3, decoder_kwargs={"beam_width": 1})
    assert chunked["text"] == pipeline(TASK, model=tone_run / "model")(long, chunk_length_s=3)["text"]


def test_decoders_that_do_not_fit(tone_run, processor, decoder):
    labels = processor.tokenizer.convert_ids_to_tokens(range(len(processor.tokenizer)))
    for other, found in [(labels, "11 labels"), (["a", "b", " ", ""], "4 labels"), (sorted(labels)[::-1], "labels")]:
        with pytest.raises(ValueError, match=f"^the decoder has .*{found}, .* build it with the model's") as error:
            pipeline(TASK, model=tone_run / "model", decoder=build_ctcdecoder(list(other)))
        assert "\n" not in str(error.value)
    for foreign in (processor, object()):
        with pytest.raises(TypeError, match=f"decoder is a {type(foreign).__name__}; pass a BeamSearchDecoder, or"):
            pipeline(TASK, model=tone_run / "model", decoder=foreign)
    recognize = pipeline(TASK, model=tone_run / "model", decoder=decoder)
    with pytest.raises(ValueError, match="can only predict word level timestamps"):
        recognize(np.zeros(RATE, np.float32), return_timestamps="char")
    # This processor is for the feature extractors of two models of transformers.
    with pytest.raises(ValueError, match="`feature_extractor` has to be of type"):
        Wav2Vec2ProcessorWithLM(processor.feature_extractor, processor.tokenizer, decoder)
