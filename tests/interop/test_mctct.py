"""Models of the old port, from folders that are written by hand, against what the original computes."""

import os
import pickle
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForCTC,
    AutoProcessor,
    AutoTokenizer,
    Wav2Vec2Config,
    pipeline,
)

from hf_mlpl import (
    MlplConfig,
    MlplFeatureExtractor,
    MlplForCTC,
    MlplProcessor,
    MlplSpeechRecognitionPipeline,
    MlplTokenizer,
)
from hf_mlpl.interop.mctct import convert_mctct
from hf_mlpl.model.modeling_mlpl import NEW_HEAD

from ..port_folder import HIDDEN, LAYERS, LETTERS, REACH, features_of, original_logits, port_weights, save_port
from ..random_model import RATE, sweep


def transcript(logits: np.ndarray) -> str:
    """Greedy CTC decoding, with the last class as the blank and nothing for `<unk>`."""
    labels = logits.argmax(-1).tolist()
    labels = [label for i, label in enumerate(labels) if i == 0 or labels[i - 1] != label]
    text = "".join(LETTERS[label] for label in labels if LETTERS[label] not in ("<pad>", "<unk>"))
    return " ".join(text.replace("|", " ").split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_port(tmp_path_factory.mktemp("port") / "m-ctc-t")


def error_of(function, *arguments, **kwargs) -> str:
    with pytest.raises((ValueError, OSError)) as caught:
        function(*arguments, **kwargs)
    error = str(caught.value)
    assert "\n" not in error
    return error


# -------------------------------------------------------------------------------------------------------- the pipeline


@pytest.mark.parametrize("form", ["bin", "safetensors", "sharded bin", "sharded safetensors"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_the_pipeline_says_what_the_original_would(tmp_path, form, per_channel):
    weights = port_weights(per_channel)
    folder = save_port(tmp_path / "m-ctc-t", weights, form)
    recognize = pipeline("automatic-speech-recognition", model=str(folder))
    assert type(recognize) is MlplSpeechRecognitionPipeline
    recordings = [sweep(seconds) for seconds in (2.0, 2.01, 2.02)]
    features = [features_of(samples) for samples in recordings]
    assert {len(frames) % 3 for frames in features} == {0, 1, 2}
    assert max(map(len, features)) / 3 > 2 * REACH  # longer than the position table
    for samples, frames, answer in zip(recordings, features, recognize(recordings, batch_size=3), strict=True):
        expected = original_logits(weights, frames)
        with torch.inference_mode():
            logits = recognize.model(torch.from_numpy(frames)[None]).logits[0].numpy()
        np.testing.assert_allclose(logits, expected, atol=2e-5 * np.abs(expected).max())
        assert answer == recognize(samples) == {"text": transcript(expected)}  # and no language
        assert len(answer["text"]) > 5 and " " in answer["text"]
        assert 2 in expected.argmax(-1)  # an `<unk>`, of which the text has nothing


def test_everything_else_of_the_package_works(folder, tmp_path):
    """Chunks, times, training, saving, and the saved folder by itself."""
    recognize = pipeline("automatic-speech-recognition", model=str(folder))
    samples = sweep(7.3)
    answer = recognize(samples, chunk_length_s=3, stride_length_s=0.51, return_timestamps="word")
    assert " ".join(chunk["text"] for chunk in answer["chunks"]) == answer["text"]
    assert answer["chunks"][-1]["timestamp"][1] <= 7.3

    model, processor = convert_mctct(folder)
    inputs = processor(audio=samples, text="abc deg", sampling_rate=RATE)
    model(**inputs).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert not model.training and model.lid_head is None
    with pytest.raises(ValueError, match="no languages"):
        model.identify_language(inputs["input_features"])

    model.save_pretrained(tmp_path / "ours")
    processor.save_pretrained(tmp_path / "ours")
    assert not {"pytorch_model.bin", "vocab.json"} & {path.name for path in (tmp_path / "ours").iterdir()}
    again = pipeline("automatic-speech-recognition", model=str(tmp_path / "ours"))
    assert again(samples) == recognize(samples)
    assert str(folder) not in (tmp_path / "ours" / "config.json").read_text()


@pytest.mark.parametrize("form", ["bin", "safetensors"])
def test_training_does_not_change_the_file(tmp_path, form):
    """Checks the file of which the weights are a view."""
    folder = save_port(tmp_path / "m-ctc-t", form=form)
    (path,) = [*folder.glob("*.bin"), *folder.glob("*.safetensors")]
    before = path.read_bytes()
    model, _ = convert_mctct(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    assert path.read_bytes() == before


def test_our_own_class_names_the_way(folder):
    """Recipes load models by it, and so want a converted folder."""
    error = error_of(MlplForCTC.from_pretrained, folder)
    assert "of a model of type 'mctct', not 'mlpl'" in error and "`hf-mlpl convert`" in error


def test_auto_classes_give_our_classes(folder):
    expected = {AutoFeatureExtractor: MlplFeatureExtractor, AutoModelForCTC: MlplForCTC}
    expected |= {AutoProcessor: MlplProcessor, AutoTokenizer: MlplTokenizer}
    for auto, ours in expected.items():
        assert type(auto.from_pretrained(folder)) is ours
    processor = AutoProcessor.from_pretrained(folder)
    assert type(processor.feature_extractor) is MlplFeatureExtractor and type(processor.tokenizer) is MlplTokenizer
    assert processor.feature_extractor.to_dict() == MlplFeatureExtractor().to_dict()

    config = AutoModelForCTC.from_pretrained(folder).config
    assert type(config) is MlplConfig and config.languages == [] and config.blank_token_id == len(LETTERS) - 1
    dropout = (config.conv_dropout, config.attention_dropout, config.activation_dropout, config.layerdrop)
    assert dropout == (0.2, 0.1, 0.4, 0.3)
    assert config.max_position_embeddings == REACH and not config.layer_norm_per_channel


def test_the_ports_own_configuration_survives(folder, tmp_path):
    config = AutoConfig.from_pretrained(folder)
    assert (config.model_type, config.pad_token_id, config.hidden_dropout_prob) == ("mctct", 1, 0.4)
    config.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).to_mlpl().to_dict() == config.to_mlpl().to_dict()
    assert type(AutoModelForCTC.from_config(config)) is MlplForCTC
    sizes = MlplConfig.large(8065, 0, ctc_loss_reduction="sum").to_dict()
    assert type(config)().to_mlpl().to_dict() == sizes  # what a file leaves out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"dtype": torch.bfloat16}, lambda model: model.dtype is torch.bfloat16),
        ({"dtype": "auto"}, lambda model: model.dtype is torch.float32),
        ({"device_map": "cpu"}, lambda model: model.device.type == "cpu"),
        ({"attn_implementation": "eager"}, lambda model: model.config._attn_implementation == "eager"),
        ({"layerdrop": 0.1}, lambda model: model.config.layerdrop == 0.1),
        ({"ctc_loss_reduction": "mean"}, lambda model: model.config.ctc_loss_reduction == "mean"),
        ({"use_safetensors": False}, lambda model: model.name_or_path),
        ({"pad_token_id": len(LETTERS) - 1}, lambda model: model.config.pad_token_id == len(LETTERS) - 1),
        (
            {"pad_token_id": 34, "vocab_size": 35, "ignore_mismatched_sizes": True},
            lambda model: (model.ctc_head.out_features, model.config.blank_token_id) == (35, 34),
        ),
    ],
)
def test_arguments_of_from_pretrained(folder, arguments, expected):
    assert expected(AutoModelForCTC.from_pretrained(folder, **arguments))


def test_arguments_of_the_pipeline(folder):
    for arguments in ({"dtype": torch.bfloat16}, {"model_kwargs": {"dtype": torch.bfloat16}}):
        recognize = pipeline("automatic-speech-recognition", model=str(folder), device="cpu", **arguments)
        assert recognize.model.dtype is torch.bfloat16 and recognize(sweep(1))["text"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights_only": False}, "weights_only must be True"),
        ({"output_loading_info": True}, "output_loading_info cannot be used"),
        ({"variant": "fp16"}, "variant cannot be used"),
        ({"use_safetensors": True}, "no weights, neither model.safetensors nor model.safetensors.index.json"),
        ({"ctc_loss_reduction": "Sum"}, "m-ctc-t/config.json: "),
        ({"layerdrop": 2.0}, "layerdrop is 2.0; it must be at least 0 and below 1"),
        ({"conv_kernel": [5]}, "m-ctc-t/config.json: conv_kernel is [5] instead of [7]"),
        ({"pad_token_id": 1}, "blank_token_id is 1, but the blank, and so the padding, is the last class"),
        ({"vocab_size": 35}, "the padding, '<pad>', is class 17 of a head with 35 classes; it must be the last, 34"),
    ],
)
def test_arguments_that_are_refused(folder, arguments, message):
    assert message in error_of(AutoModelForCTC.from_pretrained, folder, **arguments)


def test_a_configuration_that_became_wrong_makes_no_model(folder):
    config = AutoConfig.from_pretrained(folder)
    config.update({"vocab_size": 35, "pad_token_id": 34})
    assert AutoModelForCTC.from_config(config).config.blank_token_id == 34
    config.layerdrop = 2.0
    assert "config.json" in error_of(AutoModelForCTC.from_config, config)
    config.vocab_size = len(LETTERS)
    assert "layerdrop is 2.0" in error_of(AutoModelForCTC.from_pretrained, folder, config=config)


def test_names_on_the_hub(folder, tmp_path):
    """Loads from the cache without a network, and from a folder within a repository."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--speechbrain--m-ctc-t-tiny"
    shutil.copytree(folder, repository / "snapshots" / commit / "sub")
    (repository / "refs").mkdir()
    (repository / "refs" / "v1").write_text(commit)
    where = {"cache_dir": tmp_path, "revision": "v1", "subfolder": "sub", "local_files_only": True}
    model, processor = convert_mctct("speechbrain/m-ctc-t-tiny", **where)
    assert model.name_or_path == "speechbrain/m-ctc-t-tiny"
    samples = features_of(sweep(1))
    expected = AutoModelForCTC.from_pretrained(folder)(torch.from_numpy(samples)[None]).logits
    assert torch.equal(model(torch.from_numpy(samples)[None]).logits, expected)
    assert processor.tokenizer.get_vocab() == AutoTokenizer.from_pretrained(folder).get_vocab()


def test_convert_says_what_is_missing(folder, tmp_path, caplog):
    convert_mctct(folder)
    assert [record.message for record in caplog.records if record.name.startswith("hf_mlpl")] == [
        f"{folder}: the old port has no language-ID head, so the converted model does not identify languages"
    ]
    Wav2Vec2Config().save_pretrained(tmp_path)
    assert "is a model of type 'wav2vec2', not of the old port's 'mctct'" in error_of(convert_mctct, tmp_path)


def test_a_folder_may_be_converted_in_place(tmp_path):
    """Though its file of weights is mapped into memory."""
    folder = save_port(tmp_path / "m-ctc-t", form="safetensors")
    expected = pipeline("automatic-speech-recognition", model=str(folder))(sweep(1))
    model, processor = convert_mctct(folder)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    assert type(AutoConfig.from_pretrained(folder)) is MlplConfig
    assert pipeline("automatic-speech-recognition", model=str(folder))(sweep(1)) == expected


# --------------------------------------------------------------------------------------------------------- layer norms


def test_layer_norms_are_scalars_unless_fine_tuning_made_them_differ(tmp_path):
    weights = port_weights()
    model, _ = convert_mctct(save_port(tmp_path / "scalar", weights))
    norm = model.model.layers[1].attention_layer_norm
    name = "mctct.encoder.layers.1.attention.output.LayerNorm.bias"
    assert not model.config.layer_norm_per_channel
    assert torch.equal(norm.bias, weights[name][:1]) and norm.weight.shape == (1,)

    weights[name][3] += 1e-3  # a single entry is enough
    model, _ = convert_mctct(save_port(tmp_path / "vector", weights))
    assert model.config.layer_norm_per_channel
    assert torch.equal(model.model.layers[1].attention_layer_norm.bias, weights[name])
    assert {p.shape for n, p in model.named_parameters() if "layers." in n and "layer_norm" in n} == {(HIDDEN,)}
    model.save_pretrained(tmp_path / "saved")
    loaded = MlplForCTC.from_pretrained(tmp_path / "saved")
    assert torch.equal(loaded.model.layers[1].attention_layer_norm.bias, weights[name])


# ---------------------------------------------------------------------------------------------------------- vocabulary


def test_ids_are_those_of_the_vocabulary(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == tokenizer.vocab_size == len(LETTERS)
    assert tokenizer.convert_ids_to_tokens(list(range(len(LETTERS)))) == [*LETTERS[:-1], "<blank>"]
    assert tokenizer.pad_token_id == tokenizer.blank_token_id == len(LETTERS) - 1
    assert tokenizer("bad eg")["input_ids"] == [LETTERS.index(letter) for letter in "bad|eg"]
    unk, blank = LETTERS.index("<unk>"), tokenizer.blank_token_id
    assert tokenizer.decode([4, unk, 3, blank, 3, 3, 0, unk, 0, 1]) == "baa e"
    assert tokenizer("<unk> <pad>")["input_ids"] == tokenizer("nk ad")["input_ids"]  # what letters are in them


def test_awkward_vocabularies(tmp_path, caplog):
    """Gaps, shared classes, special tokens within the head, and what a tokens file cannot hold."""
    vocab = {"ab": 1, "</s>": 2, "a": 4, "à": 4, "|": 5, "é": 6, " ": 7, "": 8, "x y": 9, "\ud800": 10, "<blank>": 11}
    vocab |= {"|x": 12, "\u00a0": 13, "[UNK]": 14, "\n": 15, "[PAD]": 16, "[CLS]": 17}
    tokenizer = {
        "pad_token": {"content": "[PAD]"},
        "unk_token": "[UNK]",
        "bos_token": None,
        "additional_special_tokens": ["[CLS]"],
    }
    folder = save_port(tmp_path / "m-ctc-t", vocab=vocab, tokenizer=tokenizer, config={"vocab_size": 17})
    (folder / "special_tokens_map.json").unlink()
    (folder / "added_tokens.json").unlink()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    names = ["<class-0>", "ab", "</s>", "<class-3>", "a", "|", "é", *(f"<class-{i}>" for i in range(7, 12))]
    names += ["|x", "\u00a0", "[UNK]", "<class-15>", "<blank>"]
    assert tokenizer.convert_ids_to_tokens(list(range(17))) == names
    assert [tokenizer.decode([i]) for i in (0, 2, 3, 7, 8, 9, 10, 11, 14, 15, 16)] == [""] * 11
    assert tokenizer.decode([1, 0, 5, 7, 4, 8, 6]) == "ab aé"
    assert tokenizer("ab à")["input_ids"] == [1, 5, 4]
    (warning,) = [record.message for record in caplog.records if record.name.startswith("hf_mlpl")]
    assert "a tokens file cannot hold ' ', '', 'x y' and 3 more; the model writes nothing" in warning

    tokenizer.save_pretrained(tmp_path / "saved")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert loaded.convert_ids_to_tokens(list(range(17))) == names and loaded.decode([2, 4, 14]) == "a"


def test_the_word_delimiter_may_be_another_entry(tmp_path):
    vocab = {" ": 0, "a": 1, "|": 2, "<pad>": 3}
    folder = save_port(
        tmp_path / "m-ctc-t", vocab=vocab, tokenizer={"word_delimiter_token": " "}, config={"vocab_size": 4}
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer("a a")["input_ids"] == [1, 0, 1]
    assert tokenizer.decode([1, 0, 1, 2]) == "a a"


@pytest.mark.parametrize(
    ("vocab", "message"),
    [
        (
            {"|": 0, "<pad>": 1, "a": 2},
            "the padding, '<pad>', is class 1 of a head with 3 classes; it must be the last, 2",
        ),
        ({"|": 0, "a": 2}, "the padding, '<pad>', is class None of a head with 3 classes; it must be the last, 2"),
        ({"|": 0, "<pad>": 2, "a": 3, "b": 4}, "the head has 3 classes, and none for a, b"),
        ({"a": 0, "b": 1, "<pad>": 2}, "vocab.json has no word delimiter, '|'"),
        ({"en": {"|": 0, "<pad>": 2}}, "vocab.json must give each entry a class"),
        ({"|": 0, "a": -1, "<pad>": 2}, "vocab.json must give each entry a class"),
        ({}, "has no vocab.json"),
    ],
)
def test_vocabularies_that_are_refused(tmp_path, vocab, message):
    """Refuses them for the model alone too: without the blank, its loss and padding would be wrong."""
    folder = save_port(tmp_path / "m-ctc-t", vocab=vocab, config={"vocab_size": 3})
    for load in (AutoTokenizer.from_pretrained, AutoProcessor.from_pretrained, AutoModelForCTC.from_pretrained):
        error = error_of(load, folder)
        assert error.startswith(f"{folder}: ") and message in error


def test_a_model_does_not_need_a_vocabulary(tmp_path):
    folder = save_port(tmp_path / "m-ctc-t")
    (folder / "vocab.json").unlink()
    assert AutoModelForCTC.from_pretrained(folder).config.blank_token_id == len(LETTERS) - 1
    assert "has no vocab.json" in error_of(AutoTokenizer.from_pretrained, folder)


# ------------------------------------------------------------------------------------------- settings that are refused


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("conv_glu_dim", 2),
        ("conv_kernel", [5]),
        ("conv_stride", [2]),
        ("hidden_act", "gelu"),
        ("input_channels", 2),
        ("num_conv_layers", 2),
        ("position_embedding_type", "absolute"),
        ("architectures", ["MCTCTForSequenceClassification"]),
        ("layerdrop", 1.0),
        ("hidden_size", "16"),
    ],
)
def test_configurations_that_are_refused(tmp_path, name, value):
    folder = save_port(tmp_path / "m-ctc-t", config={name: value})
    for load in (AutoConfig.from_pretrained, AutoModelForCTC.from_pretrained, convert_mctct):
        error = error_of(load, folder)
        assert error.startswith(f"{folder}/config.json: ") and name in error and str(value) in error
    assert name in error_of(pipeline, "automatic-speech-recognition", model=str(folder))


@pytest.mark.parametrize(
    ("name", "value"),
    [("normalize_vars", False), ("hop_length", 12), ("sampling_rate", 8000), ("win_function", "hann_window")],
)
def test_features_that_are_refused(tmp_path, name, value):
    folder = save_port(tmp_path / "m-ctc-t", preprocessor={name: value})
    for auto in (AutoFeatureExtractor, AutoProcessor):
        error = error_of(auto.from_pretrained, folder)
        assert error.startswith(f"{folder}/preprocessor_config.json: {name} is {value!r} instead of")


def test_another_number_of_mel_bins(tmp_path):
    weights = port_weights()
    name = "mctct.encoder.conv.conv_layers.0.weight"
    weights[name] = weights[name][:, :40].clone()
    sizes = {"config": {"input_feat_per_channel": 40}, "preprocessor": {"feature_size": 40}}
    recognize = pipeline("automatic-speech-recognition", model=str(save_port(tmp_path / "m-ctc-t", weights, **sizes)))
    assert recognize.model.config.num_mel_bins == recognize.feature_extractor.feature_size == 40
    assert recognize(sweep(1))["text"]


# ------------------------------------------------------------------------------------------------------------- weights


def test_weights_of_another_model_are_refused(tmp_path):
    weights = port_weights()
    for name in [name for name in weights if "query" in name]:
        del weights[name]
    weights["lid_head.weight"] = torch.zeros(60, HIDDEN)
    weights["ctc_head.bias"] = torch.zeros(7)
    folder = save_port(tmp_path / "m-ctc-t", weights)
    assert error_of(AutoModelForCTC.from_pretrained, folder) == (
        f"{folder}: its tensors are not those of the model in config.json; missing: "
        "mctct.encoder.layers.0.attention.self.query.weight, mctct.encoder.layers.1.attention.self.query.weight; "
        "unknown: lid_head.weight; of another shape: ctc_head.bias [7] instead of [18]; "
        f"copy both files again from the same place{NEW_HEAD}"
    )


def test_a_missing_shard_is_named(tmp_path):
    folder = save_port(tmp_path / "m-ctc-t", form="sharded safetensors")
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors" in error_of(AutoModelForCTC.from_pretrained, folder)


class Hostile:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_runs_a_program_is_not_unpickled(tmp_path):
    folder, trace = save_port(tmp_path / "m-ctc-t"), tmp_path / "trace"
    path = folder / "pytorch_model.bin"
    weights = port_weights() | {"ctc_head.bias": Hostile(trace)}
    pickles = [
        lambda: torch.save(weights, path),
        lambda: torch.save(weights, path, _use_new_zipfile_serialization=False),
        lambda: path.write_bytes(pickle.dumps(Hostile(trace), protocol=2)),
    ]
    for write in pickles:
        write()
        message = f"{path} is damaged, or holds more than tensors, which is not unpickled"
        assert error_of(AutoModelForCTC.from_pretrained, folder) == message
        assert not trace.exists()
    pickle.loads(path.read_bytes())
    assert trace.exists()  # what unpickling does


@pytest.mark.parametrize("form", ["bin", "safetensors"])
def test_damaged_weights_are_named(tmp_path, form):
    folder = save_port(tmp_path / "m-ctc-t", form=form)
    (path,) = [*folder.glob("*.bin"), *folder.glob("*.safetensors")]
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:100], b"", b"version https://git-lfs.github.com/spec/v1\n"):
        path.write_bytes(content)
        assert error_of(AutoModelForCTC.from_pretrained, folder).startswith(f"{path} is damaged, or holds more")
    if form == "bin":
        for content in ([port_weights()], {"model": port_weights()}, port_weights() | {"epoch": 3}):
            torch.save(content, path)
            assert str(path) in error_of(AutoModelForCTC.from_pretrained, folder)


MEMORY = """
import sys
from hf_mlpl.interop.mctct import convert_mctct
from hf_mlpl.model.modeling_mlpl import NEW_HEAD
import hf_mlpl.model.modeling_mlpl, hf_mlpl.model.processing_mlpl
from transformers import AutoModelForCTC, AutoProcessor

def kilobytes(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))

convert_mctct(sys.argv[3])[0].save_pretrained(sys.argv[2])  # what else is loaded on the way
before = kilobytes("VmRSS")
model, processor = convert_mctct(sys.argv[1])
model.save_pretrained(sys.argv[2])
print((kilobytes("VmHWM") - before) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read where Linux says it")
@pytest.mark.parametrize("form", ["bin", "safetensors"])
def test_memory_is_hardly_more_than_the_file(tmp_path, quick_python, form):
    weights = port_weights()
    for number in range(LAYERS):
        layer = f"mctct.encoder.layers.{number}"
        weights[f"{layer}.intermediate.dense.weight"] = torch.zeros(800_000, HIDDEN)
        weights[f"{layer}.output.dense.weight"] = torch.zeros(HIDDEN, 800_000)
    folder = save_port(tmp_path / "m-ctc-t", weights, form, config={"intermediate_size": 800_000})
    (path,) = [*folder.glob("*.bin"), *folder.glob("*.safetensors")]
    assert path.stat().st_size > 200_000_000
    done = subprocess.run(
        [quick_python, "-c", MEMORY, folder, tmp_path / "ours", save_port(tmp_path / "small")],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1.3 * path.stat().st_size
