"""Transcripts of other programs are scored without a model, and `compare` tells real differences from chance."""

import csv
import json
import math
import random
from statistics import NormalDist

import fsspec
import jiwer
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_mlpl.cli.compare import METRICS as CHOICES
from hf_mlpl.cli.main import main
from hf_mlpl.evaluation.differences import Difference, ScoredRun, differences, least_deviations, with_transcripts
from hf_mlpl.evaluation.hypotheses import ADDED, COUNTS, SUFFIX, read_hypotheses
from hf_mlpl.evaluation.results import METRICS, check_normalization, rates_alone, read_results
from hf_mlpl.evaluation.tables import verdict

WORDS = "dam, Dom du er es in ist nicht und wir".split()
LANGUAGES = {"de": 120, "fi": 120, "sl": 6}  # utterances


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Returns a folder with results of three programs: `worse` deletes a letter more in each German word."""
    folder = tmp_path_factory.mktemp("scored")
    for model in ("base", "other", "worse"):
        generator = random.Random(0)
        rows = []
        for language, count in LANGUAGES.items():
            for number in range(count):
                text = " ".join(generator.choices(WORDS, k=12))
                if model == "other" and number % 2:  # as many errors, in other utterances
                    text, shown = text, list(text)
                else:
                    shown = list(text)
                start = generator.randrange(len(text) - 4)
                errors = 2 if number % 2 == (model == "other") else 0
                del shown[start : start + errors]
                hypothesis = "".join(shown)
                if model == "worse" and language == "de":
                    hypothesis = " ".join(word[:-1] if len(word) > 3 else word for word in hypothesis.split())
                rows.append({"id": f"{language}-{number}", "language": language, "text": text})
                rows[-1] |= {"hypothesis": hypothesis, "duration_seconds": 3.0, "speaker": f"s-{number % 3}"}
        if model == "worse":
            rows.reverse()  # pairs are found by id
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{model}.parquet")
        command = ["evaluate", "--hypotheses", folder / f"{model}.parquet", "--output", folder / f"{model}.json"]
        assert main([*map(str, command), "--model", model]) == 0
    return folder


def test_transcripts_of_other_programs_are_scored(scored, tmp_path, capfd):
    results = read_results(scored / "worse.json", METRICS)
    table = read_hypotheses(scored / f"worse{SUFFIX}", results)
    assert results["model"] == "worse" and results["languages"]["de"]["speakers"]["count"] == 3
    # again, from what was written: the same; of one language: its part
    command = ["evaluate", "--hypotheses", str(scored / f"worse{SUFFIX}"), "--output", str(tmp_path / "again.json")]
    assert main([*command, "--csv", str(tmp_path / "a.csv"), "--trn", str(tmp_path / "trn")]) == 0
    assert read_results(tmp_path / "again.json") == results
    assert read_hypotheses(tmp_path / f"again{SUFFIX}").equals(table)
    with pytest.MonkeyPatch.context() as environment:  # of two processes one scores
        environment.setenv("RANK", "1")
        assert main([*command[:-1], str(tmp_path / "second.json")]) == 0
    assert not list(tmp_path.glob("second*"))
    out = capfd.readouterr().out
    assert "weighted by hours" in out and "empty transcripts: 0 of 246" in out and str(tmp_path / "trn") in out
    with open(tmp_path / "a.csv", encoding="utf-8") as file:
        rates = {row["language"]: float(row["normalized_wer"]) for row in csv.DictReader(file)}
    assert rates == {name: scores["normalized"]["wer"] for name, scores in results["languages"].items()}
    fsspec.filesystem("memory").pipe_file("/me:secret@b/x.parquet", unseen_file(table, tmp_path).read_bytes())
    assert main([*command, "--languages", "fi", "--unseen-in", "memory://me:secret@b/x.parquet"]) == 0
    some = read_results(tmp_path / "again.json")
    assert list(some["languages"]) == ["fi"] and some["languages"]["fi"]["utterances"] < LANGUAGES["fi"]
    assert some["model"] == "worse" and some["unseen_in"] == ["memory://b/x.parquet"]


def test_transcripts_that_cannot_be_scored_are_refused(scored, tmp_path, error_of):
    table = pq.read_table(scored / "base.parquet")
    path = tmp_path / f"t{SUFFIX}"
    command = ["evaluate_model.py", "--hypotheses", path, "--output", tmp_path / "t.json"]
    for content, problem in (
        (table.drop_columns(["hypothesis"]), "it has no column hypothesis"),
        (table.set_column(1, "language", pa.nulls(len(table), pa.string())), "language is null in a row"),
        (table.set_column(4, "duration_seconds", pa.array([float("nan")] * len(table))), "duration_seconds is nan"),
        (table.slice(0, 0), "no utterances to score"),
    ):
        pq.write_table(content, path)
        assert problem in error_of(*command)
    pq.write_table(table, path)
    assert error_of(*command[:2], tmp_path, *command[3:]).startswith(f"{tmp_path}: no such file")
    assert "has no transcripts of nl; there are de, fi, sl" in error_of(*command, "--languages", "nl")
    # part of the transcripts never replaces all of them
    assert "only 120 of 246 transcripts would be left" in error_of(*command, "--languages", "de")
    assert pq.read_table(path).equals(table)


def unseen_file(table, folder):
    """Writes an utterance file with the first Finnish text."""
    from hf_mlpl.data.utterances import FEATURES, write_utterances

    text = next(row["text"] for row in table.to_pylist() if row["language"] == "fi")
    text = f"\u200b{text}\u00ad"  # as files of older versions have it
    row = dict.fromkeys(FEATURES) | {"id": "a", "language": "fi", "text": text, "duration_seconds": 1.0}
    write_utterances([row | {"audio": {"path": "a.wav"}}], folder / "train.parquet")
    return folder / "train.parquet"


def test_sclite_files_hold_what_is_scored(tmp_path):
    """jiwer finds the rates of results in them; what sclite gives a meaning is a word, and speakers are in ids."""
    rows = [
        ("a (b)", "Ein (Wort) {oder /} @ ;; zwei", "ein (Wort) @ zwei", "x_y-z"),
        ("a_(b)", "Ganz.", "", None),
        ("A__b_", "Ganz\u00ad nah", "ganz nah", None),
    ]
    rows = [dict(zip(("id", "text", "hypothesis", "speaker"), row, strict=True)) for row in rows]
    table = pa.Table.from_pylist([row | {"language": "x/de", "duration_seconds": 1.0} for row in rows])
    pq.write_table(table, tmp_path / "t.parquet")
    command = ["evaluate", "--hypotheses", str(tmp_path / "t.parquet"), "--output", str(tmp_path / "t.json")]
    assert main([*command, "--trn", str(tmp_path / "trn")]) == 0
    scores = read_results(tmp_path / "t.json")["languages"]["x/de"]
    for kind, rates in (("", scores), (".normalized", scores["normalized"])):
        lines = [
            (tmp_path / "trn" / f"x#de{kind}.{side}.trn").read_text(encoding="utf-8").splitlines()
            for side in ("ref", "hyp")
        ]
        texts = [[line.rpartition(" (")[0] for line in side] for side in lines]
        assert jiwer.wer(*texts) == pytest.approx(rates["wer"])
        ids = [[line.rpartition(" (")[2] for line in side] for side in lines]
        assert ids[0] == ids[1] == ["x.y.z-a__b_)", "all-a__b_)", "all-A__b_.2)"]
        assert not set("(){}@;") & set("".join(texts[0]))


def test_compare_says_which_differences_are_real(scored, capfd):
    """Deleting letters is real, errors in other utterances are chance, and of six utterances nothing is known."""
    compare = ["compare", f"base={scored / 'base.json'}"]
    assert main([*compare, f"worse={scored / 'worse.json'}", "--metric", "wer", "--languages", "de", "fi"]) == 0
    out = capfd.readouterr().out
    rows = {line.split("  ")[0]: line.split()[-1] for line in out.split("\n\n")[0].splitlines()}
    unknown = dict.fromkeys(["sl", "mean of the others", "macro average"], "?")
    assert rows == {"language": "real", "de": "yes", "fi": "no", "mean of de fi": "yes"} | unknown
    assert out.split("\n\n")[1].splitlines() == [
        "from base to worse, WER:",
        "  real: de, mean of de fi",
        "  may be chance: fi",
        "  not known, there are 6 utterances, fewer than 10: sl",
        "  not known, it is not known of sl: mean of the others, macro average",
    ]
    assert main([*compare, f"other={scored / 'other.json'}", f"worse={scored / 'worse.json'}"]) == 0
    assert "real: de\n" in capfd.readouterr().out
    assert main([*compare, f"other={scored / 'other.json'}", "--metric", "normalized_cer"]) == 0
    out = capfd.readouterr().out
    assert "may be chance: de, fi\n" in out and "norm. CER" in out and "  real" not in out.split("\n\n")[1]


def test_seeds_and_a_control(scored, capfd):
    """Several runs are averaged; the last results are compared with the control, too."""
    arguments = [f"base={scored}/[b]*e.json", f"other={scored}/other.json", f"worse={scored}/worse.json"]
    assert main(["compare", *arguments, "--oracle", "base", "--control", "other"]) == 0
    out = capfd.readouterr().out
    assert "from base to worse, CER:\n  real: de\n" in out and "from other to worse, CER:\n  real: de\n" in out
    assert "run " in out and "vs other" in out
    runs = {name: with_transcripts(scored / f"{name}.json", read_results(scored / f"{name}.json")) for name in MODELS}
    found = differences([runs["base"], runs["other"]], [runs["worse"]] * 2, {"de": ["de"]}, "cer")["de"]
    cers = {name: run.results["languages"]["de"]["cer"] for name, run in runs.items()}
    assert found.change == pytest.approx(cers["worse"] - (cers["base"] + cers["other"]) / 2)
    assert found.low < found.change < found.high
    every = list(runs.values())
    same = differences(every, every[::-1], {"de": ["de"]}, "wer")["de"]  # in another order
    assert not same.is_real and abs(same.change) < 1e-12


MODELS = ("base", "other", "worse")


def test_paired_interval_equals_the_t_distribution_of_differences(scored):
    """Compares with the known standard error of a linear statistic, that of the mean of paired differences."""
    runs = [with_transcripts(scored / f"{name}.json", read_results(scored / f"{name}.json")) for name in MODELS[::2]]
    rows = {"de": ["de"], "fi": ["fi"], "mean": ["de", "fi"]}
    found = differences(runs[:1], runs[1:], rows, "cer")
    tables = [
        {row["id"]: row for row in run.hypotheses.to_pylist() if row["language"] in ("de", "fi")} for run in runs
    ]
    errors = {}
    for language in ("de", "fi"):
        ids = [name for name, row in tables[0].items() if row["language"] == language]
        lengths = np.array([tables[0][name]["characters"] for name in ids])
        edits = np.array([[table[name]["edits"] for name in ids] for table in tables])
        rates = edits.sum(1) / lengths.sum()
        residuals = (edits[1] - edits[0]) - (rates[1] - rates[0]) * lengths
        errors[language] = math.sqrt((residuals**2).sum()) / lengths.sum()
        assert found[language].change == pytest.approx(rates[1] - rates[0])
    errors["mean"] = math.hypot(errors["de"], errors["fi"]) / 2  # languages are independent
    for name, error in errors.items():
        assert found[name].high - found[name].low == pytest.approx(2 * 1.96 * error, rel=0.12)
    # not paired, the interval would be wider
    assert isinstance(found["de"], Difference) and found["de"].is_real and not found["fi"].is_real


def test_many_languages_are_not_called_different_by_chance():
    """Compares 61 languages, of which one is really different; the limit is Sidak's for normal samples."""
    generator = np.random.default_rng(0)
    counts, columns = generator.integers(0, 9, size=(2, 61, 50)), COUNTS["cer"]
    counts[1, 0] += 3
    languages = [f"l{number}" for number in range(61)]
    tables = [
        pa.table({"language": np.repeat(languages, 50), "id": np.tile(np.arange(50), 61), "text": ["a"] * 3050})
        .append_column(columns[0], pa.array(edits.ravel()))
        .append_column(columns[1], pa.array([40] * 3050))
        for edits in counts
    ]
    runs = [
        ScoredRun(None, {"languages": {n: {"cer": rate} for n, rate in zip(languages, rates, strict=True)}}, table)
        for table, rates in zip(tables, counts.sum(2) / 2000, strict=True)
    ]
    found = differences(runs[:1], runs[1:], {name: [name] for name in languages} | {"mean": languages}, "cer")
    assert [name for name, each in found.items() if each.is_real] == ["l0", "mean"]  # which is one question
    seeming = [name for name, each in found.items() if each.leaves_out_zero and not each.is_real]
    assert 1 <= len(seeming) <= 6
    assert verdict(found)[1] == f"perhaps (one of 20 languages seems different by chance): {', '.join(seeming)}"
    one = differences(runs[:1], runs[1:], {seeming[0]: [seeming[0]]}, "cer")
    assert one[seeming[0]].is_real  # nothing else was compared
    samples = dict(enumerate(generator.normal(size=(60, 1000))))
    sidak = NormalDist().inv_cdf((1 + 0.95 ** (1 / 60)) / 2)
    assert least_deviations(samples) == pytest.approx(sidak, rel=0.04)


def test_names_and_files_that_say_nothing_are_refused(scored, tmp_path, capfd, error_of):
    base, worse = f"base={scored / 'base.json'}", f"worse={scored / 'worse.json'}"
    for option in ("--control", "--oracle"):
        assert error_of("compare.py", base, worse, option, "x") == "no results are called x; there are base, worse"
        assert not capfd.readouterr().out
    command = ["evaluate", "--hypotheses", str(scored / "base.parquet"), "--output", str(tmp_path / "o.json")]
    for arguments, problem in (
        (["compare", base, f"base={scored / 'worse.json'}"], "there are results called base already"),
        *(
            ([*command, *option], "are of a model, which --hypotheses does not run")
            for option in (["--dtype", "int8"], ["--batch-seconds", "9"], ["--num-workers", "0"])
        ),
        ([*command[:-1], command[2]], "base.parquet would replace another file"),
        ([*command, "--csv", command[2]], "base.parquet would replace another file"),
        ([*command, "--csv", command[-1]], "o.json would replace another file"),
        ([*command, "--csv", str(tmp_path / f"o{SUFFIX}")], f"o{SUFFIX} would replace another file"),
        ([*command, "--unseen-in", f"{scored}/base.p*", "--csv", command[2]], "base.parquet would replace"),
        ([*command, "--trn", command[2]], "base.parquet: is a file; a folder is accepted"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        assert problem in capfd.readouterr().err
    # counts that are not those of the results
    results, table = json.loads((scored / "worse.json").read_text()), pq.read_table(scored / f"worse{SUFFIX}")
    (tmp_path / "d.json").write_text(json.dumps(results))
    for metric, column in (("wer", "word_edits"), ("normalized_wer", "normalized_words"), ("cer", "characters")):
        place = table.column_names.index(column)
        pq.write_table(table.set_column(place, column, pa.array([0] * len(table))), tmp_path / f"d{SUFFIX}")
        assert main(["compare", base, f"d={tmp_path / 'd.json'}", "--metric", metric]) == 0
        out, err = capfd.readouterr()
        assert out.splitlines()[0].endswith("change") and "another evaluation than the results" in err


def test_what_cannot_be_compared_is_said(scored, tmp_path, capfd, error_of):
    results = read_results(scored / "base.json")
    run = with_transcripts(scored / "base.json", results)
    table = run.hypotheses
    first = {name: table[name].to_pylist() for name in ("id", "text")}
    others = [
        table.set_column(table.column_names.index(name), name, pa.array([value, *first[name][1:]]))
        for name, value in (("text", "x"), ("id", "x"), ("id", first["id"][1]))
    ]
    for other in (table.slice(1), *others):
        found = differences([run], [ScoredRun(tmp_path, results, other)], {"de": ["de"], "fi": ["fi"]}, "cer")
        assert found["de"] == f"{scored / 'base.json'} and {tmp_path} are of other utterances or references"
        assert isinstance(found["fi"], Difference)
    # older files: no normalised rates, no speakers; compared as they are, and the missing rate is named
    older = tmp_path / "older.json"
    older.write_text(json.dumps(rates_alone(results)))
    pq.write_table(table.drop_columns(sorted(ADDED)), tmp_path / f"older{SUFFIX}")
    assert main(["compare", f"a={scored / 'worse.json'}", f"b={older}"]) == 0
    assert "real: de\n" in capfd.readouterr().out
    assert read_hypotheses(tmp_path / f"older{SUFFIX}", read_results(older))["speaker"].null_count == len(table)
    message = error_of("compare.py", f"a={older}", "--metric", "normalized_wer")
    assert "older version" in message and "--hypotheses" in message
    # without transcripts the table is as before, and a line says why no more is known
    (tmp_path / f"older{SUFFIX}").unlink()
    assert main(["compare", f"a={older}", f"b={older}"]) == 0
    out, err = capfd.readouterr()
    assert out.splitlines()[0].endswith("change") and f"older{SUFFIX}: no such file" in err
    with pytest.raises(ValueError, match="different ways, hf-mlpl 0 and hf-mlpl 1"):
        check_normalization([{"normalization": f"hf-mlpl {number}"} for number in range(2)], "normalized_cer")
    assert CHOICES == METRICS


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("languages.de.normalized.cer", "x"),
        ("languages.de.normalized", 3),
        ("languages.de.intervals.wer", [0.1]),
        ("languages.de.edits.words.deletions", -1),
        ("languages.de.speakers.cer.median", []),
        ("languages.de.empty", 0.5),
        ("macro.intervals", None),
        ("by_hours.cer", -0.1),
        ("language_confusions", {"de": {"nl": "x"}}),
        ("dataset", {"id": "google/fleurs"}),
        ("speed", {"rtfx": "fast"}),
        ("normalization", ""),
    ],
)
def test_fields_of_another_form_are_refused(field, value, scored, tmp_path):
    results = json.loads((scored / "base.json").read_text())
    *parents, last = field.split(".")
    place = results
    for name in parents:
        place = place[name]
    place[last] = value
    (tmp_path / "r.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match=rf"r\.json: {field}[\w.]* is .*; it must be ") as caught:
        read_results(tmp_path / "r.json")
    assert "\n" not in str(caught.value)
