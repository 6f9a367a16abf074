"""Files of variants: what they mean for the settings of a stage, and their mistakes."""

import re

import pytest

from hf_mlpl.training_config import load_config
from recipes.proof.variants import Labels, read_variants

from ..commands import ROOT

STAGE_2 = ROOT / "recipes" / "demo" / "language_finetune.yaml"


def read(tmp_path, text):
    path = tmp_path / "variants.yaml"
    path.write_text(text, encoding="utf-8")
    return read_variants(path, "my/data")


def test_nested_settings_change_only_what_they_name(tmp_path):
    dotted, nested = read(
        tmp_path,
        """
        dotted: {language_finetune: {slimipl.ema_decay: 0.5, learning_rate: 1e-5, dev: ["{data}/dev.parquet"]}}
        nested: {language_finetune: {slimipl: {ema_decay: 0.5}, waveform_augment: {}, spec_augment: null}}
        """,
    )
    before = load_config(STAGE_2, ["language=sl"])
    for variant in (dotted, nested):
        after = load_config(STAGE_2, [*variant.settings["language_finetune"], "language=sl"])
        assert after.slimipl.ema_decay == 0.5 != before.slimipl.ema_decay
        assert after.slimipl.cache_size == before.slimipl.cache_size
        if variant is dotted:
            assert after.learning_rate == 1e-5 and list(after.dev) == ["my/data/dev.parquet"]
        else:
            assert after.waveform_augment.noise_probability == 0.5 and after.spec_augment is None


def test_labels_come_from_elsewhere(tmp_path):
    plain, filtered, again = read(
        tmp_path,
        """
        plain:
        filtered: {labels: {filter: [mean_log_prob >= -0.3], options: [--dtype, bfloat16]}, control: }
        again: {labels: {teacher: filtered, committee: 1}}
        """,
    )
    assert plain.settings == {} and plain.labels == Labels()
    assert filtered.labels == Labels(filter=("mean_log_prob >= -0.3",), options=("--dtype", "bfloat16"))
    assert filtered.settings == {"control": ()} and again.labels == Labels("filtered", committee=1)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "holds no variant"),
        ("- soft", "must hold lines of the form"),
        ("a: [", "while parsing"),
        ("final: {}", "cannot be called 'final'"),
        ("'a b': {}", "cannot be called 'a b'"),
        ("a: 3", "a is 3"),
        ("a: {stage2: {}}", "no stage is called stage2; there are supervised, control, language_finetune"),
        ("a: {mixed: 600}", "mixed is 600"),
        ("a: {mixed: {seed: 3}}", "cannot set seed"),
        ("a: {labels: {teachers: a}}", "labels has no teachers"),
        ("a: {labels: supervised}", "labels is 'supervised'"),
        ("a: {labels: {teacher: b}}\nb: {}", "the teacher is 'b'; it can be language_finetune, supervised"),
        ("a: {labels: {filter: characters > 0}}", "it must be a list"),
        ("a: {labels: {committee: 0}}", "committee of labels is 0; it must be a whole number, 1 or more"),
        ("a: {labels: {committee: yes}}", "committee of labels is True; it must be"),
        (
            "a: \nb: {labels: {teacher: a, committee: 3}}",
            "committee of labels is 3, and its teacher a is trained with",
        ),
    ],
)
def test_a_mistake_is_one_line(tmp_path, text, line):
    with pytest.raises(ValueError, match=re.escape(line)) as raised:
        read(tmp_path, text)
    assert str(raised.value).startswith(str(tmp_path)) and "\n" not in str(raised.value)
