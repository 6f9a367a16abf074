"""Compiled and exported models compute what the model computes, at every length, from one graph."""

import textwrap

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim
from transformers import AutoModelForCTC, pipeline

from hf_mlpl.cli.main import main

from ..model.test_modeling_mlpl import BLANK, gradients, make_batch, make_model, make_utterances
from ..random_model import save_folder, sweep

# T mod 3 = 0, 1, 2; with and without padding; below and beyond the position table's reach of 3 output frames
BATCHES = [[30, 20, 7], [31, 4, 31], [32, 1], [8, 3, 5], [6, 6], [60, 1, 2, 3]]


@pytest.fixture(autouse=True)
def _one_thread_and_no_graphs(one_thread):
    torch._dynamo.reset()


def batch_of(lengths) -> dict[str, torch.Tensor]:
    return make_batch(make_utterances(lengths, torch.float32))


def targets_of(lengths) -> dict[str, torch.Tensor]:
    """Labels of differing lengths, an empty one too, and languages, one unknown."""
    labels = torch.arange(2 * len(lengths)).view(-1, 2) % BLANK
    labels[torch.tensor(lengths) < 7] = -100
    labels[0, 1] = -100
    return {"labels": labels, "language_ids": torch.tensor([0, -100, 2, 1])[: len(lengths)]}


# ---------------------------------------------------------------------------------------------------- torch.compile


@pytest.mark.slow
@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
def test_one_graph_serves_inference_at_every_length(attn_implementation):
    model = make_model(attn_implementation, torch.float32).eval()
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
    for lengths in BATCHES:
        expected = model(**batch_of(lengths))  # with gradients: padding is not left out, sdpa has other kernels
        with torch.no_grad():
            output = compiled(**batch_of(lengths))
        torch.testing.assert_close(output.logits, expected.logits, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(output.language_log_probs, expected.language_log_probs, rtol=1e-5, atol=1e-5)
    assert counter.frame_count == 1
    assert [node for node in counter.graphs[0].graph.nodes if "conv1d" in str(node.target)]  # see below


@pytest.mark.slow
def test_one_graph_serves_training_at_every_length():
    """Losses and LayerDrop included. Without dropout: in eager mode a dropped layer draws no random numbers for it."""
    model = make_model(dtype=torch.float32, layerdrop=0.4)
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
    dropped = 0
    for seed, lengths in enumerate(BATCHES):
        inputs = {**batch_of(lengths), **targets_of(lengths), "num_utterances": torch.tensor(7 + seed)}
        torch.manual_seed(seed)
        expected = model(**inputs)
        torch.manual_seed(seed)
        output = compiled(**inputs)
        torch.testing.assert_close(output.loss, expected.loss, rtol=1e-6, atol=1e-6)
        actual, expected = gradients(model, output.loss), gradients(model, expected.loss)
        dropped += len(actual) - len(expected)
        # A graph gives a dropped layer gradients of zero, eager mode gives it none.
        assert not any(actual.pop(name).any() for name in actual.keys() - expected.keys())
        # Before another layer norm, the gradient of one is zero but for rounding: hence relative to the largest.
        largest = max(gradient.norm() for gradient in expected.values())
        for name in expected:
            assert (actual[name] - expected[name]).norm() <= 1e-5 * largest, name
    assert dropped > 0
    assert counter.frame_count == 1
    # inductor would make one graph for each length if a gradient went through a convolution
    assert not [node for node in counter.graphs[0].graph.nodes if "conv1d" in str(node.target)]


@pytest.mark.parametrize("grad", [True, False])
def test_layers_compiled_one_by_one_share_a_graph(grad):
    """Shows the quick way to compile a deep model."""
    model = make_model(dtype=torch.float32, num_hidden_layers=3).eval()
    expected = [model(**batch_of(lengths)).logits for lengths in BATCHES]
    counter = CompileCounterWithBackend("eager")
    for layer in model.model.layers:
        layer.compile(fullgraph=True, dynamic=True, backend=counter)
    for lengths, logits in zip(BATCHES, expected, strict=True):
        with torch.set_grad_enabled(grad):
            actual = model(**batch_of(lengths)).logits
        torch.testing.assert_close(actual, logits, rtol=1e-5, atol=1e-6)
    assert counter.frame_count <= 2  # the first layer's input lies in memory as the convolution left it


# ----------------------------------------------------------------------------------------------------- torch.export


@pytest.mark.slow
def test_an_exported_program_works_at_other_lengths():
    model = make_model(dtype=torch.float32).eval()
    # A single output frame would be a constant: at least four feature frames, with padding if need be.
    axes = {0: Dim("batch"), 1: Dim("frames", min=4)}
    batch = batch_of([30, 20, 7])
    program = torch.export.export(model, (), kwargs=batch, dynamic_shapes=dict.fromkeys(batch, axes)).module()
    for lengths in [*BATCHES, [13], [4, 1]]:
        output, expected = program(**batch_of(lengths)), model(**batch_of(lengths))
        torch.testing.assert_close(output.logits, expected.logits, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(output.language_log_probs, expected.language_log_probs, rtol=1e-6, atol=1e-6)


# ------------------------------------------------------------------------------------------------------------- ONNX


@pytest.fixture(scope="module")
def onnx_export():
    """Returns `export_onnx`, and the runtime that its files are checked with."""
    for name in ("onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="needs the extra onnx")
    from hf_mlpl.interop.onnx import export_onnx

    return export_onnx


def run_onnx(folder, batch) -> list[np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, {name: tensor.numpy() for name, tensor in batch.items()})


@pytest.mark.slow
def test_onnxruntime_computes_what_the_model_computes(onnx_export, tmp_path):
    model = make_model(dtype=torch.float32)
    folder = onnx_export(model, tmp_path / "onnx")
    assert model.training and model.config._attn_implementation == "sdpa"  # as it was
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {"model.onnx", "model.onnx.data", "config.json", "configuration_mlpl.py", "model_files.py"}
    model.eval()
    for lengths in [*BATCHES, [13], [4, 1], [1], [2, 3]]:
        logits, language_log_probs = run_onnx(folder.rename(tmp_path / "moved"), batch_of(lengths))
        folder = (tmp_path / "moved").rename(folder)
        expected = model(**batch_of(lengths))
        np.testing.assert_allclose(logits, expected.logits.detach(), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(language_log_probs, expected.language_log_probs.detach(), rtol=1e-5, atol=1e-5)

    with pytest.raises(ValueError, match="onnx exists already; name a new folder"):
        onnx_export(model, folder)


@pytest.mark.slow
def test_the_printed_program_runs_an_onnx_export(onnx_export, tmp_path, capsys):
    """Exports a model without languages in half precision as float32, which the features are."""
    source, folder = save_folder(tmp_path / "model", []), tmp_path / "onnx"
    AutoModelForCTC.from_pretrained(source, dtype=torch.bfloat16).save_pretrained(source)
    expected = pipeline("automatic-speech-recognition", model=str(source), dtype="float32")(sweep(3))["text"]
    assert main(["convert", "--to=onnx", "--checkpoint", str(source), "--output", str(folder)]) == 0
    printed, err = capsys.readouterr()
    assert printed.startswith(f"{folder}: model.onnx") and "torchvision" not in err
    program = textwrap.dedent("".join(line for line in printed.splitlines(True) if line.startswith("    ")))
    names = {"samples": sweep(3)}
    exec(program, names)
    assert names["text"] == expected and expected
    model = AutoModelForCTC.from_pretrained(source, dtype="float32")
    features = torch.rand(2, 9, model.config.num_mel_bins)
    batch = {"input_features": features, "attention_mask": torch.ones(2, 9, dtype=torch.long)}
    (logits,) = run_onnx(folder, batch)
    # The weights of its head are 20 times as large as those of the models above.
    np.testing.assert_allclose(logits, model(**batch).logits.detach(), rtol=1e-5, atol=20e-5)
