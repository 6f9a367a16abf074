"""Error rates: the local metrics against jiwer and a brute-force edit distance, averages by hand, no network."""

import json
import os
import random
import re
import subprocess
import sys
import unicodedata

import jiwer
import pyarrow as pa
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mlpl.atomic import write_json
from hf_mlpl.data.utterances import write_utterances
from hf_mlpl.evaluation.scoring import METRICS, _metric, score
from hf_mlpl.evaluation.tables import comparison_table, gap_table, results_table
from hf_mlpl.inference.decoding import Hypothesis
from hf_mlpl.labels.folder import join_shards
from hf_mlpl.labels.schema import LABEL_FEATURES
from hf_mlpl.training.label_health import LabelHealth

ROWS = [
    # cs: 1 edit of 2 characters in one row, 1 of 6 in the other: 2/8, not the mean 1/3 of the rows; words 2 of 3
    {
        "language": "cs",
        "text": "no",
        "hypothesis": "ne",
        "duration_seconds": 1800,
        "predicted_language": "cs",
    },
    {
        "language": "cs",
        "text": "tři ps",
        "hypothesis": "tři p",
        "duration_seconds": 1800,
        "predicted_language": "sv-SE",
    },
    # sv-SE: composed and decomposed are the same text
    {
        "language": "sv-SE",
        "text": "p\u00e5",
        "hypothesis": "pa\u030a",
        "duration_seconds": 900,
        "predicted_language": "sv-SE",
    },
]


def edit_distance(a, b):
    """Computes the textbook recursion, row by row."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(previous[j] + 1, row[-1] + 1, previous[j - 1] + (x != y)))
    return row[-1]


def compute(name, predictions, references):
    return _metric(name).compute(predictions=predictions, references=references)


def test_rates_equal_jiwer_on_random_texts_of_several_scripts():
    rng = random.Random(0)
    words = ["dům", "на", "ქალაქი", "日本", "നന്ദി", "l'eau,", "A", "a", "😀", "مرحبا", "ﬁ", "cường"]
    references = [" ".join(rng.choices(words, k=rng.randint(1, 12))) for _ in range(200)]
    predictions = []
    for reference in references:
        characters = [rng.choice("aд ქ本") if rng.random() < 0.1 else c for c in reference if rng.random() > 0.1]
        predictions.append(" ".join("".join(characters).split()))  # jiwer strips, and splits at single spaces
    references, predictions = ([unicodedata.normalize("NFC", t) for t in x] for x in (references, predictions))
    assert compute("cer", predictions, references)["cer"] == pytest.approx(
        jiwer.cer(references, predictions), rel=1e-12
    )
    assert compute("wer", predictions, references)["wer"] == pytest.approx(
        jiwer.wer(references, predictions), rel=1e-12
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.text("aâb\u0302 \u3000|'", max_size=8)] * 2), min_size=1, max_size=4))
def test_counts_equal_a_brute_force_edit_distance_over_all_pairs(pairs):
    predictions, references = (list(side) for side in zip(*pairs, strict=True))
    nfc = [[re.sub(r"\s+", " ", unicodedata.normalize("NFC", text).strip()) for text in pair] for pair in pairs]
    edits, length = sum(edit_distance(*pair) for pair in nfc), sum(len(reference) for _, reference in nfc)
    cer = compute("cer", predictions, references)
    assert (cer["edits"], cer["length"]) == (edits, length)
    split = [[text.split() for text in pair] for pair in nfc]
    edits, length = sum(edit_distance(*pair) for pair in split), sum(len(reference) for _, reference in split)
    wer = compute("wer", predictions, references)
    assert (wer["edits"], wer["length"]) == (edits, length)


@pytest.mark.parametrize("name", ["cer", "wer"])
def test_empty_texts(name):
    assert compute(name, [""], ["ab"]) == {
        name: 1.0,
        "edits": {"cer": 2, "wer": 1}[name],
        "length": {"cer": 2, "wer": 1}[name],
    }
    assert compute(name, ["a", "b"], ["", "b"]) == {name: 1.0, "edits": 1, "length": 1}
    assert compute(name, ["", ""], ["", ""]) == {name: 0.0, "edits": 0, "length": 0}
    # nothing was said and something was written: one, as jiwer has it
    assert compute(name, ["a"], [""])[name] == getattr(jiwer, name)("", "a") == 1.0


# prediction, reference, and its edits and characters
PAIRS = [
    ("abd", "abc d", 2, 5),
    ("the cat", " the\u00a0 cat\n", 0, 7),
    ("a  b ", "a b", 0, 3),
    ("p\u00e5", "pa\u030a", 0, 2),
    ("pa\u030a", "p\u00e5", 0, 2),
    ("Ab", "ab.", 2, 3),
    ("ab", "", 2, 0),
    ("", "  ", 0, 0),
    ("", "ab", 2, 2),
]


@pytest.mark.parametrize("pairs", [*([pair] for pair in PAIRS), PAIRS])
def test_metric_labels_and_training_have_one_error_rate(pairs, tmp_path):
    expected = {"edits": sum(pair[2] for pair in pairs), "length": sum(pair[3] for pair in pairs)}
    expected["cer"] = expected["edits"] / expected["length"] if expected["length"] else float(expected["edits"] > 0)
    predictions, references = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    assert compute("cer", predictions, references) == expected
    row = {"language": "sv-SE", "duration_seconds": 1.0, "audio": {"path": "a.flac"}, "mean_log_prob": -0.1}
    columns = {"language": ["sv-SE"], "text": ["abc"], "duration_seconds": [1.0]}
    health = LabelHealth(Dataset.from_dict(columns))
    health.add((row | {"text": text}, Hypothesis(0, label, num_frames=9)) for label, text, *_ in pairs)
    health.add([(row | {"text": None}, Hypothesis(0, "not compared", num_frames=9))])
    assert health.report()["cer"] == expected["cer"]
    labels = [row | {"id": str(number), "text": text} for number, text in enumerate([*predictions, "not compared"])]
    write_utterances(labels, tmp_path / "shards" / "00000.parquet", LABEL_FEATURES)
    known = pa.table({"id": [str(number) for number in range(len(references))], "text": references})
    assert join_shards(tmp_path, {}, 1, lambda number: known, ())["languages"]["sv-SE"]["cer"] == expected["cer"]


def test_score_by_hand():
    results = score(ROWS)
    assert results == score(reversed(ROWS))
    assert results == {
        "languages": {
            "cs": {"cer": 2 / 8, "wer": 2 / 3, "language_accuracy": 0.5, "utterances": 2, "hours": 1.0},
            "sv-SE": {"cer": 0.0, "wer": 0.0, "language_accuracy": 1.0, "utterances": 1, "hours": 0.25},
        },
        # each language weighs the same, whatever its number of utterances
        "macro": {"cer": 1 / 8, "wer": 1 / 3, "language_accuracy": 0.75},
        "utterances": 3,
        "hours": 1.25,
    }


def test_language_accuracy_is_unknown_without_predictions():
    unknown = [{**row, "predicted_language": None} for row in ROWS]
    assert score(unknown)["macro"]["language_accuracy"] is None
    mixed = score([*ROWS[:2], unknown[0], unknown[2]])
    assert mixed["languages"]["cs"]["language_accuracy"] == 0.5  # of two, the third row is not known
    assert mixed["languages"]["sv-SE"]["language_accuracy"] is None
    assert mixed["macro"]["language_accuracy"] == 0.5


def test_no_rows():
    with pytest.raises(ValueError, match="no utterances to score"):
        score([])


def test_results_file_is_plain_json_and_replaced_as_a_whole(tmp_path):
    path = tmp_path / "results.json"
    path.write_text("old")
    results = score([{**row, "language": "čeština"} for row in ROWS])
    write_json(path, results)
    assert json.loads(path.read_text(encoding="utf-8")) == results
    assert "čeština" in path.read_text(encoding="utf-8")
    with pytest.raises(ValueError):
        write_json(path, {"cer": float("nan")})  # NaN is not JSON
    assert json.loads(path.read_text(encoding="utf-8")) == results
    assert os.listdir(tmp_path) == ["results.json"]


def test_table_lists_languages_then_the_macro_row():
    rows = [*reversed(ROWS), {**ROWS[0], "language": "ab", "predicted_language": None}]
    assert results_table(score(rows)).splitlines() == [
        "language  utterances  hours  CER %  WER %  language %",
        "ab                 1   0.50   50.0  100.0           -",
        "cs                 2   1.00   25.0   66.7        50.0",
        "sv-SE              1   0.25    0.0    0.0       100.0",
        "macro              4   1.75   25.0   55.6        75.0",
    ]


@pytest.mark.slow
def test_metrics_load_in_a_fresh_process_without_network_and_caches(tmp_path):
    program = """
import socket, sys
def refuse(*args, **kwargs):
    print("network:", args, file=sys.stderr)
    raise OSError("no network here")
socket.socket.connect = socket.socket.connect_ex = socket.socket.sendto = socket.getaddrinfo = refuse
import evaluate
for folder in sys.argv[1:]:
    metric = evaluate.load(folder)
    print(metric.name, metric.compute(predictions=["a c"], references=["a b"])["edits"])
"""
    # the caches are empty, and nothing tells the libraries to stay offline
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | {"HF_HOME": str(tmp_path)}
    folders = [str(METRICS / "cer"), str(METRICS / "wer")]
    command = [sys.executable, "-c", program, *folders]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["cer 1", "wer 1"]
    assert "network:" not in done.stderr


def results(**cer):
    return {"languages": {language: {"cer": rate, "wer": 1.0} for language, rate in cer.items()}}


def test_comparison_averages_chosen_languages_apart():
    before, after = [results(de=0.10, pt=0.30, ro=0.20)], [results(de=0.11, pt=0.15, ro=0.05)]
    table = comparison_table({"before": before, "after": after}, languages=["pt", "ro"])
    assert table.splitlines() == [
        "language            before, CER %  after, CER %  change",
        "de                           10.0          11.0   +10 %",
        "pt                           30.0          15.0   -50 %",
        "ro                           20.0           5.0   -75 %",
        "mean of pt ro                25.0          10.0   -60 %",
        "mean of the others           10.0          11.0   +10 %",
        "macro average                20.0          10.3   -48 %",
    ]
    everything = comparison_table({"before": before, "after": after}, languages=["de", "pt", "ro"])
    assert "others" not in everything
    with pytest.raises(ValueError, match="after has results of de, but others of de, pt, ro"):
        comparison_table({"before": before, "after": [results(de=0.1)]})
    with pytest.raises(ValueError, match="after has 2 runs, but others 1"):
        comparison_table({"before": before, "after": after * 2})
    with pytest.raises(ValueError, match="no results of xx; there are de, pt, ro"):
        comparison_table({"before": before, "after": after}, languages=["xx"])


def test_several_runs_are_compared_by_mean_and_spread():
    runs = {
        "supervised": [results(pt=0.30, ro=0.10), results(pt=0.26, ro=0.10)],
        "control": [results(pt=0.25, ro=0.10), results(pt=0.23, ro=0.08)],
        "oracle": [results(pt=0.15, ro=0.05), results(pt=0.10, ro=0.06)],
        "final": [results(pt=0.21, ro=0.07), results(pt=0.17, ro=0.05)],
    }
    assert comparison_table(runs, ["pt"]).splitlines()[:3] == [
        "language            supervised, CER %    control, CER %     oracle, CER %      final, CER %  change",
        "pt                   28.0 (26.0-30.0)  24.0 (23.0-25.0)  12.5 (10.0-15.0)  19.0 (17.0-21.0)   -32 %",
        "ro                   10.0 (10.0-10.0)    9.0 (8.0-10.0)     5.5 (5.0-6.0)     6.0 (5.0-7.0)   -40 %",
    ]
    # In the mean of both: 20 -> oracle 10, control 17.5, final 14; and 18 -> oracle 8, control 15.5, final 11
    assert gap_table(runs, ["pt", "ro"], "oracle", "control").splitlines() == [
        "run   control, % of gap, vs control  final, % of gap, vs control",
        "1                        25, +0.0 %                  60, -20.0 %",
        "2                        25, +0.0 %                  70, -29.0 %",
        "mean                     25, +0.0 %                  65, -24.5 %",
    ]
    rows = [line.split() for line in gap_table(runs, [], "oracle").splitlines()[1:]]
    assert rows == [["1", "25", "60"], ["2", "25", "70"], ["mean", "25", "65"]]
    with pytest.raises(ValueError, match="no results are called orakel; there are supervised, control, oracle, final"):
        gap_table(runs, [], "orakel")


def test_gains_that_are_not_defined_are_dashes():
    """A control without errors, a start that is as good as the oracle, and rates that are not known."""
    runs = {
        "start": [results(de=0.2), results(de=0.1)],
        "control": [results(de=0.0), results(de=0.1)],
        "oracle": [results(de=0.1), results(de=0.1)],
        "final": [results(de=0.1), results(de=0.05)],
    }
    assert gap_table(runs, [], "oracle", "control").splitlines() == [
        "run   control, % of gap, vs control  final, % of gap, vs control",
        "1                            200, -                       100, -",
        "2                         -, +0.0 %                   -, -50.0 %",
        "mean                           -, -                         -, -",
    ]
    for unknown in ({"languages": {}}, results(de=None)):
        runs = {name: [unknown] for name in ("start", "control", "oracle")}
        assert [line.split()[-2:] for line in gap_table(runs, [], "oracle", "control").splitlines()[1:]] == [
            ["-,", "-"],
            ["-,", "-"],
        ]
        assert comparison_table(runs).splitlines()[-1].split() == ["macro", "average", *"----"]
    half_known = {"before": [results(de=0.1)], "after": [results(de=None)]}
    assert comparison_table(half_known).splitlines()[1].split() == ["de", "10.0", "-", "-"]
