"""Transcripts of an evaluation: what is kept equals what was scored, and files of others are refused."""

import json
from itertools import product

import jiwer
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_mlpl.cli.main import main
from hf_mlpl.data.utterances import read_utterances
from hf_mlpl.evaluation import intervals
from hf_mlpl.evaluation.confusions import character_confusions, language_confusions
from hf_mlpl.evaluation.hypotheses import (
    HYPOTHESIS_FEATURES,
    SCORES,
    hypotheses_path,
    read_hypotheses,
    write_hypotheses,
)
from hf_mlpl.evaluation.intervals import interval, macro_rates, resampled_rates
from hf_mlpl.evaluation.results import read_results
from hf_mlpl.evaluation.scoring import score


@pytest.fixture(scope="module")
def evaluated(tone_data, tone_run, tmp_path_factory):
    """Returns a results file of `hf-mlpl evaluate`, which could not read the first utterance."""
    from hf_mlpl.data.utterances import write_utterances

    folder = tmp_path_factory.mktemp("evaluated")
    rows = pq.read_table(tone_data / "dev.parquet").to_pylist()
    rows[0]["audio"]["path"] = "lost.wav"
    write_utterances(rows, folder / "dev.parquet")
    command = ["evaluate", "--model", str(tone_run / "model"), "--data", str(folder / "dev.parquet")]
    assert main([*command, "--output", str(folder / "test.json")]) == 0
    return folder / "test.json"


def test_transcripts_are_those_that_were_scored(evaluated):
    results, rows = read_results(evaluated), read_utterances([evaluated.parent / "dev.parquet"])
    table = read_hypotheses(hypotheses_path(evaluated), results)
    assert table.schema.equals(HYPOTHESIS_FEATURES.arrow_schema)
    for name in ("id", "language", "text", "audio"):
        assert table[name].to_pylist() == rows[name][:], name  # in the order of the data set
    transcripts = table.to_pylist()
    assert "lost.wav" in transcripts[0]["error"] and transcripts[0]["mean_log_prob"] is None
    assert transcripts[0]["edits"] == transcripts[0]["characters"] == len(transcripts[0]["text"])
    for row in transcripts[1:]:
        found = jiwer.process_characters(row["text"], row["hypothesis"])
        assert row["edits"] == found.substitutions + found.deletions + found.insertions
        assert row["error"] is None and row["mean_log_prob"] <= 0 and 0 <= row["blank_ratio"] <= 1
    assert {name: results[name] for name in ("languages", "macro")} == {
        name: score(transcripts)[name] for name in ("languages", "macro")
    }


def test_a_run_keeps_the_transcripts_of_its_last_evaluation(tone_run):
    results = read_results(tone_run / "results.json")
    assert len(read_hypotheses(tone_run / "results.hypotheses.parquet", results)) == results["utterances"]


def test_transcripts_of_something_else_are_refused(evaluated, tmp_path):
    results, path = read_results(evaluated), hypotheses_path(evaluated)
    table = pq.read_table(path)
    other = json.loads(json.dumps(results))
    language = next(iter(other["languages"]))
    other["languages"][language]["cer"] += 0.01
    with pytest.raises(ValueError, match=f"another evaluation .* rates of {language} are different; .* again"):
        read_hypotheses(path, other)
    damaged = tmp_path / "damaged.parquet"
    for content, problem in (
        (table.drop_columns(["edits"]), "no column edits"),
        (table.set_column(0, "id", pa.nulls(len(table), pa.string())), "id is null in a row"),
        (table.set_column(0, "id", pa.array(table["audio"].to_pylist())), "holds no transcripts"),
        (table.slice(0, 0), "are different"),
    ):
        pq.write_table(content, damaged)
        with pytest.raises(ValueError, match=problem):
            read_hypotheses(damaged, results)
    damaged.write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="damaged"):
        read_hypotheses(damaged, results)
    with pytest.raises(FileNotFoundError, match="hf-mlpl evaluate"):
        read_hypotheses(tmp_path / "none", results)


def test_path_of_transcripts(tmp_path):
    assert hypotheses_path(tmp_path / "a.json") == tmp_path / "a.hypotheses.parquet"
    assert hypotheses_path(tmp_path / "a.test") == tmp_path / "a.test.hypotheses.parquet"


def test_bootstrap_equals_the_enumeration_of_all_samples(monkeypatch):
    """Four utterances have 256 samples, each with the same probability."""
    edits, lengths = np.array([0, 1, 5, 3]), np.array([10, 10, 5, 0])
    samples = resampled_rates(edits, lengths, "sl")
    every = [
        sum(edits[i] for i in draw) / length if (length := sum(lengths[i] for i in draw)) else 1.0
        for draw in product(range(4), repeat=4)
    ]
    assert samples.shape == (1000,) and set(samples.round(9)) <= set(np.round(every, 9))
    assert samples.mean() == pytest.approx(np.mean(every), abs=3 * np.std(every) / 1000**0.5)
    low, high = interval(samples)
    assert np.mean(np.array(every) < low) <= 0.04 and np.mean(np.array(every) > high) <= 0.04
    assert (samples >= low).mean() >= 0.975 and (samples <= high).mean() >= 0.975
    monkeypatch.setattr(intervals, "BLOCK_DRAWS", 12)  # three samples at a time
    assert (resampled_rates(edits, lengths, "sl") == samples).all()


def test_samples_are_paired_and_those_of_languages_independent():
    generator = np.random.default_rng(0)
    edits, lengths = generator.integers(0, 9, 300), generator.integers(5, 50, 300)
    rates = {name: resampled_rates(edits, lengths, name) for name in ("sl", "fi", "de", "nl")}
    assert (
        resampled_rates(edits + lengths, lengths, "sl") - rates["sl"]
    ).std() < 1e-12  # each sample is one CER worse
    assert abs(np.corrcoef(rates["sl"], rates["fi"])[0, 1]) < 0.15
    # the error of a mean over four languages is half as large
    assert macro_rates(rates).std() == pytest.approx(rates["sl"].std() / 2, rel=0.15)
    # and, by the delta method, that of one language is known
    rate = edits.sum() / lengths.sum()
    expected = np.sqrt(((edits - rate * lengths) ** 2).sum()) / lengths.sum()
    assert rates["sl"].std() == pytest.approx(expected, rel=0.1)


def test_confusions(tmp_path):
    counts = character_confusions([("haus", "hans "), ("e\u0301 a", "\u00e9a"), ("ab", "")])
    assert counts == {("u", "n"): 1, (" ", ""): 1, ("a", ""): 1, ("b", ""): 1}  # NFC, and white space at the end
    rows = [
        dict.fromkeys(HYPOTHESIS_FEATURES)
        | {"id": f"{i}", "language": "de", "text": "a", "hypothesis": "a"}
        | {"duration_seconds": 1.0, "predicted_language": predicted}
        for i, predicted in enumerate(["de", "nl", "nl", None])
    ]
    write_hypotheses(rows, tmp_path / "h.parquet")
    assert language_confusions(pq.read_table(tmp_path / "h.parquet")) == {("de", "de"): 1, ("de", "nl"): 2}


def test_two_processes_score_as_one(two_processes, tone_run, tone_data, tmp_path):
    """Their shares are joined in the order of the data, on which the samples of intervals depend."""
    results = read_results(two_processes / "results.json")
    table = read_hypotheses(hypotheses_path(two_processes / "results.json"), results)
    command = ["evaluate", "--model", str(tone_run / "model"), "--data", str(tone_data / "dev.parquet")]
    assert main([*command, "--output", str(tmp_path / "one.json")]) == 0
    one = read_results(tmp_path / "one.json")
    scored = score(table.to_pylist())
    assert {name: results[name] for name in scored} == {name: one[name] for name in scored} == scored
    columns = [name for name in HYPOTHESIS_FEATURES if name not in SCORES]
    assert read_hypotheses(tmp_path / "one.hypotheses.parquet", one).select(columns).equals(table.select(columns))
