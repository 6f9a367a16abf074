"""Loads models of every CTC architecture, with their own heads and new ones, and what cannot be loaded."""

import json
import os
import shutil
import subprocess

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCTC,
    AutoProcessor,
    BertConfig,
    BertModel,
    Wav2Vec2ForCTC,
    WhisperConfig,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from hf_mlpl.ctc_models import ctc_interface
from hf_mlpl.ctc_models.loading import load_student, read_config
from hf_mlpl.inference.loading import load_model
from hf_mlpl.inference.recognition import load_recognizer
from hf_mlpl.sharing.model_card import teacher_revision

from ..random_model import sweep
from ..small_models import ARCHITECTURES, missing, save_small_encoder, save_small_mms, save_small_model

QUICK = {"wav2vec2", "wav2vec2-bert", "parakeet_ctc", "omniasr_ctc"}  # the kinds of inputs, heads and tokenizers
ALL = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in ARCHITECTURES]
TOKENS = ["|", "ö", "a", "e", "b", "c", "\u0301"]  # others, in another order
WITHOUT_PACKAGE = """
import importlib.util, json, sys
sys.modules["hf_mlpl"] = None
assert importlib.util.find_spec("hf_mlpl") is None
import numpy as np
from transformers import AutoModelForCTC, AutoProcessor, pipeline
samples, texts = np.load(sys.argv[1]), {}
for folder in sys.argv[2:]:
    processor = AutoProcessor.from_pretrained(folder)
    if "omniasr" in folder:  # the pipeline of transformers 5.24 calls it with arguments that it does not have
        inputs = processor(samples, sampling_rate=16000, return_tensors="pt")
        text = processor.decode(AutoModelForCTC.from_pretrained(folder)(**inputs).logits[0].argmax(-1))
    else:
        text = pipeline("automatic-speech-recognition", model=folder)(samples)["text"]
    texts[folder] = [text, processor.tokenizer("ab öc").input_ids]
print(json.dumps(texts))
"""


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens") / "tokens.lst"
    path.write_text("".join(f"{token}\n" for token in TOKENS), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def wav2vec2(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("models") / "wav2vec2", "wav2vec2")


def load(folder, fields=None, tokens=None):
    return load_student(folder, read_config(folder), fields or {}, tokens)


def logits(model, processor):
    """Returns the logits (S, V) of a sound."""
    inputs = processor.feature_extractor(sweep(1), sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        return model.eval()(**inputs).logits[0]


@pytest.mark.parametrize("architecture", ALL)
def test_heads_of_every_architecture(architecture, tokens, tmp_path):
    """Expects the model's own head as transformers loads it, and the same logits of known tokens in a new one."""
    if reason := missing(architecture):
        pytest.skip(reason)
    folder = save_small_model(tmp_path / "model", architecture)
    expected, processor = AutoModelForCTC.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    own = load(folder)
    torch.testing.assert_close(own.model.state_dict(), expected.state_dict(), rtol=0, atol=0)
    assert own.head is None and not own.random_tensors
    assert type(own.processor) is type(processor) and own.processor.to_dict() == processor.to_dict()
    assert own.processor.tokenizer.get_vocab() == processor.tokenizer.get_vocab()

    torch.manual_seed(0)
    new = load(folder, {}, tokens)
    tokenizer, config = new.processor.tokenizer, new.model.config
    assert tokenizer.convert_ids_to_tokens(range(9)) == [*TOKENS, "<unk>", "<pad>"] and len(tokenizer) == 9
    assert getattr(config, "blank_token_id", 8) == config.pad_token_id == tokenizer.pad_token_id == 8
    old, ours = logits(expected, processor), logits(new.model, new.processor)
    vocabulary = processor.tokenizer.get_vocab()
    blank = getattr(expected.config, "blank_token_id", processor.tokenizer.pad_token_id)
    pairs = {8: blank} | {TOKENS.index(letter): vocabulary[letter] for letter in "aebc" if letter in vocabulary}
    boundary = "|" if "|" in vocabulary else "▁"
    if boundary in vocabulary:
        pairs[0] = vocabulary[boundary]
    assert new.head.kept == pairs | {7: vocabulary["<unk>"]} and new.head.num_old == expected.config.vocab_size
    torch.testing.assert_close(ours[:, list(pairs)], old[:, list(pairs.values())])
    assert ours[:, 1].std() > 0 and not torch.isin(ours[:, 1], old).any()  # ö starts as in a new model

    encoder = save_small_encoder(tmp_path / "encoder", architecture)
    with pytest.raises(ValueError, match="encoder: has no CTC head, as its weights lack .*; set `tokens`"):
        load(encoder)
    torch.manual_seed(0)
    headed = load(encoder, {}, tokens)
    assert headed.head.num_old == 0 and not headed.head.kept and not headed.random_tensors
    bare = AutoModel.from_pretrained(encoder)
    (inner,) = (module for module in headed.model.modules() if type(module) is type(bare))
    torch.testing.assert_close(inner.state_dict(), bare.state_dict(), rtol=0, atol=0)
    assert logits(headed.model, headed.processor).shape[1] == 9


@pytest.mark.slow
def test_plain_transformers_loads_new_heads(tokens, plain_python, tmp_path):
    texts = {}
    for architecture in ARCHITECTURES:
        if missing(architecture):
            continue
        student = load(save_small_model(tmp_path / "source" / architecture, architecture), {}, tokens)
        folder = tmp_path / architecture
        student.model.save_pretrained(folder)
        student.processor.save_pretrained(folder)
        assert load(folder, {}, tokens).head is None  # which are its own tokens now
        path = logits(student.model, student.processor).argmax(dim=-1).tolist()
        texts[str(folder)] = [
            ctc_interface(student.model.config, student.processor).decode(path).text,
            [2, 4, 0, 1, 5],
        ]
    np.save(tmp_path / "samples.npy", sweep(1))
    arguments = [plain_python, "-c", WITHOUT_PACKAGE, tmp_path / "samples.npy", *texts]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    assert {folder: [" ".join(text.split()), ids] for folder, (text, ids) in answers.items()} == texts
    assert any(text for text, _ in texts.values())


def test_an_mms_model_has_the_adapter_of_a_language(tokens, tmp_path):
    folder = save_small_mms(tmp_path / "mms", {"eng": "abcdef", "bre": "abcñ"})
    expected = Wav2Vec2ForCTC.from_pretrained(folder)
    torch.testing.assert_close(load_model(folder)[0].state_dict(), expected.state_dict(), rtol=0, atol=0)
    expected.load_adapter("bre")
    student = load(folder, {"target_lang": "bre", "layerdrop": 0.0})
    model, processor = load_model(folder, "bre")
    for each in (student.model, model):
        each.tie_weights()  # transformers loads the adapter again then, if it knows of one
        torch.testing.assert_close(each.state_dict(), expected.state_dict(), rtol=0, atol=0)
    assert processor.tokenizer.decode([5, 8], group_tokens=False) == "añ"
    for locales, head in {("br",): model, ("en",): load_model(folder)[0], (): load_model(folder)[0]}.items():
        chosen = load_recognizer(folder, locales)[0].state_dict()
        torch.testing.assert_close(chosen, head.state_dict(), rtol=0, atol=0)
    with pytest.raises(ValueError, match="mms: has no adapter for the language de; it has bre, eng$"):
        load_recognizer(folder, ["de"])
    with pytest.raises(ValueError, match="mms: has an adapter for each .* in br, en; give one of them at a time"):
        load_recognizer(folder, ["br", "en"])

    student.model.save_pretrained(tmp_path / "saved")
    student.processor.save_pretrained(tmp_path / "saved")
    again, processor = load_recognizer(tmp_path / "saved", ["br", "en"])  # with one adapter, for whatever it is
    torch.testing.assert_close(again.state_dict(), expected.state_dict(), rtol=0, atol=0)
    assert processor.tokenizer.decode([5, 8], group_tokens=False) == "añ"

    new = load(folder, {"target_lang": "bre"}, tokens)
    new.model.tie_weights()
    rows = [expected.lm_head.weight[processor.tokenizer.get_vocab()[token]] for token in ("|", "a", "<pad>")]
    assert torch.equal(new.model.lm_head.weight[[0, 2, 8]], torch.stack(rows))
    with pytest.raises(ValueError, match="mms: has no adapter for target_lang 'deu'; it has bre, eng$"):
        load(folder, {"target_lang": "deu"})


def test_fields_and_precision(wav2vec2, tmp_path):
    AutoModelForCTC.from_pretrained(wav2vec2).half().save_pretrained(tmp_path / "half")
    AutoProcessor.from_pretrained(wav2vec2).save_pretrained(tmp_path / "half")
    student = load(tmp_path / "half", {"layerdrop": 0.25, "ctc_loss_reduction": "mean", "num_hidden_layers": 3})
    assert {tensor.dtype for tensor in student.model.parameters()} == {torch.float32}
    config = student.model.config
    assert (config.layerdrop, config.ctc_loss_reduction, config.dtype) == (0.25, "mean", torch.float32)
    assert student.random_tensors and all(".layers.2." in name for name in student.random_tensors)
    folder = save_small_model(tmp_path / "parakeet", "parakeet_ctc")
    config = load(folder, {"encoder_config": {"layerdrop": 0.5}}).model.config
    assert (config.encoder_config.layerdrop, config.encoder_config.hidden_size) == (0.5, 16)
    refused = {
        "layerdropp": (1, r"cannot have the model_fields .*there is no layerdropp; accepted are .*layerdrop, "),
        "vocab_size": (9, r"vocab_size: the tokenizer, or `tokens`, decides"),
        "attention_dropout": (
            2,
            "cannot have the model_fields .*attention_dropout is 2; it must be at least 0 and at most 1",
        ),
        "mask_time_prob": (-0.1, "mask_time_prob is -0.1; it must be"),
        "layerdrop": ("much", "cannot have the model_fields .*layerdrop"),
        "hidden_dropout": ([0.1], "cannot have the model_fields .*hidden_dropout"),
        "target_lang": ("bre", "wav2vec2: has no adapters of languages, as MMS models have; leave out target_lang"),
        7: (7, "there is no 7;"),
    }
    for name, (value, problem) in refused.items():
        with pytest.raises(ValueError, match=problem) as caught:
            load(wav2vec2, {name: value})
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="there is no dropoutt; accepted are "):
        load(folder, {"encoder_config": {"dropoutt": 0.5}})


def edit(name, **settings):
    """Returns a function that changes the settings in a file of a folder."""

    def change(folder):
        file = folder / name
        file.write_text(json.dumps(json.loads(file.read_text()) | settings))

    return change


def edit_extractor(**settings):
    def change(folder):
        file = folder / "processor_config.json"
        settings_of = json.loads(file.read_text())
        settings_of["feature_extractor"] |= settings
        file.write_text(json.dumps(settings_of))

    return change


def remove(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def change_vocabulary(change):
    def apply(folder):
        vocabulary = json.loads((folder / "vocab.json").read_text())
        change(vocabulary)
        (folder / "vocab.json").write_text(json.dumps(vocabulary))

    return apply


def lose_tensors(*endings):
    def lose(folder):
        weights = load_file(folder / "model.safetensors")
        kept = {name: tensor for name, tensor in weights.items() if not name.endswith(endings)}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})

    return lose


def write_bert(folder):
    BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)).save_pretrained(folder)


SAME = "its CTC head has 32 classes, and its tokenizer {} tokens; correct the files, or set `tokens`"
BAD = {
    "no head": (lose_tensors("lm_head.weight", "lm_head.bias"), "has no CTC head, as .*; set `tokens` to train one"),
    "half a head": (lose_tensors("lm_head.bias"), "has no CTC head, as its weights lack lm_head.bias; set `tokens`"),
    "no layer": (lose_tensors("layers.1.attention.k_proj.bias"), r"lack wav2vec2.encoder.layers.1.attention.k_proj.b"),
    "shapes": (edit("config.json", hidden_size=32), r"its weights cannot be loaded \(lm_head.weight has the shape "),
    "another size": (
        edit("config.json", vocab_size=30),
        r"lm_head.bias has the shape \(32,\), and by .* \(30,\)",
    ),
    "no tokenizer": (remove("vocab.json"), "has no tokenizer, none of vocab.json, .*; copy it .*, or set `tokens`"),
    "no extractor": (remove("processor_config.json"), "has no preprocessor_config.json, and so no feature extractor"),
    "no weights": (remove("model.safetensors"), "its weights cannot be loaded .*model.safetensors"),
    "another blank": (
        edit("config.json", pad_token_id=3),
        "the blank of its config.json, 3, is not the padding .*, 0;",
    ),
    "no blank": (edit("config.json", pad_token_id=None), "its config.json has no pad_token_id, which is the blank"),
    "more tokens": (change_vocabulary(lambda vocabulary: vocabulary.update(ä=32)), SAME.format(33)),
    "fewer tokens": (change_vocabulary(lambda vocabulary: vocabulary.pop("'")), SAME.format(31)),
    "numbers": (
        change_vocabulary(lambda vocabulary: vocabulary.update(a="0")),
        "a token has the id '0', which",
    ),
    "no rate": (edit_extractor(sampling_rate=0), "sampling_rate is 0; it must be a whole number of Hz, such as 16000"),
    "a word as rate": (edit_extractor(sampling_rate="16k"), "sampling_rate is '16k'; it must be a whole number of Hz"),
    "features": (
        edit_extractor(feature_extractor_type="SeamlessM4TFeatureExtractor"),
        "it makes input_features, and wav2vec2 models take input_values; copy preprocessor_config.json from",
    ),
    "a type": (
        edit("config.json", model_type="wav2vec9"),
        "is of type wav2vec9, which transformers .* lacks; accepted",
    ),
    "no type": (edit("config.json", model_type=None), "config.json: model_type is None; it must be text"),
    "a value": (edit("config.json", hidden_size="wide"), "cannot use its config.json .*hidden_size"),
    "damage": (lambda folder: (folder / "config.json").write_text("{"), "config.json: is not JSON in UTF-8"),
    "damaged weights": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99),
        "its weights cannot be loaded",
    ),
    "damaged vocabulary": (lambda folder: (folder / "vocab.json").write_text("["), "its tokenizer cannot be loaded"),
    "a generating model": (
        lambda folder: WhisperConfig().save_pretrained(folder),
        "is of type whisper, which generates text; `hf-mlpl pseudo-label` writes texts with it; accepted are CTC "
        "models, and their encoders, of the types data2",
    ),
    "a transducer": (
        edit("config.json", model_type="parakeet_tdt"),
        "is of type parakeet_tdt, which is a transducer; accepted are CTC models",
    ),
    "text": (write_bert, "is of type bert, which does not write down speech; accepted are CTC models"),
}


@pytest.mark.parametrize("problem", BAD)
def test_faulty_models_are_refused_in_one_line(problem, wav2vec2, tmp_path):
    change, message = BAD[problem]
    if problem == "a transducer" and "parakeet_tdt" not in CONFIG_MAPPING_NAMES:
        pytest.skip("this release of transformers has no parakeet_tdt")
    folder = tmp_path / "model"
    shutil.copytree(wav2vec2, folder)
    change(folder)
    with pytest.raises((ValueError, OSError), match=message) as caught:
        load(folder)
    assert str(caught.value).startswith(str(folder)) and "\n" not in str(caught.value)


def test_features_of_another_size(tmp_path):
    folder = save_small_model(tmp_path / "model", "wav2vec2-bert")
    edit_extractor(feature_size=8, num_mel_bins=8)(folder)
    with pytest.raises(ValueError, match=f"^{folder}: its processor cannot be used .RuntimeError: .* 16"):
        load(folder)


def test_a_tokens_file_that_transformers_cannot_express(wav2vec2, tmp_path):
    lines = {"a b": "has the line 'a b'", "sch": "has the line 'sch', and .* each line must be a single character"}
    for line, problem in lines.items():
        (tmp_path / "tokens.lst").write_text(f"|\nx\n{line}\n")
        with pytest.raises(ValueError, match=rf"tokens.lst: {problem}"):
            load(wav2vec2, {}, tmp_path / "tokens.lst")
    with pytest.raises(ValueError, match="nowhere.lst: no such tokens file; `hf-mlpl build-tokenizer` writes it"):
        load(wav2vec2, {}, "nowhere.lst")


def test_a_new_head_is_the_way_out_of_a_faulty_tokenizer(wav2vec2, tokens, tmp_path):
    for number, change in enumerate((BAD["fewer tokens"][0], BAD["no tokenizer"][0], BAD["damaged vocabulary"][0])):
        folder = tmp_path / str(number)
        shutil.copytree(wav2vec2, folder)
        change(folder)
        student = load(folder, {}, tokens)
        assert student.head.num_old == 32 and not student.head.kept and student.model.lm_head.out_features == 9


def test_weights_in_pickles_are_loaded_without_running_code(wav2vec2, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(wav2vec2, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    expected = AutoModelForCTC.from_pretrained(wav2vec2).state_dict()
    torch.testing.assert_close(load(folder).model.state_dict(), expected, rtol=0, atol=0)

    class Code:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"lm_head.weight": Code()}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="its weights cannot be loaded"):
        load(folder)
    assert not (tmp_path / "ran").exists()


def test_repositories(wav2vec2, local_hub):
    repo = HfApi().create_repo("model").repo_id
    commit = HfApi().upload_folder(repo_id=repo, folder_path=wav2vec2).oid
    for model in (load(repo).model, load_model(repo)[0]):
        assert model.config._commit_hash == commit and teacher_revision(model, repo) == f"{repo}@{commit}"
    for name in ("nobody/nothing", "me/nothing"):
        with pytest.raises(OSError, match=f"^{name}: no such folder, and no such model on the Hub for this account; "):
            load(name)
    repo = HfApi().create_repo("gated").repo_id
    HfApi().upload_folder(repo_id=repo, folder_path=wav2vec2)
    local_hub.repos["model", repo].gated = True
    with pytest.raises(OSError, match=f"^{repo}: is gated; accept its terms on https://huggingface.co/{repo}, and gi"):
        load(repo)


def test_commands_for_models_of_ours_refuse_others(wav2vec2, tone_data, tmp_path, error_of):
    (tmp_path / "text.txt").write_text("ab")
    sound, text, data = tmp_path / "sound.wav", tmp_path / "text.txt", tone_data / "dev.parquet"
    message = f"{wav2vec2}: is of type wav2vec2, and only models of type mlpl "
    assert message in error_of("align.py", "--model", wav2vec2, sound, text)
    names = ["--model", wav2vec2, "--data", data, "--output", tmp_path / "names.json"]
    assert message in error_of("name_languages.py", *names)
