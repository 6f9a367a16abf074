"""Quantizes our models with torchao, quanto and bitsandbytes, and trains adapters on the quantized weights."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from optimum.quanto import QModuleMixin, freeze, qint8, quantize
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, IntxWeightOnlyConfig
from transformers import AutoModelForCTC, AutoProcessor, BitsAndBytesConfig, QuantoConfig, TorchAoConfig
from transformers.utils.quantization_config import QuantizationConfigMixin

from .fine_tuning import NO_DROPOUT, collator, read_tones

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

HEADS = ["ctc_head", "lid_head"]


@dataclass
class Method:
    """Quantizes the layers, not the heads.

    Args:
        config: makes the configuration.
        tolerance: largest relative error of the logits.
        is_saved: whether transformers saves and loads the quantized model.
        is_trained: whether gradients pass through the quantized layers.
    """

    config: Callable[[], QuantizationConfigMixin]
    tolerance: float
    is_saved: bool = True
    is_trained: bool = True


def torchao(config: object) -> TorchAoConfig:
    return TorchAoConfig(config, modules_to_not_convert=HEADS)


def quanto(weights: str) -> QuantoConfig:
    return QuantoConfig(weights=weights, modules_to_not_convert=HEADS)


def bits_and_bytes(**settings) -> BitsAndBytesConfig:
    return BitsAndBytesConfig(**settings, llm_int8_skip_modules=HEADS)


METHODS = {
    "torchao int8": Method(lambda: torchao(Int8WeightOnlyConfig()), 0.005),
    "torchao int8 of inputs too": Method(
        lambda: torchao(Int8DynamicActivationInt8WeightConfig()), 0.01, is_trained=False
    ),
    "torchao int4": Method(lambda: torchao(IntxWeightOnlyConfig(torch.int4)), 0.05),
    "quanto int8": Method(lambda: quanto("int8"), 0.005, is_saved=False),
    "quanto int4": Method(lambda: quanto("int4"), 0.05, is_saved=False),
    "bitsandbytes int8": Method(lambda: bits_and_bytes(load_in_8bit=True), 0.01),
    "bitsandbytes nf4": Method(lambda: bits_and_bytes(load_in_4bit=True, bnb_4bit_quant_type="nf4"), 0.05),
}
TRAINED = {name: method for name, method in METHODS.items() if method.is_trained}


@pytest.fixture(scope="module")
def processor(wide_run):
    return AutoProcessor.from_pretrained(wide_run / "model")


@pytest.fixture(scope="module")
def batch(tone_data, processor):
    return collator(processor)(list(read_tones(tone_data)["dev"]))


@torch.no_grad()
def logits(model: torch.nn.Module, batch) -> torch.Tensor:
    return model.eval()(**batch).logits


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    spoken = expected > -1e4  # not on padding, where logits are the least number
    return float((found - expected)[spoken].norm() / expected[spoken].norm())


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_quantized_weights_give_nearly_equal_texts(method, wide_run, batch, processor, tmp_path):
    whole = AutoModelForCTC.from_pretrained(wide_run / "model")
    model = AutoModelForCTC.from_pretrained(wide_run / "model", quantization_config=method.config())
    if method.is_saved:  # before it computes, because bitsandbytes then rounds weights of 4 bits again, for the CPU
        model.save_pretrained(tmp_path)
    expected, found = logits(whole, batch), logits(model, batch)
    assert 0 < relative_error(found, expected) < method.tolerance
    texts, others = (processor.batch_decode(each.argmax(-1)) for each in (expected, found))
    assert sum(map(str.__eq__, texts, others)) >= len(texts) - 1
    if method.is_saved:
        assert torch.equal(logits(AutoModelForCTC.from_pretrained(tmp_path), batch), found)


def first_gradients(model: torch.nn.Module, batch) -> torch.Tensor:
    """Returns the gradients of random adapters of the first layer, which pass through all others."""
    torch.manual_seed(0)
    model = get_peft_model(model, LoraConfig(target_modules=r".*_proj", init_lora_weights=False)).train()
    model(**batch).loss.backward()
    parameters = model.get_submodule("base_model.model.model.layers.0").parameters()
    return torch.cat([value.grad.flatten() for value in parameters if value.requires_grad])


@pytest.mark.parametrize("method", TRAINED.values(), ids=TRAINED)
def test_gradients_of_adapters(method, wide_run, batch):
    expected, found = (
        first_gradients(AutoModelForCTC.from_pretrained(wide_run / "model", **NO_DROPOUT, **kwargs), batch)
        for kwargs in ({}, {"quantization_config": method.config()})
    )
    assert torch.cosine_similarity(found, expected, dim=0) > 0.9


@pytest.mark.parametrize("method", TRAINED.values(), ids=TRAINED)
def test_adapters_on_quantized_weights(method, wide_run, batch):
    def quantized() -> torch.nn.Module:
        model = AutoModelForCTC.from_pretrained(wide_run / "model", quantization_config=method.config(), **NO_DROPOUT)
        torch.nn.init.zeros_(model.ctc_head.weight)  # so that there is something to learn
        return model

    model = prepare_model_for_kbit_training(quantized())  # also switches on gradient checkpointing
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=r".*_proj", modules_to_save=HEADS)
    model = get_peft_model(model, lora).train()
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-2)
    losses = []
    for _ in range(20):
        losses.append(model(**batch).loss)
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] / 2
    with model.disable_adapter():
        torch.testing.assert_close(logits(model, batch), logits(quantized(), batch))


def test_quanto_by_itself(wide_run, batch):
    model = AutoModelForCTC.from_pretrained(wide_run / "model")
    expected = logits(model, batch)
    quantize(model, weights=qint8, exclude=HEADS)
    freeze(model)
    assert sum(isinstance(module, QModuleMixin) for module in model.modules()) > 6
    assert 0 < relative_error(logits(model, batch), expected) < 0.02
