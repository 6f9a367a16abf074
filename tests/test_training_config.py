"""Tests how settings are read from a YAML file and `name=value`, and how wrong ones are reported."""

import dataclasses
import math
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import yaml

from hf_mlpl import MlplConfig
from hf_mlpl.training_config import (
    DECIDED_MODEL_FIELDS,
    FREE_MODEL_FIELDS,
    FREE_ON_RESUME,
    LoraConfig,
    SlimIplConfig,
    SpecAugmentConfig,
    TrainingConfig,
    load_config,
)

ROOT = Path(__file__).resolve().parents[1]
MINIMUM = {"output_dir": "runs/a", "model": "tiny", "tokens": "a.lst", "train": ["b.parquet"], "max_updates": 10}


@pytest.fixture
def load(tmp_path):
    """Loads settings given as a dict, or as the text of a file."""

    def load(settings, *overrides):
        path = tmp_path / "stage.yaml"
        path.write_text(settings if isinstance(settings, str) else yaml.safe_dump(settings))
        return load_config(path, overrides)

    return load


def test_there_are_these_settings_and_no_others():
    """Lists them, because a new setting is one more to learn, and needs a deliberate change of this test."""
    names = (
        "output_dir model train max_updates model_fields tokens dev unlabelled language languages language_alpha "
        "pseudo_label_weight drop_misheard_speakers max_batch_seconds micro_batches_per_update optimizer "
        "learning_rate head_learning_rate warmup_updates schedule first_decay_update decay_every_updates weight_decay "
        "max_grad_norm freeze_feature_encoder freeze_encoder_updates lora curriculum "
        "spec_augment waveform_augment slimipl bf16 bf16_gradients gradient_checkpointing allow_collapsed log_every "
        "eval_every save_every save_total_limit num_workers cache_gigabytes seed report_to project push_to_hub "
        "hub_private_repo license stage"
    )
    assert [field.name for field in dataclasses.fields(TrainingConfig)] == names.split()
    names = "start_update num_frequency_masks max_frequency_width num_time_masks max_time_width max_time_fraction "
    names += "max_frequency_warp max_equalizer_gain"
    assert [field.name for field in dataclasses.fields(SpecAugmentConfig)] == names.split()
    free = "num_workers cache_gigabytes log_every save_every save_total_limit eval_every push_to_hub hub_private_repo "
    free += "license stage allow_collapsed report_to project gradient_checkpointing"
    assert FREE_ON_RESUME == set(free.split())


def test_model_fields_are_those_of_the_model():
    annotations = MlplConfig.__annotations__.items()
    own = {name for name, annotation in annotations if typing.get_origin(annotation) is not typing.ClassVar}
    assert {*FREE_MODEL_FIELDS, *DECIDED_MODEL_FIELDS} == own
    assert not set(FREE_MODEL_FIELDS) & set(DECIDED_MODEL_FIELDS)


def test_reading_settings_imports_little():
    """Shows that a wrong setting is refused at once: these libraries take seconds to import."""
    program = "import sys; from hf_mlpl.training_config import *; print(load_config(sys.argv[1]), *sys.modules)"
    command = [sys.executable, "-c", program, ROOT / "recipes" / "demo" / "supervised.yaml"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert shown.startswith("TrainingConfig(")
    assert not {"torch", "accelerate", "datasets", "transformers", "numpy", "pyarrow"} & set(shown.split())


def test_every_setting_is_explained():
    for field in dataclasses.fields(TrainingConfig):
        assert re.search(rf"\b{field.name}\b", TrainingConfig.__doc__), field.name


def test_defaults_are_the_papers(load):
    config = load(MINIMUM)
    paper = {"optimizer": "adagrad", "learning_rate": 0.03, "warmup_updates": 64_000, "max_grad_norm": 0.1}
    assert {name: getattr(config, name) for name in paper} == paper
    saug = {"start_update": 50_000, "max_frequency_width": 30, "num_frequency_masks": 2, "max_time_width": 50}
    saug |= {"max_time_fraction": 0.1, "num_time_masks": 2}  # --saug_* of the released checkpoint
    saug |= {"max_frequency_warp": 0.0, "max_equalizer_gain": 0.0}
    assert dataclasses.asdict(config.spec_augment) == saug


def test_command_line_goes_over_the_file(load):
    config = load(
        {**MINIMUM, "seed": 3, "spec_augment": {"max_time_width": 7}, "model_fields": {"layerdrop": 0.5}},
        "max_updates=20",
        "learning_rate=1e-3",
        "optimizer=adamw",
        "weight_decay=1",
        "train=[a.parquet, b.parquet]",
        "languages=[de, sv-SE]",
        "tokens=a=b.lst",
        "spec_augment.start_update=5",
        "model_fields.conv_dropout=0.25",
    )
    assert config == TrainingConfig(
        output_dir="runs/a",
        model="tiny",
        train=["a.parquet", "b.parquet"],
        max_updates=20,
        seed=3,
        learning_rate=0.001,
        optimizer="adamw",
        weight_decay=1,
        languages=["de", "sv-SE"],
        tokens="a=b.lst",
        spec_augment=SpecAugmentConfig(max_time_width=7, start_update=5),
        model_fields={"layerdrop": 0.5, "conv_dropout": 0.25},
        stage="stage",
    )


def test_spec_augment_is_on_by_default_and_null_is_off(load):
    assert load(MINIMUM).spec_augment == SpecAugmentConfig()
    assert load(MINIMUM, "spec_augment=null").spec_augment is None
    assert load({**MINIMUM, "spec_augment": None}).spec_augment is None
    assert load(MINIMUM, "spec_augment.start_update=5").spec_augment == SpecAugmentConfig(start_update=5)


def test_numbers_that_yaml_takes_for_text(load):
    config = load("output_dir: a\nmodel: c\ntrain: [b]\nmax_updates: 1\nlearning_rate: 1e-3\nmax_grad_norm: 5")
    assert (config.learning_rate, config.max_grad_norm) == (0.001, 5)
    assert load(MINIMUM, "spec_augment.max_time_fraction=1e-1").spec_augment.max_time_fraction == 0.1


def test_the_file_names_the_stage(load):
    assert (load(MINIMUM).stage, load(MINIMUM).tag) == ("stage", "stage")  # of stage.yaml
    settings = {**MINIMUM, "dev": [], "push_to_hub": "me/asr-{language}", "license": "mit"}
    config = load(settings, "stage=last", "language=sv-SE")
    assert (config.stage, config.tag, config.push_to_hub) == ("last", "last-sv-SE", "me/asr-sv-SE")
    assert load(yaml.safe_dump(dataclasses.asdict(config))) == config


def test_settings_survive_their_own_file(load):
    config = load(
        MINIMUM,
        "train=[ünï.parquet]",
        "dev=[d.parquet]",
        "spec_augment.start_update=5",
        "learning_rate=1e-3",
        "report_to=[]",
    )
    assert load(yaml.safe_dump(dataclasses.asdict(config))) == config


@pytest.mark.parametrize(
    ("changes", "overrides", "message"),
    [
        ({"learning_rat": 1}, [], "no setting is called learning_rat; there are output_dir, model"),
        ({}, ["lr=1"], "no setting is called lr; there are output_dir, model"),
        ({"spec_augment": {"width": 1}}, [], "no setting is called width; there are start_update"),
        ({}, ["spec_augment.width=1"], "no setting is called width; there are start_update"),
        ({}, ["max_updates"], "'max_updates' is not a setting; write name=value"),
        ({"optimizer": "sgd"}, [], "optimizer is 'sgd'; accepted are adagrad, adamw"),
        ({"schedule": "cosine"}, [], "schedule is 'cosine'; accepted are constant, linear"),
        ({}, ["max_updates=0"], "max_updates is 0; it must be at least 1"),
        ({}, ["micro_batches_per_update=0"], "micro_batches_per_update is 0"),
        ({}, ["save_every=0"], "save_every is 0; it must be at least 1"),
        ({}, ["max_batch_seconds=-1"], "max_batch_seconds is -1; it must be above 0"),
        ({}, ["learning_rate=0"], "learning_rate is 0; it must be above 0"),
        ({}, ["max_grad_norm=0"], "max_grad_norm is 0; it must be above 0"),
        ({}, ["pseudo_label_weight=0"], "pseudo_label_weight is 0; it must be above 0"),
        ({}, ["schedule=step", "decay_every_updates=5"], "first_decay_update is None; only schedule step has it, and"),
        ({}, ["weight_decay=0.1"], "weight_decay is 0.1; optimizer adagrad has none, adamw has it"),
        ({}, ["first_decay_update=5"], "first_decay_update is 5; only schedule step has it"),
        ({}, ["schedule=step", "first_decay_update=5", "decay_every_updates=0"], "decay_every_updates is 0; only"),
        ({"train": "train.parquet"}, [], "train is 'train.parquet'; it must be a list"),
        ({}, ["dev=dev.parquet"], "dev is 'dev.parquet'; it must be a list"),
        ({}, ["gradient_checkpointing=auto"], "gradient_checkpointing is 'auto'; it must be true or false, or null"),
        ({"train": []}, [], "train is empty; name at least one utterance file"),
        ({}, ["tokens=null"], "a new model needs `tokens`, a tokens file"),
        ({}, ["model_fields.layerdropp=0.5"], "model_fields has layerdropp; accepted are hidden_size, num_h"),
        ({"model": "trained", "model_fields": {1: 2}}, [], "model_fields has 1; accepted are hidden_size"),
        ({}, ["model_fields.vocab_size=5"], "model_fields has vocab_size, which `tokens`, `languages` and"),
        ({}, ["slimipl.cache_size=5"], "slimipl is set and unlabelled is not; slimIPL needs both"),
        ({"unlabelled": ["u"]}, [], "unlabelled is set and slimipl is not"),
        (
            {"unlabelled": ["u"], "micro_batches_per_update": 2},
            ["slimipl.cache_size=3"],
            "cache_size is 3; it must be a multiple of micro_batches_per_update, 2",
        ),
        ({}, ["head_learning_rate=0"], "head_learning_rate is 0; it must be above 0, or null"),
        (
            {},
            ["schedule=tri-stage", "warmup_updates=5"],
            "warmup_updates is 5; schedule tri-stage warms up for a tenth",
        ),
        ({}, ["freeze_encoder_updates=-1"], "freeze_encoder_updates is -1; it must be at least 0"),
        (
            {},
            ["freeze_encoder_updates=1"],
            "freeze_encoder_updates is set and model is tiny, a new one; give a trained",
        ),
        ({}, ["freeze_feature_encoder=true"], "freeze_feature_encoder is set and model is tiny"),
        ({}, ["lora={}"], "lora is set and model is tiny, a new one; give a trained model"),
        (
            {"model": "trained"},
            ["lora={}", "freeze_feature_encoder=false"],
            "freeze_feature_encoder is False, and lora freezes the whole encoder; leave out",
        ),
        ({"model": "trained"}, ["lora.rank=4"], "no setting is called rank; there are r, lora_alpha, lora_dropout"),
        ({"model": "trained"}, ["lora.r=0"], "r is 0; it must be at least 1"),
        ({"model": "trained"}, ["lora.lora_dropout=1"], "lora_dropout is 1; it must be at least 0 and below 1"),
        (
            {"model": "trained"},
            ["lora.target_modules=[]"],
            "target_modules is []; name layers such as [q_proj, v_proj]",
        ),
        (
            {"model": "."},
            ["lora={}", "push_to_hub=me/a", "license=mit"],
            "set lora.merge to true, or give the model's",
        ),
        ({}, ["push_to_hub=me/a"], "license is None; push_to_hub needs the licence of what is pushed, such as"),
        ({}, ["push_to_hub=a", "license=mit"], "push_to_hub is 'a'; it must be of the form user/name"),
        ({}, ["push_to_hub=me/a/b", "license=mit"], "push_to_hub: Repo id must be in the form"),
        ({}, ["push_to_hub=me/a", "license=mit", "stage=a b"], "stage is 'a b'; push_to_hub needs letters, digits"),
        ({}, ["push_to_hub=me/a", "license=mit", "stage=1"], "stage is 1; it must be a string"),
    ],
)
def test_wrong_settings_are_reported(load, changes, overrides, message):
    with pytest.raises(ValueError) as caught:
        load({**MINIMUM, **changes}, *overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def wrong_values(annotation: str):
    """Yields values from YAML that a setting of this type refuses."""
    kind, *alternatives = annotation.split(" | ")
    anything = [True, 3, -3, 1.5, "text", ["text"], [1], {"a": 1}, {1: 2}, None]
    accepted = {
        "int": lambda v: type(v) is int,
        "float": lambda v: type(v) in (int, float),
        "str": lambda v: isinstance(v, str),
        "bool": lambda v: isinstance(v, bool),
        "dict": lambda v: isinstance(v, dict),
        "Sequence[str]": lambda v: v == ["text"],
    }.get(kind, lambda v: False)
    yield from (v for v in anything if not accepted(v) and not (v is None and "None" in alternatives))
    if kind in ("int", "float"):
        yield from (-3, math.nan, math.inf, -math.inf, "1e999", "nan")


@pytest.mark.parametrize("config_class", [TrainingConfig, SpecAugmentConfig, SlimIplConfig, LoraConfig])
def test_every_wrong_value_is_one_line_with_file_and_setting(load, config_class):
    prefix = {SpecAugmentConfig: "spec_augment", SlimIplConfig: "slimipl", LoraConfig: "lora"}.get(config_class)
    for field in dataclasses.fields(config_class):
        for value in wrong_values(field.type):
            settings = {prefix: {field.name: value}} if prefix else {field.name: value}
            with pytest.raises(ValueError) as caught:
                load({**MINIMUM, **({"unlabelled": ["u"]} if prefix == "slimipl" else {}), **settings})
            message = str(caught.value)
            nested = isinstance(value, dict) and "no setting is called" in message
            assert "stage.yaml: " in message and "\n" not in message, (field.name, value)
            assert field.name in message or nested, (field.name, value)


def test_trackers_must_be_known_and_installed(load, monkeypatch):
    assert load({**MINIMUM, "report_to": ["tensorboard"]}).project == "hf_mlpl"
    with pytest.raises(ValueError, match="report_to has 'tensorbord'; accepted are tensorboard, trackio, wandb, "):
        load({**MINIMUM, "report_to": ["tensorbord"]})
    monkeypatch.setattr("hf_mlpl.training_config.settings.is_installed", lambda name: False)
    for name, command in (("trackio", r".*pip install .*\[trackio\]'"), ("comet_ml", "pip install comet-ml")):
        with pytest.raises(ValueError, match=rf"report_to has {name}, .* installed; it comes with {command}$"):
            load(MINIMUM, f"report_to=[{name}]")


def test_adapters_need_peft(load, monkeypatch):
    assert load({**MINIMUM, "model": "trained"}, "lora.r=4").lora == LoraConfig(r=4)
    monkeypatch.setattr("hf_mlpl.training_config.settings.is_installed", lambda name: False)
    with pytest.raises(ValueError, match=r"lora is set, which needs peft; it comes with .*pip install .*\[peft\]'"):
        load({**MINIMUM, "model": "trained"}, "lora={}")


def test_files_that_editors_write(load, tmp_path):
    text = yaml.safe_dump(MINIMUM | {"tokens": "ü"}, allow_unicode=True)
    expected = load(text)
    for encoding in ("utf-8-sig", "utf-8"):
        for line_end in ("\n", "\r\n"):
            (tmp_path / "stage.yaml").write_bytes(text.replace("\n", line_end).encode(encoding))
            assert load_config(tmp_path / "stage.yaml") == expected


def test_missing_settings_are_reported_with_the_file(load):
    with pytest.raises(ValueError, match=r"stage\.yaml: model, max_updates must be set"):
        load({"output_dir": "a", "train": ["b"]})
    with pytest.raises(ValueError, match="output_dir, model, train, max_updates must be set"):
        load("")


@pytest.mark.parametrize(
    ("changes", "overrides", "message"),
    [
        ({}, ["max_updates=1e3"], "max_updates"),
        ({}, ["max_updates=many"], "max_updates"),
        ({}, ["learning_rate=fast"], "learning_rate"),
        ({}, ["languages=de"], "languages"),
        ({}, ["seed=-1"], "seed"),
        ({}, ["train=[a"], "train=[a"),
        ({}, ["model.size=5"], "model"),
        ({"spec_augment": None}, ["spec_augment.start_update=5"], "spec_augment"),
        ({"spec_augment": True}, [], "spec_augment"),
    ],
)
def test_values_of_a_wrong_type_are_reported_by_name(load, changes, overrides, message):
    with pytest.raises(ValueError) as caught:
        load({**MINIMUM, **changes}, *overrides)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["train: [a", "- train", "train", "\0\0", "dev: &a [*a]", "a: &a {b: *a}", "seed: 1\nseed: 2", "1: 2\na: 3"],
)
def test_a_file_that_holds_no_settings_is_reported(load, text):
    with pytest.raises(ValueError, match=r"stage\.yaml"):
        load(text)


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in sorted((ROOT / "recipes").rglob("*.yaml"))
        if path.parent.name != "accelerate" and path.name != "corpora.yaml"
    ],
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_every_stage_of_the_recipes_loads(path):
    config = load_config(path, ["language=sl"] if "{language}" in path.read_text() else [])
    assert config.output_dir and config.train and config.dev
