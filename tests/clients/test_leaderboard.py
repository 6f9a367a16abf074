"""Takes the steps of the Open ASR Leaderboard's script for transformers' models, and those of the Hub's guides.

The script is `transformers/run_eval.py` of github.com/huggingface/open_asr_leaderboard, as it was in August 2026.
"""

import random
from itertools import chain

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import (
    MODEL_FOR_CTC_MAPPING,
    MODEL_FOR_MULTIMODAL_LM_MAPPING,
    MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING,
    AutoConfig,
    AutoModelForCTC,
    AutoProcessor,
    pipeline,
)

import hf_mlpl  # noqa: F401

from ..tones import RATE, random_text, speak

pytestmark = pytest.mark.slow

BATCH_SIZE = 3


@pytest.fixture(scope="module")
def dataset():
    """Returns rows with utterances of different length, decoded; the last batch is smaller."""
    letters, noise = random.Random(9), np.random.default_rng(9)
    texts = [" ".join(random_text("de", letters) for _ in range(i % 3 + 1)) for i in range(8)]
    audio = [{"array": speak(text, noise), "sampling_rate": RATE} for text in texts]
    return Dataset.from_dict({"audio": audio, "text": texts})


def expected_texts(folder, dataset, dtype):
    recognize = pipeline("automatic-speech-recognition", model=folder, dtype=dtype, device="cpu")
    answers = recognize(dataset["audio"][:], batch_size=BATCH_SIZE)
    texts = [answer["text"] for answer in answers]
    right = sum(text == reference for text, reference in zip(texts, dataset["text"], strict=True))
    assert right > len(texts) / 2  # the model has learned something
    return texts


@pytest.mark.parametrize(
    ("dtype", "attention", "compiled"),
    [
        *((dtype, attention, False) for dtype in (torch.float32, torch.bfloat16) for attention in ("sdpa", "eager")),
        (torch.float32, "sdpa", True),
        (torch.bfloat16, "eager", True),
    ],
)
def test_the_script(tone_run, dataset, dtype, attention, compiled):
    folder = str(tone_run / "model")
    config = AutoConfig.from_pretrained(folder, revision=None)
    for mapping in (MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING, MODEL_FOR_MULTIMODAL_LM_MAPPING):
        assert type(config) not in mapping
    assert type(config) in MODEL_FOR_CTC_MAPPING
    model = AutoModelForCTC.from_pretrained(folder, dtype=dtype, revision=None, attn_implementation=attention)
    model.to("cpu")
    model.eval()
    processor = AutoProcessor.from_pretrained(folder, revision=None)
    assert not hasattr(processor, "apply_transcription_request")
    sampling_rate = processor.feature_extractor.sampling_rate
    assert not model.can_generate()  # so that the script takes the way of CTC models
    if compiled:  # with the script's `inductor`, each batch would take a compiler's time
        model = torch.compile(model, backend="eager", fullgraph=True)

    def benchmark(batch):
        audios = [np.array(audio["array"]) for audio in batch["audio"]]  # torchcodec would have made an array
        padding_size = BATCH_SIZE - len(audios) if compiled and len(audios) != BATCH_SIZE else None
        if padding_size is not None:
            audios.extend([audios[-1]] * padding_size)
        inputs = processor(
            audios,
            sampling_rate=sampling_rate,
            truncation=False,
            padding="longest",
            return_tensors="pt",
            return_attention_mask=True,
        )
        inputs = inputs.to("cpu", dtype=dtype)
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
            with torch.no_grad():
                predictions = model(**inputs).logits.argmax(-1)
        if padding_size is not None:
            predictions = predictions[:-padding_size, ...]
        batch["predictions"] = processor.batch_decode(predictions)
        return batch

    answers = dataset.map(benchmark, batch_size=BATCH_SIZE, batched=True, remove_columns=["audio"])
    assert answers["predictions"][:] == expected_texts(folder, dataset, dtype)


def test_its_older_form_with_a_pipeline(tone_run, dataset):
    folder = str(tone_run / "model")
    recognize = pipeline(
        "automatic-speech-recognition", model=folder, device=-1, batch_size=BATCH_SIZE, torch_dtype=torch.float32
    )
    batches = dataset.iter(batch_size=BATCH_SIZE)
    answers = chain.from_iterable(recognize(batch["audio"], generate_kwargs=None) for batch in batches)
    assert [answer["text"] for answer in answers] == expected_texts(folder, dataset, torch.float32)


def test_the_lines_of_the_guides(tone_run, dataset):
    folder = str(tone_run / "model")
    processor, model = AutoProcessor.from_pretrained(folder), AutoModelForCTC.from_pretrained(folder)
    texts = []
    for row in dataset:
        inputs = processor(np.array(row["audio"]["array"]), sampling_rate=RATE, return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs).logits
        texts += processor.batch_decode(torch.argmax(logits, dim=-1))
    assert texts == expected_texts(folder, dataset, torch.float32)
