"""Tests training from a trained model: resized heads, languages that it lacks, and models of the old port."""

import json
import logging
import re

import pytest
import torch
from huggingface_hub import HfApi
from transformers import AutoModelForCTC

from hf_mlpl import MlplForCTC, MlplProcessor, MlplTokenizer
from hf_mlpl.data.utterances import read_utterances
from hf_mlpl.training.loop import train
from hf_mlpl.training.model_setup import build_model
from hf_mlpl.training_config import load_config

from ..port_folder import LETTERS as PORT_LETTERS
from ..port_folder import port_weights, save_port
from ..random_model import RATE, save_folder, sweep
from ..small_models import save_small_encoder, save_small_model
from .test_loop import Killed, assert_equal_bits, kill_at, losses

pytestmark = pytest.mark.usefixtures("one_thread")

TOKENS = ["|", "d", "ø", "a", "é", "b", "c", "e", "f", "g", "ö", "ñ"]  # others, in another order
LINES = {
    "language-ID head: 2 -> 3 languages: 1 kept, 2 new (nn-NO de-AT), 1 dropped",
    "CTC head: 10 -> 12 tokens: 9 kept, 3 new (ø é ñ), 1 dropped",
}


@pytest.fixture
def config(tone_data, tmp_path):
    """Returns settings that start from a trained model."""

    def config(model, *overrides, tokens=None):
        if tokens is not None:
            (tmp_path / "tokens.lst").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
            tokens = tmp_path / "tokens.lst"
        settings = [f"model={model}", "model_fields={}", f"tokens={tokens or 'null'}", "dev=[]", "max_updates=4"]
        return load_config(tone_data / "tones.yaml", [*settings, f"output_dir={tmp_path / 'run'}", *overrides])

    return config


def logged(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if "head: " in record.getMessage()]


def test_known_tokens_and_languages_keep_their_rows(config, tone_run, caplog):
    """Bit for bit, wherever they stand in the new lists; the blank keeps its row, too."""
    tokens = [token for token in TOKENS if token != "b"]
    settings = config(tone_run / "model", "languages=[nn-NO, sv-SE, de-AT]", tokens=tokens)
    model, processor = build_model(settings, read_utterances(settings.train))
    assert set(logged(caplog)) == LINES
    before = MlplForCTC.from_pretrained(tone_run / "model")
    old_tokens = [*(tone_run / "model" / "tokens-all.lst").read_text(encoding="utf-8").split(), "<blank>"]
    heads = [
        (model.ctc_head, before.ctc_head, [*tokens, "<blank>"], old_tokens),
        (model.lid_head, before.lid_head, ["nn-NO", "sv-SE", "de-AT"], ["de", "sv-SE"]),
    ]
    for head, old_head, names, old_names in heads:
        assert head.out_features == len(names)
        for row, name in enumerate(names):
            if name in old_names:
                assert torch.equal(head.weight[row], old_head.weight[old_names.index(name)])
                assert torch.equal(head.bias[row], old_head.bias[old_names.index(name)])
            else:
                assert 0 < head.weight[row].abs().max() <= (3 / 32) ** 0.5
    rest = {name: tensor for name, tensor in model.state_dict().items() if "head" not in name}
    torch.testing.assert_close(rest, {name: before.state_dict()[name] for name in rest}, rtol=0, atol=0)
    assert processor.tokenizer.convert_ids_to_tokens(range(12)) == [*tokens, "<blank>"]
    assert (model.config.vocab_size, model.config.languages) == (12, ["nn-NO", "sv-SE", "de-AT"])

    caplog.clear()
    build_model(settings, read_utterances(settings.train), is_continued=True)
    assert not logged(caplog)


def test_the_tokenizer_keeps_what_a_tokens_file_does_not_say(config, tmp_path):
    """Word boundaries around texts, entries without a text, and the characters of languages."""
    folder = save_folder(tmp_path / "model", ["de", "sv-SE"])
    (tmp_path / "old.lst").write_text("|\n<unk>\n" + "\n".join("abcdefghijklmn") + "\n")
    old = MlplTokenizer(tmp_path / "old.lst", "|", silent_entries=["<unk>"], language_characters={"sl": "abc"})
    old.save_pretrained(folder)
    settings = config(folder, tokens=["|", "<unk>", "ö", *"abcdefg"])
    _, processor = build_model(settings, read_utterances(settings.train))
    processor.save_pretrained(tmp_path / "saved")
    new = MlplProcessor.from_pretrained(tmp_path / "saved").tokenizer
    assert new("aö")["input_ids"] == [0, 3, 2, 0]
    assert new.decode([1, 3, 2], group_tokens=False) == "aö" and new("<unk>")["input_ids"] == [0]
    assert new.language_characters == {"de": "abcde", "sl": "abc", "sv-SE": "defgö"}


def test_a_resized_run_goes_on_bit_for_bit_and_not_with_other_tokens(config, tone_run, tmp_path, monkeypatch, caplog):
    def settings(name, tokens=TOKENS):
        overrides = ["languages=[de, sv-SE, nn-NO]", "save_every=2", f"output_dir={tmp_path / name}"]
        return config(tone_run / "model", *overrides, tokens=tokens)

    whole = train(settings("whole"))
    assert len(logged(caplog)) == 2
    kill_at(monkeypatch, 4)
    with pytest.raises(Killed):
        train(settings("killed"))
    monkeypatch.undo()
    caplog.clear()
    with pytest.raises(ValueError, match=r"belongs to a run with other data: tokens \(ids, texts or their order\)"):
        train(settings("killed", TOKENS[::-1]))
    with pytest.raises(ValueError, match=r"other settings: languages was \['de', 'sv-SE', 'nn-NO'\], is None"):
        train(config(tone_run / "model", "save_every=2", f"output_dir={tmp_path / 'killed'}", tokens=TOKENS))
    assert_equal_bits(train(settings("killed")).parent, whole.parent)
    assert not logged(caplog)
    model = MlplForCTC.from_pretrained(whole)
    assert model.config.languages == ["de", "sv-SE", "nn-NO"] and model.config.vocab_size == len(TOKENS) + 1


def test_the_models_own_tokens_and_languages_change_nothing(config, tone_run, tone_data, caplog):
    own = config(tone_run / "model", "languages=[de, sv-SE]", f"tokens={tone_data / 'tokens-all.lst'}")
    models = [build_model(settings, read_utterances(own.train)) for settings in (own, config(tone_run / "model"))]
    torch.testing.assert_close(*(model.state_dict() for model, _ in models), rtol=0, atol=0)
    assert models[0][1].tokenizer.get_vocab() == models[1][1].tokenizer.get_vocab()
    assert not logged(caplog)


def test_languages_and_characters_that_the_model_lacks_name_the_remedy(config, tone_run, tmp_path, caplog):
    folder = save_folder(tmp_path / "norwegian", ["no", "de"])
    with pytest.raises(ValueError, match="the model has no class for sv-SE; it knows no, de. Set") as caught:
        train(config(folder))
    assert "name-languages" not in str(caught.value)
    remedy = re.search(r'"(languages=.*)"$', str(caught.value)).group(1)
    assert remedy == "languages=['no', de, sv-SE]"  # YAML takes no without quotes for false
    caplog.set_level(logging.WARNING)
    result = MlplForCTC.from_pretrained(train(config(folder, remedy)))  # whose tokens have no ö
    assert result.config.languages == ["no", "de", "sv-SE"]
    (line,) = [line for line in caplog.messages if line.startswith("characters that the tokenizer lacks: ")]
    assert "ö" in line and line.endswith(
        "set `tokens` to a file that has them, as `hf-mlpl build-tokenizer` writes it"
    )

    numbered = save_folder(tmp_path / "numbered", ["language_0", "language_1"])
    with pytest.raises(ValueError, match="`hf-mlpl name-languages` finds the names of those with a number$"):
        train(config(numbered, f"output_dir={tmp_path / 'other'}"))
    with pytest.raises(ValueError, match="^nowhere.lst: no such tokens file; `hf-mlpl build-tokenizer` writes it$"):
        train(config(tone_run / "model", "tokens=nowhere.lst", f"output_dir={tmp_path / 'other'}"))
    many = save_folder(tmp_path / "many", [f"l{number}" for number in range(20)])
    with pytest.raises(ValueError, match=r"for de, sv-SE; it knows l0, .* l7, 12 others\. Set .* l19, de, sv-SE\]\"$"):
        train(config(many, f"output_dir={tmp_path / 'other'}"))
    with pytest.raises(ValueError, match="'unknown characters': 64}; to learn them, set `tokens`"):
        train(config(tone_run / "model", f"output_dir={tmp_path / 'other'}", tokens=["|", "x"]))


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_model_of_the_old_port_is_fine_tuned_as_it_is(config, tmp_path, caplog, per_channel):
    """The released model on the Hub is one: no language-ID head, and classes with weights of half precision here."""
    weights = {name: tensor.half() for name, tensor in port_weights(per_channel).items()}
    folder = save_port(tmp_path / "port", weights, config={"torch_dtype": "float16"})
    settings = config(folder, "model_fields={layerdrop: 0.0, attention_dropout: 0.25}")
    model, processor = build_model(settings, read_utterances(settings.train))
    assert logged(caplog) == ["language-ID head: 0 -> 2 languages: 0 kept, 2 new (de sv-SE), 0 dropped"]
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    assert (model.config.layerdrop, model.config.attention_dropout) == (0.0, 0.25)
    assert model.config.layer_norm_per_channel == per_channel
    features = processor(sweep(2), sampling_rate=RATE)["input_features"]
    loaded = AutoModelForCTC.from_pretrained(folder, dtype=torch.float32).eval()
    assert torch.equal(model.eval()(features).logits, loaded(features).logits)

    with pytest.raises(ValueError, match=r"cannot have the model_fields {'num_hidden_layers': 3}"):
        build_model(config(folder, "model_fields={num_hidden_layers: 3}"), read_utterances(settings.train))


def test_fine_tuning_the_old_port_learns_and_says_where_it_started(config, tmp_path):
    folder = save_port(tmp_path / "port")
    settings = config(folder, "max_updates=12", tokens=[*(x for x in PORT_LETTERS[:-1]), "ö"])
    result = train(settings)
    loss = losses(result.parent)
    assert loss[12] < loss[1]
    model, processor = MlplForCTC.from_pretrained(result), MlplProcessor.from_pretrained(result)
    assert model.config.languages == ["de", "sv-SE"]
    assert processor.tokenizer.decode([1, 2, 17], group_tokens=False) == "eö"  # <unk> stays silent
    assert json.loads((result.parent / "run.json").read_text())["started_from"]["name"] == "port"


def test_half_precision_weights_are_trained_in_fp32(config, tone_run, tmp_path):
    MlplForCTC.from_pretrained(tone_run / "model").bfloat16().save_pretrained(tmp_path / "half")
    MlplProcessor.from_pretrained(tone_run / "model").save_pretrained(tmp_path / "half")
    settings = config(tmp_path / "half")
    model, _ = build_model(settings, read_utterances(settings.train))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_models_of_other_architectures(config, tone_data, tmp_path, caplog):
    """They take the tokens of the settings, have no languages, and their loss is a mean unless the fields say sum."""
    folder = save_small_model(tmp_path / "model", "wav2vec2", letters="abcdeß")
    encoder = save_small_encoder(tmp_path / "encoder", "wav2vec2-bert")
    tokens = f"tokens={tone_data / 'tokens-all.lst'}"
    own = config(folder)
    train_set = read_utterances(own.train)
    for settings, reduction, lines in (
        (own, "mean", []),
        (config(folder, tokens), "mean", ["CTC head: 11 -> 11 tokens: 8 kept, 3 new (f g ö), 3 dropped"]),
        (
            config(encoder, tokens, "model_fields={ctc_loss_reduction: sum}"),
            "sum",
            ["CTC head: 0 -> 11 tokens: 0 kept, 11 new (| a b c d e f g ...), 0 dropped"],
        ),
        (config(folder, "model_fields={num_hidden_layers: 3}"), "mean", []),
    ):
        caplog.clear()
        model, processor = build_model(settings, train_set)
        assert logged(caplog) == lines and model.config.ctc_loss_reduction == reduction
        assert processor.tokenizer.pad_token_id == model.config.pad_token_id
    assert "that start at random: wav2vec2.encoder.layers.2." in caplog.text
    with pytest.raises(ValueError, match=r"languages is \['de'\], and .*model has no language-ID head, .*leave out"):
        build_model(config(folder, "languages=[de]"), train_set)
    with pytest.raises(ValueError, match="encoder: has no CTC head, .*; set `tokens`"):
        build_model(config(encoder), train_set)


def test_model_fields_are_checked_as_early_as_possible(config, tone_run, tmp_path, local_hub):
    """Those of our models and of folders before anything is loaded; only a repository must first say what it holds."""
    folder = save_small_model(tmp_path / "model", "wav2vec2")
    for model in (tone_run / "model", "tiny", "nowhere"):
        with pytest.raises(ValueError, match="model_fields has mask_time_prob; accepted are hidden_size"):
            config(model, "model_fields={mask_time_prob: 0.1}", tokens=TOKENS)
    assert config(folder, "model_fields={mask_time_prob: 0.1}").model_fields == {"mask_time_prob": 0.1}
    repo = HfApi().create_repo("ours").repo_id
    HfApi().upload_folder(repo_id=repo, folder_path=tone_run / "model")
    settings = config(repo, "model_fields={mask_time_prob: 0.1}")
    with pytest.raises(ValueError, match="model_fields has mask_time_prob; accepted are hidden_size"):
        build_model(settings, read_utterances(settings.train))
