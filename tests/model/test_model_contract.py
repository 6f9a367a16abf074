"""What transformers expects of every model, checked on ours and, where they behave alike, on `ParakeetForCTC` and
`Wav2Vec2ForCTC`, so that nothing surprises their users.

`make test-clients` runs transformers' own common tests on our models (tests/clients/test_transformers_model.py). Those
need its source distribution; here is what a change of ours may break, against models of transformers, in seconds. Not
here, and in other files: batching, eager against sdpa and Auto classes (test_modeling_mlpl.py), two processes
(test_data_parallel.py), compiling and exporting (test_export.py), and heads of other sizes (test_heads.py).
"""

import copy
import inspect
import logging
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import (
    CompileConfig,
    GenerationConfig,
    ParakeetCTCConfig,
    ParakeetForCTC,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
    Wav2Vec2Model,
)
from transformers.models.parakeet.modeling_parakeet import ParakeetEncoder

from hf_mlpl import MlplConfig, MlplForCTC, MlplModel

BATCH, LAYERS, HEADS, HIDDEN, CLASSES = 2, 2, 4, 32, 11


class Case(NamedTuple):
    model_class: type[PreTrainedModel]
    base_class: type[PreTrainedModel]
    config: object
    input_shape: tuple[int, ...]
    length: int  # output frames

    def make(self, **fields) -> PreTrainedModel:
        config = copy.deepcopy(self.config)
        for name, value in fields.items():
            setattr(config, name, value)
        torch.manual_seed(0)
        return self.model_class(config).eval()

    @property
    def inputs(self) -> dict[str, torch.Tensor]:
        features = torch.randn(BATCH, *self.input_shape, generator=torch.Generator().manual_seed(1))
        mask = torch.ones(BATCH, self.input_shape[0], dtype=torch.long)
        return {self.model_class.main_input_name: features, "attention_mask": mask}

    @property
    def targets(self) -> dict[str, torch.Tensor]:
        return {"labels": torch.tensor([[1, 2, 2], [3, -100, -100]])}


def mlpl() -> Case:
    config = MlplConfig(
        vocab_size=CLASSES,
        languages=["de", "en"],
        num_mel_bins=16,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        attention_head_dim=8,
        intermediate_size=48,
        layerdrop=0.0,
    )
    return Case(MlplForCTC, MlplModel, config, (70, 16), 24)


def parakeet() -> Case:
    encoder = {
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": 48,
        "num_mel_bins": 16,
        "subsampling_conv_channels": 4,
        "layerdrop": 0.0,
    }
    config = ParakeetCTCConfig(vocab_size=CLASSES, pad_token_id=CLASSES - 1, encoder_config=encoder)
    return Case(ParakeetForCTC, ParakeetEncoder, config, (70, 16), 9)


def wav2vec2() -> Case:
    config = Wav2Vec2Config(
        vocab_size=CLASSES,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=48,
        conv_dim=(16, 16),
        conv_stride=(4, 4),
        conv_kernel=(8, 8),
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        layerdrop=0.0,
        mask_time_prob=0.0,
    )
    return Case(Wav2Vec2ForCTC, Wav2Vec2Model, config, (200,), 11)


ALL = pytest.mark.parametrize("case", [mlpl(), parakeet(), wav2vec2()], ids=lambda case: case.model_class.__name__)
OURS = pytest.mark.parametrize("model_class", [MlplForCTC, MlplModel])


@pytest.fixture(autouse=True)
def _quick(one_thread):
    """Tiny models are faster on one thread."""


def equal_state(model, other) -> bool:
    ours, theirs = model.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


# ---------------------------------------------------------------------------------------------- saving and loading


@ALL
@pytest.mark.parametrize("max_shard_size", ["5GB", "20KB"])
def test_a_saved_model_is_loaded_whole(case, max_shard_size, tmp_path):
    model = case.make()
    model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1 or max_shard_size == "20KB"
    loaded, report = case.model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert not loaded.training
    assert equal_state(loaded, model)
    assert torch.equal(loaded(**case.inputs).logits, model(**case.inputs).logits)


@ALL
def test_a_state_can_be_passed_to_from_pretrained(case):
    model = case.make()
    loaded = case.model_class.from_pretrained(None, config=case.config, state_dict=model.state_dict())
    assert equal_state(loaded, model)


@ALL
def test_a_state_goes_through_torch_save(case, tmp_path):
    model = case.make()
    torch.save(model.state_dict(), tmp_path / "state.pt")
    torch.manual_seed(5)
    other = case.model_class(case.config)
    assert not equal_state(other, model)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True), strict=True)
    assert equal_state(other, model)


@ALL
def test_the_base_model_loads_from_a_model_with_heads(case, tmp_path):
    model = case.make()
    model.save_pretrained(tmp_path)
    base, report = case.base_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["mismatched_keys"]
    if case.model_class is MlplForCTC:  # Parakeet has no base prefix of its own; Wav2Vec2's head is called lm_head
        heads = {"ctc_head.weight", "ctc_head.bias", "lid_head.weight", "lid_head.bias"}
        assert set(report["unexpected_keys"]) == heads
        assert equal_state(base, model.model)


@ALL
def test_a_model_with_heads_loads_from_the_base_model_with_a_warning(case, tmp_path, caplog):
    if case.model_class is ParakeetForCTC:
        pytest.skip("Parakeet's encoder has a configuration class of its own")
    base = case.base_class(case.config)
    base.save_pretrained(tmp_path)
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)  # transformers' own logger does not propagate
    model, report = case.model_class.from_pretrained(tmp_path, output_loading_info=True)
    logger.removeHandler(caplog.handler)
    assert equal_state(model.base_model, base)
    assert report["missing_keys"] and all("head" in name for name in report["missing_keys"])
    assert not report["unexpected_keys"]
    assert "newly initialized" in caplog.text or "MISSING" in caplog.text
    assert all(name.partition(".")[0] in caplog.text for name in report["missing_keys"])


@ALL
def test_a_head_of_another_size_is_refused_or_new(case, tmp_path):
    model = case.make()
    model.save_pretrained(tmp_path)
    config = copy.deepcopy(case.config)
    config.vocab_size = CLASSES + 4
    with pytest.raises((RuntimeError, ValueError), match="ignore_mismatched_sizes"):  # ours is one line, a ValueError
        case.model_class.from_pretrained(tmp_path, config=config)
    loaded = case.model_class.from_pretrained(tmp_path, config=config, ignore_mismatched_sizes=True)
    assert loaded(**case.inputs).logits.shape[-1] == CLASSES + 4
    assert equal_state(loaded.base_model, model.base_model) or case.model_class is ParakeetForCTC


@ALL
def test_a_new_vocabulary_as_tutorials_have_it(case, tmp_path):
    case.make().save_pretrained(tmp_path / "old")
    classes = {"vocab_size": CLASSES + 4, "pad_token_id": CLASSES + 3}
    model = case.model_class.from_pretrained(
        tmp_path / "old", **classes, ctc_loss_reduction="mean", ignore_mismatched_sizes=True
    )
    labels = case.targets["labels"]
    output = model(**case.inputs, labels=labels)
    log_probs = output.logits.log_softmax(-1).transpose(0, 1)
    lengths = [torch.full((BATCH,), case.length), (labels >= 0).sum(1)]
    expected = F.ctc_loss(log_probs, labels, *lengths, blank=classes["pad_token_id"])
    torch.testing.assert_close(output.loss, expected, rtol=1e-4, atol=0)
    model.save_pretrained(tmp_path / "new")
    assert torch.equal(case.model_class.from_pretrained(tmp_path / "new")(**case.inputs).logits, output.logits)


@ALL
@pytest.mark.parametrize("device_map", ["cpu", "auto"])
def test_a_device_map_is_accepted(case, device_map, tmp_path):
    pytest.importorskip("accelerate", reason="device_map needs accelerate")
    model = case.make()
    model.save_pretrained(tmp_path)
    loaded = case.model_class.from_pretrained(tmp_path, device_map=device_map)
    assert {parameter.device.type for parameter in loaded.parameters()} == {"cpu"}
    assert torch.equal(loaded(**case.inputs).logits, model(**case.inputs).logits)


def test_layers_may_stay_on_disk(tmp_path):
    pytest.importorskip("accelerate", reason="device_map needs accelerate")
    case = mlpl()
    model = case.make()
    model.save_pretrained(tmp_path / "model")
    places = {"model.front_end": "cpu", "model.layers.0": "disk", "model.layers.1": "cpu", "ctc_head": "cpu"}
    loaded = MlplForCTC.from_pretrained(
        tmp_path / "model", device_map={**places, "lid_head": "disk"}, offload_folder=tmp_path / "offload"
    )
    assert {parameter.device.type for parameter in loaded.model.layers[0].parameters()} == {"meta"}
    with torch.no_grad():
        output, expected = loaded(**case.inputs), model(**case.inputs)
    assert torch.equal(output.logits, expected.logits)
    assert torch.equal(output.language_log_probs, expected.language_log_probs)


@ALL
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtype_when_loading_and_later(case, dtype, tmp_path):
    if case.model_class is ParakeetForCTC and dtype is torch.float16:
        pytest.skip("Parakeet's float16 logits are zero on CPU, with transformers 5.24 and torch 2.13")
    case.make().to(dtype).save_pretrained(tmp_path)
    loaded = case.model_class.from_pretrained(tmp_path, dtype="auto")
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    assert case.model_class.from_pretrained(tmp_path, dtype=torch.float32).dtype == torch.float32
    inputs = case.inputs
    name = case.model_class.main_input_name
    inputs[name] = inputs[name].to(dtype)
    with torch.no_grad():
        logits = loaded(**inputs).logits
    assert logits.dtype == dtype
    expected = case.make()(**case.inputs).logits
    assert (logits.double() - expected).norm() < 0.05 * expected.norm()


# --------------------------------------------------------------------------------------------------- initialisation


@pytest.mark.parametrize("case", [mlpl(), parakeet()], ids=["MlplForCTC", "ParakeetForCTC"])
def test_what_a_checkpoint_lacks_starts_as_in_a_new_model(case):
    """It is made on the meta device, where no module's own initialisation reaches it."""
    new = case.make()
    assert equal_state(case.make(), new)  # a seed decides

    def from_nothing():
        torch.manual_seed(0)
        return case.model_class.from_pretrained(None, config=case.config, state_dict={})

    model = from_nothing()
    assert equal_state(from_nothing(), model)
    for (name, parameter), expected in zip(model.named_parameters(), new.parameters(), strict=True):
        spread = expected.std().item() if expected.numel() > 1 else 0.0
        if spread == 0:
            assert torch.equal(parameter, expected), name
        elif expected.numel() > 100:
            assert parameter.std().item() == pytest.approx(spread, rel=0.3), name
            assert parameter.mean().item() == pytest.approx(expected.mean().item(), abs=0.5 * spread), name
        assert spread == 0 or not torch.equal(parameter, expected), name


@ALL
def test_a_model_can_be_made_without_memory(case):
    with torch.device("meta"):
        model = case.model_class(case.config)
    assert all(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])


@OURS
def test_every_tensor_is_a_parameter(model_class):
    """A tensor that is only an attribute would stay behind when the model moves."""
    for name, module in model_class(mlpl().config).named_modules():
        assert not [key for key, value in vars(module).items() if isinstance(value, torch.Tensor)], name
        assert not list(module.buffers()), name


@OURS
def test_no_weights_are_tied(model_class):
    model = model_class(mlpl().config)
    assert not model.all_tied_weights_keys
    pointers = [parameter.data_ptr() for parameter in model.parameters()]
    assert len(set(pointers)) == len(pointers)


@ALL
def test_deep_copies_are_equal_and_apart(case):
    model = case.make()
    model(**case.inputs, output_hidden_states=True)  # with the hooks that capture outputs
    twin = copy.deepcopy(model)
    assert torch.equal(twin(**case.inputs).logits, model(**case.inputs).logits)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert len(model(**case.inputs, output_hidden_states=True).hidden_states) == LAYERS + 1
    assert equal_state(model, case.make())


# ---------------------------------------------------------------------------------------------------------- forward


@ALL
def test_the_forward_signature(case):
    names = list(inspect.signature(case.model_class.forward).parameters)
    assert names[:4] == ["self", case.model_class.main_input_name, "attention_mask", "labels"]
    assert case.model_class.input_modalities == "audio" or case.model_class is Wav2Vec2ForCTC
    assert not case.model_class.can_generate() or case.model_class is ParakeetForCTC


@ALL
def test_evaluation_is_deterministic_and_training_is_not(case):
    model = case.make()
    assert torch.equal(model(**case.inputs).logits, model(**case.inputs).logits)
    model.train()
    assert not torch.equal(model(**case.inputs).logits, model(**case.inputs).logits)


@ALL
def test_a_dict_and_a_tuple_hold_the_same(case):
    model = case.make(return_dict=True)
    model.set_attn_implementation("eager")
    asked = {"output_hidden_states": True, "output_attentions": True}
    output = model(**case.inputs, **case.targets, **asked)
    as_tuple = model(**case.inputs, **case.targets, **asked, return_dict=False)
    assert isinstance(as_tuple, tuple) and len(as_tuple) == len(output.to_tuple())
    for ours, theirs in zip(as_tuple, output.to_tuple(), strict=True):
        for tensor, other in zip(*((x if isinstance(x, tuple) else (x,)) for x in (ours, theirs)), strict=True):
            assert torch.equal(tensor, other)
    assert output[0] is output.loss and output[1] is output.logits


GENERATE = pytest.mark.parametrize(
    "case", [mlpl(), parakeet()], ids=["MlplForCTC", "ParakeetForCTC"]
)  # Wav2Vec2ForCTC has no generate


@GENERATE
def test_generate_gives_the_classes_of_frames(case):
    model, inputs = case.make(), case.inputs
    inputs["attention_mask"][1, 40:] = 0
    names = list(inspect.signature(case.model_class.generate).parameters)
    assert names == ["self", "input_features", "attention_mask", "return_dict_in_generate", "compile_config", "kwargs"]
    sequences = model.generate(**inputs)
    assert sequences.shape == (BATCH, case.length) and sequences.dtype == torch.long
    features = inputs["input_features"]
    for row, num_frames in ((0, 70), (1, 40)):
        expected = model(features[row : row + 1, :num_frames]).logits[0].argmax(-1)
        assert torch.equal(sequences[row, : len(expected)], expected)
        assert (sequences[row, len(expected) :] == model.config.pad_token_id).all()

    output = model.generate(**inputs, return_dict_in_generate=True, output_hidden_states=True, return_dict=False)
    assert torch.equal(output.sequences, sequences) and torch.equal(output.logits.argmax(-1)[0], sequences[0])
    assert len(output.hidden_states) == LAYERS + 1 and output.attentions is None
    assert not output.logits.requires_grad


@pytest.mark.slow
def test_generate_compiled():
    model, inputs = mlpl().make(), mlpl().inputs
    compiled = model.generate(**inputs, compile_config=CompileConfig(backend="eager"))
    assert torch.equal(compiled, model.generate(**inputs))


@pytest.mark.parametrize("case", [mlpl(), parakeet()], ids=["mlpl", "parakeet"])
def test_settings_of_generation_have_no_effect(case):
    model, settings = case.make(), {"max_new_tokens": 5, "num_beams": 2, "generation_config": GenerationConfig()}
    assert torch.equal(model.generate(**case.inputs, **settings), model.generate(**case.inputs))


def test_generate_takes_no_settings_that_nothing_uses():
    with pytest.raises(TypeError, match="language"):
        mlpl().make().generate(**mlpl().inputs, language="de")


@ALL
@pytest.mark.parametrize("by_config", [False, True])
def test_hidden_states_and_attentions(case, by_config):
    asked = {"output_hidden_states": True, "output_attentions": True}
    model = case.make()
    model.set_attn_implementation("eager")
    if by_config:
        for module in model.modules():
            if isinstance(module, PreTrainedModel):
                for name, value in asked.items():
                    setattr(module.config, name, value)
        asked = {}
    output = model(**case.inputs, **asked)
    assert [tuple(h.shape) for h in output.hidden_states] == [(BATCH, case.length, HIDDEN)] * (LAYERS + 1)
    assert [tuple(a.shape) for a in output.attentions] == [(BATCH, HEADS, case.length, case.length)] * LAYERS
    # Gradients can be kept for both, as those who look into models do.
    output.hidden_states[0].retain_grad()
    output.attentions[0].retain_grad()
    output.logits.flatten()[0].backward()
    assert output.hidden_states[0].grad.any() and output.attentions[0].grad.any()


@ALL
def test_sdpa_gives_no_attentions(case):
    model = case.make()
    model.set_attn_implementation("sdpa")
    output = model(**case.inputs, output_attentions=True)
    assert output.attentions == ()
    with pytest.raises(ValueError, match="`output_attentions` attribute is not supported.*`attn_implementation`"):
        model.config.output_attentions = True


# --------------------------------------------------------------------------------------------------------- attention


@ALL
def test_the_attention_implementation_can_be_changed(case, tmp_path):
    model = case.make()
    assert model.base_model.config._attn_implementation == "sdpa"  # the default, where it is supported
    expected = model(**case.inputs).logits
    model.set_attn_implementation("eager")
    assert model.config._attn_implementation == "eager"
    torch.testing.assert_close(model(**case.inputs).logits, expected, rtol=1e-4, atol=1e-5)
    model.save_pretrained(tmp_path)
    assert case.model_class.from_pretrained(tmp_path).config._attn_implementation == "sdpa"  # not stored
    loaded = case.model_class.from_pretrained(tmp_path, attn_implementation="eager")
    assert loaded.config._attn_implementation == "eager"


@pytest.mark.parametrize(
    "name, message",
    [
        ("flash_attention_2", "MlplForCTC does not support Flash Attention 2"),
        ("flex_attention", "MlplForCTC does not support an attention implementation through torch's flex_attention"),
        ("spda", '"spda"` is not supported'),
    ],
)
def test_an_attention_that_cannot_work_is_refused(name, message, tmp_path):
    case = mlpl()
    model = case.make()
    with pytest.raises(ValueError, match=message):
        model.set_attn_implementation(name)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        MlplForCTC.from_pretrained(tmp_path, attn_implementation=name)


@OURS
def test_the_front_end_stands_for_input_embeddings(model_class):
    """Those who train adapters, or quantise, ask for both ends of a model."""
    model = model_class(mlpl().config)
    base = model.base_model
    assert model.get_input_embeddings() is base.front_end
    assert model.get_output_embeddings() is getattr(model, "ctc_head", None)
    with pytest.raises(NotImplementedError, match="the input is audio, .*resize_ctc_head"):
        model.resize_token_embeddings(30)

    seen = []
    base.requires_grad_(False)
    base.layers[0].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].requires_grad))
    model(**mlpl().inputs)
    model.enable_input_require_grads()
    model(**mlpl().inputs)
    model.disable_input_require_grads()
    model(**mlpl().inputs)
    assert seen == [False, True, False]


# ---------------------------------------------------------------------------------------------------------- training


def loss_and_gradients(case, model):
    torch.manual_seed(3)
    model.zero_grad()
    loss = model(**case.inputs, **case.targets).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@ALL
def test_training_reaches_every_parameter(case):
    model = case.make().train()
    loss, gradients = loss_and_gradients(case, model)
    assert loss.isfinite()
    without = {name for name, _ in model.named_parameters()} - gradients.keys()
    # Ours has a second head, which `language_ids` train; the peers have parts that their masking uses.
    assert not [name for name in without if "lid_head" not in name and "masked_spec_embed" not in name]
    assert all(gradient.isfinite().all() for gradient in gradients.values())


@ALL
@pytest.mark.parametrize("use_reentrant", [None, False, True])
def test_gradient_checkpointing(case, use_reentrant):
    model = case.make().train()
    expected_loss, expected = loss_and_gradients(case, model)
    assert not model.is_gradient_checkpointing
    arguments = None if use_reentrant is None else {"use_reentrant": use_reentrant}
    model.gradient_checkpointing_enable(arguments)
    assert model.is_gradient_checkpointing
    loss, gradients = loss_and_gradients(case, model)
    assert torch.equal(loss, expected_loss)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6, msg=name)
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing


@ALL
def test_trainer_evaluates_logits(case, tmp_path):
    """As its users write it for any CTC model, with and without `preprocess_logits_for_metrics`."""
    model = case.make()
    rows = [{name: tensor[i] for name, tensor in (case.inputs | case.targets).items()} for i in range(BATCH)]
    expected = model(**case.inputs).logits.detach()
    seen = []

    def compute_metrics(prediction):
        seen.append(prediction)
        return {"total": float(np.argmax(prediction.predictions, axis=-1).sum())}

    def argmax(logits, labels):
        return torch.argmax(logits, dim=-1)

    for preprocess in (None, argmax):
        arguments = TrainingArguments(
            tmp_path, per_device_eval_batch_size=BATCH, report_to="none", use_cpu=True, disable_tqdm=True
        )
        trainer = Trainer(
            model,
            arguments,
            eval_dataset=rows,
            compute_metrics=compute_metrics if preprocess is None else None,
            preprocess_logits_for_metrics=preprocess,
        )
        metrics, predicted = trainer.evaluate(), trainer.predict(rows).predictions
        assert np.isfinite(metrics["eval_loss"])
        expected = expected if preprocess is None else expected.argmax(-1)
        torch.testing.assert_close(torch.from_numpy(predicted), expected, rtol=1e-4, atol=1e-5)
    assert metrics["eval_loss"] == pytest.approx(model(**case.inputs, **case.targets).loss.item(), rel=1e-5)
    assert len(seen) == 2 and np.array_equal(seen[0].label_ids, case.targets["labels"])
    if case.model_class is MlplForCTC:  # on request also the second head's
        trainer = Trainer(model, arguments)
        assert [array.shape[-1] for array in trainer.predict(rows, ignore_keys=[]).predictions] == [CLASSES, 2]


def test_trainer_accumulates_gradients_as_if_the_batch_were_one(tmp_path):
    """transformers' Trainer divides by the number of micro-batches, unless it believes that the model does."""
    case = mlpl()
    inputs = {**case.inputs, **case.targets, "language_ids": torch.tensor([1, 0])}
    rows = [{name: tensor[i] for name, tensor in inputs.items()} for i in range(BATCH)]

    def trained(batch_size: int) -> PreTrainedModel:
        model = case.make(conv_dropout=0.0, attention_dropout=0.0, activation_dropout=0.0)
        arguments = TrainingArguments(
            tmp_path,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=BATCH // batch_size,
            max_steps=1,
            optim="sgd",
            learning_rate=0.5,
            max_grad_norm=0.0,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
            logging_strategy="no",
        )
        Trainer(model, arguments, train_dataset=rows).train()
        return model

    whole, parts, start = (
        torch.nn.utils.parameters_to_vector(model.parameters()) for model in (trained(BATCH), trained(1), case.make())
    )
    assert 0 < (parts - whole).norm() <= 1e-4 * (whole - start).norm()
