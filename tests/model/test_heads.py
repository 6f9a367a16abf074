"""Checks the two heads: language identification, new tokens, new languages, and frozen parameters."""

import math

import pytest
import torch
from transformers import Wav2Vec2CTCTokenizer

from hf_mlpl import MlplForCTC, MlplTokenizer

from .test_modeling_mlpl import LABELS, LANGUAGE_IDS, make_batch, make_model, make_utterances


def make_tokenizer(folder, *lines: str) -> MlplTokenizer:
    path = folder / f"{'-'.join(lines).replace(' ', '')}.lst"
    path.write_text("".join(line + "\n" for line in lines))
    return MlplTokenizer(path)


def saved_and_loaded(model, folder) -> MlplForCTC:
    model.save_pretrained(folder)
    loaded, report = MlplForCTC.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    return loaded


def logits_of(model) -> torch.Tensor:
    return model(**make_batch(make_utterances(dtype=torch.float32))).logits


# ------------------------------------------------------------------------------------------ language identification


def test_languages_come_with_their_probabilities_likeliest_first():
    model = make_model(dtype=torch.float32).eval()
    utterances = make_utterances(dtype=torch.float32)
    answers = model.identify_language(**make_batch(utterances, "garbage"), top_k=2)
    for utterance, answer in zip(utterances, answers, strict=True):
        frames = model.model(utterance[None]).last_hidden_state[0].tolist()
        mean = [math.fsum(column) / len(frames) for column in zip(*frames, strict=True)]
        scores = [
            math.fsum(w * x for w, x in zip(row, mean, strict=True)) + bias
            for row, bias in zip(model.lid_head.weight.tolist(), model.lid_head.bias.tolist(), strict=True)
        ]
        total = math.fsum(map(math.exp, scores))
        expected = {name: math.exp(s) / total for name, s in zip(model.config.languages, scores, strict=True)}
        best = sorted(expected, key=expected.get, reverse=True)[:2]
        assert list(answer) == best
        assert answer == pytest.approx({name: expected[name] for name in best}, rel=1e-5)
        assert model.identify_language(utterance[None]) == [pytest.approx({best[0]: expected[best[0]]}, rel=1e-5)]


def test_asking_for_more_languages_than_there_are_gives_all():
    (answer,) = make_model(dtype=torch.float32).eval().identify_language(torch.zeros(1, 4, 6), top_k=60)
    assert sorted(answer) == ["de", "en", "sv-SE"]
    assert sum(answer.values()) == pytest.approx(1)


def test_identification_without_languages_is_refused():
    with pytest.raises(ValueError, match="this model has no languages.*resize_lid_head"):
        make_model(languages=[]).identify_language(torch.zeros(1, 4, 6))
    with pytest.raises(ValueError, match="top_k is 0; it must be at least 1"):
        make_model().identify_language(torch.zeros(1, 4, 6), top_k=0)


# --------------------------------------------------------------------------------------------------- a new tokenizer


def test_tokens_keep_their_rows_and_the_blank_stays_last(tmp_path):
    old = make_tokenizer(tmp_path, "|", "a", "b c", "d", "e", "f")
    new = make_tokenizer(tmp_path, "x", "c", "b", "|", "f a", "y e", "z", "d")
    expected = {"c": 2, "b": 2, "|": 0, "f": 5, "e": 4, "d": 3}  # new token -> old row; of a shared class its first
    model = make_model(dtype=torch.float32).eval()
    old_logits, languages = logits_of(model), model.lid_head.weight.clone()
    torch.manual_seed(1)
    model.resize_ctc_head(old, new)

    assert (model.config.vocab_size, model.config.blank_token_id) == (9, 8) == (len(new), new.blank_token_id)
    for resized in (model, saved_and_loaded(model, tmp_path / "model")):
        logits = logits_of(resized)
        assert logits.shape == (5, 5, 9)
        for token, row in expected.items():
            torch.testing.assert_close(logits[..., new.get_vocab()[token]], old_logits[..., row])
        torch.testing.assert_close(logits[..., -1], old_logits[..., -1])
        assert torch.equal(resized.lid_head.weight, languages)
        assert not resized.ctc_head.training

    # What is new starts as in a new model: uniform up to sqrt(3 / 8), and not as some old row.
    for token in ("x", "z"):
        row = model.ctc_head.weight[new.get_vocab()[token]]
        assert 0.1 < row.abs().max() <= math.sqrt(3 / 8)
    labels = torch.tensor([new("xzfad")["input_ids"]])
    model(make_utterances([60], torch.float32)[0][None], labels=labels).loss.backward()
    assert model.ctc_head.weight.grad.any(dim=1).all()


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path):
    old, new = make_tokenizer(tmp_path, *"|bcdef"), make_tokenizer(tmp_path, *"|bc")
    model = make_model()
    before = model.ctc_head
    with pytest.raises(ValueError, match="old_tokenizer has 4 classes, the CTC head 7; pass the tokenizer that"):
        model.resize_ctc_head(new, old)
    (tmp_path / "vocab.json").write_text('{"<pad>": 0, "<unk>": 1, "|": 2, "a": 3}')
    other = Wav2Vec2CTCTokenizer(tmp_path / "vocab.json", bos_token=None, eos_token=None)
    with pytest.raises(ValueError, match="padding is class 0 of a Wav2Vec2CTCTokenizer; it must be the blank.* 3"):
        model.resize_ctc_head(old, other)
    assert model.ctc_head is before and model.config.vocab_size == 7


# ---------------------------------------------------------------------------------------------------- new languages


@pytest.mark.parametrize(
    "languages", [["sv-SE", "de", "en"], ["fr", "sv-SE"], ["de"], ["de", "en", "sv-SE", "uk", "vot"], ["fr"]]
)
def test_languages_keep_their_rows(languages, tmp_path):
    model = make_model(dtype=torch.float32).eval()
    old_names, weight, bias = model.config.languages, model.lid_head.weight.clone(), model.lid_head.bias.clone()
    logits = logits_of(model)
    model.resize_lid_head(languages)
    for resized in (model, saved_and_loaded(model, tmp_path)):
        assert resized.config.languages == languages
        assert resized.lid_head.weight.shape == (len(languages), 8)
        for row, name in enumerate(languages):
            if name in old_names:
                assert torch.equal(resized.lid_head.weight[row], weight[old_names.index(name)])
                assert torch.equal(resized.lid_head.bias[row], bias[old_names.index(name)])
            else:
                assert 0 < resized.lid_head.weight[row].abs().max() <= math.sqrt(3 / 8)
        assert torch.equal(logits_of(resized), logits)
        assert sorted(resized.identify_language(torch.ones(1, 5, 6), top_k=9)[0]) == sorted(languages)


def test_from_languages_to_none_and_back(tmp_path):
    model = make_model(dtype=torch.float32).eval()
    logits = logits_of(model)
    model.resize_lid_head([])
    model = saved_and_loaded(model, tmp_path / "none")
    assert model.lid_head is None and model.config.languages == []
    assert torch.equal(logits_of(model), logits)
    model.resize_lid_head(["de", "fr"])
    model = saved_and_loaded(model, tmp_path / "two")
    output = model(**make_batch(make_utterances(dtype=torch.float32)), language_ids=LANGUAGE_IDS.clamp(max=1))
    assert output.language_log_probs.shape == (5, 2)
    output.loss.backward()
    assert model.lid_head.weight.grad.any()


def test_a_language_named_twice_is_refused():
    model = make_model()
    with pytest.raises(ValueError, match="languages must be distinct, but are de, en, de"):
        model.resize_lid_head(["de", "en", "de"])
    assert model.config.languages == ["de", "en", "sv-SE"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_resized_heads_have_the_models_dtype(dtype, tmp_path):
    model = make_model(dtype=dtype)
    model.resize_lid_head(["de", "fr"])
    tokenizer = make_tokenizer(tmp_path, *"|bcdef")
    model.resize_ctc_head(tokenizer, tokenizer)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


# --------------------------------------------------------------------------------------------------------- freezing


@pytest.mark.parametrize(
    "method, frozen", [("freeze_feature_encoder", "model.front_end."), ("freeze_base_model", "model.")]
)
def test_what_is_frozen_stays_as_it_is_in_training(method, frozen):
    """The names are those of `Wav2Vec2ForCTC`."""
    model = make_model(dtype=torch.float32)
    getattr(model, method)()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    batch = make_batch(make_utterances(dtype=torch.float32))
    model(**batch, labels=LABELS, language_ids=LANGUAGE_IDS).loss.backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == name.startswith(frozen), name


def test_a_frozen_front_end_with_gradient_checkpointing():
    """The first layer's input has no gradient then, which must not end the others'."""
    model = make_model(dtype=torch.float32)
    model.freeze_feature_encoder()
    inputs = {**make_batch(make_utterances(dtype=torch.float32)), "labels": LABELS, "language_ids": LANGUAGE_IDS}
    model(**inputs).loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    model.gradient_checkpointing_enable()
    model(**inputs).loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-5, atol=1e-7, msg=name)
