"""What transformers' old port of the original (`MCTCTForCTC`, until 4.57) computed otherwise, and our model does not.

One test for each deviation, against the numbers that the original program left behind or against a definition. Each
also computes what the port computed, in lines of its own, and shows that the difference would be seen.
"""

import ast
import inspect
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hf_mlpl import MlplConfig, MlplForCTC
from hf_mlpl.model import modeling_mlpl

from ..golden_model import load_golden_model
from ..model.test_golden import RUNS, features_of, golden_array, relative_error

BLANK = 29  # the last of the golden model's 30 classes; the port's configuration said 1, its padding token
NO_DROPOUT = {"conv_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "layerdrop": 0.0}
SAMPLES = ["t300_wav", "t301_wav", "t302_wav", "speech_de_wav", "speech_fr_wav"]  # T mod 3 = 0, 1, 2, ...


@pytest.fixture(scope="module")
def model(golden):
    return load_golden_model(golden)


def emissions(sample: str) -> np.ndarray:
    return np.load(RUNS / "main" / "emissions" / f"{sample}.npy")


def logits_of(model, *features: torch.Tensor) -> list[np.ndarray]:
    """Returns the results of a padded batch of (T, 80) features, each without its padding."""
    batch = torch.nn.utils.rnn.pad_sequence(features, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(f)) for f in features], batch_first=True)
    with torch.inference_mode():
        logits = model(batch, attention_mask=mask).logits.numpy()
    return [row[: math.ceil(len(f) / 3)] for row, f in zip(logits, features, strict=True)]


def hidden_states_of(sample: str) -> torch.Tensor:
    """(1, S, 16), what the original's front end gave its first layer."""
    return torch.from_numpy(golden_array(f"main/{sample}", "conv5"))[None]


# ------------------------------------------------------------------------------------------- a: feature normalisation


@pytest.mark.parametrize("sample", ["t300_wav", "speech_de_wav", "speech_fr_wav"])
def test_a_one_mean_and_one_deviation_for_all_mel_bins(golden, model, sample):
    """The port normalised each mel bin over time."""
    normalized = np.load(golden / "features" / f"{sample}.norm.npy")
    assert relative_error(features_of(golden, sample)[0].numpy(), normalized) < 1e-5

    log_mel = np.load(golden / "features" / f"{sample}.logmel.npy").astype(np.float64)
    port = ((log_mel - log_mel.mean(axis=0)) / log_mel.std(axis=0)).astype(np.float32)
    assert relative_error(port, normalized) > 0.1
    assert relative_error(logits_of(model, torch.from_numpy(port))[0], emissions(sample)) > 0.05


def test_a_silence_is_zeros(golden):
    """The port divided by a deviation of zero."""
    normalized = np.load(golden / "features" / "silence_wav.norm.npy")
    assert (normalized == 0).all()
    np.testing.assert_array_equal(features_of(golden, "silence_wav")[0].numpy(), normalized)

    log_mel = np.load(golden / "features" / "silence_wav.logmel.npy").astype(np.float64)
    with np.errstate(invalid="ignore"):
        assert np.isnan((log_mel - log_mel.mean(axis=0)) / log_mel.std(axis=0)).all()


# ------------------------------------------------------------------------------------------- b: the first layer norm


class ScaleAndShift(torch.nn.Module):
    """Normalises as the port did in place of the first layer norm."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, input_features, frame_mask):
        return (input_features * self.norm.weight + self.norm.bias).masked_fill(~frame_mask[:, :, None], 0.0)


@pytest.mark.parametrize("sample", ["t300_wav", "speech_de_wav", "speech_fr_wav"])
def test_b_the_first_layer_norm_normalises(golden, sample):
    """Features that nobody normalised give the original's emissions, because its first layer norm does it."""
    log_mel = torch.from_numpy(np.load(golden / "features" / f"{sample}.logmel.npy"))
    model = load_golden_model(golden)
    assert relative_error(logits_of(model, log_mel)[0], emissions(sample)) < 1e-4

    model.model.front_end.layer_norm = ScaleAndShift(model.model.front_end.layer_norm)
    assert relative_error(logits_of(model, log_mel)[0], emissions(sample)) > 0.1


def test_b_padding_does_not_reach_the_first_layer_norm(golden, model):
    """The original's own batches let it in; a mean and a variance over the padded block are others."""
    short, long = (features_of(golden, sample)[0] for sample in ("speech_fr_wav", "speech_de_wav"))
    assert relative_error(logits_of(model, long, short)[1], emissions("speech_fr_wav")) < 1e-4

    normalized = golden_array("main/speech_fr_wav", "conv1")[:, 0].T
    block = F.pad(short, (0, 0, 0, len(long) - len(short)), value=0.0)
    norm = model.model.front_end.layer_norm
    padded = (block - block.mean()) / (block.var(correction=0) + 1e-5).sqrt() * norm.weight + norm.bias
    assert relative_error(padded[: len(short)].detach().numpy(), normalized) > 0.1


# ------------------------------------------------------------------------------------------------ b2: the padding mask


def rescaled(frame_mask: torch.Tensor, length: int) -> torch.Tensor:
    """Stretches a mask of feature frames to `length` output frames, as the original's `af::resize` does."""
    return F.interpolate(frame_mask[:, None].float(), size=length, mode="nearest")[:, 0].bool()


def test_b2_the_padding_mask_is_exact(golden, monkeypatch):
    model = load_golden_model(golden)
    frame_mask = torch.arange(60)[None, :] < torch.arange(1, 61)[:, None]  # every length up to 60
    expected = torch.tensor([math.ceil(n / 3) for n in range(1, 61)])
    assert torch.equal(model._output_mask(frame_mask, 20).sum(dim=1), expected)
    assert torch.equal(rescaled(frame_mask, 20).sum(dim=1), expected)  # alike where the longest fills its frames ...
    frame_mask = frame_mask[:58, :58]
    expected = expected[:58]
    assert torch.equal(model._output_mask(frame_mask, 20).sum(dim=1), expected)
    assert (rescaled(frame_mask, 20).sum(dim=1) != expected).any()  # ... and elsewhere not

    features = [features_of(golden, sample)[0] for sample in ("t302_wav", "speech_fr_wav")]
    assert relative_error(logits_of(model, *features)[1], emissions("speech_fr_wav")) < 1e-4
    monkeypatch.setattr(model.model, "_output_mask", rescaled)
    assert rescaled(torch.arange(302)[None, :] < len(features[1]), 101).sum() != math.ceil(len(features[1]) / 3)
    assert relative_error(logits_of(model, *features)[1], emissions("speech_fr_wav")) > 1e-3


# --------------------------------------------------------------------------------------------- c: convolution padding


@pytest.mark.parametrize("sample", SAMPLES)
def test_c_the_convolutions_padding_depends_on_the_length(golden, model, sample):
    """The port always put three zeros in front, which is one frame late where the length is a multiple of three."""
    first = torch.from_numpy(golden_array(f"main/{sample}", "conv1")[:, 0].copy())[None]  # (1, 80, T)
    expected = golden_array(f"main/{sample}", "conv2").reshape(-1, (first.shape[2] + 2) // 3)  # (32, S)
    conv = model.model.front_end.conv
    with torch.inference_mode():
        zeros = 2 if first.shape[2] % 3 == 0 else 3
        port = F.conv1d(first, conv.weight, conv.bias, stride=3, padding=3)[0].numpy()
        ours = logits_of(model, features_of(golden, sample)[0])[0]
        original = F.conv1d(first, conv.weight, conv.bias, stride=3, padding=zeros)[0].numpy()
    assert relative_error(original, expected) < 1e-5
    assert relative_error(ours, emissions(sample)) < 1e-4
    if zeros == 2:
        assert relative_error(port, expected) > 0.1
    else:
        assert relative_error(port, expected) < 1e-5


# ------------------------------------------------------------------------------------------------------- d: dropout


def seeded(function, *arguments) -> np.ndarray:
    torch.manual_seed(0)
    with torch.no_grad():
        return function(*arguments).numpy()


def test_d_dropout_is_inside_the_mlp(golden):
    """The port dropped what the MLP puts out."""
    layer = load_golden_model(golden, **NO_DROPOUT | {"activation_dropout": 0.5}).model.layers[0].train()
    hidden_states = hidden_states_of("t300_wav")
    mask = torch.ones(hidden_states.shape[:2], dtype=torch.bool)

    def original(dropout_inside):
        middle = layer.attention_layer_norm(layer.attention(hidden_states, mask)[0] + hidden_states)
        activations = F.relu(middle @ layer.up_proj.weight.T)
        if dropout_inside:
            output = F.dropout(activations, 0.5) @ layer.down_proj.weight.T
        else:
            output = F.dropout(activations @ layer.down_proj.weight.T, 0.5)
        return layer.output_layer_norm(output + middle)

    ours = seeded(layer, hidden_states, mask)
    assert relative_error(ours, seeded(original, True)) < 1e-6
    assert relative_error(ours, seeded(original, False)) > 0.1


def test_d_what_attention_puts_out_is_not_dropped(golden):
    """The port dropped it, with the probability that is meant for the probabilities."""
    attention = load_golden_model(golden, **NO_DROPOUT | {"activation_dropout": 0.5}).model.layers[0].attention
    hidden_states = hidden_states_of("t300_wav")
    mask = torch.ones(hidden_states.shape[:2], dtype=torch.bool)
    expected = seeded(lambda: attention(hidden_states, mask)[0])
    ours = seeded(lambda: attention.train()(hidden_states, mask)[0])
    np.testing.assert_array_equal(ours, expected)
    assert relative_error(seeded(F.dropout, torch.from_numpy(expected), 0.5), expected) > 0.5


def test_d_the_front_end_drops_once(golden):
    """The port dropped a second time after the convolution."""
    model = load_golden_model(golden, **NO_DROPOUT | {"conv_dropout": 0.5})
    features = features_of(golden, "t300_wav")
    mask = torch.ones(features.shape[:2], dtype=torch.bool)
    once = F.dropout
    expected = torch.from_numpy(seeded(model.model.front_end, features, mask))
    ours = seeded(model.model.front_end.train(), features, mask)
    # The same random numbers, in the order in which the convolution's output lies in memory.
    assert relative_error(ours, seeded(lambda: once(expected.mT.contiguous().mT, 0.5))) < 1e-6
    assert relative_error(ours, seeded(lambda: once(once(expected.mT.contiguous().mT, 0.5), 0.5))) > 0.1


# ------------------------------------------------------------------------------------------------------ e: LayerDrop


def test_e_a_dropped_layer_is_still_normalised_twice(golden):
    """The port left the whole layer out."""
    layer = load_golden_model(golden, **NO_DROPOUT | {"layerdrop": 0.999999}).model.layers[0].train()
    hidden_states = hidden_states_of("t300_wav")
    mask = torch.ones(hidden_states.shape[:2], dtype=torch.bool)
    expected = hidden_states.double()
    for norm in (layer.attention_layer_norm, layer.output_layer_norm):
        mean, variance = expected.mean(-1, keepdim=True), expected.var(-1, correction=0, keepdim=True)
        expected = (expected - mean) / (variance + 1e-5).sqrt() * norm.weight.item() + norm.bias.item()
    assert relative_error(seeded(layer, hidden_states, mask), expected.numpy()) < 1e-6
    assert relative_error(hidden_states.numpy(), expected.numpy()) > 0.1


# ------------------------------------------------------------------------------------------------------------ f: loss


def ctc_loss(logits: np.ndarray, label: list[int], blank: int) -> float:
    """-log of the probability of a label, by the forward recursion (Graves et al. 2006, section 4.1) in fp64."""
    logits = logits.astype(np.float64)
    log_probs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    states = [blank]
    for symbol in label:
        states += [symbol, blank]
    forward = [-np.inf] * len(states)
    forward[:2] = [log_probs[0, state] for state in states[:2]]
    for frame in log_probs[1:]:
        before, forward = forward, []
        for i, state in enumerate(states):
            may_skip = i > 1 and state not in (blank, states[i - 2])
            sources = before[max(i - 1, 0) : i + 1] + ([before[i - 2]] if may_skip else [])
            forward.append(np.logaddexp.reduce(sources) + frame[state])
    return -np.logaddexp(*forward[-2:])


LABEL = [1, 5, 5, 17, 0, 2, 28]  # with class 1, the port's blank, and an adjacent repetition


@pytest.mark.parametrize("sample", ["t091_wav", "speech_fr_wav"])
def test_f_the_blank_is_the_last_class(golden, model, sample):
    """And a loss is divided by the root of its label's length: the original's training flags say so."""
    loss = model(features_of(golden, sample), labels=torch.tensor([LABEL])).loss.item()
    expected = ctc_loss(emissions(sample), LABEL, BLANK)
    assert loss == pytest.approx(expected / math.sqrt(len(LABEL)), rel=1e-4)
    assert ctc_loss(emissions(sample), [s for s in LABEL if s != 1], blank=1) != pytest.approx(expected, rel=0.05)


def test_f_padded_frames_are_not_part_of_the_loss(golden, model):
    """They are in the original, which gives its CTC the padded length (the port did not)."""
    features = [features_of(golden, sample)[0] for sample in ("t302_wav", "t091_wav")]
    batch = torch.nn.utils.rnn.pad_sequence(features, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(f)) for f in features], batch_first=True)
    labels = torch.tensor([LABEL, LABEL])
    loss = model(batch, attention_mask=mask, labels=labels).loss.item()
    expected = [ctc_loss(emissions(sample), LABEL, BLANK) for sample in ("t302_wav", "t091_wav")]
    assert loss == pytest.approx(sum(expected) / 2 / math.sqrt(len(LABEL)), rel=1e-4)

    with torch.inference_mode():
        all_frames = model.ctc_head(model.model(batch, attention_mask=mask).last_hidden_state)[1].numpy()
    assert ctc_loss(all_frames, LABEL, BLANK) != pytest.approx(expected[1], rel=0.05)


# ------------------------------------------------------------------------------------- g: what was missing, or unused


def test_g_languages_are_identified(golden, model):
    """The port had no language-ID head; the original's batches average over padding, too."""
    features = [features_of(golden, sample)[0] for sample in ("t302_wav", "speech_fr_wav")]
    batch = torch.nn.utils.rnn.pad_sequence(features, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(f)) for f in features], batch_first=True)
    for row, sample in zip(model.identify_language(batch, mask, top_k=5), ("t302_wav", "speech_fr_wav"), strict=True):
        expected = np.exp(golden_array(f"main/{sample}", "lid_logsoftmax").ravel())
        assert list(row) == [f"language_{i}" for i in np.argsort(-expected)]
        assert list(row.values()) == pytest.approx(np.sort(expected)[::-1].tolist(), rel=1e-4)

    with torch.inference_mode():
        all_frames = model.lid_head(model.model(batch, attention_mask=mask).last_hidden_state.mean(dim=1))
    wrong = all_frames.log_softmax(dim=1)[1].numpy()
    assert np.abs(wrong - golden_array("main/speech_fr_wav", "lid_logsoftmax").ravel()).max() > 0.01


def test_g_no_argument_is_taken_and_ignored(golden, model):
    """The port took `head_mask`, and used it with gradient checkpointing only."""
    features = features_of(golden, "t091_wav")
    for forward in (model, model.model):
        with pytest.raises(TypeError, match="unexpected keyword argument 'head_mask'"):
            forward(features, head_mask=torch.zeros(2, 4))


def test_g_dropout_defaults_are_the_documented_ones():
    """The port's documentation said 0.1 and its code 0.3, which is the original's (`mling_large.cpp`)."""
    config = MlplConfig()
    assert {config.conv_dropout, config.attention_dropout, config.activation_dropout, config.layerdrop} == {0.3}
    assert "0.1" not in MlplConfig.__doc__


def test_g_every_module_is_used_and_every_setting_exists():
    """The port had an embedding that nothing used, and that asked for a setting which did not exist."""
    config = MlplConfig.tiny(5, ["de"], hidden_size=8, attention_head_dim=4, num_hidden_layers=1)
    used = {type(module) for module in MlplForCTC(config).modules()}
    ours = {
        value
        for value in vars(modeling_mlpl).values()
        if inspect.isclass(value) and value.__module__ == modeling_mlpl.__name__ and issubclass(value, torch.nn.Module)
    }
    assert ours - used == {modeling_mlpl.MlplPreTrainedModel}  # the base class

    tree = ast.parse(inspect.getsource(modeling_mlpl))
    settings = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("config", "self.config")
    }
    assert {"hidden_size", "layerdrop", "blank_token_id"} <= settings
    assert {name for name in settings if not hasattr(config, name)} <= {"auto_map"}  # saving adds it
