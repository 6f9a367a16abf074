"""Means of the weights of models: against numpy, of other architectures, and which models have none."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCTC, AutoProcessor, pipeline

from hf_mlpl.training.averaging import average_models

from ..commands import run_command
from ..random_model import save_folder, sweep
from ..small_models import missing, save_small_model


def trained(start: Path, folder: Path, seed: int, spread: float = 0.05) -> Path:
    """Writes a model with other weights than `start`, as a run with this seed would."""
    model, generator = AutoModelForCTC.from_pretrained(start), torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor += spread * tensor.abs().mean() * torch.randn(tensor.shape, generator=generator)
        else:
            tensor += seed
    model.save_pretrained(folder)
    AutoProcessor.from_pretrained(start).save_pretrained(folder)
    return folder


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("architecture", ["mlpl", "wav2vec2", "wav2vec2-bert", "wav2vec2-conformer", "parakeet_ctc"])
def test_weights_are_the_mean(architecture, tmp_path):
    if architecture == "mlpl":
        start = save_folder(tmp_path / "start", ["sl", "hr"])
    elif problem := missing(architecture):
        pytest.skip(problem)
    else:
        start = save_small_model(tmp_path / "start", architecture)
    models = [trained(start, tmp_path / str(seed), seed) for seed in (1, 2, 3)]
    average_models([str(model) for model in models], tmp_path / "mean")

    mean, parts = weights_of(tmp_path / "mean"), [weights_of(model) for model in models]
    assert mean.keys() == parts[0].keys()
    for name, found in mean.items():
        if np.issubdtype(found.dtype, np.floating):
            expected = np.mean([part[name].astype(np.float64) for part in parts], axis=0)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7, err_msg=name)
        else:
            np.testing.assert_array_equal(found, parts[0][name], err_msg=name)
    for name in ("config.json", "tokenizer_config.json"):
        texts = [json.loads((folder / name).read_text()) for folder in (tmp_path / "mean", models[0])]
        assert texts[0] == texts[1], name
    recogniser = pipeline("automatic-speech-recognition", model=str(tmp_path / "mean"))
    assert isinstance(recogniser({"raw": sweep(1), "sampling_rate": 16000})["text"], str)


def test_mean_of_one_model_is_the_model(tmp_path):
    start = save_folder(tmp_path / "start", ["sl"])
    average_models([str(start)] * 3, tmp_path / "mean")
    for name, weights in weights_of(start).items():
        np.testing.assert_array_equal(weights_of(tmp_path / "mean")[name], weights, err_msg=name)


def test_mean_has_the_dtype_of_the_models(tmp_path):
    start = save_folder(tmp_path / "start", ["sl"])
    models = [trained(start, tmp_path / str(seed), seed) for seed in (1, 2, 3)]
    for folder in models:
        AutoModelForCTC.from_pretrained(folder).bfloat16().save_pretrained(folder)
    average_models([str(model) for model in models], tmp_path / "mean")
    mean, *parts = (AutoModelForCTC.from_pretrained(folder).state_dict() for folder in (tmp_path / "mean", *models))
    for name, found in mean.items():
        assert found.dtype == torch.bfloat16
        expected = torch.stack([part[name].double() for part in parts]).mean(dim=0)
        torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=1e-8, msg=name)  # rounded once


def test_models_that_differ_are_refused(tmp_path, capfd):
    start = save_small_model(tmp_path / "start", "wav2vec2")
    others = {
        "weights": save_small_model(tmp_path / "weights", "wav2vec2", seed=1),
        "tokens": save_small_model(tmp_path / "tokens", "wav2vec2", letters="bacdefghijklmnopqrstuvwxyz'"),
        "layers": save_small_model(tmp_path / "layers", "wav2vec2", num_hidden_layers=3),
        "architecture": save_small_model(tmp_path / "architecture", "hubert"),
        "features": trained(start, tmp_path / "features", 1),
    }
    path = others["features"] / "preprocessor_config.json"
    path = path if path.exists() else others["features"] / "processor_config.json"
    path.write_text(path.read_text().replace('"do_normalize": true', '"do_normalize": false'))
    expected = {"weights": "its weights are not like those of", "architecture": "has other layers than"}
    for part, other in others.items():
        arguments = ("average_models.py", start, other, "--output", tmp_path / "mean")
        assert run_command(*arguments) == 1, part
        error = capfd.readouterr().err
        assert f"error: {other}: {expected.get(part, f'has other {part} than')} {start}" in error
        assert not (tmp_path / "mean").exists()


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("dim", [1, 2])
def test_weights_that_are_not_finite_are_refused(dim, is_first, tmp_path):
    start, broken = save_folder(tmp_path / "start", ["sl"]), tmp_path / "broken"
    model = AutoModelForCTC.from_pretrained(start)
    next(weights for weights in model.parameters() if weights.dim() == dim).data[0] = float("nan")
    model.save_pretrained(broken)
    AutoProcessor.from_pretrained(start).save_pretrained(broken)
    with pytest.raises(ValueError, match=f"{broken}: has weights that are not finite"):
        average_models([str(broken), str(start)][:: 1 if is_first else -1], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


def test_command_says_what_it_made_and_changes_no_folder(tmp_path, capfd):
    start = save_folder(tmp_path / "start", ["sl"])
    models = [trained(start, tmp_path / str(seed), seed) for seed in (1, 2)]
    arguments = ("average_models.py", *models, "--output", tmp_path / "mean")
    assert run_command(*arguments) == 0
    assert f"{tmp_path / 'mean'}: the mean of 2 models\nnext: hf-mlpl evaluate" in capfd.readouterr().out
    before = weights_of(tmp_path / "mean")
    for words, problem in (
        (arguments, "exists already"),
        (("average_models.py", start, "--output", tmp_path / "new"), "is a single model"),
    ):
        with pytest.raises(SystemExit):
            run_command(*words)
        assert problem in capfd.readouterr().err
    assert all(np.array_equal(before[name], weights) for name, weights in weights_of(tmp_path / "mean").items())
