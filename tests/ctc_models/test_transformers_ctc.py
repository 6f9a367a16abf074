"""Compares the interface of each CTC architecture with what transformers' own model, processor and pipeline do."""

import copy
import json
import pickle
import string
from collections import Counter
from functools import cache

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    MODEL_FOR_CTC_MAPPING,
    AutoModelForCTC,
    AutoProcessor,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertProcessor,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
    WhisperConfig,
    pipeline,
)

from hf_mlpl.ctc_models import ctc_interface

from ..random_model import sweep
from ..small_models import ARCHITECTURES, missing, model_type, save_small_mms, save_small_model

# One of each kind of inputs, masks and tokenizers.
QUICK = {"wav2vec2", "wav2vec2-group", "wav2vec2-bert", "parakeet_ctc", "lasr_ctc", "omniasr_ctc"}
ALL = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in ARCHITECTURES]
SECONDS = (0.6, 0.3371, 0.43, 0.23)
TEXT = "the quick brown fox dogs"


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Returns a function that makes an architecture's model once, in evaluation mode, with its processor."""

    @cache
    def load(architecture):
        if reason := missing(architecture):
            pytest.skip(reason)
        folder = tmp_path_factory.mktemp("models") / architecture
        layers = (
            {} if architecture == "granite_speech5_ctc" else {"num_hidden_layers": 1}
        )  # two of Granite's subsample
        save_small_model(folder, architecture, **layers)
        return AutoModelForCTC.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)

    return load


def parts(folder):
    return AutoModelForCTC.from_pretrained(folder), AutoProcessor.from_pretrained(folder)


def interface(model, processor):
    """Returns the interface as a loader worker gets it."""
    return pickle.loads(pickle.dumps(ctc_interface(model.config, processor)))


def batch_of(ctc, waveforms):
    inputs = [ctc.extract(waveform) for waveform in waveforms]
    lengths = torch.tensor([len(each) for each in inputs])
    inputs = pad_sequence(inputs, batch_first=True)
    return inputs, (torch.arange(inputs.shape[1]) < lengths[:, None]).long()


def waveforms(seconds=SECONDS):
    return [sweep(length)[i:] for i, length in enumerate(seconds)]


def check_words(ctc, path):
    """Checks that the frames of a word say the word, and begin and end with its labels."""
    decoded = ctc.decode(path)
    assert [word for word, _, _ in decoded.words] == decoded.text.split()
    for word, start, end in decoded.words:
        assert ctc.decode(path[start:end]).text == word
        assert ctc.blank_id not in (path[start], path[end - 1])


def same(expected, actual):
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)


def test_small_models_are_all_that_transformers_has():
    names = {kind.model_type for kind in MODEL_FOR_CTC_MAPPING if kind.__module__.startswith("transformers.")}
    assert names == {model_type(name) for name in ARCHITECTURES if "no " + name not in str(missing(name))}


@pytest.mark.parametrize("architecture", ALL)
class TestEachArchitecture:
    @torch.no_grad()
    def test_lengths(self, load, architecture):
        model, processor = load(architecture)
        ctc = interface(model, processor)
        rng = np.random.default_rng(1)
        lengths = [0, 1, 399, 400, 719, 720, 1279, 1280, *rng.integers(500, 9000, 4).tolist()]
        for length in lengths:
            inputs, mask = batch_of(ctc, [rng.normal(scale=0.1, size=length).astype(np.float32)])
            output = ctc.forward(model, inputs, mask)
            assert inputs.shape[1] == ctc.num_inputs(length)
            assert output.logits.shape[1] == output.num_frames.item() == ctc.num_output_frames(inputs.shape[1]) > 0
            assert output.logits.isfinite().all()
        # The same numbers for arrays and tensors.
        inputs = ctc.num_inputs(np.array(lengths))
        frames = [ctc.num_output_frames(number) for number in inputs.tolist()]
        assert inputs.tolist() == [ctc.num_inputs(length) for length in lengths]
        assert ctc.num_output_frames(inputs).tolist() == frames
        assert ctc.num_output_frames(torch.from_numpy(inputs)).tolist() == frames
        minute = 60 * ctc.sampling_rate
        assert ctc.input_seconds(ctc.num_inputs(minute)) == pytest.approx(60, abs=0.05)
        assert ctc.num_output_frames(ctc.num_inputs(minute)) * ctc.samples_per_frame == pytest.approx(minute, rel=0.01)
        assert ctc.extract(np.zeros(16000, np.float32)).isfinite().all()

    @torch.no_grad()
    def test_padding(self, load, architecture):
        model, processor = load(architecture)
        ctc = interface(model, processor)
        together = ctc.forward(model, *batch_of(ctc, waveforms()))
        differences = []
        for i, waveform in enumerate(waveforms()):
            alone = ctc.forward(model, *batch_of(ctc, [waveform])).logits[0]
            assert len(alone) == together.num_frames[i]
            differences.append((alone - together.logits[i, : len(alone)]).abs().max().item())
        assert max(differences) < 1e-3 if ctc.pads_exactly else max(differences) > 0.1, differences
        has_remark = any("padding" in remark for remark in ctc.remarks(model, training=False))
        assert has_remark != ctc.pads_exactly

    @torch.no_grad()
    def test_text_of_a_recording(self, load, architecture):
        model, processor = load(architecture)
        ctc = interface(model, processor)
        waveform = sweep(
            1.96
        )  # a whole number of frames; the pipeline also decodes a frame that the mask calls invalid
        path = ctc.forward(model, *batch_of(ctc, [waveform])).logits[0].argmax(dim=-1).tolist()
        if architecture == "omniasr_ctc":  # the pipeline gives an attention mask to a model that takes a padding mask
            inputs = processor(waveform, sampling_rate=16000)
            expected = processor.decode(model.generate(**inputs)[0], skip_special_tokens=True)
        else:
            parts = {"tokenizer": processor.tokenizer, "feature_extractor": processor.feature_extractor}
            expected = pipeline("automatic-speech-recognition", model=model, **parts)(waveform)["text"]
        decoded = ctc.decode(path)
        assert decoded.text == " ".join(expected.split()) != ""
        check_words(ctc, path)

    @torch.no_grad()
    def test_loss_is_that_of_transformers(self, load, architecture):
        model, processor = load(architecture)
        model = copy.deepcopy(model)
        model.config.ctc_zero_infinity = False
        ctc = ctc_interface(model.config, processor)
        # Without a mask transformers counts the frames of the padding too.
        inputs, mask = batch_of(ctc, waveforms() if ctc.takes_mask else [sweep(0.5)] * 4)
        labels = [torch.tensor(ctc.label_ids(text)) for text in ("fox", "a b", "", "jug")]
        labels = pad_sequence(labels, batch_first=True, padding_value=-100).long()
        arguments = {ctc.input_name: inputs[:, None] if architecture == "omniasr_ctc" else inputs, "labels": labels}
        if architecture in ("parakeet_ctc", "lasr_ctc"):  # in older releases -100 would be a label of theirs
            arguments["labels"] = labels.where(labels >= 0, model.config.pad_token_id)
        if ctc.takes_mask:
            arguments[ctc.mask_name] = mask
        for reduction in ("mean", "sum"):
            model.config.ctc_loss_reduction = reduction
            same(model(**arguments).loss, ctc.loss(model, inputs, mask, labels, None, num_utterances=4))

    def test_gradient_of_parts_is_that_of_the_whole(self, load, architecture):
        model, processor = load(architecture)
        model = copy.deepcopy(model)
        model.config.ctc_loss_reduction, model.config.apply_spec_augment = "mean", False
        ctc = ctc_interface(model.config, processor)
        ctc.set_dropout(model, 0.0)
        assert not ctc.drops_layers(model)
        for module in model.modules():  # dropout below and above the layers
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            for name in ("dropout", "hidden_dropout"):
                if isinstance(getattr(module, name, None), float):
                    setattr(module, name, 0.0)
        ctc.train_mode(model)
        statistics = {name: value.clone() for name, value in model.named_buffers()}
        inputs, mask = batch_of(ctc, [sweep(0.5)[i : 7900 + i] for i in range(4)])
        labels = torch.tensor([ctc.label_ids("fox")] * 4)

        def gradients(*parts):
            model.zero_grad()
            for part in parts:
                ctc.loss(model, inputs[part], mask[part], labels[part], None, num_utterances=4).backward()
            return {name: parameter.grad for name, parameter in model.named_parameters()}

        whole, parts = gradients(slice(4)), gradients(slice(1), slice(1, 4))
        scale = max(gradient.abs().max() for gradient in whole.values() if gradient is not None)
        for name, gradient in whole.items():
            if gradient is None:
                assert parts[name] is None and ctc.leaves_out_parameters, name
            else:
                assert (gradient - parts[name]).abs().max() <= 1e-4 * scale, name
        for name, value in model.named_buffers():
            assert torch.equal(value, statistics[name]), name

    def test_labels(self, load, architecture):
        model, processor = load(architecture)
        ctc = interface(model, processor)
        ids = ctc.label_ids(TEXT)
        assert ids == processor.tokenizer(TEXT, add_special_tokens=False).input_ids
        path = [number for label in ids for number in (label, label, ctc.blank_id)]
        assert ctc.decode(path).text == TEXT
        check_words(ctc, path)
        assert ctc.label_ids("") == [] and ctc.decode([ctc.blank_id] * 3).text == "" and ctc.decode([]).words == []
        # Other case, spaces and characters without a label.
        assert ctc.label_ids("  The\tQuick, BROWN é fox – dogs!\n") == ids
        assert ctc.unknown_characters("The Quick, é fox –– é!") == {",": 1, "é": 2, "–": 2, "!": 1}
        assert any("lower case" in remark for remark in ctc.remarks(model, training=True))
        for text in ("<pad>", "a <unk> b"):
            assert not ctc.silent_ids & set(ctc.label_ids(text))

    def test_settings_of_dropout(self, load, architecture):
        """Compares with a model whose configuration has the same dropout everywhere."""
        model, processor = load(architecture)
        ctc = ctc_interface(model.config, processor)
        expected_config, model = copy.deepcopy(model.config), copy.deepcopy(model)
        encoder = getattr(expected_config, "encoder_config", getattr(expected_config, "audio_config", expected_config))
        saved = model.config.to_json_string()
        for name in (
            "layerdrop",
            *(f"{part}_dropout" for part in ("attention", "hidden", "activation", "conformer_conv")),
        ):
            if hasattr(encoder, name):
                setattr(encoder, name, 0.25)
        expected = AutoModelForCTC.from_config(expected_config)
        ctc.set_dropout(model, 0.25)
        assert model.config.to_json_string() == saved
        assert ctc.drops_layers(model) == ctc.drops_layers(expected)

        def probabilities(module):
            return {
                f"{name}.{attribute}": value
                for name, part in module.named_modules()
                if ".layers." in name or ".layer." in name
                for attribute, value in vars(part).items()
                if isinstance(value, float) and ("drop" in attribute or attribute == "p")
            }

        assert probabilities(model) == probabilities(expected) and 0.25 in probabilities(model).values()


class TestVocabularies:
    @pytest.fixture
    def parts_of(self, tmp_path):
        """Returns a function that makes the configuration and processor of a vocabulary."""

        def parts_of(*tokens, **settings):
            (tmp_path / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
            tokenizer = Wav2Vec2CTCTokenizer(tmp_path / "vocab.json", **settings)
            config = Wav2Vec2Config(vocab_size=len(tokens), pad_token_id=tokens.index("<pad>"))
            return config, Wav2Vec2Processor(Wav2Vec2FeatureExtractor(return_attention_mask=True), tokenizer)

        return parts_of

    def test_upper_case(self, parts_of):
        ctc = ctc_interface(*parts_of("<pad>", "<s>", "</s>", "<unk>", "|", *string.ascii_uppercase, "ß"))
        ids = [12, 5, 4, 12, 9]
        assert ctc.label_ids("Ha he") == ctc.label_ids("HA HE") == ids and ctc.decode(ids).text == "HA HE"
        assert ctc.label_ids("ßS") == [31, 23]
        ctc = ctc_interface(*parts_of("<pad>", "<unk>", "|", *string.ascii_uppercase, do_lower_case=True))
        assert ctc.label_ids("Ha") == [10, 3] and ctc.decode([10, 3]).text == "ha"

    def test_lower_case_that_the_tokenizer_would_put_in_capitals(self, parts_of, tmp_path):
        config, processor = parts_of("<pad>", "<unk>", "|", *string.ascii_lowercase, "ß", do_lower_case=True)
        ctc = ctc_interface(config, processor)
        ids = [10, 3, 29]
        assert ctc.label_ids("Haß") == ids and not ctc.unknown_characters("Haß") and ctc.decode(ids).text == "haß"
        processor.save_pretrained(tmp_path / "saved")  # the trained model's, for others
        assert AutoProcessor.from_pretrained(tmp_path / "saved").tokenizer("haß").input_ids == ids

    def test_both_cases_and_several_characters(self, parts_of):
        ctc = ctc_interface(*parts_of("a", "A", "b", "ch", "c", "<unk>", "|", "<pad>"))
        assert ctc.blank_id == 7 and ctc.label_ids("aAB chc") == [0, 1, 6, 3, 4]
        assert ctc.unknown_characters("aAB chc <unk>") == {"B": 1, **Counter("<unk>")} and not ctc.letter_case
        assert ctc.label_ids("a | b") == ctc.label_ids("a B b") == [0, 6, 2]  # one word boundary
        decoded = ctc.decode([0, 0, 7, 0, 6, 6, 3, 7, 5, 6])
        assert (decoded.text, decoded.words) == ("aa ch", [("aa", 0, 4), ("ch", 6, 7)])

    def test_without_word_boundary(self, parts_of):
        ctc = ctc_interface(*parts_of("<pad>", "<unk>", "a", "b"))
        assert ctc.label_ids("a b") == [2, 3] and not ctc.unknown_characters("a b")
        assert ctc.decode([2, 3]).text == "ab" and ctc.character_labels() is None

    def test_labels_of_characters(self, parts_of):
        ctc = ctc_interface(*parts_of("<pad>", "<unk>", "|", "a", "b", "ab", "é"))
        labels = ctc.character_labels()
        rng = np.random.default_rng(0)
        for text in ("".join(rng.choice(list("aAbBé "), 12)) for _ in range(50)):
            classes = labels[[ord(character) for character in " ".join(text.split())]]
            ids = ctc.label_ids(text)
            frames = len(ids) + sum(a == b for a, b in zip(ids, ids[1:], strict=False))
            assert (classes >= 0).all() and frames <= len(classes) + (classes[1:] == classes[:-1]).sum() + 2
        assert labels[ord("B")] == labels[ord("b")] == 4 and labels[ord("c")] == labels[ord("<")] == -1

    def test_tokens_of_another_model(self, parts_of):
        tokens = ["<pad>", "<unk>", "|", "a", "b"]
        with pytest.raises(ValueError, match="blank of its config.json, 0, is not the padding of its tokenizer, 1"):
            ctc_interface(*parts_of(*tokens, pad_token="<unk>"))
        config, processor = parts_of(*tokens)
        for size in (4, 8):  # the tokenizer adds <s> and </s>, 5 and 6
            config.vocab_size = size
            with pytest.raises(ValueError, match=f"its CTC head has {size} classes, and its tokenizer 7 tokens"):
                ctc_interface(config, processor)
        processor.tokenizer.pad_token = None
        with pytest.raises(ValueError, match="its tokenizer has no padding, which is the blank"):
            ctc_interface(config, processor)
        with pytest.raises(ValueError, match="comes with a Wav2Vec2FeatureExtractor that has no feature extractor"):
            ctc_interface(config, processor.feature_extractor)
        with pytest.raises(ValueError, match="is of type 'whisper'; CTC models are of type data2vec-audio"):
            ctc_interface(WhisperConfig(), processor)
        config.ctc_loss_reduction = "none"
        with pytest.raises(ValueError, match="ctc_loss_reduction is 'none'; wav2vec2 models have 'mean' or 'sum'"):
            ctc_interface(config, processor)


class TestSettings:
    """Tests settings of single architectures."""

    def test_spec_augment_that_a_model_does_not_take_is_named_where_it_is_set(self, tmp_path):
        for probability, masks in ((0.05, "frames itself, with mask_time_prob 0.05"), (0.0, "no frames")):
            model, processor = parts(save_small_model(tmp_path / masks, "wav2vec2", mask_time_prob=probability))
            remarks = [ctc_interface(model.config, processor).remarks(model, True, is_set) for is_set in (True, False)]
            assert remarks[0].pop() == f"the model masks {masks}; spec_augment has no effect"
            assert remarks[1][len(remarks[0]) :] == [f"the model masks {masks}"] * (probability > 0)

    @torch.no_grad()
    @pytest.mark.parametrize("architecture", ["wav2vec2", "wav2vec2-bert"])
    def test_adapter(self, tmp_path, architecture):
        """The adapter shortens the output, and its LayerDrop would lengthen it."""
        fields = {"add_adapter": True, "num_adapter_layers": 2, "layerdrop": 0.5}
        model, processor = parts(save_small_model(tmp_path / "model", architecture, **fields))
        ctc = interface(model, processor)
        assert ctc.samples_per_frame == 4 * 320 and not ctc.pads_exactly
        ctc.train_mode(model)
        assert any("LayerDrop leaves alone" in remark for remark in ctc.remarks(model, training=True))
        for seconds in (0.05, 0.31):
            for seed in range(3):
                torch.manual_seed(seed), np.random.seed(seed)
                output = ctc.forward(model, *batch_of(ctc, [sweep(seconds)]))
                assert output.logits.shape[1] == output.num_frames.item()

    @torch.no_grad()
    def test_normalised_padding(self, tmp_path):
        fields = {"conv_pos_batch_norm": True, "num_hidden_layers": 1}
        model, processor = parts(save_small_model(tmp_path / "model", "hubert", **fields))
        model.hubert.encoder.pos_conv_embed.batch_norm.running_mean += 1.0
        ctc = interface(model, processor)
        together = ctc.forward(model, *batch_of(ctc, waveforms())).logits[3]
        alone = ctc.forward(model, *batch_of(ctc, waveforms()[3:])).logits[0]
        assert (together[: len(alone)] - alone).abs().max() > 0.1 and not ctc.pads_exactly

    def test_batches_shorter_than_a_mask(self, load):
        model, processor = load("hubert")
        ctc = ctc_interface(model.config, processor)
        model = copy.deepcopy(model)
        ctc.train_mode(model)
        inputs, mask = batch_of(ctc, waveforms((0.1, 0.15)))  # 10 frames are masked at a time
        ctc.loss(model, inputs, mask, torch.tensor([[5], [6]]), None, 2).backward()
        assert model.hubert.masked_spec_embed.grad.count_nonzero() == 0
        inputs, mask = batch_of(ctc, waveforms((0.1, 0.5)))
        ctc.loss(model, inputs, mask, torch.tensor([[5], [6]]), None, 2).backward()
        assert model.hubert.masked_spec_embed.grad.count_nonzero() > 0

    @torch.no_grad()
    def test_other_sampling_rate(self, load):
        model, processor = load("wav2vec2-bert")
        extractor = SeamlessM4TFeatureExtractor(feature_size=16, num_mel_bins=16, sampling_rate=8000)
        ctc = interface(model, Wav2Vec2BertProcessor(extractor, processor.tokenizer))
        assert ctc.sampling_rate == 8000 and ctc.input_seconds(ctc.num_inputs(80000)) == pytest.approx(10, abs=0.05)
        assert "the model takes audio of 8000 Hz, to which all recordings are resampled" in ctc.remarks(model, False)

    def test_languages_of_mms(self, tmp_path):
        folder = save_small_mms(tmp_path / "model", {"eng": "abcdef", "fra": "abcdefgé"})
        for language, ids in {"eng": [5, 4, 6], "fra": [5, 4, 6, 12]}.items():
            model = AutoModelForCTC.from_pretrained(folder, target_lang=language, ignore_mismatched_sizes=True)
            processor = AutoProcessor.from_pretrained(folder, target_lang=language)
            ctc = interface(model, processor)
            assert ctc.label_ids("a bé") == ids
        with pytest.raises(ValueError, match="its CTC head has 13 classes, and its tokenizer 11 tokens"):
            ctc_interface(model.config, AutoProcessor.from_pretrained(folder, target_lang="eng"))

    def test_which_features_are_normalised(self, load):
        rng = np.random.default_rng(0)
        for architecture in ("parakeet_ctc", "wav2vec2-bert", "lasr_ctc"):
            ctc = ctc_interface(load(architecture)[0].config, load(architecture)[1])
            mean = ctc.extract(rng.normal(scale=0.01, size=20000).astype(np.float32)).mean()
            assert ctc.has_zero_mean == (abs(mean) < 1e-3) == (architecture != "lasr_ctc")

    def test_dropout_of_adapters_is_their_own(self, load):
        peft = pytest.importorskip("peft")
        model, processor = load("wav2vec2")
        ctc, model = ctc_interface(model.config, processor), copy.deepcopy(model)
        peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], lora_dropout=0.125))
        ctc.set_dropout(model, 0.25)
        (layer,) = model.wav2vec2.encoder.layers
        assert layer.attention.q_proj.lora_dropout["default"].p == 0.125
        assert layer.attention.dropout == layer.feed_forward.output_dropout.p == 0.25 and ctc.drops_layers(model)

    def test_freezing(self, load):
        for architecture, frozen in {"wav2vec2": "feature_extractor", "parakeet_ctc": "encoder.subsampling"}.items():
            model, processor = load(architecture)
            model = copy.deepcopy(model)
            ctc = ctc_interface(model.config, processor)
            ctc.freeze_feature_encoder(model)
            names = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
            assert names == {name for name, _ in model.named_parameters() if f"{frozen}." in name} != set()
            assert ctc.heads(model) == [list(model.children())[-1]]
        model, processor = load("wav2vec2-bert")
        ctc = ctc_interface(model.config, processor)
        with pytest.raises(ValueError, match="a wav2vec2-bert model has no feature encoder to freeze"):
            ctc.freeze_feature_encoder(model)
        assert not ctc.freezes_feature_encoder
