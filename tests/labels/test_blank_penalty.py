"""Tests the choice of the blank penalty, also with a teacher whose labels lack letters."""

import math
import re
import shutil
from collections.abc import Iterator

import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset

from hf_mlpl import MlplForCTC
from hf_mlpl.data.utterances import FEATURES
from hf_mlpl.inference.decoding import Hypothesis

from ..commands import run_command
from ..ranks import run_on_two

pytest.importorskip("flashlight.lib.text", reason="needs the extra lm")
from hf_mlpl.labels import blank_penalty  # noqa: E402
from hf_mlpl.labels.blank_penalty import chosen_penalty, length_ratios  # noqa: E402


def utterances(*seconds: float, language: str = "sl") -> Dataset:
    row = dict.fromkeys(FEATURES) | {"language": language}
    rows = [row | {"id": f"u{n}", "duration_seconds": duration} for n, duration in enumerate(seconds)]
    return Dataset.from_dict({name: [row[name] for row in rows] for name in FEATURES}, features=FEATURES)


def labels(*lengths: tuple[int, float]) -> Iterator[Hypothesis]:
    """Yields hypotheses of so many letters, where the posteriors expect so many, and two that say nothing."""
    for row, (written, expected) in enumerate(lengths):
        yield Hypothesis(row=row, length_ratio=written / expected, expected_labels=expected)
    yield Hypothesis(row=len(lengths), error="damaged")
    yield Hypothesis(row=len(lengths) + 1, length_ratio=math.nan, expected_labels=math.nan)


@pytest.mark.parametrize(
    ("written", "num_tried", "chosen"),
    [
        ((3, 6, 9, 10, 12), 5, 3),
        ((12, 14), 1, 0),
        ((3, 11), 2, 1),
        ((7, 9.2, 10.4, 20), 3, 2),
        ((7, 9.7, 10.4, 20), 3, 1),
        ((1, 2, 3, 4, 5), 5, 4),
        ((2, 9, 30), 3, 1),
        ((9, 9.02), 2, 0),
        ((8, 9, 9.02), 3, 1),
    ],
)
def test_labels_are_nearly_as_long_as_expected(written, num_tried, chosen):
    """Two utterances, of which one has no letter, should have ten letters together."""
    tried = []

    def label(sample: Dataset, penalty: float) -> Iterator[Hypothesis]:
        tried.append(penalty)
        return labels((written[int(penalty)], 8.5), (0, 1.5))

    ratios = length_ratios(label, utterances(5.0, 5.0, 5.0), ["sl"])
    assert chosen_penalty(ratios) == chosen and list(ratios) == tried == list(range(num_tried))
    assert list(ratios.values()) == pytest.approx([count / 10 for count in written[:num_tried]])


def test_the_sample_is_small_and_of_short_utterances_with_a_language_model(monkeypatch):
    sizes = []

    def label(sample: Dataset, penalty: float) -> Iterator[Hypothesis]:
        assert set(sample["duration_seconds"]) <= {5.0} and set(sample["language"]) <= {"sl"}
        sizes.append(len(sample))
        return labels(*[(1, 1.0)] * len(sample))

    speech = utterances(*[40.0] * 10, *[5.0] * 20)
    monkeypatch.setattr(blank_penalty, "MOST_SECONDS", 200.0)  # 12 of the mean length
    length_ratios(label, speech, ["de", "sl"])
    monkeypatch.setattr(blank_penalty, "MOST_SAMPLED", 4)
    length_ratios(label, speech, ["sl"])
    assert sizes == [12, 12, 4, 4]
    for nothing, language in ((speech.select(range(10)), "sl"), (speech, "de")):  # to choose by
        assert chosen_penalty(length_ratios(label, nothing, [language])) == 0
    assert not any(sizes[4:])


@pytest.fixture(scope="module")
def lm(tone_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    assert run_command("build_lm.py", tone_data / "train.parquet", "--output", folder, "--order", 3) == 0
    return folder


@pytest.fixture(scope="module")
def unsure_teacher(tone_run, tmp_path_factory):
    """Returns a model that has learned the tones, but is half as sure of them: its language model leaves some out."""
    folder = tmp_path_factory.mktemp("unsure") / "model"
    shutil.copytree(tone_run / "model", folder)
    model = MlplForCTC.from_pretrained(folder)
    with torch.no_grad():
        model.ctc_head.weight *= 0.5
        model.ctc_head.bias *= 0.5
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def label(unsure_teacher, tone_data, lm, tmp_path, capsys):
    """Returns a function that labels with a language model; it returns the labels by id, and what was printed."""

    def label(name: str, *options) -> tuple[dict[str, tuple[str, str]], str]:
        files = ["--data", tone_data / "unlabelled.parquet", "--output", tmp_path / name, "--num-workers", 0]
        search = ["--lm", lm, "--lm-weight", 1.5]
        assert run_command("pseudo_label.py", "--model", unsure_teacher, *search, *files, *options) == 0
        rows = pq.read_table(tmp_path / name / "labels.parquet").to_pylist()
        assert len({row["source"] for row in rows}) == 1
        return {row["id"]: (row["text"], row["source"]) for row in rows}, capsys.readouterr().out

    return label


def test_letters_that_a_teacher_leaves_out_come_back(label):
    """And a job that has begun goes on with its own penalty, also with none, whatever the choice would be now."""
    chosen, printed = label("chosen")
    line = re.search(
        r"^blank penalty (\d); letters of labels, divided by those that the teacher expects: 0 0\.\d\d,", printed, re.M
    )
    assert line and int(line[1]) > 0
    assert all(source.endswith(f"-w1.5-p{line[1]}-b50") for _, source in chosen.values())
    named, printed = label("named", "--blank-penalty", line[1])
    assert named == chosen and "expects" not in printed
    plain, _ = label("plain", "--blank-penalty", 0)
    assert sum(len(text) for text, _ in plain.values()) < sum(len(text) for text, _ in chosen.values())
    for name, penalty in (("plain", 0), ("other", 4)):
        begun, _ = label(name, "--blank-penalty", penalty)
        again, printed = label(name)
        assert again == begun and "expects" not in printed


@pytest.mark.slow
def test_two_processes_choose_the_same(label, unsure_teacher, tone_data, lm, tmp_path):
    expected, _ = label("one")
    command = ["--model", unsure_teacher, "--lm", lm, "--lm-weight", "1.5", "--data", tone_data / "unlabelled.parquet"]
    done = run_on_two(tmp_path, "pseudo_label.py", *command, "--output", tmp_path / "two")
    assert [status for status, _ in done] == [0, 0], done
    rows = pq.read_table(tmp_path / "two" / "labels.parquet").to_pylist()
    assert {row["id"]: (row["text"], row["source"]) for row in rows} == expected
