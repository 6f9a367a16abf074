"""Tests labels and evaluations by beam search: their texts, their source, how jobs go on, their commands."""

import json
import re
import sys

import pyarrow.parquet as pq
import pytest
import yaml

from hf_mlpl.cli.evaluate import _try_searches
from hf_mlpl.cli.main import main
from hf_mlpl.data.utterances import read_utterances
from hf_mlpl.evaluation.hypotheses import read_hypotheses
from hf_mlpl.inference.decoding import transcribe
from hf_mlpl.inference.recognition import load_recognizer
from hf_mlpl.installation import install_command
from hf_mlpl.report.evaluations import read_evaluation

from ..commands import run_command
from ..ranks import run_on_two
from ..small_teachers import TEACHERS

pytest.importorskip("flashlight.lib.text", reason="needs the extra lm")
from hf_mlpl.inference.label_search import SearchSettings, load_search  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def lm(tone_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    assert run_command("build_lm.py", tone_data / "train.parquet", "--output", folder, "--order", 3) == 0
    return folder


@pytest.fixture
def label(tone_run, tone_data, lm, tmp_path):
    """Returns a function that labels with `--lm`, and returns the labels: id -> row."""

    def label(name, *options) -> dict:
        files = ["--data", tone_data / "unlabelled.parquet", "--output", tmp_path / name, "--num-workers", 0]
        assert run_command("pseudo_label.py", "--model", tone_run / "model", "--lm", lm, *files, *options) == 0
        return {row["id"]: row for row in pq.read_table(tmp_path / name / "labels.parquet").to_pylist()}

    return label


def test_labels_are_those_of_the_search_and_name_it(label, lm, tone_run, tone_data, tmp_path, capsys):
    made = label("a", "--lm-weight", 2, "--beam-size", 30)
    model, processor = load_recognizer(str(tone_run / "model"))
    dataset = read_utterances([tone_data / "unlabelled.parquet"])
    search = load_search(lm, processor.tokenizer, ["sv-SE"], SearchSettings(2.0, beam_size=30))
    for hypothesis in transcribe(model, processor, dataset, search=search):
        row = made[dataset[hypothesis.row]["id"]]
        assert row["text"] == hypothesis.text
        assert row["mean_log_prob"] == pytest.approx(hypothesis.mean_log_prob, abs=1e-4)
    greedy = {dataset[each.row]["id"]: each.text for each in transcribe(model, processor, dataset)}
    assert greedy != {name: row["text"] for name, row in made.items()}
    [source] = {row["source"] for row in made.values()}
    assert re.fullmatch(rf"run/model@[0-9a-f]{{12}}\+{re.escape(search.name)}", source)
    for name in ("job.json", "complete.json"):
        assert json.loads((tmp_path / "a" / name).read_text())["teacher"] == source
    capsys.readouterr()
    files = ["--data", tone_data / "unlabelled.parquet", "--output", tmp_path / "a", "--num-workers", 0]
    for options in ((), ("--lm", lm), ("--lm", lm, "--lm-weight", 2)):
        assert run_command("pseudo_label.py", "--model", tone_run / "model", *files, *options) == 1
        assert "holds another job's labels: teacher was" in capsys.readouterr().err
    assert label("a", "--lm-weight", 2, "--beam-size", 30) == made


def texts(rows) -> dict:
    return {name: (row["text"], row["source"], row["predicted_language"]) for name, row in rows.items()}


def test_batches_make_the_same_labels(label):
    assert texts(label("b", "--batch-seconds", 1)) == texts(label("a"))


@pytest.mark.slow
def test_processes_make_the_same_labels(label, lm, tone_run, tone_data, tmp_path):
    expected = texts(label("a"))
    assert texts(label("c", "--num-workers", 2)) == expected
    model = ["--model", tone_run / "model", "--lm", lm, "--data", tone_data / "unlabelled.parquet"]
    command = [*model, "--output", tmp_path / "d", "--batch-seconds", "3"]
    constants = {"labels.labelling": {"SHARD_SIZE": 5}}
    done = run_on_two(tmp_path, "pseudo_label.py", *command, **constants)
    assert [status for status, _ in done] == [0, 0], done
    rows = pq.read_table(tmp_path / "d" / "labels.parquet").to_pylist()
    assert texts({row["id"]: row for row in rows}) == expected


def test_evaluation_tries_weights_and_keeps_the_best(tone_run, tone_data, lm, tmp_path, capsys):
    (lm / "de.arpa").rename(lm / "de.arpa.away")
    try:
        command = ["--model", tone_run / "model", "--data", tone_data / "dev.parquet", "--num-workers", 0, "--lm", lm]
        several = [*command, "--lm-weight", 0.3, 1.5, 40, "--output", tmp_path / "dev.json"]
        assert run_command("evaluate_model.py", *several) == 0
        out = capsys.readouterr().out
        assert "greedy, because --lm has no language model of them: de\n" in out
        results = json.loads((tmp_path / "dev.json").read_text())
        tried = results["lm_trials"]
        assert [trial["lm_weight"] for trial in tried] == [None, 0.3, 1.5, 40]
        assert [trial["blank_penalty"] for trial in tried] == [None, 0, 0, 0]
        best = min(tried[1:], key=lambda trial: trial["cer"])
        assert (results["macro"]["cer"], results["lm"]["lm_weight"]) == (best["cer"], best["lm_weight"])
        assert f"\nbeam search with language models of sv-SE, weight {best['lm_weight']:g}\n" in out
        assert tried[3]["cer"] > best["cer"]  # with such a weight, the sound does not matter
        assert re.search(r"lm weight +blank penalty +CER +WER\ngreedy +\d", out)
        assert ("leave --lm out" in out) == (tried[0]["cer"] <= best["cer"])
        assert run_command("evaluate_model.py", *command, "--lm-weight", 1.5, "--output", tmp_path / "one.json") == 0
        one = json.loads((tmp_path / "one.json").read_text())
        assert "lm_trials" not in one and one["macro"]["cer"] == tried[2]["cer"]
        (tmp_path / "one.hypotheses.parquet").rename(tmp_path / "away.hypotheses.parquet")
        again = read_evaluation(tmp_path / "one.json").command
        (tmp_path / "away.hypotheses.parquet").rename(tmp_path / "one.hypotheses.parquet")
        assert f" --lm {lm} --lm-weight 1.5 --beam-size 50 --output " in again
        greedy = ["--model", tone_run / "model", "--data", tone_data / "dev.parquet", "--num-workers", 0]
        assert run_command("evaluate_model.py", *greedy, "--output", tmp_path / "greedy.json") == 0
        results = json.loads((tmp_path / "greedy.json").read_text())
        assert results["macro"]["cer"] == tried[0]["cer"] and "lm" not in results
        texts = [read_hypotheses(tmp_path / f"{name}.hypotheses.parquet").to_pylist() for name in ("one", "greedy")]
        for with_lm, without in zip(*texts, strict=True):
            assert with_lm["language"] == "sv-SE" or with_lm["hypothesis"] == without["hypothesis"]
    finally:
        (lm / "de.arpa.away").rename(lm / "de.arpa")


def test_evaluation_tries_each_weight_with_each_penalty(tone_run, tone_data, lm, tmp_path, capsys):
    command = ["--model", tone_run / "model", "--data", tone_data / "dev.parquet", "--num-workers", 0, "--lm", lm]
    several = [*command, "--lm-weight", 40, 0.3, "--blank-penalty", 1, 0]
    assert run_command("evaluate_model.py", *several, "--output", tmp_path / "dev.json") == 0
    out, results = capsys.readouterr().out, json.loads((tmp_path / "dev.json").read_text())
    tried = results["lm_trials"][1:]
    assert [(trial["lm_weight"], trial["blank_penalty"]) for trial in tried] == [(40, 1), (40, 0), (0.3, 1), (0.3, 0)]
    best = min(tried, key=lambda trial: trial["cer"])
    assert best["cer"] < max(trial["cer"] for trial in tried)
    assert {name: results["lm"][name] for name in ("lm_weight", "blank_penalty")} == {
        name: best[name] for name in ("lm_weight", "blank_penalty")
    }
    assert f", weight {best['lm_weight']:g}, blank penalty {best['blank_penalty']:g}\n" in out
    one = ["--lm-weight", 0.3, "--blank-penalty", 1, "--output", tmp_path / "one.json"]
    assert run_command("evaluate_model.py", *command, *one) == 0
    assert json.loads((tmp_path / "one.json").read_text())["macro"]["cer"] == tried[2]["cer"]
    (tmp_path / "one.hypotheses.parquet").unlink()
    assert (
        " --lm-weight 0.3 --beam-size 50 --blank-penalty 1 --output " in read_evaluation(tmp_path / "one.json").command
    )


def test_what_cannot_work_is_an_error_before_the_job_begins(tone_run, tone_data, lm, tmp_path, capsys, monkeypatch):
    def error_of(*options, model=tone_run / "model") -> str:
        command = ["--model", model, "--data", tone_data / "unlabelled.parquet", "--output", tmp_path / "labels"]
        assert main(["pseudo-label", *map(str, [*command, *options])]) == 1
        assert not (tmp_path / "labels").exists()
        return capsys.readouterr().err.splitlines()[-1].removeprefix("error: ")

    (tmp_path / "sv-SE.arpa").write_text(
        "\\data\\\nngram 1=3\nngram 2=1\n\n\\1-grams:\n-1\t<unk>\n-99\t<s>\t0\n"
        "-1\t</s>\n\n\\2-grams:\n-1\t<s> </s>\n\n\\end\\\n"
    )
    assert "knows none of the" in error_of("--lm", tmp_path)
    assert error_of("--lm", tmp_path / "no.arpa").endswith(
        "no.arpa: no such language model; `hf-mlpl build-lm` writes one"
    )
    whisper = tmp_path / "whisper"
    TEACHERS["whisper"](whisper)
    assert "--lm is for CTC models of hf_mlpl; this one, of type whisper" in error_of("--lm", lm, model=whisper)
    for name in ("hf_mlpl.inference.beam_search", "hf_mlpl.inference.label_search"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "flashlight.lib.text.decoder", None)
    assert error_of("--lm", lm) == f"beam search needs flashlight-text, which comes with {install_command('lm')}"


def test_options_without_a_language_model(tone_run, tone_data, tmp_path, capsys):
    command = ["pseudo-label", "--model", str(tone_run / "model"), "--data", str(tone_data / "unlabelled.parquet")]
    with pytest.raises(SystemExit):
        main([*command, "--output", str(tmp_path / "labels"), "--beam-size", "3"])
    assert "--beam-size is for --lm" in capsys.readouterr().err


def test_labels_after_slimipl_have_the_options_of_the_search(tone_data, lm, tmp_path, capsys):
    settings = yaml.safe_load((tone_data / "tones.yaml").read_text())
    settings |= {"unlabelled": [str(tone_data / "unlabelled.parquet")], "slimipl": {"start_update": 1}}
    settings |= {"output_dir": str(tmp_path / "{language}")}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    command = ["language_finetune.py", tmp_path / "settings.yaml", "--labels", tmp_path / "labels", "--list"]
    assert run_command(*command, "--lm", lm) == 0
    assert capsys.readouterr().out.endswith(f" --lm {lm}\n")
    assert run_command(*command, "--lm", lm, "--lm-weight", 0.8, "--blank-penalty", 0) == 0
    assert capsys.readouterr().out.endswith(f" --lm {lm} --lm-weight 0.8 --blank-penalty 0\n")
    with pytest.raises(SystemExit):
        run_command(*command, "--blank-penalty", 1)
    assert "--lm-weight and --blank-penalty are for --lm" in capsys.readouterr().err


def test_no_weight_is_chosen_without_an_error_rate():
    with pytest.raises(ValueError, match=r"no reference has a letter, .*; give one --lm-weight"):
        trials = [SearchSettings(0.2), SearchSettings(0.4)]
        _try_searches(lambda trial: {"macro": {"cer": None, "wer": None}}, trials, is_shown=False)
