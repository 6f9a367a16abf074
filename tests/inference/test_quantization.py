"""Models with 8-bit weights, compared with bounds of rounding, with single utterances, and with the fp32 model."""

import copy
import os
import pickle
import platform
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from torch import nn
from transformers import pipeline

from hf_mlpl import MlplForCTC
from hf_mlpl.cli.main import main
from hf_mlpl.inference.quantization import Int8Linear, input_levels, quantize

from ..model.test_modeling_mlpl import make_batch, make_model, make_utterances

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch has no oneDNN here")


def inputs_of(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns frames (7, 150) and a weight (20, 150); in `largest` neither signs nor rounding make sums smaller."""
    generator = torch.Generator().manual_seed(0)
    inputs, weight = (torch.randn(size, 150, generator=generator) for size in (7, 20))
    if kind == "largest":
        inputs, weight = inputs.sign().abs() * 3, weight.sign().abs() * 0.2
    if kind == "zero frames and rows":
        inputs[2], weight[5] = 0, 0
    if kind == "frames of all sizes":
        inputs *= 10.0 ** torch.arange(-3, 4)[:, None]
    return inputs, weight


KINDS = ["random", "largest", "zero frames and rows", "frames of all sizes"]


def check_rounding(kind: str) -> None:
    """Checks that every result is as near to the exact one as rounding of inputs and weights by half a step allows."""
    inputs, weight = inputs_of(kind)
    linear = nn.Linear(150, 20, bias=False)
    linear.weight.data = weight
    actual = Int8Linear(linear, input_levels())(inputs).double()
    x, w = inputs.double(), weight.double()
    half_x, half_w = x.abs().amax(1, keepdim=True) / input_levels() / 2, w.abs().amax(1) / 127 / 2
    bound = half_x * w.abs().sum(1) + x.abs().sum(1, keepdim=True) * half_w + 150 * half_x * half_w
    assert ((actual - x @ w.T).abs() <= 1.001 * bound + 1e-12).all()


@pytest.mark.parametrize("kind", KINDS)
def test_results_are_off_by_rounding_only(kind):
    check_rounding(kind)


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the processor is not x86-64")
def test_results_are_off_by_rounding_only_without_vnni():
    """Runs oneDNN as on processors where it adds pairs of products in 16 bits, which large ones overflow."""
    program = f"from {__name__} import *\nprint(input_levels())\nfor kind in KINDS:\n    check_rounding(kind)"
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "63"


def test_a_frame_gets_the_same_numbers_in_every_batch():
    inputs, weight = inputs_of("frames of all sizes")
    linear = nn.Linear(150, 20, bias=False)
    linear.weight.data = weight
    int8 = Int8Linear(linear, input_levels())
    together = int8(inputs.view(1, 7, 150))
    assert together.shape == (1, 7, 20) and together.dtype == torch.float32
    for frame, expected in zip(inputs, together[0], strict=True):
        assert torch.equal(int8(frame[None])[0], expected)


@pytest.mark.parametrize("grad", [False, True])
def test_batches_equal_single_utterances(grad):
    model = quantize(make_model(dtype=torch.float32))
    utterances = make_utterances(dtype=torch.float32)
    with torch.set_grad_enabled(grad):
        output = model(**make_batch(utterances, "garbage"))
        for utterance, logits in zip(utterances, output.logits, strict=True):
            alone = model(utterance[None]).logits[0]
            torch.testing.assert_close(logits[: len(alone)], alone, rtol=1e-4, atol=1e-4)


def test_only_the_weights_of_layers_become_int8_and_tables_float16():
    model = make_model(dtype=torch.float32)
    expected = {name: p.detach().clone() for name, p in model.named_parameters() if "_proj" not in name}
    expected |= {name: p.half() for name, p in expected.items() if name.endswith("position_table")}
    assert quantize(model) is model and not model.training
    kept = dict(model.named_parameters())
    assert kept.keys() == expected.keys()
    assert all(torch.equal(kept[name], parameter) for name, parameter in expected.items())
    assert [kept[name].dtype for name in kept if "table" in name] == [torch.float16] * len(model.model.layers)
    assert not any(parameter.requires_grad for parameter in kept.values())


def test_memory_is_a_quarter():
    """Checks that the old weights are gone, and that there is one copy of the new ones, in int8."""
    linear = nn.Linear(1024, 512, bias=False)
    int8 = Int8Linear(linear, 127)
    numbers = [tensor for tensor in vars(int8).values() if isinstance(tensor, torch.Tensor)]
    assert [tuple(tensor.shape) for tensor in numbers if tensor.is_mkldnn] == [(1024, 512)]
    assert {tensor.dtype for tensor in numbers if tensor.is_mkldnn} == {torch.int8}
    assert sum(tensor.numel() for tensor in numbers if not tensor.is_mkldnn) == 2 * 512
    assert not list(int8.parameters())


def test_a_trained_model_recognises_the_same_texts(tone_corpus, tone_run, capsys):
    """Transcribes in Python and with `hf-mlpl transcribe --dtype int8`."""
    clips = sorted((tone_corpus / "common-voice").rglob("*test*.wav")) + sorted(
        (tone_corpus / "common-voice").rglob("*test*.mp3")
    )
    assert len(clips) > 5
    recognize = pipeline("automatic-speech-recognition", model=str(tone_run / "model"), device="cpu")
    expected = [recognize(clip) for clip in clips]
    assert len({result["text"] for result in expected}) > 2
    plain = copy.deepcopy(recognize.model)
    quantize(recognize.model)
    for result, reference in zip([recognize(clip) for clip in clips], expected, strict=True):
        assert (result["text"], result["language"]) == (reference["text"], reference["language"])

    samples, rate = soundfile.read(clips[0], dtype="float32")
    features = recognize.feature_extractor(samples, sampling_rate=rate, return_tensors="pt")
    logits, reference = recognize.model(**features).logits, plain(**features).logits
    assert 0 < (logits - reference).norm() < 0.1 * reference.norm()

    assert main(["transcribe", "--dtype", "int8", "--model", str(tone_run / "model"), *map(str, clips)]) == 0
    printed = [line.split("\t")[-1] for line in capsys.readouterr().out.splitlines()]
    assert printed == [result["text"] for result in expected]


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_compute_the_same(copy_of):
    model = quantize(make_model(dtype=torch.float32))
    batch = make_batch(make_utterances(dtype=torch.float32))
    expected = model(**batch).logits
    twin = copy_of(model)
    del model
    assert torch.equal(twin(**batch).logits, expected)
    assert torch.equal(copy_of(twin)(**batch).logits, expected)


def test_other_models_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"torch\.bfloat16 on cpu; quantize takes torch\.float32 on cpu"):
        quantize(make_model(dtype=torch.bfloat16))
    with pytest.raises(ValueError, match="float32 on meta"):
        quantize(make_model(dtype=torch.float32).to("meta"))
    model = quantize(make_model(dtype=torch.float32))
    with pytest.raises(ValueError, match="quantized already"):
        quantize(model)
    with pytest.raises(ValueError, match="an int8 model cannot be saved; save the model that it was made of"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_model_without_heads(tmp_path):
    make_model(dtype=torch.float32).save_pretrained(tmp_path)
    whole, base = quantize(MlplForCTC.from_pretrained(tmp_path)), MlplForCTC.from_pretrained(tmp_path).model
    quantize(base)
    features = make_utterances(dtype=torch.float32)[1][None]
    np.testing.assert_array_equal(base(features)[0], whole.model(features)[0])
