"""Loads damaged model folders, or expects one line with file and field; the slow campaign tries all damages."""

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForCTC, AutoProcessor, AutoTokenizer, pipeline

from hf_mlpl import MlplConfig, MlplFeatureExtractor, MlplForCTC, MlplProcessor, MlplTokenizer

from ..damaged_folders import INDEX, NAME, VALUES, WEIGHTS, change_field, copy_folder, write_file
from ..random_model import LANGUAGES, save_folder, sweep


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return save_folder(tmp_path_factory.mktemp("whole") / "model", LANGUAGES)


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    return copy_folder(whole, tmp_path / "damaged")


def refusal(load, *arguments, **named) -> str:
    with pytest.raises((OSError, ValueError)) as caught:
        load(*arguments, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# file, part, field, kinds of values that are refused, what is said; the loaders that read the file
CONFIG = (AutoConfig.from_pretrained, MlplConfig.from_pretrained, AutoModelForCTC.from_pretrained)
EXTRACTOR = (AutoFeatureExtractor.from_pretrained, MlplFeatureExtractor.from_pretrained, AutoProcessor.from_pretrained)
TOKENIZER = (AutoTokenizer.from_pretrained, MlplTokenizer.from_pretrained, MlplProcessor.from_pretrained)
FIELDS = [
    ("config.json", "hidden_size", "text null zero negative billion 2**40 fraction NaN true list dict", CONFIG),
    ("config.json", "num_hidden_layers", "text null zero negative billion 2**40 fraction", CONFIG),
    ("config.json", "vocab_size", "text null zero negative billion 2**40 true", CONFIG),
    ("config.json", "layer_norm_eps", "text null zero negative NaN infinity list", CONFIG),
    ("config.json", "lid_loss_weight", "text null negative NaN infinity list", CONFIG),
    ("config.json", "layerdrop", "text null negative NaN billion list", CONFIG),
    ("config.json", "languages", "text number null list true", CONFIG),
    ("config.json", "dtype", "text number true list dict", CONFIG),
    ("config.json", "auto_map", "text number true list dict", CONFIG),
    ("config.json", "model_type", "text null list dict missing", (AutoConfig.from_pretrained,)),
    ("config.json", "num_labels", "billion text", CONFIG),
    ("config.json", "conv_stride", "true null list zero", CONFIG),
    ("processor_config.json", "feature_extractor", "text number null list", EXTRACTOR),
    ("processor_config.json", "feature_extractor.feature_size", "text null zero negative billion NaN true", EXTRACTOR),
    ("processor_config.json", "feature_extractor.n_fft", "text null number billion 2**40 fraction", EXTRACTOR),
    ("processor_config.json", "feature_extractor.hop_length", "text null zero negative billion true", EXTRACTOR),
    ("processor_config.json", "feature_extractor.mel_floor", "text null zero negative 1e300 NaN", EXTRACTOR),
    ("processor_config.json", "feature_extractor.sampling_rate", "text null zero negative NaN 2**40", EXTRACTOR),
    ("processor_config.json", "feature_extractor.padding_value", "text null NaN infinity", EXTRACTOR),
    ("tokenizer_config.json", "surround", "text null number list dict", TOKENIZER),
    ("tokenizer_config.json", "pad_token", "text null number list dict", TOKENIZER),
    ("tokenizer_config.json", "language_characters", "text number list dict", TOKENIZER),
    ("tokenizer_config.json", "silent_entries", "text number null dict", TOKENIZER),
    ("tokenizer_config.json", "model_max_length", "text null NaN negative list", TOKENIZER),
    ("tokenizer_config.json", "added_tokens_decoder", "text null number list dict", TOKENIZER),
    ("tokenizer_config.json", "unk_token", "text number list dict", TOKENIZER),
]


@pytest.mark.parametrize(("file", "field", "kinds", "loaders"), FIELDS, ids=[f"{f[0]}-{f[1]}" for f in FIELDS])
def test_a_field_of_another_kind(file, field, kinds, loaders, folder):
    settings = (folder / file).read_text()
    for kind in kinds.split():
        change_field(folder / file, field.split("."), VALUES[kind])
        for load in loaders:
            error = refusal(load, folder)
            assert error.startswith(f"{folder / file}") and field.split(".")[-1] in error, (kind, error)
        (folder / file).write_text(settings)


@pytest.mark.parametrize("file", ["config.json", "processor_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("data", [b"", bytes(200), b"{", b"null", b"[]", b"3", b"[" * 100_000, b"\xef\xbb\xbf{}"])
def test_a_file_that_is_no_object_of_settings(file, data, folder):
    (folder / file).write_bytes(data)
    for kind in (AutoConfig if file == "config.json" else AutoProcessor, MlplProcessor):
        if not (file == "config.json" and kind is MlplProcessor):  # which does not read it
            assert str(folder / file) in refusal(kind.from_pretrained, folder)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("empty", "is damaged or no safetensors file (0 bytes)"),
        ("half", "and the file has"),
        ("one byte short", "and the file has"),
        ("one byte more", "and the file has"),
        ("zeros", "is damaged or no safetensors file"),
        ("a header of 2**63 bytes", "is damaged or no safetensors file"),
        ("a header that is a list", "its header cannot be read"),
        ("a shape of 2**40", f"{NAME} of shape [1099511627776, 32] does not fit its place"),
        ("offsets that overlap", "does not fit its place"),
        ("an unknown dtype", "is of dtype 'X32'; weights are F64, F32, F16, BF16"),
        ("whole numbers", "is of dtype 'I32'"),
        ("a shape of text", f"{NAME} has the shape 'x'"),
        ("a tensor less", f"missing: {NAME};"),
        ("a head less", "missing: ctc_head.weight, ctc_head.bias;"),
        ("a language head less", "missing: lid_head.weight, lid_head.bias;"),
        ("a layer more", "unknown: model.layers.2.up_proj.weight;"),
        ("no tensors", "missing: model.front_end."),
        ("a transposed tensor", f"of another shape: {NAME} [32, 64] instead of [64, 32];"),
        ("a head of another size", "ctc_head.bias [20] instead of [17]"),
    ],
)
def test_weights_that_are_damaged_or_of_another_model(kind, reason, folder):
    """Initialises no tensor anew, and gives the same error from `pipeline`."""
    WEIGHTS[kind](folder)
    error = refusal(AutoModelForCTC.from_pretrained, folder)
    assert error.startswith(f"{folder / 'model.safetensors'}: ") and reason in error, error
    assert refusal(pipeline, "automatic-speech-recognition", model=str(folder)) == error


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("a lost shard", "names model-00001-of-00002.safetensors, which is missing"),
        ("half a shard", "model-00001-of-00002.safetensors: is damaged"),
        ("a tensor less", None),
        ("only one shard", "missing: model.layers.1."),
        ("file is a list", "holds [], not a JSON object"),
        ("weight_map is null", "weight_map is None; it must be an object"),
        ("weight_map is missing", "weight_map is None; it must be an object"),
        ("a shard's name is number", "weight_map is {"),
        ("a shard's name is text", "weight_map names ['x']"),
    ],
)
def test_an_index_of_shards(kind, reason, folder):
    INDEX[kind](folder)
    if reason is None:  # the file has the tensor all the same
        assert isinstance(MlplForCTC.from_pretrained(folder), MlplForCTC)
    else:
        assert reason in refusal(AutoModelForCTC.from_pretrained, folder)


def test_sizes_that_the_weights_do_not_have_take_no_memory(folder):
    """A thousand layers of the largest sizes would have 10**19 bytes."""
    settings = {"hidden_size": 2**20, "intermediate_size": 2**20, "num_hidden_layers": 100}
    for name, value in settings.items():
        change_field(folder / "config.json", [name], value)
    error = refusal(AutoModelForCTC.from_pretrained, folder)
    assert (
        "missing: model.layers.2." in error and "model.front_end.conv.weight [64, 80, 7] instead of [2097152" in error
    )


def test_the_number_of_labels_is_checked_before_there_are_so_many(folder):
    """Loading a tokenizer, transformers reads the settings of no model in particular, and names all its labels."""
    change_field(folder / "config.json", ["num_labels"], 100_000)
    for load in (*TOKENIZER[:1], *EXTRACTOR[:1], *EXTRACTOR[2:], *CONFIG):
        assert "config.json: num_labels is 100000; it must be a whole number up to 10,000" in refusal(load, folder)


def test_the_tokens_or_the_features_of_another_model(folder):
    tokens = (folder / "tokens-all.lst").read_text()
    (folder / "tokens-all.lst").write_text(tokens[: len(tokens) // 2])
    error = refusal(pipeline, "automatic-speech-recognition", model=str(folder))
    assert error.startswith(f"{folder}: has 8 lines with tokens, but the model needs 16")
    (folder / "tokens-all.lst").write_text(tokens)
    change_field(folder / "processor_config.json", ["feature_extractor", "feature_size"], 40)
    error = refusal(pipeline, "automatic-speech-recognition", model=str(folder))
    assert error.startswith(f"{folder}: feature_size of the feature extractor is 40, and num_mel_bins of the model 80")


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ({"ctc_loss_reduction": "Sum"}, "ctc_loss_reduction is 'Sum'; it must be \"mean\" or "),
        ({"layerdrop": 2.0}, "layerdrop is 2.0; it must be at least 0 and below 1"),
        ({"layerdrop": "x"}, "Field 'layerdrop'"),
        ({"languages": ["de", "sl", "de"]}, "languages must be distinct; given more than once: de"),
        ({"conv_stride": 2}, "conv_stride is 2; it must be 3"),
        ({"languages": ["de", "sl"]}, "lid_head.weight [3, 32] instead of [2, 32]"),
        ({"vocab_size": 12}, "of another shape: ctc_head.weight [17, 32] instead of [12, 32]"),
    ],
)
def test_settings_that_from_pretrained_is_given(override, reason, folder):
    (folder / "processor_config.json").unlink()  # a folder of a model alone; the Auto classes must not miss the rest
    for model_class in (MlplForCTC, AutoModelForCTC):
        assert reason in refusal(model_class.from_pretrained, folder, **override)
    if "instead of" not in reason:
        for config_class in (MlplConfig, AutoConfig):
            assert reason in refusal(config_class.from_pretrained, folder, **override)


def test_settings_of_other_models(folder):
    """Dropout that this model lacks may be off, as in the lines of tutorials for Wav2Vec2."""
    off = {"hidden_dropout": 0.0, "feat_proj_dropout": 0.0, "mask_time_prob": 0}
    for model_class in (MlplForCTC, AutoModelForCTC):
        assert model_class.from_pretrained(folder, **off, attention_dropout=0.0).config.attention_dropout == 0
        with pytest.raises(TypeError, match="^'mask_time_prob' is no setting of this model"):
            model_class.from_pretrained(folder, mask_time_prob=0.05)
    with pytest.raises(ValueError, match="conv_dropout is -1; it must be at least 0"):
        MlplForCTC.from_pretrained(folder, conv_dropout=-1)


def test_good_overrides_and_new_heads(folder):
    model = MlplForCTC.from_pretrained(folder, layerdrop=0.5, ctc_loss_reduction="mean")
    assert (model.config.layerdrop, model.config.ctc_loss_reduction) == (0.5, "mean")
    model = MlplForCTC.from_pretrained(folder, languages=["de", "sl"], ignore_mismatched_sizes=True)
    assert model.lid_head.weight.shape == (2, 32)


def test_what_is_unknown_or_left_out_is_no_error(whole, folder):
    change_field(folder / "config.json", ["an unknown one"], {"x": [1]})
    change_field(folder / "tokenizer_config.json", ["an unknown one"], math.pi)
    for name in ("layerdrop", "conv_dropout", "ctc_zero_infinity", "blank_token_id"):
        change_field(folder / "config.json", [name], ...)
    sound = sweep(1)
    expected, answer = (pipeline("automatic-speech-recognition", model=str(path))(sound) for path in (whole, folder))
    assert answer == expected and answer["text"]


def test_the_check_draws_no_random_number(folder):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    MlplForCTC._check_weights(folder)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("processor_config.json", AutoProcessor),
        ("processor_config.json", MlplFeatureExtractor),
        ("tokens-all.lst", AutoTokenizer),
        ("tokens-all.lst", MlplProcessor),
    ],
)
def test_a_file_that_is_not_there(file, kind, folder):
    write_file(folder / file, None)
    error = refusal(kind.from_pretrained, folder)
    assert str(folder) in error and file in error
