"""Judges series of probes, most of which are of real runs: rounded, and with fewer numbers."""

import pytest

from hf_mlpl.training.label_judgement import best_probe, describe_outcome, describe_probe, judge_labels

# A weak teacher of spoken digits (50 % CER on the sample) with the settings of the demo:
# its labels lose letters, and become worse. The series is known without the row `cer`, which is of the true texts.
DELETIONS = {
    "length_ratio": (0.772, 0.698, 0.650, 0.654, 0.650),
    "length": (1.0, 0.904, 0.842, 0.847, 0.842),
    "empty": (0.0, 0.02, 0.02, 0.02, 0.02),
    "agreement": (None, 0.822, 0.796, 0.879, 0.967),
    "cer": (0.500, 0.555, 0.550, 0.555, 0.560),
}
DEV = {
    "dev_cer": (0.715, 0.710, 0.770, 0.780, 0.790),
    "dev_change_low": (None, -0.049, 0.015, 0.024, 0.031),
}
# Another teacher, trained with augmentation: labels lose letters that were wrong, and their CER falls.
BETTER = {
    "length_ratio": (1.01, 0.876, 0.874),
    "length": (1.0, 0.867, 0.865),
    "cer": (0.495, 0.448, 0.445),
    "dev_cer": (0.331, 0.315, 0.322),
}


def series(**columns) -> list[dict]:
    """Returns probes every 50 updates from 100 on, each of which has learned from labels since the one before."""
    usual = {"labels": 50, "empty": 0.0, "language_agreement": 1.0, "agreement": 0.9}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [usual | row | {"update": 100 + 50 * i, "learned": 30 * i} for i, row in enumerate(rows)]


def verdicts(probes) -> list:
    """Judges a series as it grows."""
    return [judge_labels(probes[: i + 1], is_last=i + 1 == len(probes)) for i in range(len(probes))]


def test_drift_into_deletions_is_found_without_references():
    found = verdicts(series(**DELETIONS))
    assert found[:3] == [None] * 3
    assert (found[3].kind, found[3].update, found[3].best) == ("drift", 250, 100)
    assert found[3].reason == (
        "labels have 85% of the characters that they had at update 100: 0.65 of what transcripts of so much speech "
        "have, after 0.77"
    )
    cer = dict(zip((100, 150, 200, 250, 300), DELETIONS["cer"], strict=True))
    assert cer[found[3].best] == min(cer.values())


def test_a_jump_of_a_probe_is_no_verdict_unless_it_is_the_last():
    lengths = DELETIONS["length_ratio"]
    jump = series(length_ratio=(lengths[0], lengths[2], lengths[1], lengths[3]), length=(1.0, 0.842, 0.904, 0.847))
    *before, last = verdicts(jump)
    assert before == [None] * 3 and last.kind == "drift"


def test_what_was_too_long_may_become_shorter():
    """A teacher that inserts letters, and loses them: 20 % of the length, towards that of transcripts."""
    assert verdicts(series(length_ratio=(1.2, 1.08, 0.98, 0.95), length=(1, 0.9, 0.82, 0.8))) == [None] * 4
    assert verdicts(series(length_ratio=(0.8, 0.9, 1.0, 1.1), length=(1, 1.12, 1.25, 1.37))) == [None] * 4


def test_labels_that_grow_without_end_are_found():
    assert verdicts(series(length_ratio=(1.05, 1.3, 1.4), length=(1, 1.24, 1.33)))[-1].kind == "drift"


def test_labels_that_become_better_go_on():
    assert verdicts(series(**BETTER)) == [None] * 3
    assert best_probe(series(**BETTER))["update"] == 150  # by dev
    without_dev = {name: values for name, values in BETTER.items() if name != "dev_cer"}
    assert verdicts(series(**without_dev)) == [None] * 3
    # so much shorter would be a fault, but for the error rate on dev
    shorter = BETTER | {"length_ratio": (1.01, 0.84, 0.83)}
    assert verdicts(series(**shorter)) == [None] * 3
    assert verdicts(series(**shorter | {"dev_cer": (0.331, 0.335, 0.34)}))[-1].kind == "drift"


def test_the_error_rate_on_dev_decides_beyond_its_noise():
    lengths = dict.fromkeys(("length_ratio", "length"), (1.0,) * 5)
    found = verdicts(series(**lengths, **DEV))
    assert [verdict and verdict.kind for verdict in found] == [None, None, None, "dev", "dev"]
    assert found[3].reason == "CER on dev is 78.0%, and was 71.5% at update 100" and found[3].best == 150


def test_labels_that_collapse_have_not_settled():
    lengths = dict.fromkeys(("length_ratio", "length"), (1.0,) * 4)
    probes = series(**lengths, commonest=(0.1, 1.0, 1.0, 1.0), agreement=(None, 0.1, 1.0, 1.0))
    verdict = judge_labels(probes)
    assert (verdict.kind, verdict.best) == ("collapse", 100)
    assert verdict.reason == "100% of 50 pseudo-labels are the same text"
    assert judge_labels([probe | {"commonest": 1.0, "agreement": None} for probe in probes]) is None  # as before


@pytest.mark.parametrize(
    ("name", "values", "kind"),
    [
        ("empty", (0.02, 0.06, 0.08, 0.11), "empty"),
        ("empty", (0.10, 0.12, 0.14, 0.14), None),
        ("language_agreement", (0.95, 0.92, 0.80, 0.78), "language"),
        ("language_agreement", (0.6, 0.62, 0.55, 0.52), None),
    ],
)
def test_empty_labels_and_lost_languages(name, values, kind):
    columns = {"length_ratio": (1.0,) * 4, "length": (1.0,) * 4, name: values}
    last = verdicts(series(**columns))[-1]
    assert (last and last.kind) == kind


def test_labels_that_do_not_change_have_settled():
    """Not while a cache is filled, when no update learns from labels."""
    lengths = dict.fromkeys(("length_ratio", "length"), (1.0,) * 4)
    probes = series(**lengths, agreement=(None, 0.97, 0.992, 0.995))
    verdict = judge_labels(probes)
    assert (verdict.kind, verdict.best, verdict.update) == ("settled", 250, 250)
    assert verdict.reason == "only 0.5% of the characters of labels have changed since the probe before"
    assert judge_labels(probes[:3]) is None
    assert judge_labels([probe | {"learned": 0} for probe in probes]) is None


def test_probes_of_which_nothing_can_be_read():
    probes = [{"update": 50 * i, "learned": i, "labels": 0} for i in range(4)]
    assert verdicts(probes) == [None] * 4 and best_probe(probes) is probes[-1]
    assert describe_probe(probes[0]) == "none of the probed utterances can be read"


def test_lines():
    probe = series(**DELETIONS, **DEV)[1] | {"agreement_with_first": 0.8222}
    assert describe_probe(probe) == (
        "50 probed labels have 0.70 of the characters of transcripts, 2% are empty, 82.2% as in the probe before, "
        "82.2% as in the first, CER 55.5%, dev CER 71.0%"
    )
    verdict = judge_labels(series(**DELETIONS)[:4])._asdict()
    outcome = {"update": 250, "of": 300, "start": 100, "result": 100, "is_stopped": True, "verdict": verdict}
    line = describe_outcome(outcome)
    assert line.startswith("slimIPL ended at update 250 of 300 because labels have 85% of the characters")
    assert line.endswith("; the model is the teacher of update 100, before slimIPL")
    line = describe_outcome(outcome | {"update": 300, "result": 300, "is_stopped": False})
    assert line.startswith("slimIPL made all of 300 updates, though at update 250 labels have 85%")
    assert describe_outcome(outcome | {"verdict": None}) == "slimIPL made all of 300 updates"
