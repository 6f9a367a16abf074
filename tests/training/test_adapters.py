"""Tests adapters against PEFT itself and against second models, from the settings to the models of later stages."""

import copy
import json

import peft
import pytest
import torch
from huggingface_hub import HfApi
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCTC

from hf_mlpl.ctc_models import ctc_interface
from hf_mlpl.ctc_models.adapters import _compare_commits
from hf_mlpl.inference.loading import load_model
from hf_mlpl.training import slimipl
from hf_mlpl.training.adapters import add_adapters, merged_weights, write_adapters
from hf_mlpl.training.loop import train
from hf_mlpl.training.resume import resume_from_hub
from hf_mlpl.training_config import LoraConfig, TrainingConfig, load_config

from ..commands import ROOT, run_command
from ..inference.test_unsharded import launch
from ..random_model import LANGUAGES, save_folder, sweep
from ..ranks import run_all_on_two
from ..small_models import ARCHITECTURES, missing, save_small_encoder, save_small_mms, save_small_model
from .test_loop import Killed, kill_at, rows
from .test_resume import interrupted

MASK = "masked_spec_embed"  # random in an encoder's files, and of no use after training

pytestmark = pytest.mark.usefixtures("one_thread")

COMMON = {"wav2vec2": "k_proj out_proj q_proj v_proj", "wavlm": "gru_rel_pos_linear intermediate_dense output_dense"}
TARGETS = COMMON | {
    "parakeet_ctc": "k_proj o_proj q_proj v_proj",
    "wav2vec2-bert": "linear_k linear_out linear_q linear_v",
    "sew-d": "key_proj query_proj value_proj",
    "granite_speech5_ctc": "to_kv to_out to_q",
}


def adapted(folder, **lora):
    """Loads a model, and adds adapters that are not 0, as if they had been trained."""
    model, processor = load_model(folder)
    ctc = ctc_interface(model.config, processor)
    config = TrainingConfig(output_dir="", model=str(folder), train=[""], max_updates=1, lora=LoraConfig(r=4, **lora))
    add_adapters(model, ctc, config)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval(), ctc


def inputs_of(ctc) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = ctc.extract(sweep(0.5))[None]
    return inputs, torch.ones(inputs.shape[:2], dtype=torch.long)


def check_as_peft_does(folder, path) -> None:
    """Compares a model with adapters, their files, and the merged model, with what PEFT does with these files."""
    path.mkdir()
    model, ctc = adapted(folder)
    targets = model.peft_config["default"].target_modules
    assert targets == set(TARGETS.get(model.config.model_type, " ".join(sorted(targets))).split())
    inputs = inputs_of(ctc)
    labels = torch.tensor([ctc.label_ids("abc")])
    ctc.loss(model, *inputs, labels=labels, language_ids=torch.zeros(1, dtype=torch.long), num_utterances=1).backward()
    silent = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not silent  # no adapter is without effect
    write_adapters(path, model, model.state_dict())
    with torch.no_grad():
        expected = ctc.forward(model, *inputs).logits
        theirs = peft.PeftModel.from_pretrained(AutoModelForCTC.from_pretrained(folder), path).eval()
        assert torch.equal(ctc.forward(theirs, *inputs).logits, expected)
        assert not torch.allclose(ctc.forward(load_model(folder)[0], *inputs).logits, expected, atol=0.1)
        merged = theirs.merge_and_unload().state_dict()
        ours = merged_weights(model, model.state_dict())
        assert ours.keys() == merged.keys() and all(torch.equal(ours[name], merged[name]) for name in merged)
        loaded, _ = load_model(path)  # a folder with the adapters alone, as PEFT writes it
        assert all(torch.equal(value, merged[name]) for name, value in loaded.state_dict().items())


def test_files_and_merged_weights_are_those_of_peft(tmp_path):
    check_as_peft_does(save_folder(tmp_path / "mlpl", LANGUAGES), tmp_path / "adapters")
    for name in COMMON:
        if not missing(name):
            check_as_peft_does(save_small_model(tmp_path / name, name), tmp_path / f"{name}-adapters")


@pytest.mark.slow
def test_every_architecture(tmp_path):
    for name in ARCHITECTURES.keys() - COMMON.keys():
        if not missing(name):
            check_as_peft_does(save_small_model(tmp_path / name, name), tmp_path / f"{name}-adapters")


def test_layers_that_cannot_be_adapted_are_named(tmp_path, monkeypatch):
    folder = save_small_model(tmp_path / "wavlm", "wavlm")
    with pytest.raises(ValueError, match="has q_proj, a layer that this model does not call, .*; accepted are gru_"):
        adapted(folder, target_modules=["output_dense", "q_proj"])
    with pytest.raises(ValueError, match="has query, which no linear layer is called; there are gru_rel_pos_linear"):
        adapted(folder, target_modules=["query"])
    with pytest.raises(ValueError, match="has lm_head, which no linear layer is called"):  # it is trained as a whole
        adapted(folder, target_modules=["lm_head"])
    model, _ = adapted(folder, target_modules=["layers.1.feed_forward.output_dense"])
    assert [name for name, _ in model.named_parameters() if "lora_A" in name] == [
        "wavlm.encoder.layers.1.feed_forward.output_dense.lora_A.default.weight"
    ]
    write_adapters(tmp_path, model, model.state_dict())
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": "/no/where"}))
    moved = "holds adapters, whose base cannot be loaded: /no/where: no such folder.*; if it has moved, write its name"
    with pytest.raises(OSError, match=moved):
        load_model(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": None}))
    with pytest.raises(ValueError, match="adapter_config.json: base_model_name_or_path is None; "):
        load_model(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    other = save_small_model(tmp_path / "other", "wavlm", hidden_size=32)
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": str(other)}))
    with pytest.raises(ValueError, match="its adapters cannot be loaded .*size mismatch") as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr("hf_mlpl.ctc_models.adapters.is_installed", lambda name: False)
    with pytest.raises(ValueError, match=r"holds adapters, which need peft; it comes with .*pip install .*\[peft\]'"):
        load_model(tmp_path)


# ------------------------------------------------------------------------------------------------- runs

SHORT = ["max_updates=4", "max_batch_seconds=2", "save_every=2", "dev=[]", "log_every=1", "allow_collapsed=true"]
SHORT += ["lora={r: 4, lora_dropout: 0.1}", "spec_augment=null", "model_fields={layerdrop: 0.3}"]


@pytest.fixture
def run(tone_data, tone_run, tmp_path):
    """Trains adapters of the tones' model, or of another one, in a folder of `tmp_path`; returns the run's folder."""

    def run(name, *overrides, model=tone_run / "model"):
        settings = [f"output_dir={tmp_path / name}", f"model={model}", "tokens=null", *SHORT, *overrides]
        return train(load_config(tone_data / "tones.yaml", settings)).parent

    return run


SLIMIPL = (
    "slimipl={start_update: 1, cache_size: 2, unsupervised_updates: 2, cache_update_probability: 0.5, ema_decay: 0.5}"
)


@pytest.fixture
def slimipl_settings(tone_data):
    return ["max_updates=6", SLIMIPL, f"unlabelled=[{tone_data / 'unlabelled.parquet'}]"]


@pytest.mark.slow
def test_checkpoints_hold_and_restore_what_is_trained(run, tone_run, slimipl_settings, tmp_path, monkeypatch):
    whole = run("whole", *slimipl_settings)
    kill_at(monkeypatch, 5)
    with pytest.raises(Killed):
        run("killed", *slimipl_settings)
    monkeypatch.undo()
    for name in ("model", "teacher"):
        with safe_open(tmp_path / "killed" / "checkpoints" / "update-00000004" / f"{name}.safetensors", "pt") as file:
            names = file.keys()
            assert names and all(".lora_" in name or ".modules_to_save." in name for name in names)
    base = load_file(tone_run / "model" / "model.safetensors")
    save_file({name: value + (name == "model.layers.0.attention.q_proj.weight") for name, value in base.items()},
              tmp_path / "model.safetensors", metadata={"format": "pt"})  # fmt: skip
    changed = tmp_path / "changed"
    changed.mkdir()
    for path in (tone_run / "model").iterdir():
        (changed / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.safetensors").replace(changed / "model.safetensors")
    (tmp_path / "killed" / "config.yaml").rename(tmp_path / "config.yaml")
    with pytest.raises(ValueError, match="update-00000004 has adapters, and the weights of .*changed are not those"):
        run("killed", *slimipl_settings, model=changed)
    (tmp_path / "config.yaml").rename(tmp_path / "killed" / "config.yaml")
    assert_equal_adapters(run("killed", *slimipl_settings), whole)


def assert_equal_adapters(folder, other):
    first, second = (load_file(path / "model" / "adapter_model.safetensors") for path in (folder, other))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert rows(folder) == rows(other)


@pytest.mark.slow
def test_a_teacher_of_adapters_labels_as_a_whole_second_model(run, slimipl_settings, monkeypatch):
    labels, copied, label = [], slimipl.copy_of_trained, slimipl.SlimIpl._label

    def label_and_keep(self, batches):
        labels.append(label(self, batches))
        return labels[-1]

    def copy_and_compare(model):
        teacher = copied(model)
        for own, shared in zip(model.parameters(), teacher.parameters(), strict=True):
            assert (own is shared) != own.requires_grad and torch.equal(own, shared)
        return teacher

    monkeypatch.setattr(slimipl.SlimIpl, "_label", label_and_keep)
    monkeypatch.setattr(slimipl, "copy_of_trained", copy_and_compare)
    shared, num_made = run("shared", *slimipl_settings), len(labels)
    monkeypatch.setattr(slimipl, "copy_of_trained", copy.deepcopy)
    assert_equal_adapters(shared, run("second", *slimipl_settings))
    assert labels[:num_made] == labels[num_made:] and any(labels)


@pytest.mark.slow
def test_results_serve_the_next_stages(run, tone_data, tmp_path):
    folder, whole = (run(f"merge-{merge}", f"lora.merge={merge}") / "model" for merge in ("false", "true"))
    names, names_of_whole = ({path.name for path in each.iterdir()} for each in (folder, whole))
    assert names - names_of_whole >= {"adapter_model.safetensors", "adapter_config.json"}
    assert names_of_whole - names == {"model.safetensors"} and "config.json" in names
    model, processor = load_model(folder)
    assert type(model).__name__ == "MlplForCTC" and not hasattr(model, "peft_config")
    torch.testing.assert_close(model.state_dict(), load_model(whole)[0].state_dict(), rtol=0, atol=0)
    second = run("second", model=folder) / "model"  # adapters on what the first ones made
    third, _ = load_model(second)
    assert third.config.languages == model.config.languages
    assert not torch.equal(third.ctc_head.weight, model.ctc_head.weight)
    data = tone_data / "unlabelled.parquet"
    clip = next((tone_data.parent / "common-voice" / "de" / "clips").glob("*test0.wav"))
    for command in (
        ["transcribe.py", clip, "--model", folder],
        ["pseudo_label.py", "--model", folder, "--data", data, "--output", tmp_path / "labels"],
        ["evaluate.py", "--model", folder, "--data", tone_data / "dev.parquet", "--output", tmp_path / "results.json"],
    ):
        assert run_command(*command) in (0, None), command
    plain = run("plain", "lora=null", "max_updates=2", model=second) / "model"
    assert (plain / "model.safetensors").exists() and not (plain / "adapter_config.json").exists()


@pytest.fixture
def run_other(tone_data, tmp_path):
    """Trains adapters of a model of another architecture; returns the run's folder."""

    def run_other(name, model, *overrides):
        settings = [f"output_dir={tmp_path / name}", f"model={model}", "tokens=null", "model_fields={}", *SHORT[:-1]]
        return train(load_config(tone_data / "tones.yaml", [*settings, "max_updates=2", *overrides])).parent

    return run_other


def check_that_it_was_restored(folder) -> None:
    """Compares the model of a folder with adapters with the merged model of the same run."""
    alone, _ = load_model(folder / "alone" / "model")
    merged, _ = load_model(folder / "merged" / "model")
    expected = merged.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in alone.state_dict().items() if MASK not in name)


@pytest.mark.slow
def test_what_the_base_lacks_is_saved(run_other, tone_data, tmp_path):
    """A new head of an encoder, layers that the settings add, and an adapter of MMS for a language."""
    encoder = save_small_encoder(tmp_path / "encoder", "wav2vec2-bert")
    for name, merge in (("alone", "false"), ("merged", "true")):
        new = [f"tokens={tone_data / 'tokens-all.lst'}", "model_fields={add_adapter: true}", f"lora.merge={merge}"]
        run_other(f"encoder-run/{name}", encoder, *new)
    check_that_it_was_restored(tmp_path / "encoder-run")
    folder = tmp_path / "encoder-run" / "alone" / "model"
    config = AutoConfig.from_pretrained(folder)
    base = AutoModelForCTC.from_pretrained(encoder, config=config, ignore_mismatched_sizes=True)
    merged, _ = load_model(tmp_path / "encoder-run" / "merged" / "model")
    theirs = peft.PeftModel.from_pretrained(base, folder).merge_and_unload().state_dict()
    assert all(torch.equal(theirs[name], value) for name, value in merged.state_dict().items() if MASK not in name)
    names = load_file(tmp_path / "encoder-run" / "alone" / "model" / "adapter_model.safetensors").keys()
    assert {name.split(".")[3] for name in names if "lora_" not in name} >= {"adapter"} and len(names) > 10
    mms = save_small_mms(tmp_path / "mms", {"eng": "xyz", "deu": "abcdefgö"})
    for name, merge in (("alone", "false"), ("merged", "true")):
        run_other(f"mms-run/{name}", mms, "model_fields={target_lang: deu}", f"lora.merge={merge}")
    check_that_it_was_restored(tmp_path / "mms-run")


@pytest.mark.slow
def test_two_processes_equal_one(run, run_other, slimipl_settings, tone_data, tone_run, tmp_path, quick_python):
    """LayerDrop skips layers in some micro-batches, some updates have three, and weights are copied or sharded."""
    wav2vec2 = save_small_model(tmp_path / "wav2vec2", "wav2vec2", letters="abcdefgö", layerdrop=0.3)
    shared = ["tokens=null", "micro_batches_per_update=3", "learning_rate=1e-3", *SHORT]
    ours = [f"model={tone_run / 'model'}", *shared, *slimipl_settings, "slimipl.cache_size=3"]
    theirs = [f"model={wav2vec2}", *shared, "model_fields={}"]
    runs = {"ours": ours, "theirs": theirs}
    commands = [
        ("train.py", tone_data / "tones.yaml", *settings, f"output_dir={tmp_path / 'two' / name}")
        for name, settings in runs.items()
    ]
    done = run_all_on_two(tmp_path, commands)
    assert [status for status, _ in done] == [0, 0], done
    for name, settings in runs.items():
        one = train(load_config(tone_data / "tones.yaml", [*settings, f"output_dir={tmp_path / name}"]))
        assert_close_adapters(tmp_path / "two" / name / "model", one)
    sharded = [*ours, "slimipl.ema_decay=null", f"output_dir={tmp_path / 'sharded'}", "model_fields={layerdrop: 0.0}"]
    script = ROOT / "tests" / "fsdp_on_cpu.py"
    launch(quick_python, "fsdp", script, tone_data / "tones.yaml", *sharded, folder=tmp_path)
    one = train(load_config(tone_data / "tones.yaml", [*sharded, f"output_dir={tmp_path / 'copies'}"]))
    assert_close_adapters(tmp_path / "sharded" / "model", one)


def assert_close_adapters(folder, other):
    first, second = (load_file(path / "adapter_model.safetensors") for path in (folder, other))
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


def test_a_base_that_has_changed_on_the_hub_is_named(tmp_path, local_hub, caplog):
    HfApi().create_repo("me/changing")
    folder = save_folder(tmp_path / "base", LANGUAGES)
    old = HfApi().upload_folder(repo_id="me/changing", folder_path=folder).oid
    model, _ = adapted("me/changing")
    (tmp_path / "adapters").mkdir()
    write_adapters(tmp_path / "adapters", model, model.state_dict())
    load_model(tmp_path / "adapters")
    assert not caplog.messages
    _compare_commits.cache_clear()
    new = HfApi().upload_file(repo_id="me/changing", path_or_fileobj=b"text", path_in_repo="README.md").oid
    load_model(tmp_path / "adapters")
    [line] = caplog.messages
    assert f"were trained on commit {old[:8]} of me/changing, which is at {new[:8]} now" in line


@pytest.mark.slow
@pytest.mark.parametrize("merge", [False, True])
def test_a_pushed_state_goes_on_elsewhere(run, tone_run, tmp_path, local_hub, quick_retries, monkeypatch, merge):
    """Each save has a model that can be used, and the weights from which training goes on."""
    HfApi().create_repo("me/base")
    HfApi().upload_folder(repo_id="me/base", folder_path=tone_run / "model")
    settings = ["push_to_hub=me/run", "license=mit", f"lora.merge={str(merge).lower()}"]
    whole = run("whole", *settings[2:], model="me/base")
    config = load_config(whole / "config.yaml", [f"output_dir={tmp_path / 'interrupted'}", *settings])
    interrupted(config, monkeypatch, 4)
    model, _ = load_model("me/run")
    assert not hasattr(model, "peft_config")
    files = local_hub.files("me/run")
    assert ("handler.py" in files) == merge and ("adapters (LoRA)" in files["README.md"].decode()) != merge
    assert "base_model: me/base" in files["README.md"].decode()
    config = load_config(whole / "config.yaml", [f"output_dir={tmp_path / 'elsewhere'}", *settings])
    assert resume_from_hub(config, "me/run") is None
    folder = train(config)
    first, second = (load_model(path)[0].state_dict() for path in (folder, whole / "model"))
    assert all(torch.equal(first[name], second[name]) for name in first)
