"""Tests schedules, groups of parameters, and what is frozen, with hand-made values and runs."""

import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCTC

from hf_mlpl.ctc_models import ctc_interface
from hf_mlpl.inference.loading import load_model
from hf_mlpl.training.loop import train
from hf_mlpl.training.optimization import build_optimizer, freeze, learning_rate_factor, set_learning_rates
from hf_mlpl.training_config import TrainingConfig, load_config

from ..random_model import LANGUAGES, save_folder
from ..small_models import save_small_model
from .test_loop import rows, weights

pytestmark = pytest.mark.usefixtures("one_thread")


def settings(model="model", **changes) -> TrainingConfig:
    return TrainingConfig(output_dir="", model=str(model), train=[""], **{"max_updates": 200} | changes)


@pytest.fixture(scope="module")
def wav2vec2(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("models") / "wav2vec2", "wav2vec2", letters="abcdefgö")


def test_tri_stage_is_fairseqs():
    """fairseq's docstring: linspace(init_lr, lr, warmup_steps + 1), lr, lr * exp(-t * decay_factor)."""
    decay_factor = -math.log(0.05) / 100
    expected = [*np.linspace(0.01, 1, 21)[:20], *[1] * 80, *(math.exp(-t * decay_factor) for t in range(100))]
    found = [learning_rate_factor(update, settings(schedule="tri-stage")) for update in range(200)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    short = [learning_rate_factor(update, settings(schedule="tri-stage", max_updates=3)) for update in range(4)]
    assert short[0] == 1 and short[-1] == 0.05 and sorted(short, reverse=True) == short


def test_heads_have_a_learning_rate_of_their_own(tmp_path, wav2vec2):
    for folder in (wav2vec2, save_folder(tmp_path / "mlpl", LANGUAGES)):
        model, processor = load_model(folder)
        ctc = ctc_interface(model.config, processor)
        config = settings(folder, learning_rate=0.1, head_learning_rate=0.3, warmup_updates=4, optimizer="adamw")
        freeze(model, ctc, config)
        optimizer = build_optimizer(model, config, ctc.heads(model))
        assert set_learning_rates(optimizer, 1, config) == pytest.approx(0.05)
        rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        for name, parameter in model.named_parameters():
            expected = 0.15 if "head" in name else None if "feature_extractor" in name else 0.05
            assert rates.get(id(parameter)) == (expected and pytest.approx(expected)), name


def test_feature_encoders_are_frozen_as_usual(tmp_path, wav2vec2):
    """Those of Wav2Vec2 and its kin, and no gradient is computed in them."""
    conformer, ours = save_small_model(tmp_path / "c", "wav2vec2-bert"), save_folder(tmp_path / "mlpl", LANGUAGES)

    def frozen(folder, freeze_feature_encoder):
        model, processor = load_model(folder)
        ctc = ctc_interface(model.config, processor)
        freeze(model, ctc, settings(folder, freeze_feature_encoder=freeze_feature_encoder))
        return model, {name for name, parameter in model.named_parameters() if not parameter.requires_grad}

    model, names = frozen(wav2vec2, None)
    theirs = AutoModelForCTC.from_pretrained(wav2vec2)
    theirs.freeze_feature_encoder()
    assert names == {name for name, parameter in theirs.named_parameters() if not parameter.requires_grad} != set()
    assert not model.wav2vec2.feature_extractor(torch.zeros(1, 4000)).requires_grad
    assert frozen(wav2vec2, True)[1] == names and not frozen(wav2vec2, False)[1]
    assert not frozen(conformer, None)[1] and not frozen(ours, None)[1]
    assert {name.split(".")[1] for name in frozen(ours, True)[1]} == {"front_end"}
    with pytest.raises(ValueError, match="wav2vec2-bert model has no feature encoder to freeze"):
        frozen(conformer, True)


@pytest.mark.slow
def test_the_heads_alone_are_trained_at_first(tone_data, wav2vec2, tmp_path):
    def run(name, **changes):
        changes = {"max_updates": 3, "dev": [], "spec_augment": None, "tokens": None, "model_fields": {}} | changes
        changes |= {"model": str(wav2vec2), "output_dir": str(tmp_path / name), "allow_collapsed": True}
        overrides = [f"{name}={'null' if value is None else value}" for name, value in changes.items()]
        return train(load_config(tone_data / "tones.yaml", overrides)).parent

    before = AutoModelForCTC.from_pretrained(wav2vec2).state_dict()
    heads_alone = run("heads", freeze_encoder_updates=3)
    changed = {name for name, value in weights(heads_alone).items() if not torch.equal(value, before[name])}
    assert changed == {"lm_head.weight", "lm_head.bias"}
    assert [row["gradient_norm"] for row in rows(heads_alone)][0] > 0
    later = run("later", freeze_encoder_updates=2)
    changed = {name for name, value in weights(later).items() if not torch.equal(value, before[name])}
    assert len(changed) > 10 and not [name for name in changed if "feature_extractor" in name]
