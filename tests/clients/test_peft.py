"""Trains adapters of peft: saved and loaded, merged, with gradient checkpointing, and shared."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCTC, AutoProcessor, pipeline

from hf_mlpl import MlplProcessor, MlplTokenizer
from hf_mlpl.audio.reading import load_audio
from hf_mlpl.model.text import build_vocabulary, write_tokens

from .fine_tuning import NO_DROPOUT, collator, fine_tune, read_tones

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

HEADS = ["ctc_head", "lid_head"]
LORA = {"r": 8, "lora_alpha": 16, "target_modules": r".*_proj", "modules_to_save": HEADS}


@pytest.fixture(scope="module")
def processor(tone_run) -> MlplProcessor:
    return AutoProcessor.from_pretrained(tone_run / "model")


@pytest.fixture(scope="module")
def batch(tone_run, tone_data, processor):
    rows = list(read_tones(tone_data)["dev"])
    return collator(processor, AutoModelForCTC.from_pretrained(tone_run / "model").config.languages)(rows)


def adapted(folder: Path, **settings) -> PeftModel:
    torch.manual_seed(0)
    return get_peft_model(AutoModelForCTC.from_pretrained(folder, **NO_DROPOUT), LoraConfig(**LORA | settings))


def gradients(model: PeftModel, batch) -> dict[str, torch.Tensor]:
    model.train()(**batch).loss.backward()
    return {name: value.grad for name, value in model.named_parameters() if value.requires_grad}


@torch.no_grad()
def logits(model: torch.nn.Module, batch) -> torch.Tensor:
    return model.eval()(**batch).logits


def test_adapters_learn_new_tokens(tone_run, tone_data, processor, batch, tmp_path):
    """A new head needs a base that has it: adapters are saved without the base."""
    data, base = read_tones(tone_data), tmp_path / "base"
    write_tokens(tmp_path / "tokens.lst", ["|", *reversed(build_vocabulary(data["train"]["text"])[1:]), "x"])
    tokenizer = MlplTokenizer(tmp_path / "tokens.lst")
    model = AutoModelForCTC.from_pretrained(
        tone_run / "model", vocab_size=len(tokenizer), ignore_mismatched_sizes=True, **NO_DROPOUT
    )
    model.save_pretrained(base)
    model = AutoModelForCTC.from_pretrained(base)  # so that the adapters name this base
    processor = MlplProcessor(processor.feature_extractor, tokenizer)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    trainer = fine_tune(
        get_peft_model(model, LoraConfig(**LORA)), processor, data, tmp_path / "run", max_steps=40, learning_rate=1e-2
    )
    assert trainer.evaluate()["eval_cer"] < 0.1
    trainer.save_model()
    after = {name.replace(".base_layer", ""): value for name, value in model.state_dict().items()}
    layers = [name for name in before if not name.startswith(tuple(HEADS))]
    assert layers and all(torch.equal(before[name], after[name]) for name in layers)

    expected = logits(trainer.model, batch)
    loaded = PeftModel.from_pretrained(AutoModelForCTC.from_pretrained(base), tmp_path / "run")
    assert torch.equal(logits(loaded, batch), expected)
    assert torch.equal(logits(AutoModelForCTC.from_pretrained(tmp_path / "run"), batch), expected)
    merged = loaded.merge_and_unload()
    torch.testing.assert_close(logits(merged, batch), expected, rtol=1e-4, atol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    processor.save_pretrained(tmp_path / "merged")
    assert torch.equal(logits(AutoModelForCTC.from_pretrained(tmp_path / "merged"), batch), logits(merged, batch))
    answer = pipeline("automatic-speech-recognition", str(tmp_path / "merged"))(load_audio(data["dev"][0]["audio"]))
    assert answer["text"] == data["dev"][0]["text"]


def test_gradient_checkpointing(tone_run, batch):
    model, checkpointed = adapted(tone_run / "model"), adapted(tone_run / "model")
    checkpointed.gradient_checkpointing_enable()
    checkpointed.enable_input_require_grads()
    expected, found = gradients(model, batch), gradients(checkpointed, batch)
    assert expected.keys() == found.keys() and any("lora_B" in name for name in found)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_all_linear_layers(tone_run, batch):
    """`all-linear` finds the layers of the encoder, and leaves the CTC head out."""
    model = adapted(tone_run / "model", target_modules="all-linear", modules_to_save=None)
    adapters = {name.rpartition(".lora_A")[0] for name in gradients(model, batch) if ".lora_A" in name}
    found = {name.rpartition(".")[2] for name in adapters}
    assert {"q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"} <= found and "ctc_head" not in found


def test_push(tone_run, batch, local_hub):
    base = AutoModelForCTC.from_pretrained(tone_run / "model", **NO_DROPOUT)
    base.push_to_hub("me/base")
    model = get_peft_model(AutoModelForCTC.from_pretrained("me/base"), LoraConfig(**LORA, init_lora_weights=False))
    model.push_to_hub("me/adapter")
    assert "model.safetensors" not in local_hub.files("me/adapter")
    expected = logits(model, batch)
    assert not torch.allclose(expected, logits(base, batch), atol=0.1)
    assert torch.equal(logits(AutoModelForCTC.from_pretrained("me/adapter"), batch), expected)
