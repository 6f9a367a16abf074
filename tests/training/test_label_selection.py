"""Compares the choice of slimIPL's labels, and the shifts of a teacher's outputs, with enumeration and plain numpy."""

import itertools
import json

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_mlpl.inference.decoding import Hypothesis
from hf_mlpl.training.label_selection import NUM_COMPARED, ClassPrior, ConfidentLabels, TeacherLabel

BLANK = 3


class Letters:
    """Spells texts with the classes 0, 1 and 2 for a, b and c."""

    blank_id = BLANK

    def label_ids(self, text):
        return ["abc".index(letter) for letter in text]


def prior(texts, strength=1.0):
    labelled = Dataset.from_dict({"language": ["nl"] * len(texts), "text": texts})
    return ClassPrior(labelled, Letters(), BLANK + 1, strength)


def outputs(frames, seed=0):
    return torch.randn(2, frames, BLANK + 1, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)


def test_expected_counts_are_those_of_all_paths():
    log_probs = outputs(4)
    _, counts = prior(["abc"]).shifted(log_probs, torch.tensor([4, 3]), ["nl", "nl"])
    for row, frames in enumerate((4, 3)):
        expected = np.zeros(BLANK + 1)
        for path in itertools.product(range(BLANK + 1), repeat=frames):
            probability = np.exp(sum(log_probs[row, t, c].item() for t, c in enumerate(path)))
            for label in (label for label, _ in itertools.groupby(path) if label != BLANK):
                expected[label] += probability
        assert np.allclose(counts[row], expected, atol=1e-6)


def test_shifts_bring_the_labels_nearer_to_the_frequencies_of_transcripts():
    """A teacher that says a three times as often as transcripts do says it less from one update to the next."""
    alignment = prior(["abc", "bca"])
    biased = torch.randn(64, 20, BLANK + 1, generator=torch.Generator().manual_seed(1))
    biased[:, :, 0] += 1.0
    log_probs, frames, languages = biased.log_softmax(-1), torch.full((64,), 20), ["nl"] * 64

    def shares():
        shifted, _ = alignment.shifted(log_probs, frames, languages)
        _, counts = alignment.shifted(shifted.log_softmax(-1), frames, languages)
        total = sum(counts)
        return total / total.sum()

    before = shares()
    counts = alignment.shifted(log_probs, frames, languages)[1]
    for _ in range(100):
        alignment.update([TeacherLabel("nl", Hypothesis(0), count) for count in counts])
    after = shares()
    target = np.array([1, 1, 1, 0]) / 3
    assert np.abs(after - target).max() < 0.6 * np.abs(before - target).max()
    assert alignment.shift("nl", BLANK + 1)[BLANK] == 0


def test_nothing_is_shifted_without_strength_or_transcripts():
    log_probs, frames = outputs(5), torch.tensor([5, 5])
    assert torch.equal(prior(["ab"]).shifted(log_probs, frames, ["sv-SE", "sv-SE"])[0], log_probs)
    assert not prior(["ab"], strength=0.0).transcribed
    assert not prior(["ab"]).shift("nl", BLANK + 1)[2]  # no transcript has a c


def test_an_interrupted_prior_goes_on():
    one, other = prior(["abc"]), prior(["abc"])
    counts = [TeacherLabel("nl", Hypothesis(0), np.array([3.0, 1.0, 0.5, 0.0]))]
    one.update(counts)
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    one.update(counts)
    other.update(counts)
    assert np.array_equal(one.shift("nl", BLANK + 1), other.shift("nl", BLANK + 1))


def label(score, language="nl", text="abcd"):
    return TeacherLabel(language, Hypothesis(row=0, text=text, num_frames=8, letter_log_prob=score))


def test_the_surest_labels_of_each_language_are_selected():
    scores = np.random.default_rng(0).normal(-1, 0.3, 200)
    choice = ConfidentLabels(first_share=0.5)
    labels = [label(score) for score in scores] + [label(score - 5, "pt") for score in scores]
    selected = choice.select(labels, progress=0.0)
    assert selected == [*(scores >= np.median(scores)), *(scores >= np.median(scores))]
    assert choice.select([label(-9.0), label(-0.01)], progress=0.0) == [False, True]


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.3), (0.5, 0.65), (1.0, 1.0)])
def test_the_share_grows_evenly(progress, share):
    scores = np.random.default_rng(0).normal(-1, 0.3, NUM_COMPARED)
    selected = ConfidentLabels(first_share=0.3).select([label(score) for score in scores], progress)
    assert sum(selected) == pytest.approx(share * NUM_COMPARED, abs=1)


def test_empty_labels_are_learned_only_where_all_are():
    labels = [label(-1.0), label(-1e-6, text="")]
    assert ConfidentLabels(first_share=0.9).select(labels, 0.5)[1] is False
    assert ConfidentLabels(first_share=1.0).select(labels, 0.5) == [True, True]


def test_an_interrupted_selection_goes_on():
    one, other = ConfidentLabels(0.5), ConfidentLabels(0.5)
    one.select([label(score) for score in np.linspace(-2, 0, 400)], 0.0)
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    later = [label(score) for score in np.linspace(-1.5, 0, 9)]
    assert one.select(later, 0.1) == other.select(later, 0.1)
