"""Calibrations: learned from made labels whose error rates follow their scores, and from those of a trained model."""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from hf_mlpl.data.utterances import FEATURES, read_utterances, write_utterances
from hf_mlpl.labels.calibrating import calibrate, read_judged_labels, spearman
from hf_mlpl.labels.calibration import FEWEST_LABELS, MOST_DEVIATIONS, Calibration, Term, fit, logistic_ridge
from hf_mlpl.labels.filtering import filter_labels
from hf_mlpl.labels.filters import DEFAULT_FILTERS, LabelFilter
from hf_mlpl.labels.schema import LABEL_FEATURES, SCORES

from ..commands import run_command
from .test_filters import made_label

LETTERS = "abcdefgh"


def made_labels(count: int, speakers: int = 4, seed: int = 0) -> tuple[list[dict], list[dict]]:
    """Returns labels and their utterances; two scores tell, with noise, how probably each letter is wrong."""
    random, labels, utterances = np.random.default_rng(seed), [], []
    for number in range(count):
        doubt = random.uniform(0.02, 1)
        spoken = random.choice(list(LETTERS), 12)
        wrong = random.random(12) < 0.7 * doubt
        text = "".join(np.where(wrong, "x", spoken))
        scores = dict.fromkeys(SCORES) | {
            "letter_log_prob": -doubt * float(np.exp(random.normal(0, 0.4))),
            "lowest_word_confidence": float(np.clip(1 - doubt + random.normal(0, 0.2), 0.01, 1)),
            "blank_ratio": float(random.random()),
            "mean_log_prob": -0.1,  # says nothing
        }
        values = {"text": text, "speaker": f"s{number % speakers}", "duration_seconds": float(random.uniform(1, 3))}
        labels.append(made_label(number, **scores, **values))
        utterance = dict.fromkeys(FEATURES) | {name: labels[-1][name] for name in FEATURES}
        utterances.append(utterance | {"text": "".join(spoken), "source": None})
    return labels, utterances


@pytest.fixture
def judged(tmp_path):
    labels, utterances = made_labels(400)
    write_utterances(labels, tmp_path / "labels.parquet", LABEL_FEATURES)
    return read_judged_labels([tmp_path / "labels.parquet"], Dataset.from_list(utterances, features=FEATURES))


def table_of(labels) -> pa.Table:
    return pa.Table.from_pylist(labels, schema=LABEL_FEATURES.arrow_schema)


def test_expected_rates_follow_true_ones_of_other_labels(judged):
    calibration, report = calibrate(judged)
    assert (report.labels, report.speakers, report.left_out) == (400, 4, "each speaker")
    own, *others = report.rankings
    assert own.condition == "expected_cer <= 50%" and own.correlation > max(each.correlation for each in others) > 0.5
    assert own.cer < 0.7 * report.cer
    assert report.expected_cer == pytest.approx(report.cer, rel=0.05)
    assert {each.condition.split()[0] for each in others} >= {
        "letter_log_prob",
        "blank_ratio",
        "lowest_word_confidence",
    }
    assert "mean_log_prob >= 50%" not in {each.condition for each in others}  # it is the same for all
    assert "mean_log_prob" not in calibration.scores
    labels, utterances = made_labels(500, seed=1)
    expected = calibration.expected_cer(table_of(labels)).to_numpy()
    true = [
        sum(a != b for a, b in zip(label["text"], utterance["text"], strict=True)) / 12
        for label, utterance in zip(labels, utterances, strict=True)
    ]
    best = expected <= np.median(expected)
    assert expected[best].mean() == pytest.approx(np.mean(np.array(true)[best]), abs=0.05)
    assert spearman(expected, np.array(true)) > 0.55 and expected.mean() == pytest.approx(np.mean(true), rel=0.1)


def test_the_regression_has_the_least_loss():
    """No change of a coefficient makes the penalised likelihood, written out here, any better."""
    random = np.random.default_rng(0)
    inputs = np.column_stack([np.ones(80), random.normal(size=(80, 3))])
    rates, weights = random.random(80), random.uniform(0.5, 2, 80)

    def loss(coefficients) -> float:
        expected = 1 / (1 + np.exp(-inputs @ coefficients))
        likelihood = (weights * (rates * np.log(expected) + (1 - rates) * np.log(1 - expected))).sum()
        return -likelihood + 5.0 / 2 * (coefficients[1:] ** 2).sum()

    found = logistic_ridge(inputs, rates, weights, 5.0)
    for step in np.concatenate([np.eye(4), -np.eye(4)]) * 0.01:
        assert loss(found + step) > loss(found)
    same = logistic_ridge(inputs, np.zeros(80), weights, 5.0)  # it ends where no letter is wrong
    assert np.isfinite(same).all() and 1 / (1 + np.exp(-same[0])) < 0.01


def test_differences_are_stretched_as_far_as_they_hold(judged):
    """The penalty alone would shrink them: no larger or smaller scale has a better likelihood."""
    calibration = fit(judged.scores, judged.edits, judged.characters)
    rates = np.minimum(judged.edits / judged.characters, 1.5) / 1.5

    def loss(scale: float) -> float:
        terms = {name: Term(each.mean, each.scale, scale * each.weight) for name, each in calibration.terms.items()}
        expected = Calibration(calibration.intercept, terms).expected_cer(judged.table).to_numpy() / 1.5
        return -(rates * np.log(expected) + (1 - rates) * np.log(1 - expected)).sum()

    assert loss(1.0) < min(loss(0.8), loss(1.25))


def test_the_formula_by_hand():
    terms = {"letter_log_prob": Term(-1.0, 0.5, 0.7), "length_ratio": Term(0.0, 0.1, -0.2)}
    calibration = Calibration(-0.3, {**terms, "length_difference": Term(0.1, 0.1, 0.4)})
    rows = [
        made_label(0, letter_log_prob=-0.2, length_ratio=0.95),
        made_label(1, letter_log_prob=-50.0, length_ratio=0.0),
        made_label(2, letter_log_prob=None, length_ratio=1.0),
        made_label(3, letter_log_prob=None, length_ratio=None),
        made_label(4, text=" ", letter_log_prob=-0.1, length_ratio=1.0),
    ]

    def expected(letter, ratio):
        ratio = min(max(ratio, 0.25), 4)
        deviations = [
            0.7 * ((math.log(0.001 - letter) + 1) / 0.5 if letter is not None else 0),
            -0.2 * math.log(ratio) / 0.1,
            0.4 * (abs(math.log(ratio)) - 0.1) / 0.1,
        ]
        limits = [0.7 * MOST_DEVIATIONS, 0.2 * MOST_DEVIATIONS, 0.4 * MOST_DEVIATIONS]
        total = -0.3 + sum(min(max(d, -most), most) for d, most in zip(deviations, limits, strict=True))
        return 1.5 / (1 + math.exp(-total))

    found = calibration.expected_cer(table_of(rows)).to_pylist()
    assert found[:3] == pytest.approx([expected(-0.2, 0.95), expected(-50.0, 0.0), expected(None, 1.0)])
    assert found[3] is None and found[4] == 1


def test_a_label_without_a_score_counts_as_average(judged, tmp_path, caplog):
    """The lack itself is learned from where labels lack a score for a reason."""
    calibration, _ = calibrate(judged)
    labels, _ = made_labels(50)
    table = table_of([row | {"blank_ratio": None} for row in labels])
    mean = calibration.terms["blank_ratio"].mean
    same = calibration.expected_cer(table_of([row | {"blank_ratio": mean} for row in labels]))
    assert calibration.expected_cer(table).to_numpy() == pytest.approx(same.to_numpy())
    pq.write_table(table, tmp_path / "labels.parquet")
    filter_labels([tmp_path / "labels.parquet"], DEFAULT_FILTERS, tmp_path / "kept.parquet", calibration=calibration)
    assert "50 of 50 labels have no blank_ratio, and count as if theirs were average" in caplog.text
    scores = {name: values.copy() for name, values in judged.scores.items()}
    worst = np.argsort(-judged.edits)[:40]
    scores["lowest_word_confidence"][worst] = np.nan
    learned = fit(scores, judged.edits, judged.characters)
    assert learned.terms["no lowest_word_confidence"].weight > 0


def test_spearman_is_that_of_ranks():
    assert spearman(np.array([1, 2, 3.0]), np.array([10, 20, 21.0])) == pytest.approx(1)
    assert spearman(np.array([3, 2, 1.0]), np.array([10, 20, 21.0])) == pytest.approx(-1)
    # ranks 1.5 1.5 3 4 and 1 2 3 4: 4.5 / sqrt(4.5 * 5)
    assert spearman(np.array([0, 0, 5, 9.0]), np.array([1, 2, 3, 4.0])) == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert spearman(np.ones(4), np.arange(4.0)) == 0
    assert spearman(np.array([1, np.inf, 2]), np.array([1, 9, 2.0])) == pytest.approx(1)


def test_speakers_that_are_not_known_and_one_alone(tmp_path):
    for name, speaker in {"not known": None, "all of one speaker": "s"}.items():
        labels, utterances = made_labels(60)
        utterances = [row | {"speaker": speaker} for row in utterances]
        write_utterances(labels, tmp_path / "labels.parquet", LABEL_FEATURES)
        references = Dataset.from_list(utterances, features=FEATURES)
        _, report = calibrate(read_judged_labels([tmp_path / "labels.parquet"], references))
        assert report.left_out.startswith("each tenth of the labels, ") and report.left_out.endswith(name)


def test_a_speaker_of_nearly_all_labels(tmp_path):
    """Leaves out tenths: without that speaker, too few labels would be left to learn from."""
    labels, utterances = made_labels(60)
    write_utterances(labels, tmp_path / "labels.parquet", LABEL_FEATURES)
    for others, left_out in {1: "each tenth of the labels, most of one speaker", 25: "each speaker"}.items():
        spoken = [row | {"speaker": "a" if number < others else "b"} for number, row in enumerate(utterances)]
        references = Dataset.from_list(spoken, features=FEATURES)
        _, report = calibrate(read_judged_labels([tmp_path / "labels.parquet"], references))
        assert (report.speakers, report.left_out) == (2, left_out) and report.rankings[0].correlation > 0.3


def test_commands(tone_data, tone_run, tone_labels, tmp_path, capsys):
    """Labels of a trained model: from its transcripts of dev, or from labels, to a filter by what is expected."""
    labels = tone_labels["sv-SE"] / "labels.parquet"
    table = pq.read_table(labels)
    utterances = [
        dict.fromkeys(FEATURES)
        | {name: row[name] for name in FEATURES}
        | {"id": f"{row['id']}-{n}", "text": row["text"] + "o" * (n % 2)}
        for n in range(3)
        for row in table.to_pylist()
    ]
    copies = [row | {"id": f"{row['id']}-{n}"} for n in range(3) for row in table.to_pylist()]
    write_utterances(copies, tmp_path / "labels.parquet", LABEL_FEATURES)
    write_utterances(utterances, tmp_path / "utterances.parquet")
    calibration, kept = tmp_path / "calibration.json", tmp_path / "kept.parquet"
    references = ["--references", tmp_path / "utterances.parquet"]
    assert run_command("calibrate.py", tmp_path / "labels.parquet", *references, "--output", calibration) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("72 labels") and "\nexpected_cer <= 50%" in printed and "\nall " in printed
    content = json.loads(calibration.read_text())
    assert content["version"] == 1 and content["learned_from"]["labels"] == 72
    (tmp_path / "filters.yaml").write_text("filter: [expected_cer <= 50%]\n")
    filters = ["--filters", tmp_path / "filters.yaml", "--output", kept]
    assert run_command("filter_labels.py", labels, "--calibration", calibration, *filters) == 0
    rows, expected = pq.read_table(kept), Calibration.read(calibration).expected_cer(table).to_pylist()
    by_id = dict(zip(table["id"].to_pylist(), expected, strict=True))
    assert 0 < len(rows) < len(table)
    assert {row["id"]: row["expected_cer"] for row in rows.to_pylist()} == {
        name: by_id[name] for name in rows["id"].to_pylist()
    }
    assert max(rows["expected_cer"].to_pylist()) <= sorted(expected)[len(expected) * 3 // 4]

    evaluate = ["--model", tone_run / "model", "--data", tone_data / "dev.parquet", "--num-workers", "0"]
    assert run_command("evaluate_model.py", *evaluate, "--output", tmp_path / "dev.json") == 0
    hypotheses = pq.read_table(tmp_path / "dev.hypotheses.parquet")
    assert hypotheses["letter_log_prob"].null_count == hypotheses["length_ratio"].null_count == 0
    many = pa.concat_tables([hypotheses] * math.ceil(FEWEST_LABELS / len(hypotheses)))
    pq.write_table(many, tmp_path / "many.hypotheses.parquet")
    one, [other] = (
        read_judged_labels([tmp_path / "many.hypotheses.parquet"]),
        [read_utterances([tone_data / "dev.parquet"])],
    )
    assert len(one.edits) == len(many) and set(one.table["reference"].to_pylist()) <= set(other["text"][:])
    assert not np.isnan(one.scores["characters_per_second"]).any() and np.isnan(one.scores["agreement"]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version is 2, which this hf_mlpl does not know; update it"),
        ({"intercept": "high"}, 'intercept is "high"'),
        ({"terms": {}}, "terms has no score"),
        (
            {"terms": {"volume": {"mean": 0, "scale": 1, "weight": 1}}},
            "a term is 'volume'; accepted are mean_log_prob, ",
        ),
        (
            {"terms": {"blank_ratio": {"mean": 0, "scale": 0, "weight": 1}}},
            "scale of blank_ratio is 0.0; a number above 0",
        ),
        ({"terms": {"blank_ratio": {"mean": True, "scale": 1, "weight": 1}}}, "mean of blank_ratio is True; a finite"),
        ({"terms": {"blank_ratio": [1]}}, r"blank_ratio is \[1\]; an object with mean, scale and weight"),
        ({"held_out": 3}, "no calibration"),
    ],
)
def test_files_that_are_no_calibration(change, message, tmp_path):
    path = tmp_path / "calibration.json"
    calibration = Calibration(0.5, {"blank_ratio": Term(0.1, 0.2, 0.3), "no length_ratio": Term(0.1, 0.3, 0.2)})
    calibration.write(path)
    assert Calibration.read(path) == calibration and calibration.scores == ["blank_ratio", "length_ratio"]
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message) as caught:
        Calibration.read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_what_cannot_be_calibrated(tmp_path):
    labels, utterances = made_labels(60)
    path = tmp_path / "labels.parquet"
    write_utterances(labels, path, LABEL_FEATURES)
    with pytest.raises(ValueError, match="--references names utterances with their texts"):
        read_judged_labels([path])
    with pytest.raises(ValueError, match="^20 labels have a text and a reference; a calibration needs 50 or more"):
        read_judged_labels([path], Dataset.from_list(utterances[:20], features=FEATURES))
    write_utterances([], tmp_path / "empty.parquet", LABEL_FEATURES)
    with pytest.raises(ValueError, match="empty.parquet: no labels; a calibration needs 50 or more"):
        read_judged_labels([tmp_path / "empty.parquet"], Dataset.from_list(utterances, features=FEATURES))
    with pytest.raises(FileNotFoundError, match="hypotheses.parquet: no such file; `hf-mlpl evaluate` writes it"):
        read_judged_labels([tmp_path / "dev.json"])
    with pytest.raises(ValueError, match="'expected_cer <= 0.3' cannot hold: .*; --calibration computes it, of"):
        filter_labels([path], [LabelFilter("expected_cer <= 0.3")], tmp_path / "kept.parquet")
    with pytest.raises(FileNotFoundError, match="no.json: no such file; `hf-mlpl calibrate` writes a calibration"):
        Calibration.read(tmp_path / "no.json")
