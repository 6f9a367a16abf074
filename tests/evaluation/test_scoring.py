"""Error rates: the local metrics against jiwer and a brute-force edit distance, averages by hand, no network."""

import csv
import io
import json
import os
import random
import re
import subprocess
import sys
import unicodedata
from functools import lru_cache
from pathlib import Path

import evaluate
import jiwer
import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

import hf_mlpl.evaluation
from hf_mlpl.atomic import write_json
from hf_mlpl.data.utterances import write_utterances
from hf_mlpl.evaluation.intervals import interval, resampled_rates
from hf_mlpl.evaluation.normalization import NORMALIZATION
from hf_mlpl.evaluation.results import METRICS, rates_alone
from hf_mlpl.evaluation.scoring import score
from hf_mlpl.evaluation.tables import comparison_table, gap_table, remarks_on, results_csv, results_table
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


FOLDER = Path(hf_mlpl.evaluation.__file__).parent / "metrics"


@lru_cache
def metric(name):
    return evaluate.load(str(FOLDER / name), keep_in_memory=True)


def compute(name, predictions, references):
    return metric(name).compute(predictions=predictions, references=references)


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
    none = dict.fromkeys(METRICS)
    cs = {
        "cer": 2 / 8,
        "wer": 2 / 3,
        "normalized": {"cer": 2 / 8, "wer": 2 / 3},
        "intervals": none,  # of two utterances
        "edits": {
            "characters": {"substitutions": 1, "deletions": 1, "insertions": 0},
            "words": {"substitutions": 2, "deletions": 0, "insertions": 0},
        },
        "characters": 8,
        "words": 3,
        "language_accuracy": 0.5,
        "utterances": 2,
        "hours": 1.0,
        "empty": 0,
        "speakers": None,
    }
    assert results["languages"]["cs"] == cs
    exact = {"cer": 0.0, "wer": 0.0}
    assert results["languages"]["sv-SE"] == cs | exact | {
        "normalized": exact,
        "edits": {unit: dict.fromkeys(cs["edits"]["words"], 0) for unit in cs["edits"]},
        **{"characters": 2, "words": 1, "language_accuracy": 1.0, "utterances": 1, "hours": 0.25},
    }
    # each language weighs the same, whatever its number of utterances; then by hours, 1 and 0.25
    normalized = {"cer": 1 / 8, "wer": 1 / 3}
    assert results["macro"] == normalized | {
        "normalized": normalized,
        "language_accuracy": 0.75,
        "intervals": none,
    }
    assert results["by_hours"]["cer"] == pytest.approx(0.8 * 2 / 8)
    assert results["by_hours"]["normalized"]["wer"] == pytest.approx(0.8 * 2 / 3)
    assert results["by_hours"]["language_accuracy"] == pytest.approx(0.8 * 0.5 + 0.2)
    assert results["language_confusions"] == {"cs": {"cs": 1, "sv-SE": 1}, "sv-SE": {"sv-SE": 1}}
    assert {name: results[name] for name in ("utterances", "hours", "unreadable", "empty")} == {
        **{"utterances": 3, "hours": 1.25, "unreadable": 0, "empty": 0}
    }
    assert results["normalization"] == NORMALIZATION


def test_normalised_scores_empty_transcripts_and_speakers_by_hand():
    rows = [
        # case, a hyphen and a full stop: three edits of characters as written, none normalised
        ("Les arcs-en-ciel.", "les arcs en ciel", "a"),
        ("été", "ete", "a"),  # marks are spelling in both
        ("oui", "", "b"),
        ("oui", "oui", None),
        ("non", "", "c"),
    ]
    rows = [
        ROWS[0] | {"language": "fr", "text": text, "hypothesis": hypothesis, "speaker": speaker, "error": None}
        for text, hypothesis, speaker in rows
    ]
    rows[-1]["error"] = "lost.wav: no such file"
    results = score(rows)
    scores = results["languages"]["fr"]
    assert scores["cer"] == (4 + 2 + 3 + 0 + 3) / (17 + 3 + 3 + 3 + 3)
    assert scores["normalized"] == {"cer": (0 + 2 + 3 + 0 + 3) / (16 + 3 + 3 + 3 + 3), "wer": 3 / 8}
    assert scores["wer"] == (2 + 1 + 1 + 0 + 1 + 2) / 6  # "arcs en ciel" for "arcs-en-ciel." is one word for three
    assert (scores["empty"], results["empty"], results["unreadable"]) == (1, 1, 1)
    assert scores["speakers"] == {"count": 3, "cer": {"lowest": 6 / 20, "median": 1.0, "highest": 1.0}}


def test_numbers_of_each_kind_of_edit_equal_those_of_jiwer():
    rng = random.Random(1)
    letters = ["a", "b", "é", "न", "ि", " ", " "]
    pairs = [["".join(rng.choices(letters, k=rng.randint(0, 40))) for _ in range(2)] for _ in range(300)]
    pairs += [["", "a b"], ["a b", ""], ["a", "a"], ["".join(rng.choices(letters, k=3000)) for _ in range(2)]]
    pairs = [[" ".join(text.split()) for text in pair] for pair in pairs]
    scores = score(ROWS[0] | {"text": text, "hypothesis": hypothesis} for text, hypothesis in pairs)["languages"]["cs"]
    columns = list(map(list, zip(*pairs, strict=True)))
    for unit, process in (("characters", jiwer.process_characters), ("words", jiwer.process_words)):
        found = process(*columns)
        assert scores["edits"][unit] == {kind: getattr(found, kind) for kind in scores["edits"][unit]}
        assert scores[unit] == found.hits + found.substitutions + found.deletions


def test_intervals_are_those_of_the_utterances():
    rng = random.Random(2)
    rows = [
        ROWS[0]
        | {"language": language, "text": "abc" * rng.randint(1, 5), "hypothesis": "ab" * rng.randint(1, 9)}
        | {"duration_seconds": 36 if language == "sl" else 12}
        for language in ("sl", "fi")
        for _ in range(40)
    ]
    results = score(rows)
    samples = {}
    for language in ("sl", "fi"):
        of_language = [row for row in rows if row["language"] == language]
        edits, lengths = np.array(
            [(edit_distance(row["text"], row["hypothesis"]), len(row["text"])) for row in of_language]
        ).T
        samples[language] = resampled_rates(edits, lengths, language)
        assert results["languages"][language]["intervals"]["cer"] == list(interval(samples[language]))
    assert results["macro"]["intervals"]["cer"] == pytest.approx(interval((samples["sl"] + samples["fi"]) / 2))
    weighted = interval((3 * samples["sl"] + samples["fi"]) / 4)
    assert results["by_hours"]["intervals"]["normalized_cer"] == pytest.approx(weighted)
    # a language of nine utterances has none, and neither have means with it; nor has one without errors
    few = score([*rows[:40], *rows[40:49]])
    assert few["languages"]["sl"]["intervals"] == results["languages"]["sl"]["intervals"]
    assert few["languages"]["fi"]["intervals"] == few["macro"]["intervals"] == dict.fromkeys(METRICS)
    right = score(row | {"hypothesis": row["text"]} for row in rows)
    assert right["macro"]["intervals"] == dict.fromkeys(METRICS)


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


def test_table_lists_languages_then_the_means():
    rows = [*reversed(ROWS), {**ROWS[0], "language": "ab", "predicted_language": None}]
    results = score(rows)
    assert results_table(results).splitlines() == [
        "language           utterances  hours  CER %  WER %  norm. CER %  norm. WER %  language %",
        "ab                          1   0.50   50.0  100.0         50.0        100.0           -",
        "cs                          2   1.00   25.0   66.7         25.0         66.7        50.0",
        "sv-SE                       1   0.25    0.0    0.0          0.0          0.0       100.0",
        "macro average               4   1.75   25.0   55.6         25.0         55.6        75.0",
        "weighted by hours           4   1.75   28.6   66.7         28.6         66.7        60.0",
    ]
    assert remarks_on(results) == [
        "edits of 12 characters: substitutions 2, deletions 1, insertions 0",
        "edits of 5 words: substitutions 3, deletions 0, insertions 0",
        "empty transcripts: 0 of 4 (0.0%)",
        "languages taken for others: cs for sv-SE (1)",
    ]
    # a model that predicts no language has no column of it; intervals and speakers have their place
    rows = [ROWS[0] | {"language": "ja", "predicted_language": None, "speaker": f"{i % 2}"} for i in range(20)]
    rows[0] |= {"hypothesis": "", "error": "lost"}
    rows[1] |= {"hypothesis": ""}
    results = score(rows)
    low, high = (f"{100 * bound:.1f}" for bound in results["languages"]["ja"]["intervals"]["cer"])
    head, row, *_ = results_table(results).splitlines()
    assert head.endswith("  norm. WER %")
    assert row.split()[3:5] == ["55.0", f"({low}-{high})"]
    assert remarks_on(results)[2:] == [
        "empty transcripts: 1 of 20 (5.0%); 1 could not be read",
        "CER % of the best and the worst speaker, most different first: ja 55.0-55.0",
        "written without spaces, so that the WER says little: ja",
    ]


def test_table_of_languages_as_csv_and_of_older_results():
    rows = [row | {"speaker": "a"} for row in ROWS]
    results = score(rows)
    cs, sv = csv.DictReader(io.StringIO(results_csv(results)))
    assert (cs["language"], sv["language"]) == ("cs", "sv-SE")
    assert float(cs["cer"]) == float(cs["normalized_cer"]) == 0.25 and cs["cer_low"] == ""
    assert (cs["words_substitutions"], cs["characters"], cs["speakers"], cs["speaker_cer_median"]) == (
        *("2", "8", "1"),
        "0.25",
    )
    older = rates_alone(results)
    assert older["languages"]["cs"] == {"cer": 0.25, "wer": 2 / 3} | {
        **{"language_accuracy": 0.5, "utterances": 2, "hours": 1.0}
    }
    assert results_table(older).splitlines()[0::3] == [
        "language       utterances  hours  CER %  WER %  language %",
        "macro average           3   1.25   12.5   33.3        75.0",
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
    folders = [str(FOLDER / "cer"), str(FOLDER / "wer")]
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
    with pytest.raises(ValueError, match="only one of before and after has results of pt, ro; "):
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
