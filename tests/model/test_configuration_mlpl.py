"""Checks the configuration: sizes against published parameter counts, refusals, and frame arithmetic."""

import copy
import json
import math
import pickle

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCTC, Wav2Vec2Config

from hf_mlpl import MlplConfig
from hf_mlpl.model.modeling_mlpl import MlplForCTC, MlplModel


@pytest.mark.parametrize(
    "preset, num_parameters",
    [
        (MlplConfig.large, 1_058_849_871),  # what the released checkpoint prints
        (MlplConfig.base, 274_625_103),
    ],
)
def test_presets_have_the_papers_parameter_counts(preset, num_parameters):
    with torch.device("meta"):
        model = MlplForCTC(preset(8065, languages=60))
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters


@pytest.mark.parametrize("preset", [MlplConfig.large, MlplConfig.base])
def test_presets_train_as_the_original(preset):
    config = preset(8065, 60)
    assert (config.conv_dropout, config.attention_dropout, config.activation_dropout) == (0.3, 0.3, 0.3)
    assert config.layerdrop == 0.3
    assert (config.max_position_embeddings, config.layer_norm_eps) == (920, 1e-5)
    assert (config.ctc_loss_reduction, config.lid_loss_weight) == ("target_sqrt", 1.0)


def test_the_defaults_are_the_large_model():
    assert MlplConfig().to_dict() == MlplConfig.large(8065, languages=0).to_dict()


def test_tiny_trains_on_a_laptop():
    model = MlplForCTC(MlplConfig.tiny(60, languages=8))
    assert 1.5e6 < model.num_parameters() < 2.5e6


@pytest.mark.parametrize("preset", [MlplConfig.large, MlplConfig.base, MlplConfig.tiny])
def test_presets_take_languages_by_name_or_number_and_any_other_field(preset):
    assert preset(30, ["de", "sv-SE"]).languages == ["de", "sv-SE"]
    assert preset(30, ("de", "sv-SE")).languages == ["de", "sv-SE"]
    assert len(set(preset(30, 60).languages)) == 60
    assert preset(30, 0).languages == []
    config = preset(30, 2, num_hidden_layers=3, hidden_size=20, layerdrop=0.5, lid_loss_weight=0)
    assert (config.vocab_size, config.blank_token_id) == (30, 29)
    assert (config.num_hidden_layers, config.hidden_size) == (3, 20)
    assert (config.layerdrop, config.lid_loss_weight) == (0.5, 0)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"vocab_size": 1}, "vocab_size is 1; it must be at least 2"),
        ({"vocab_size": 30, "blank_token_id": 0}, "blank_token_id is 0, but the blank, .* 29; leave .* out"),
        (
            {"vocab_size": 30, "pad_token_id": 0},
            "blank_token_id is 0, but the blank, .* 29; leave .* pad_token_id out",
        ),
        ({"languages": ["de", "en", "de"]}, "languages must be distinct; given more than once: de$"),
        ({"ctc_loss_reduction": "none"}, 'ctc_loss_reduction is \'none\'; it must be "mean" or "sum" or '),
        ({"num_mel_bins": 0}, "num_mel_bins is 0; it must be at least 1"),
        ({"hidden_size": -4}, "hidden_size is -4; it must be at least 1"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0; it must be at least 1"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0; it must be at least 1"),
        ({"attention_head_dim": 0}, "attention_head_dim is 0; it must be at least 1"),
        ({"intermediate_size": 0}, "intermediate_size is 0; it must be at least 1"),
        ({"max_position_embeddings": 0}, "max_position_embeddings is 0; it must be at least 1"),
        ({"conv_dropout": 1}, "conv_dropout is 1; it must be at least 0 and below 1"),
        ({"attention_dropout": -0.1}, "attention_dropout is -0.1; it must be at least 0 and below 1"),
        ({"activation_dropout": 30.0}, "activation_dropout is 30.0; it must be at least 0 and below 1"),
        ({"layerdrop": math.nan}, "layerdrop is nan; it must be at least 0 and below 1"),
        # Types, which `strict` checks.
        ({"hidden_size": "160"}, "hidden_size.* expected int, got str .*160"),
        ({"vocab_size": 30.0}, "vocab_size.* expected int, got float .*30.0"),
        ({"num_hidden_layers": None}, "num_hidden_layers.* expected int, got NoneType"),
        ({"ctc_zero_infinity": 1}, "ctc_zero_infinity.* expected bool, got int"),
        ({"languages": "de"}, "languages.*'de'.* expected a list, got str"),
        ({"languages": [0, 1]}, "languages.* index 0"),
    ],
)
def test_bad_fields_are_refused_with_value_and_remedy(fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        MlplConfig(**fields)


def test_one_language_as_a_string_is_not_taken_for_its_letters():
    with pytest.raises(StrictDataclassError, match="languages.* expected a list, got str"):
        MlplConfig.tiny(30, "de")


def test_save_and_load(tmp_path):
    config = MlplConfig.base(30, ["de", "sv-SE"], max_position_embeddings=7, ctc_loss_reduction="mean", layerdrop=0.1)
    config.save_pretrained(tmp_path)
    assert MlplConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is MlplConfig
    assert loaded.to_dict() == config.to_dict() | {"_name_or_path": str(tmp_path)}  # where it was loaded from


# ------------------------------------------------------------------------------------------------------- the blank


@pytest.mark.parametrize(
    "change",
    [
        lambda config: setattr(config, "vocab_size", 35),
        lambda config: config.update({"vocab_size": 35}),
        lambda config: config.update({"pad_token_id": 34, "vocab_size": 35}),  # transformers' example of CTC
        lambda config: config.update({"vocab_size": 35, "blank_token_id": 34}),
        lambda config: config.update_from_string("vocab_size=35"),
        lambda config: MlplConfig.from_dict(config.to_dict(), vocab_size=35),
        lambda config: MlplConfig.from_dict(config.to_dict(), vocab_size=35, pad_token_id=34),
        lambda config: MlplConfig(vocab_size=35, pad_token_id=34),
        lambda config: MlplConfig(vocab_size=35, blank_token_id=None, pad_token_id=None),
    ],
)
def test_the_blank_follows_the_vocabulary(change, tmp_path):
    """`pad_token_id` is another name of it, as in Wav2Vec2 and Parakeet."""
    config = MlplConfig.tiny(30, 2)
    config = change(config) or config
    copies = [copy.deepcopy(config), pickle.loads(pickle.dumps(config)), MlplConfig.from_dict(config.to_dict())]
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["blank_token_id"] == 34
    for same in [config, *copies, MlplConfig.from_pretrained(tmp_path)]:
        assert (same.vocab_size, same.blank_token_id, same.pad_token_id) == (35, 34, 34)
        same.vocab_size = 7
        assert (same.blank_token_id, same.pad_token_id) == (6, 6)


@pytest.mark.parametrize("name", ["blank_token_id", "pad_token_id"])
def test_another_blank_is_refused_where_it_comes_from(name, tmp_path):
    message = "blank_token_id is 3, but the blank, .* last class of vocab_size 30, 29"
    MlplConfig.tiny(30, 2).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"config.json with {name}=3: {message}"):
        MlplConfig.from_pretrained(tmp_path, **{name: 3})
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"blank_token_id": 3}))
    with pytest.raises(ValueError, match=f"{file}: {message}"):
        MlplConfig.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"{file} with vocab_size=35: {message}"):  # not mended in silence
        MlplConfig.from_pretrained(tmp_path, vocab_size=35)


def test_a_padding_that_older_versions_have_stored_is_no_blank(tmp_path):
    """transformers' Trainer set it; a head that was resized later got another blank."""
    MlplConfig.tiny(30, 2).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pad_token_id": 3}))
    config = MlplConfig.from_pretrained(tmp_path)
    assert config.pad_token_id == config.blank_token_id == 29


# --------------------------------------------------------------------------------- a configuration becomes a model


WRONG = pytest.mark.parametrize(
    "name, value, message",
    [
        ("ctc_loss_reduction", "Sum", "ctc_loss_reduction is 'Sum'; it must be \"mean\" or"),
        ("layerdrop", 2.0, "layerdrop is 2.0; it must be at least 0 and below 1"),
        ("languages", ["de", "en", "de"], "languages must be distinct; given more than once: de$"),
        ("lid_loss_weight", math.inf, "lid_loss_weight is inf; it must be at least 0 and finite"),
        ("pad_token_id", 3, "blank_token_id is 3, but the blank, .* 29; leave"),
        ("vocab_size", 1, "vocab_size is 1; it must be at least 2"),
    ],
)


@WRONG
def test_a_wrong_configuration_makes_no_model(name, value, message, tmp_path):
    model = MlplForCTC(small := MlplConfig.tiny(30, 2, num_hidden_layers=1))
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        MlplForCTC.from_pretrained(tmp_path, **{name: value}, ignore_mismatched_sizes=True)
    config = copy.deepcopy(small)
    config.update({name: value})  # at which nothing is checked, because other fields may follow
    for make in (MlplForCTC, MlplModel, AutoModelForCTC.from_config):
        with pytest.raises(ValueError, match=message):
            make(config)
    for options in ({}, {"ignore_mismatched_sizes": True}):
        with pytest.raises(ValueError, match=message):
            MlplForCTC.from_pretrained(tmp_path, config=config, **options)


@WRONG
def test_a_model_whose_configuration_became_wrong_does_not_train(name, value, message, tmp_path):
    """Its weights could not be saved after training."""
    model = MlplForCTC(MlplConfig.tiny(30, 2, num_hidden_layers=1))
    model.config.update({name: value})
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(1, 9, 80), labels=torch.tensor([[1]]))


def test_the_configuration_of_another_model_is_refused(tmp_path):
    """Whatever it does not have would be a default of ours, and so a model with other weights."""
    Wav2Vec2Config().save_pretrained(tmp_path)
    for load in (MlplConfig.from_pretrained, MlplForCTC.from_pretrained):
        with pytest.raises(ValueError, match="of a model of type 'wav2vec2', not 'mlpl'; .* `hf-mlpl convert`"):
            load(tmp_path)


def test_frame_arithmetic():
    config = MlplConfig.tiny(30, 2)
    assert config.inputs_to_logits_ratio == 480  # samples: 30 ms at 16 kHz
    num_frames = list(range(2000))
    expected = [math.ceil(n / 3) for n in num_frames]
    assert [config.num_output_frames(n) for n in num_frames] == expected
    assert isinstance(config.num_output_frames(7), int)
    array = config.num_output_frames(np.array(num_frames))
    assert array.dtype == np.int64 and array.tolist() == expected
    tensor = config.num_output_frames(torch.tensor(num_frames))
    assert tensor.dtype == torch.int64 and tensor.tolist() == expected


def test_num_output_frames_is_the_models_output_length():
    sizes = {"hidden_size": 4, "attention_head_dim": 2, "intermediate_size": 4, "num_hidden_layers": 1}
    config = MlplConfig.tiny(5, 0, **sizes)
    model = MlplForCTC(config).eval()
    for num_frames in range(1, 11):
        logits = model(torch.zeros(1, num_frames, 80)).logits
        assert logits.shape == (1, config.num_output_frames(num_frames), 5)
