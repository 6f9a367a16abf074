"""The model against brute force, the definition and itself one by one; test_golden.py has the original's numbers.

Models run in float64 where a test wants exactness. First layer norm, attention probabilities of `eager`, language ID
and losses are in fp32 all the same, as documented: what passes through them is compared at 1e-6, gradients at 1e-5.
"""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModel, AutoModelForCTC

from hf_mlpl import MlplConfig, MlplForCTC, MlplModel
from hf_mlpl.model import modeling_mlpl

from ..golden_model import load_golden_model

NUM_MEL_BINS = 6
BLANK = 6
LENGTHS = [9, 14, 1, 10, 11]  # T mod 3 = 0, 2, one frame, 1, 2; the longest is neither first nor last
LABELS = torch.tensor([[1, -100], [2, 3], [0, -100], [1, 1], [-100, -100]])
LANGUAGE_IDS = torch.tensor([0, 1, 2, -100, 1])
SIZES = {
    "vocab_size": BLANK + 1,
    "languages": ["de", "en", "sv-SE"],
    "num_mel_bins": NUM_MEL_BINS,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,  # need not divide the hidden size
    "attention_head_dim": 4,
    "intermediate_size": 10,
    "max_position_embeddings": 3,  # shorter than the 5 output frames of the longest utterance
}
NO_DROPOUT = {"conv_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "layerdrop": 0.0}
BOTH_ATTENTIONS = pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])


def make_model(attn_implementation="sdpa", dtype=torch.float64, **fields) -> MlplForCTC:
    """Makes a tiny model in training mode with random parameters, also of layer norms, by default without dropout."""
    torch.manual_seed(0)
    config = MlplConfig(**SIZES | NO_DROPOUT | fields)
    model = MlplForCTC._from_config(config, attn_implementation=attn_implementation)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layer_norm" in name:
                parameter += torch.randn(1)
    return model.to(dtype).train()


def make_utterances(lengths=LENGTHS, dtype=torch.float64) -> list[torch.Tensor]:
    """Integers that add up to zero in each frame: fp32 sums of them and of their squares are exact in any order."""
    generator = torch.Generator().manual_seed(1)
    halves = [torch.randint(-9, 10, (n, NUM_MEL_BINS // 2), generator=generator).to(dtype) for n in lengths]
    return [torch.cat([half, -half], dim=1) for half in halves]


def make_batch(utterances, padding=0.0) -> dict[str, torch.Tensor]:
    """`padding` is a value, or "garbage": large random numbers."""
    length = max(len(utterance) for utterance in utterances)
    shape = (len(utterances), length, NUM_MEL_BINS)
    features = 1e3 * torch.randn(shape) if padding == "garbage" else torch.full(shape, padding)
    features = features.to(utterances[0].dtype)
    mask = torch.zeros(shape[:2], dtype=torch.long)
    for i, utterance in enumerate(utterances):
        features[i, : len(utterance)] = utterance
        mask[i, : len(utterance)] = 1
    return {"input_features": features, "attention_mask": mask}


def gradients(model, loss) -> dict[str, torch.Tensor]:
    """Returns the gradients of the parameters that the loss depends on, by name."""
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def assert_same_gradients(actual, expected, rtol=1e-5):
    assert actual.keys() == expected.keys()
    for name in expected:
        assert (actual[name] - expected[name]).norm() <= rtol * expected[name].norm(), name


# ---------------------------------------------------------------------------------------------------------- batches


@BOTH_ATTENTIONS
@pytest.mark.parametrize("padding", [0.0, "garbage", math.nan])
def test_a_batch_gives_what_its_utterances_give_one_by_one(attn_implementation, padding):
    model = make_model(attn_implementation, ctc_loss_reduction="sum")
    utterances = make_utterances()
    batch = make_batch(utterances, padding)
    output = model(**batch, labels=LABELS, language_ids=LANGUAGE_IDS)
    num_frames = torch.tensor([math.ceil(n / 3) for n in LENGTHS])
    losses = model.ctc_losses(output.logits, num_frames, LABELS)

    total = 0.0
    for i, utterance in enumerate(utterances):
        single = model(utterance[None], labels=LABELS[i : i + 1], language_ids=LANGUAGE_IDS[i : i + 1])
        valid = math.ceil(len(utterance) / 3)
        assert single.logits.shape == (1, valid, BLANK + 1)
        rtol = 1e-9 if attn_implementation == "sdpa" else 1e-6
        torch.testing.assert_close(output.logits[i, :valid], single.logits[0], rtol=rtol, atol=rtol)
        torch.testing.assert_close(output.language_log_probs[i], single.language_log_probs[0], rtol=1e-6, atol=1e-6)
        only_ctc = model(utterance[None], labels=LABELS[i : i + 1]).loss
        torch.testing.assert_close(losses[i], only_ctc, rtol=1e-6, atol=1e-6)
        total = total + single.loss
    torch.testing.assert_close(output.loss, total, rtol=1e-6, atol=0)
    actual = gradients(model, output.loss)
    assert len(actual) == len(list(model.parameters()))
    assert all(gradient.norm() > 1e-6 for gradient in actual.values())  # or comparing them would show nothing
    assert_same_gradients(actual, gradients(model, total))


@BOTH_ATTENTIONS
@pytest.mark.parametrize("packed_frames", [1, 5, 1024])  # groups of one utterance, of some, of all
@pytest.mark.parametrize("lengths", [LENGTHS, [7], [0, 9, 0, 4], [0, 0]])
def test_without_gradients_padding_is_left_out(attn_implementation, packed_frames, lengths, monkeypatch):
    """And nothing else changes: gradients are wanted first, so that all frames are computed."""
    monkeypatch.setattr(modeling_mlpl, "PACKED_FRAMES", packed_frames)
    model = make_model(attn_implementation).eval()
    batch = make_batch(make_utterances([max(n, 1) for n in lengths]), "garbage")
    batch["attention_mask"][torch.tensor(lengths) == 0] = 0  # an utterance without a frame
    valid = batch["attention_mask"][:, ::3].bool()
    seen = outputs_of(model, ["layers.0.up_proj", "ctc_head", "layers.1.attention.o_proj"])
    expected = model(**batch)
    assert all(outputs[0].shape[:2] == valid.shape for outputs in seen.values())
    for outputs in seen.values():
        outputs.clear()
    with torch.no_grad():
        output = model(**batch)
        hidden_states = model.model(**batch).last_hidden_state
    for name in ("layers.0.up_proj", "layers.1.attention.o_proj"):  # two forwards
        assert sum(outputs.shape[1] for outputs in seen[name]) == 2 * valid.sum(), name
    assert sum(len(outputs) for outputs in seen["ctc_head"][1:]) == valid.sum()
    torch.testing.assert_close(output.logits, expected.logits, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(output.language_log_probs, expected.language_log_probs, rtol=1e-5, atol=1e-5)
    assert (hidden_states[~valid] == 0).all()


def test_without_gradients_hidden_states_are_those_of_the_padded_batch():
    model = make_model("eager").eval()
    batch = make_batch(make_utterances())
    expected = model(**batch, output_hidden_states=True, output_attentions=True)
    with torch.no_grad():
        output = model(**batch, output_hidden_states=True, output_attentions=True)
    for actual, other in zip(output.hidden_states + output.attentions, expected[2] + expected[3], strict=True):
        torch.testing.assert_close(actual, other, rtol=1e-12, atol=1e-12)  # matmul goes about it in another way


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_padded_frames_say_blank_with_certainty(dtype, grad):
    model = make_model(dtype=dtype)
    with torch.set_grad_enabled(grad):
        logits = model(**make_batch(make_utterances(dtype=dtype), "garbage")).logits
    certain = torch.nn.functional.one_hot(torch.tensor(BLANK), BLANK + 1).to(dtype)
    for row, num_frames in zip(logits.softmax(-1), LENGTHS, strict=True):
        valid = math.ceil(num_frames / 3)
        assert (row[:valid].amax(-1) < 1).all()
        assert (row[valid:] == certain).all()


def test_without_a_mask_every_frame_counts():
    model = make_model()
    features = torch.stack(make_utterances([7, 7]))
    masks = [torch.ones(2, 7, dtype=dtype) for dtype in (torch.bool, torch.long, torch.float32)]
    for output in [model(features, attention_mask=mask) for mask in masks]:
        assert torch.equal(output.logits, model(features).logits)
        assert torch.equal(output.language_log_probs, model(features).language_log_probs)


@pytest.mark.parametrize("lengths", [[1], [6, 6], LENGTHS])
def test_eager_and_sdpa_agree(lengths):
    eager, sdpa = make_model("eager"), make_model("sdpa")
    batch = make_batch(make_utterances(lengths), "garbage")
    labels = torch.zeros(len(lengths), 1, dtype=torch.long)
    outputs = [model(**batch, labels=labels, language_ids=labels[:, 0]) for model in (eager, sdpa)]
    torch.testing.assert_close(outputs[0].logits, outputs[1].logits, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(outputs[0].language_log_probs, outputs[1].language_log_probs, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(outputs[0].loss, outputs[1].loss, rtol=1e-6, atol=0)
    if max(lengths) > 3:  # else there is one key only, and queries, keys and positions change nothing
        expected = gradients(eager, outputs[0].loss)
        assert len(expected) == len(list(eager.parameters()))
        assert_same_gradients(gradients(sdpa, outputs[1].loss), expected)


def test_bfloat16_is_close_to_float32():
    model = make_model(dtype=torch.float32, hidden_size=32, attention_head_dim=8).eval()
    half = copy.deepcopy(model).bfloat16()
    batch = make_batch(make_utterances([150, 97, 1], torch.float32))
    with torch.inference_mode():
        expected, actual = model(**batch), half(**batch)
    assert actual.logits.dtype == torch.bfloat16
    assert actual.language_log_probs.dtype == torch.float32
    assert (actual.logits.float().argmax(-1) == expected.logits.argmax(-1)).float().mean() > 0.95
    valid = expected.logits[0]
    assert (actual.logits[0].float() - valid).norm() / valid.norm() < 0.02
    torch.testing.assert_close(actual.language_log_probs, expected.language_log_probs, rtol=0, atol=0.03)


@BOTH_ATTENTIONS
@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_half_precision_is_close_to_the_original(golden, attn_implementation, dtype, tolerance):
    model = load_golden_model(golden)
    model.set_attn_implementation(attn_implementation)
    model.to(dtype)
    emissions = np.load(golden / "run" / "tiny40" / "main" / "emissions" / "speech_fr_wav.npy")
    features = torch.from_numpy(np.load(golden / "features" / "speech_fr_wav.norm.npy"))[None].to(dtype)
    with torch.inference_mode():
        output = model(features)
    assert output.logits.dtype == dtype
    error = np.linalg.norm(output.logits[0].float().numpy() - emissions) / np.linalg.norm(emissions)
    assert error < tolerance
    assert (output.logits[0].float().numpy().argmax(-1) == emissions.argmax(-1)).mean() > 0.95


@BOTH_ATTENTIONS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_rows_of_padding_and_far_frames_give_no_nan(attn_implementation, dtype, scale):
    """With scores so large that in float16 the sum of one and the least number overflows."""
    model = make_model(attn_implementation, torch.float32).eval()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.attention.position_table.mul_(100)
            layer.attention.k_proj.weight.mul_(30)
    model.to(dtype)
    features = scale * torch.randn(3, 60, NUM_MEL_BINS, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(3, 60, dtype=torch.long)
    mask[0] = 1
    mask[1, :4] = 1  # and nothing at all is valid in the third
    largest = []
    for layer in model.model.layers:
        layer.attention.q_proj.register_forward_hook(lambda module, inputs, output: largest.append(output.abs().max()))
    with torch.inference_mode():
        output = model(features.to(dtype), attention_mask=mask)
        alone = model(features[1:2, :4].to(dtype))
    assert max(largest) > 1
    assert output.logits.isfinite().all() and output.language_log_probs.isfinite().all()
    torch.testing.assert_close(output.logits[1, :2], alone.logits[0], rtol=0.02, atol=0.02)


# -------------------------------------------------------------------------------------------------------- attention


def brute_force_attention(attention, hidden_states):
    """One utterance (S, D), one head, query and key at a time."""
    weights = {name: parameter.tolist() for name, parameter in attention.named_parameters()}
    heads, dim, reach = SIZES["num_attention_heads"], SIZES["attention_head_dim"], SIZES["max_position_embeddings"]

    def dot(a, b):
        return math.fsum(x * y for x, y in zip(a, b, strict=True))

    def project(name):
        return [[dot(row, frame) for row in weights[f"{name}.weight"]] for frame in hidden_states.tolist()]

    queries, keys, values = project("q_proj"), project("k_proj"), project("v_proj")
    joined = [[] for _ in queries]
    for part in [slice(h * dim, (h + 1) * dim) for h in range(heads)]:
        for i in range(len(queries)):
            query = [x / math.sqrt(dim) for x in queries[i][part]]
            scores = []
            for j in range(len(keys)):
                score = dot(query, keys[j][part])
                if abs(j - i) < reach:
                    score += dot(query, weights["position_table"][reach - 1 + j - i])
                scores.append(score)
            total = math.fsum(map(math.exp, scores))
            probabilities = [math.exp(score) / total for score in scores]
            joined[i] += [dot(probabilities, column) for column in zip(*[v[part] for v in values], strict=True)]
    output = [[dot(row, frame) for row in weights["o_proj.weight"]] for frame in joined]
    return torch.tensor(output, dtype=torch.float64)


@BOTH_ATTENTIONS
@pytest.mark.parametrize("length", [1, 2, 3, 4, 8])  # below, at and beyond the table's reach of 3
def test_attention_equals_a_loop_over_queries_and_keys(attn_implementation, length):
    attention = make_model(attn_implementation).model.layers[0].attention
    with torch.no_grad():
        attention.position_table.mul_(30)  # as large as the content scores
        hidden_states = torch.randn(2, length, SIZES["hidden_size"], dtype=torch.float64)
        output, _ = attention(hidden_states, torch.ones(2, length, dtype=torch.bool))
    expected = torch.stack([brute_force_attention(attention, utterance) for utterance in hidden_states])
    tolerance = 1e-6 if attn_implementation == "eager" else 1e-12
    torch.testing.assert_close(output, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 8])
def test_position_scores_equal_a_double_loop(length):
    attention = make_model().model.layers[0].attention
    query = torch.randn(2, 3, length, 4, dtype=torch.float64)
    expected = torch.zeros(2, 3, length, length, dtype=torch.float64)
    for i, j in itertools.product(range(length), repeat=2):
        if abs(j - i) < 3:
            expected[:, :, i, j] = query[:, :, i] @ attention.position_table[3 - 1 + j - i]
    torch.testing.assert_close(attention.position_scores(query), expected, rtol=1e-12, atol=1e-12)


class LargestTensor(TorchDispatchMode):
    """Remembers how many numbers the largest result of any operation has, the backward pass included."""

    def __init__(self):
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [tensor for tensor in tree_leaves(result) if isinstance(tensor, torch.Tensor)]
        self.size = max([self.size, *(tensor.numel() for tensor in tensors)])
        return result


@BOTH_ATTENTIONS
def test_no_tensor_grows_with_the_position_table(attn_implementation):
    """Neither forward nor backward: with all 1839 rows, the scores of these queries would have B x H x S x 1839."""
    batch, heads, length = 4, SIZES["num_attention_heads"], 7
    model = make_model(attn_implementation, max_position_embeddings=920)
    table_size = 1839 * SIZES["attention_head_dim"]  # the parameter and its gradient have that
    assert table_size < batch * heads * length * 1839
    features = torch.stack(make_utterances([3 * length] * batch))
    with LargestTensor() as largest:
        model(features, labels=torch.zeros(batch, 1, dtype=torch.long)).loss.backward()
    assert largest.size == table_size
    assert model.model.layers[0].attention.position_table.grad.any(dim=1).sum() == 2 * length - 1


# ----------------------------------------------------------------------- front end, layer norm, LayerDrop, dropout


class Recorder(TorchFunctionMode):
    """Remembers the calls of dropout, of `torch.rand` and the dropout inside `scaled_dot_product_attention`."""

    def __init__(self):
        super().__init__()
        self.draws = []  # shapes
        self.dropped = []  # (probability, input)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "rand":
            self.draws.append(tuple(args[0]))
        elif name == "scaled_dot_product_attention" and kwargs["dropout_p"] > 0:
            self.dropped.append((kwargs["dropout_p"], None))
        elif "dropout" in name or "bernoulli" in name:
            probability = kwargs["p"] if "p" in kwargs else args[1]
            if kwargs.get("training", True) and probability > 0:
                self.dropped.append((probability, args[0].detach()))
        return func(*args, **kwargs)


def definition_of_layer_norm(hidden_states, norm):
    mean = hidden_states.mean(-1, keepdim=True)
    variance = ((hidden_states - mean) ** 2).mean(-1, keepdim=True)
    return (hidden_states - mean) / (variance + 1e-5).sqrt() * norm.weight.item() + norm.bias.item()


def test_layer_norm_parameters_are_scalars():
    shapes = {name: tuple(p.shape) for name, p in make_model().named_parameters() if "layer_norm" in name}
    assert len(shapes) == 2 * (1 + 2 * SIZES["num_hidden_layers"])
    assert set(shapes.values()) == {(1,)}


def test_layer_norms_of_layers_may_have_parameters_for_each_channel():
    """And those that are the same for all channels do what one of each does."""
    model, wide = make_model().eval(), make_model(layer_norm_per_channel=True).eval()
    shapes = {name: tuple(p.shape) for name, p in wide.named_parameters() if "layer_norm" in name}
    assert {shape for name, shape in shapes.items() if "front_end" in name} == {(1,)}
    assert {shape for name, shape in shapes.items() if "layers." in name} == {(SIZES["hidden_size"],)}
    wide.load_state_dict(
        {name: tensor.expand_as(wide.state_dict()[name]) for name, tensor in model.state_dict().items()}
    )
    features = torch.randn(1, 14, NUM_MEL_BINS, dtype=torch.float64)
    torch.testing.assert_close(wide(features).logits, model(features).logits)

    norm = wide.model.layers[0].output_layer_norm
    with torch.no_grad():
        norm.weight[3] += 1
        norm.bias[5] -= 2
    hidden_states = torch.randn(2, 3, SIZES["hidden_size"], dtype=torch.float64)
    expected = torch.nn.functional.layer_norm(hidden_states, (SIZES["hidden_size"],), norm.weight, norm.bias)
    torch.testing.assert_close(norm(hidden_states), expected)


def test_the_first_layer_norm_takes_the_whole_utterance():
    norm = make_model().model.front_end.layer_norm
    utterance = torch.randn(5, NUM_MEL_BINS) * 7 + 3
    mask = torch.tensor([[True] * 5 + [False] * 2])
    output = norm(torch.cat([utterance, torch.full((2, NUM_MEL_BINS), 99.0)])[None], mask)[0]
    expected = definition_of_layer_norm(utterance.double().flatten(), norm).view(5, NUM_MEL_BINS)
    torch.testing.assert_close(output[:5].double(), expected, rtol=1e-5, atol=1e-5)
    assert (output[5:] == 0).all()  # as zero as the convolution's own padding, whatever the bias


@pytest.mark.parametrize("num_frames", range(1, 9))
def test_the_front_end_equals_a_loop_over_frames_and_taps(num_frames):
    front_end = make_model().model.front_end
    features = make_utterances([num_frames])[0]
    mask = torch.ones(1, num_frames, dtype=torch.bool)
    normalized = front_end.layer_norm(features[None], mask)[0].double()
    num_zeros = 2 if num_frames % 3 == 0 else 3  # flashlight's SAME padding, on each side
    expected = []
    for first in range(-num_zeros, num_frames - num_zeros, 3):
        frame = front_end.conv.bias
        for tap in range(7):
            if 0 <= first + tap < num_frames:
                frame = frame + front_end.conv.weight[:, :, tap] @ normalized[first + tap]
        values, gates = frame.chunk(2)
        expected.append(values / (1 + (-gates).exp()))
    output = front_end(features[None], mask)[0]
    torch.testing.assert_close(output, torch.stack(expected), rtol=1e-9, atol=1e-9)


def test_a_layer_equals_its_definition():
    layer = make_model().model.layers[0]
    hidden_states = torch.randn(2, 4, SIZES["hidden_size"], dtype=torch.float64)
    mask = torch.ones(2, 4, dtype=torch.bool)
    middle = layer.attention(hidden_states, mask)[0] + hidden_states
    middle = definition_of_layer_norm(middle, layer.attention_layer_norm)
    transformed = (middle @ layer.up_proj.weight.T).clamp(min=0) @ layer.down_proj.weight.T
    expected = definition_of_layer_norm(transformed + middle, layer.output_layer_norm)
    torch.testing.assert_close(layer(hidden_states, mask), expected, rtol=1e-9, atol=1e-9)


def test_a_dropped_layer_is_its_two_layer_norms():
    model = make_model(layerdrop=0.999999)
    layer = model.model.layers[0]
    hidden_states = torch.randn(2, 4, SIZES["hidden_size"], dtype=torch.float64)
    mask = torch.ones(2, 4, dtype=torch.bool)
    once = definition_of_layer_norm(hidden_states, layer.attention_layer_norm)
    expected = definition_of_layer_norm(once, layer.output_layer_norm)
    torch.testing.assert_close(layer(hidden_states, mask), expected, rtol=1e-9, atol=1e-9)
    layer.eval()
    assert not torch.allclose(layer(hidden_states, mask), expected, atol=0.1)


def test_layerdrop_draws_once_per_layer_and_forward():
    model = make_model(layerdrop=0.5, num_hidden_layers=40)
    batch = make_batch(make_utterances([4, 7]))
    ran = []
    for i, layer in enumerate(model.model.layers):
        layer.attention.register_forward_hook(lambda module, inputs, output, i=i: ran.append(i))
    torch.manual_seed(3)
    expected = [i for i in range(40) if torch.rand(()) >= 0.5]
    torch.manual_seed(3)
    with Recorder() as recorder:
        model(**batch)
    assert recorder.draws == [()] * 40  # one number for the whole batch
    assert ran == expected
    assert 10 < len(ran) < 30

    model.eval()
    ran.clear()
    with Recorder() as recorder:
        model(**batch)
    assert recorder.draws == []
    assert ran == list(range(40))


def test_layerdrop_has_the_probability_asked_for():
    model = make_model(layerdrop=0.2, num_hidden_layers=1)
    ran = []
    model.model.layers[0].attention.register_forward_hook(lambda *_: ran.append(1))
    batch = make_batch(make_utterances([3]))
    for _ in range(500):
        model(**batch)
    assert abs(len(ran) / 500 - 0.8) < 4 * math.sqrt(0.2 * 0.8 / 500)


def outputs_of(model, module_names) -> dict[str, list]:
    """Records the outputs of these modules in later forward passes."""
    seen = {name: [] for name in module_names}
    for name, module in model.named_modules():
        for wanted in seen:
            if name.endswith(wanted):
                module.register_forward_hook(lambda _, inputs, output, key=wanted: seen[key].append(output))
    return seen


@BOTH_ATTENTIONS
def test_dropout_acts_in_the_originals_three_places_only(attn_implementation):
    """The recorder sees every dropout of the forward pass, so nothing else, the output of wf in particular, is
    dropped."""
    model = make_model(attn_implementation, conv_dropout=0.1, attention_dropout=0.2, activation_dropout=0.3)
    seen = outputs_of(model, ["front_end.conv", "up_proj"])
    with Recorder() as recorder:
        model(**make_batch(make_utterances()))
    num_layers = SIZES["num_hidden_layers"]
    assert [probability for probability, _ in recorder.dropped] == [0.1] + [0.2, 0.3] * num_layers

    (_, glu), *rest = recorder.dropped
    first, second = seen["front_end.conv"][0].chunk(2, dim=1)
    torch.testing.assert_close(glu, first / (1 + (-second).exp()))
    for (_, probabilities), (_, activations), up in zip(rest[::2], rest[1::2], seen["up_proj"], strict=True):
        torch.testing.assert_close(activations, up.clamp(min=0))
        if attn_implementation == "eager":
            assert probabilities.shape == (5, 3, 5, 5)
            torch.testing.assert_close(probabilities.sum(-1), torch.ones(5, 3, 5, dtype=torch.float64))

    with Recorder() as recorder:
        model.eval()(**make_batch(make_utterances()))
    assert recorder.dropped == []


@pytest.mark.parametrize("field", ["conv_dropout", "attention_dropout", "activation_dropout"])
def test_each_dropout_is_active_in_training_only(field):
    model = make_model(**{field: 0.5})
    batch = make_batch(make_utterances())
    assert not torch.equal(model(**batch).logits, model(**batch).logits)
    model.eval()
    torch.testing.assert_close(model(**batch).logits, make_model()(**batch).logits, rtol=0, atol=0)


# --------------------------------------------------------------------------------------------------- initialisation


def test_initialisation_is_flashlights():
    torch.manual_seed(0)
    config = MlplConfig.tiny(50, 40, num_hidden_layers=2, num_attention_heads=3)
    hidden, width, inner = config.hidden_size, 3 * config.attention_head_dim, config.intermediate_size
    fan_in_of_conv = 80 * 7
    bounds = {
        "front_end.conv.weight": math.sqrt(3 / fan_in_of_conv),
        "front_end.conv.bias": math.sqrt(1 / fan_in_of_conv),
        "q_proj.weight": math.sqrt(1 / hidden),
        "k_proj.weight": math.sqrt(1 / hidden),
        "v_proj.weight": math.sqrt(1 / hidden),
        "o_proj.weight": math.sqrt(1 / width),
        "up_proj.weight": math.sqrt(1 / hidden),
        "down_proj.weight": math.sqrt(1 / inner),
        "position_table": 0.1,
        "ctc_head.weight": math.sqrt(3 / hidden),
        "ctc_head.bias": math.sqrt(1 / hidden),
        "lid_head.weight": math.sqrt(3 / hidden),
        "lid_head.bias": math.sqrt(1 / hidden),
    }
    for name, parameter in MlplForCTC(config).named_parameters():
        if "layer_norm" in name:
            assert parameter.item() == (1.0 if name.endswith("weight") else 0.0), name
            continue
        (bound,) = [value for ending, value in bounds.items() if name.endswith(ending)]
        assert parameter.abs().max() <= bound, name
        assert parameter.min() < -0.85 * bound and parameter.max() > 0.85 * bound, name
        # The standard deviation of n uniform numbers scatters by 0.45 / sqrt(n) of itself.
        deviation = parameter.std().item() / (bound / math.sqrt(3)) - 1
        assert abs(deviation) < 2 / math.sqrt(parameter.numel()), name


# ------------------------------------------------------------------------------------------------------------- loss


def all_paths_ctc_loss(log_probs, label, blank):
    """-log of the summed probability of all V^S paths that collapse to the label; `log_probs` are S lists of V."""
    total = 0.0
    for path in itertools.product(range(len(log_probs[0])), repeat=len(log_probs)):
        if [symbol for symbol, _ in itertools.groupby(path) if symbol != blank] == label:
            total += math.exp(sum(log_probs[frame][symbol] for frame, symbol in enumerate(path)))
    return -math.log(total) if total else math.inf


# Two entries and the blank, up to four output frames: 81 paths.
SMALL_LENGTHS = [12, 10, 9, 5, 1]
SMALL_LABELS = [[0, 1], [1, 1], [1, 0, 1], [], [0]]
PADDED_LABELS = torch.tensor([[0, 1, -100], [1, 1, -100], [1, 0, 1], [-100, -100, -100], [0, -100, -100]])


@pytest.mark.parametrize("reduction", ["mean", "sum", "target_sqrt"])
def test_loss_equals_a_sum_over_all_paths(reduction):
    model = make_model(vocab_size=3, ctc_loss_reduction=reduction, lid_loss_weight=0.3)
    batch = make_batch(make_utterances(SMALL_LENGTHS), "garbage")
    output = model(**batch, labels=PADDED_LABELS, language_ids=LANGUAGE_IDS)

    ctc_loss = lid_loss = 0.0
    for i, label in enumerate(SMALL_LABELS):
        log_probs = output.logits[i, : math.ceil(SMALL_LENGTHS[i] / 3)].log_softmax(-1).tolist()
        length = max(1, len(label))
        divisor = {"mean": length, "sum": 1, "target_sqrt": math.sqrt(length)}[reduction]
        ctc_loss += all_paths_ctc_loss(log_probs, label, blank=2) / divisor
        if LANGUAGE_IDS[i] >= 0:  # -100: unknown
            lid_loss -= output.language_log_probs[i, LANGUAGE_IDS[i]].item()
    num_utterances = 1 if reduction == "sum" else 5

    def losses(**targets):
        return model(**batch, **targets).loss.item() * num_utterances

    assert losses(labels=PADDED_LABELS) == pytest.approx(ctc_loss, rel=1e-5)
    assert losses(language_ids=LANGUAGE_IDS) == pytest.approx(0.3 * lid_loss, rel=1e-5)
    assert output.loss.item() * num_utterances == pytest.approx(ctc_loss + 0.3 * lid_loss, rel=1e-5)
    assert model(**batch).loss is None


def test_language_log_probs_are_the_log_softmax_of_the_heads_mean_over_valid_frames():
    model = make_model()
    batch = make_batch(make_utterances(), "garbage")
    hidden_states = model.model(**batch).last_hidden_state
    output = model(**batch).language_log_probs
    for i, num_frames in enumerate(LENGTHS):
        scores = model.lid_head(hidden_states[i, : math.ceil(num_frames / 3)]).mean(0)
        expected = scores - scores.exp().sum().log()
        torch.testing.assert_close(output[i].double(), expected, rtol=1e-5, atol=1e-6)


def test_all_unknown_languages_cost_nothing():
    model = make_model()
    features = torch.stack(make_utterances([6, 6]))
    assert model(features, language_ids=torch.tensor([-100, -100])).loss.item() == 0


@pytest.mark.parametrize("labels", [torch.full((1, 2), -100), torch.empty(1, 0, dtype=torch.long)])
def test_an_empty_label_asks_for_blanks_only(labels):
    model = make_model()
    output = model(make_utterances([11])[0][None], labels=labels)
    expected = -output.logits[0].log_softmax(-1)[:, BLANK].sum().item()
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum", "target_sqrt"])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_losses_of_micro_batches_add_up(reduction, as_tensor):
    model = make_model(ctc_loss_reduction=reduction)
    utterances = make_utterances()
    whole = model(**make_batch(utterances), labels=LABELS, language_ids=LANGUAGE_IDS).loss
    num_utterances = torch.tensor(5) if as_tensor else 5
    parts = [
        model(
            **make_batch(utterances[part]),
            labels=LABELS[part],
            language_ids=LANGUAGE_IDS[part],
            num_utterances=num_utterances,
        ).loss
        for part in (slice(0, 3), slice(3, 4), slice(4, 5))
    ]
    torch.testing.assert_close(sum(parts), whole, rtol=1e-6, atol=0)
    assert_same_gradients(gradients(model, sum(parts)), gradients(model, whole))


def test_a_label_that_does_not_fit_is_infinite_or_ignored():
    labels = torch.tensor([[1, 1], [1, 2]])  # the first needs three frames because of the repetition, and has two
    utterances = make_utterances([6, 12], torch.float32)  # it would fit into the padding
    assert make_model(dtype=torch.float32)(**make_batch(utterances), labels=labels).loss.isinf()
    model = make_model(dtype=torch.float32, ctc_zero_infinity=True)
    loss = model(**make_batch(utterances), labels=labels).loss
    fitting = model(utterances[1][None], labels=labels[1:], num_utterances=2).loss
    torch.testing.assert_close(loss, fitting, rtol=1e-6, atol=0)
    assert_same_gradients(gradients(model, loss), gradients(model, fitting), rtol=1e-4)


def test_the_loss_of_a_bfloat16_model_is_float32():
    batch = make_batch(make_utterances())
    expected = make_model()(**batch, labels=LABELS, language_ids=LANGUAGE_IDS).loss
    model = make_model(dtype=torch.bfloat16)
    output = model(**batch, labels=LABELS, language_ids=LANGUAGE_IDS)
    assert output.logits.dtype == torch.bfloat16
    assert output.loss.dtype == output.language_log_probs.dtype == torch.float32
    # From these very logits the loss is exact.
    num_frames = torch.tensor([math.ceil(n / 3) for n in LENGTHS])
    exact = model.ctc_losses(output.logits.double(), num_frames, LABELS)
    torch.testing.assert_close(model.ctc_losses(output.logits, num_frames, LABELS), exact, rtol=1e-6, atol=0)
    assert output.loss.item() == pytest.approx(expected.item(), rel=0.02)


def test_the_loss_under_autocast_is_float32():
    model = make_model(dtype=torch.float32)
    batch = make_batch(make_utterances(dtype=torch.float32))
    expected = model(**batch, labels=LABELS, language_ids=LANGUAGE_IDS).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(**batch, labels=LABELS, language_ids=LANGUAGE_IDS)
    assert output.logits.dtype == torch.bfloat16
    assert output.loss.dtype == torch.float32
    assert output.loss.item() == pytest.approx(expected.item(), rel=0.02)


# ----------------------------------------------------------------------------------------------------------- errors


def test_labels_may_be_padded_anywhere():
    model = make_model()
    features = torch.stack(make_utterances([20, 20, 20]))
    labels = [torch.tensor([[1, 2, 2], [3, 0, 1], [2, 1, 0]])]
    labels.append(torch.tensor([[1, 2, -100, 2, -100], [3, -100, -100, 0, 1], [-100, -100, 2, 1, 0]]))
    assert model(features, labels=labels[0]).loss == model(features, labels=labels[1]).loss


@pytest.mark.parametrize("label", [BLANK, BLANK + 1, 8000])
def test_a_label_that_is_no_entry_is_refused(label):
    labels = torch.tensor([[1, label, -100]])
    with pytest.raises(ValueError, match=rf"class {label}; labels are below the blank, {BLANK}\..*another model"):
        make_model()(make_utterances([20])[0][None], labels=labels)


@pytest.mark.parametrize("shape", [(1, 9, NUM_MEL_BINS + 1), (9, NUM_MEL_BINS), (1, 1, 9, NUM_MEL_BINS)])
def test_features_of_a_wrong_shape_are_refused(shape):
    model = make_model()
    for forward in (model, model.model):
        with pytest.raises(ValueError, match=rf"\({str(shape)[1:-1]}\); expected .*frames, {NUM_MEL_BINS}\)"):
            forward(torch.zeros(shape).double())


@pytest.mark.parametrize("shape", [(2, 8), (1, 9), (2, 9, 1), (2, 3)])
def test_a_mask_of_a_wrong_shape_is_refused(shape):
    model = make_model()
    for forward in (model, model.model):
        with pytest.raises(ValueError, match=rf"\({str(shape)[1:-1]}\); expected .*\(2, 9\)"):
            forward(torch.zeros(2, 9, NUM_MEL_BINS).double(), attention_mask=torch.ones(shape))


def test_a_model_without_languages():
    model = make_model(languages=[])
    assert not any("lid_head" in name for name, _ in model.named_parameters())
    batch = make_batch(make_utterances())
    output = model(**batch, labels=LABELS)
    assert output.language_log_probs is None
    assert output.loss.isfinite()
    with pytest.raises(ValueError, match="language_ids were given, but this model has no languages"):
        model(**batch, labels=LABELS, language_ids=LANGUAGE_IDS)


# ------------------------------------------------------------------------------------- what transformers users expect


def test_hidden_states_and_attentions_on_request():
    model = make_model("eager").eval()
    batch = make_batch(make_utterances())
    seen = outputs_of(model, ["front_end", "layers.0", "layers.1"])
    output = model(**batch, output_hidden_states=True, output_attentions=True)
    expected = [seen[name][0] for name in ("front_end", "layers.0", "layers.1")]
    assert len(output.hidden_states) == 3
    for actual, hidden_states in zip(output.hidden_states, expected, strict=True):
        assert actual.shape == (5, 5, SIZES["hidden_size"])
        torch.testing.assert_close(actual, hidden_states, rtol=0, atol=0)

    assert len(output.attentions) == 2
    for probabilities in output.attentions:
        assert probabilities.shape == (5, 3, 5, 5)
        for i, num_frames in enumerate(LENGTHS):
            valid = math.ceil(num_frames / 3)
            assert (probabilities[i, :, :, valid:] == 0).all()
            torch.testing.assert_close(probabilities[i].sum(-1), torch.ones(3, 5).double())

    output = model(**batch)
    assert output.hidden_states is None and output.attentions is None


def test_return_dict_false_gives_a_tuple():
    model = make_model().eval()
    features = make_utterances([7])[0][None]
    output = model(features)
    logits, language_log_probs = model(features, return_dict=False)
    assert torch.equal(logits, output.logits)
    assert torch.equal(language_log_probs, output.language_log_probs)
    model.config.return_dict = False
    assert isinstance(model(features), tuple) and torch.equal(model(features)[0], output.logits)


@BOTH_ATTENTIONS
def test_gradient_checkpointing_changes_no_gradient(attn_implementation):
    """With every dropout on: what is computed again must be dropped again."""
    dropout = {"conv_dropout": 0.2, "attention_dropout": 0.2, "activation_dropout": 0.2, "layerdrop": 0.3}
    model = make_model(attn_implementation, num_hidden_layers=4, **dropout)
    batch = make_batch(make_utterances())
    ran = outputs_of(model, ["attention"])["attention"]

    def loss_and_gradients():
        torch.manual_seed(4)
        loss = model(**batch, labels=LABELS, language_ids=LANGUAGE_IDS).loss
        return loss, gradients(model, loss)

    expected_loss, expected = loss_and_gradients()
    assert 0 < len(ran) < 4  # the seed drops a layer, and not all of them
    num_ran = len(ran)
    model.gradient_checkpointing_enable()
    loss, actual = loss_and_gradients()
    assert len(ran) == 3 * num_ran  # forward, and again in the backward pass
    assert torch.equal(loss, expected_loss)
    assert_same_gradients(actual, expected, rtol=1e-9)


def test_save_and_load(tmp_path):
    model = make_model(dtype=torch.float32).eval()
    batch = make_batch(make_utterances(dtype=torch.float32))
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir() if path.suffix != ".py"} == {"config.json", "model.safetensors"}
    expected = model(**batch)
    for loaded in (MlplForCTC.from_pretrained(tmp_path), AutoModelForCTC.from_pretrained(tmp_path)):
        assert type(loaded) is MlplForCTC
        assert not loaded.training
        output = loaded(**batch)
        assert torch.equal(output.logits, expected.logits)
        assert torch.equal(output.language_log_probs, expected.language_log_probs)
    for loaded in (MlplModel.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)):
        assert type(loaded) is MlplModel
        assert torch.equal(loaded(**batch).last_hidden_state, model.model(**batch).last_hidden_state)


def test_auto_classes_build_from_a_configuration():
    assert type(AutoModelForCTC.from_config(MlplConfig(**SIZES))) is MlplForCTC
    assert type(AutoModel.from_config(MlplConfig(**SIZES))) is MlplModel
