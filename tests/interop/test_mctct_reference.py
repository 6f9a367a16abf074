"""Models of the old port against the port itself: transformers 4.57.6, in a virtual environment of its own.

Where the two agree, to 1e-4; where they differ, that it is for the reason given in docs/from_the_old_port.md.
"""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCTC, AutoProcessor

from hf_mlpl import MlplFeatureExtractor

from ..random_model import RATE, sweep

pytestmark = pytest.mark.slow

LENGTHS = [100, 1, 2, 10, 98, 200, 301, 500, 3, 99, 300]  # feature frames; from 121 longer than the position table
EQUAL = [length for length in LENGTHS if length % 3]
MODELS = ["scalar", "channels"]


def inputs() -> dict[str, np.ndarray]:
    extract = MlplFeatureExtractor()

    def features(*lengths):
        recordings = [sweep((400 + 160 * (length - 1)) / RATE) for length in lengths]
        return extract(recordings, sampling_rate=RATE)

    batch = features(301, 200, 100)
    arrays = {f"features_{length}": features(length)["input_features"] for length in LENGTHS}
    arrays |= {"batch": batch["input_features"], "mask": batch["attention_mask"].astype(np.int64)}
    return arrays | {"audio": sweep(3.3), "labels": np.array([[3, 5, 5, 7, 9, 9]])}


@pytest.fixture(scope="module")
def port_python(tmp_path_factory) -> Path:
    """Makes a Python with transformers 4.57.6 and its requirements; torch and the rest are this environment's."""
    folder = tmp_path_factory.mktemp("old") / "venv"
    python = folder / "bin" / "python"
    done = subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], capture_output=True, text=True)
    if done.returncode == 0:
        where = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
        packages = subprocess.check_output([python, "-c", where], text=True).strip()
        ours = sysconfig.get_paths()
        Path(packages, "ours.pth").write_text(f"{ours['purelib']}\n{ours['platlib']}\n")
        install = [python, "-m", "pip", "install", "--quiet", "--no-compile", "transformers==4.57.6"]
        done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode != 0:
        reason = [line for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()][-1]
        pytest.skip(f"transformers 4.57.6 cannot be installed beside this one: {reason}")
    return python


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return inputs()


@pytest.fixture(scope="module")
def port(port_python, arrays, tmp_path_factory) -> Path:
    """Returns the output of `old_port.py`."""
    folder = tmp_path_factory.mktemp("port")
    np.savez(folder / "inputs.npz", **arrays)
    script = Path(__file__).parents[1] / "old_port.py"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [port_python, script, folder, folder / "inputs.npz"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def logits_of(model, features: np.ndarray, **arguments) -> np.ndarray:
    with torch.inference_mode():
        return model(torch.from_numpy(features), **arguments).logits.numpy()


def relative_difference(ours: np.ndarray, ports: np.ndarray) -> float:
    return float(np.linalg.norm(ours - ports) / np.linalg.norm(ports))


@pytest.mark.parametrize("form", ["bin", "safetensors"])
@pytest.mark.parametrize("name", MODELS)
def test_equal_features_give_equal_logits(port, arrays, name, form):
    model = AutoModelForCTC.from_pretrained(port / f"{name}-{form}")
    assert model.config.layer_norm_per_channel == (name == "channels")
    expected = np.load(port / f"{name}.npz")
    for length in EQUAL:
        ports = expected[f"features_{length}"]
        np.testing.assert_allclose(logits_of(model, arrays[f"features_{length}"]), ports, rtol=0, atol=1e-4)
        assert np.abs(ports).max() > 1
    own_features = np.load(port / "own_features.npy")
    assert own_features.shape[1] % 3
    np.testing.assert_allclose(logits_of(model, own_features), expected["own_features"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_the_front_end_differs_where_the_length_is_a_multiple_of_three(port, arrays, name):
    model = AutoModelForCTC.from_pretrained(port / f"{name}-bin")
    expected = np.load(port / f"{name}.npz")
    lengths = [length for length in LENGTHS if length % 3 == 0]
    for length in lengths:
        features, ports = arrays[f"features_{length}"], expected[f"features_{length}"]
        assert relative_difference(logits_of(model, features), ports) > 0.01
    model.model.front_end.stride = 10**6  # no length is a multiple of it, and so there are always three zeros
    for length in lengths:
        features, ports = arrays[f"features_{length}"], expected[f"features_{length}"]
        np.testing.assert_allclose(logits_of(model, features), ports, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_padding_changes_the_end_of_an_utterance_in_the_port(port, arrays, name):
    """Its first layer norm adds the bias to padding, too, of which the convolution sees up to three frames."""
    model = AutoModelForCTC.from_pretrained(port / f"{name}-bin")
    expected = np.load(port / f"{name}.npz")
    lengths = arrays["mask"].sum(axis=1)
    ours = logits_of(model, arrays["batch"], attention_mask=torch.from_numpy(arrays["mask"]))
    for row, length in enumerate(lengths):
        alone, outputs = expected[f"features_{length}"][0], -(-length // 3)
        np.testing.assert_allclose(ours[row, :outputs], alone, rtol=0, atol=1e-4)
        in_batch = expected["batch"][row, :outputs]
        if length == max(lengths):
            np.testing.assert_allclose(in_batch, alone, rtol=0, atol=1e-4)
        else:
            assert relative_difference(in_batch[-1], alone[-1]) > 0.005


def test_features_differ_in_their_normalisation_alone(port, arrays):
    """The port has a mean and a deviation for each mel bin; silence is not a number there."""
    log_mel = MlplFeatureExtractor(do_normalize=False)(arrays["audio"], sampling_rate=RATE)["input_features"][0]
    ports = np.load(port / "own_features.npy")[0]
    expected = (log_mel - log_mel.mean(axis=0)) / log_mel.std(axis=0)
    assert relative_difference(ports, expected) < 1e-4
    processor = AutoProcessor.from_pretrained(port / "scalar-bin")
    ours = processor.feature_extractor(arrays["audio"], sampling_rate=RATE)["input_features"][0]
    assert relative_difference(ours, (log_mel - log_mel.mean()) / log_mel.std()) < 1e-4
    assert relative_difference(ports, ours) > 0.1
    assert json.loads((port / "report.json").read_text())["silence_is_nan"]
    assert (processor.feature_extractor(np.zeros(16000, np.float32), sampling_rate=RATE)["input_features"] == 0).all()


@pytest.mark.parametrize("name", MODELS)
def test_a_skipped_layer_is_the_identity_in_the_port(port, arrays, name):
    """With all layers skipped it gives the head what comes out of the front end; here two layer norms remain."""
    model = AutoModelForCTC.from_pretrained(port / f"{name}-bin", layerdrop=0.999999).train()
    features, expected = torch.from_numpy(arrays["features_100"]), np.load(port / f"{name}.npz")["dropped"]
    with torch.no_grad():
        hidden_states = model.model.front_end(features, torch.ones(features.shape[:2], dtype=torch.bool))
        np.testing.assert_allclose(model.ctc_head(hidden_states).numpy(), expected, rtol=0, atol=1e-4)
        for layer in model.model.layers:
            hidden_states = layer.output_layer_norm(layer.attention_layer_norm(hidden_states))
        torch.testing.assert_close(model(features).logits, model.ctc_head(hidden_states))
        assert relative_difference(model(features).logits.numpy(), expected) > 0.1


@pytest.mark.parametrize("name", MODELS)
def test_the_ports_blank_is_its_padding_id(port, arrays, name):
    """Class 1 in its configurations, where the vocabulary has a letter."""
    model = AutoModelForCTC.from_pretrained(port / f"{name}-bin")
    features, labels = torch.from_numpy(arrays["features_100"]), torch.from_numpy(arrays["labels"])
    ports = float(np.load(port / f"{name}.npz")["loss"])
    with torch.no_grad():
        output = model(features, labels=labels)
    log_probs = output.logits.log_softmax(-1).transpose(0, 1)
    of_blank = [
        F.ctc_loss(log_probs, labels, torch.tensor([34]), torch.tensor([6]), blank=blank, reduction="sum").item()
        for blank in (1, model.config.blank_token_id)
    ]
    assert of_blank == [pytest.approx(ports, rel=1e-4), pytest.approx(output.loss.item(), rel=1e-4)]
    assert abs(of_blank[0] / of_blank[1] - 1) > 0.01


def test_the_vocabulary_is_the_same(port):
    report = json.loads((port / "report.json").read_text(encoding="utf-8"))
    tokenizer = AutoProcessor.from_pretrained(port / "scalar-bin").tokenizer
    within = {token: index for token, index in report["vocab"].items() if index < len(tokenizer)}
    assert report["vocab"].keys() - within.keys() == {"<s>", "</s>"}
    blank = within.pop("<pad>")
    assert tokenizer.get_vocab() == within | {"<blank>": blank}
    assert tokenizer("bad eich")["input_ids"] == report["encoded"]
    # The port writes a space for each word boundary, and `<unk>`.
    assert report["decoded"] == "aa ech  ß<unk>a"
    assert tokenizer.decode(report["ids"]) == "aa ech ßa"


def test_the_port_has_neither_chunks_nor_timestamps(port):
    report = json.loads((port / "report.json").read_text(encoding="utf-8"))
    for what in ("chunks", "timestamps"):
        assert report[what] == "'MCTCTConfig' object has no attribute 'inputs_to_logits_ratio'"
