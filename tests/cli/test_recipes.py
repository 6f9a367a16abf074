"""Tests the recipe's scripts as users start them, one after another on the tones, and their errors."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file

from hf_mlpl.data.utterances import read_utterances, write_utterances

from ..commands import PROGRAMS, ROOT, check_command, read_commands, run_command
from ..tones import SETTINGS

RECIPES = ROOT / "recipes"
LAUNCH = [Path(sys.executable).with_name("accelerate"), "launch"]
ONE_PROCESS = [*LAUNCH, "--config_file", RECIPES / "accelerate" / "cpu.yaml"]


class Chain:
    """Runs the recipe in one folder, with relative paths as in the demo; `output` keeps what each script printed."""

    def __init__(self, folder: Path, python: Path):
        self.folder, self.python = folder, python
        self.output: dict[str, tuple[str, str]] = {}

    def start(self, script, *arguments, launch=()) -> subprocess.Popen:
        return subprocess.Popen(
            [self.python, *launch, RECIPES / script, *arguments],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self, name: str, process: subprocess.Popen) -> None:
        self.output[name] = process.communicate(timeout=500)
        assert process.returncode == 0, self.output[name][1]

    def run(self, script, *arguments, **launch) -> None:
        self.finish(script.removesuffix(".py"), self.start(script, *arguments, **launch))


@pytest.fixture(scope="module")
def chain(tone_corpus, quick_python, tmp_path_factory) -> Chain:
    chain = Chain(tmp_path_factory.mktemp("recipes"), quick_python)
    corpora = ["--common-voice", tone_corpus / "common-voice", "--voxpopuli", tone_corpus / "voxpopuli"]
    chain.run("prepare_data.py", *corpora, "--output", "data")
    chain.run("build_tokenizer.py", "data/train.parquet", "--output", "data/tokens-all.lst")
    data = {"tokens": "data/tokens-all.lst", "train": ["data/train.parquet"], "dev": ["data/dev.parquet"]}
    (chain.folder / "tones.yaml").write_text(yaml.safe_dump({"output_dir": "run", **data, **SETTINGS}))

    killed = chain.start("train.py", "tones.yaml")
    deadline = time.monotonic() + 400
    while killed.poll() is None and not list(chain.folder.glob("run/checkpoints/update-*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL and not (chain.folder / "run" / "model").exists()
    chain.run("train.py", "tones.yaml", launch=[*LAUNCH, "--num_processes", "2", "--cpu"])

    rows = pq.read_table(chain.folder / "data" / "test.parquet").to_pylist()
    rows[0]["audio"]["path"] = "lost.wav"
    write_utterances(rows, chain.folder / "data" / "test.parquet")
    model = ["--model", "run/model"]
    labelling = chain.start("pseudo_label.py", *model, "--data", "data/unlabelled.parquet", "--output", "labels")
    scoring = ["--data", "data/test.parquet", "--output", "results.json", "--num-workers", "0"]
    chain.run("evaluate_model.py", *model, *scoring, launch=ONE_PROCESS)
    chain.finish("pseudo_label", labelling)
    return chain


def test_prepare_data(chain):
    out, _ = chain.output["prepare_data"]
    for line in ("train.parquet: 64 utt", "dev.parquet: 16 utt", "test.parquet: 16 utt", "unlabelled.parquet: 24 utt"):
        assert f"data/{line}" in out
    report = (chain.folder / "data" / "report.txt").read_text().splitlines()
    assert len(report) == 5 + 3 and all(line in out for line in report)
    assert "123 rows read, 120 kept; dropped: " in out
    assert out.endswith("next: hf-mlpl build-tokenizer data/train.parquet --output tokens-all.lst\n")


def test_build_tokenizer(chain):
    assert (chain.folder / "data" / "tokens-all.lst").read_text() == "|\na\nb\nc\nd\ne\nf\ng\nö\n"
    assert "data/tokens-all.lst: 9 entries from 64 transcripts" in chain.output["build_tokenizer"][0]


def test_train_killed_and_started_again_equals_an_uninterrupted_run(chain, tone_run):
    """Checks also that the same settings give the same bits with `accelerate launch` and without."""
    out, _ = chain.output["train"]
    assert re.search(r"going on from run/checkpoints/update-000000[24]0\n", out)
    paths = "model: run/model; report: run/report.html; curves: run/curves.png; numbers: run/metrics.jsonl"
    test = "next: hf-mlpl evaluate --model run/model --data TEST.parquet --output results.json"
    assert out.splitlines()[-2:] == [paths, test]
    weights, expected = (load_file(run / "model" / "model.safetensors") for run in (chain.folder / "run", tone_run))
    torch.testing.assert_close(weights, expected, rtol=0, atol=0)
    updates = [
        [json.loads(line)["update"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (chain.folder / "run", tone_run)
    ]
    assert updates[0] == updates[1]


def test_the_plainest_command_trains_as_two_processes_do(chain, two_processes):
    """Rests on one process, without MPI, for `--num_processes 2 --cpu`, and two for multi_cpu.yaml."""
    runs = chain.folder / "run", two_processes / "tones"
    rows = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in runs]
    one, two = ({row["update"]: row["loss"] for row in run if "loss" in row} for run in rows)
    assert len(one) == SETTINGS["max_updates"] and two == pytest.approx(one, rel=1e-5)


def test_pseudo_label(chain):
    out, _ = chain.output["pseudo_label"]
    assert re.search(r"sv-SE: 24 labels, 0\.\d\d h, 0 empty, mean log-probability -0\.\d{3}", out)
    assert out.splitlines()[-1] == "next: hf-mlpl report labels"
    summary = json.loads((chain.folder / "labels" / "complete.json").read_text())
    assert (summary["labels"], summary["errors"]) == (24, 0)
    assert re.fullmatch("run/model@[0-9a-f]{12}", summary["teacher"])
    labels = read_utterances([chain.folder / "labels" / "labels.parquet"])
    assert set(labels["source"]) == {summary["teacher"]} and set(labels["language"]) == {"sv-SE"}


def test_evaluate(chain):
    out, err = chain.output["evaluate_model"]
    lines = [line for line in re.split("[\r\n]", err) if "lost.wav" in line]
    assert len(lines) == 1
    message = "utterance common_voice_de_test0: lost.wav: no such file; counted as an empty hypothesis"
    assert lines[0].endswith(message)
    assert out.splitlines()[-1] == "next: hf-mlpl report results.json"
    results = json.loads((chain.folder / "results.json").read_text())
    assert (results["model"], results["data"], results["unreadable"]) == ("run/model", ["data/test.parquet"], 1)
    assert results["macro"]["cer"] < 0.15 and results["utterances"] == 16
    titles, *lines = [re.split("  +", line) for line in out.split("edits of")[0].splitlines() if "  " in line]
    shown = {line[0]: dict(zip(titles, line, strict=True)) for line in lines}
    assert shown.keys() == {*results["languages"], "macro average", "weighted by hours"}
    for name, scores in (*results["languages"].items(), ("macro average", results["macro"])):
        for title, rate in (("CER %", "cer"), ("WER %", "wer"), ("language %", "language_accuracy")):
            assert shown[name][title] == f"{100 * scores[rate]:.1f}"


@pytest.mark.slow
def test_two_processes_started_as_a_module_label_the_same(tone_run, tone_data, tone_labels, quick_python, tmp_path):
    launch = [*LAUNCH, "--config_file", RECIPES / "accelerate" / "multi_cpu.yaml", "-m", "hf_mlpl", "pseudo-label"]
    data = tone_data / "unlabelled.parquet"
    command = [quick_python, *launch, "--model", tone_run / "model", "--data", data, "--output"]
    done = subprocess.run([*command, tmp_path / "of-two"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"labels: {tmp_path}/of-two/labels.parquet, by run/model@") == 1, done.stdout
    labels = [pq.read_table(folder / "labels.parquet") for folder in (tmp_path / "of-two", tone_labels["sv-SE"])]
    assert labels[0].select(["id", "text"]).equals(labels[1].select(["id", "text"]))
    done = subprocess.run([*command, tmp_path / "no", "--languages", "fr"], capture_output=True, text=True)
    before, _, launcher = done.stderr.partition("Traceback")
    lines = [line for line in before.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1 and "Traceback" not in before
    assert lines == [f"error: {data}: no utterances of fr; there are sv-SE"]


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_evaluate_and_label_in_another_dtype(chain, output_of, dtype):
    exact = json.loads((chain.folder / "results.json").read_text())
    model, output = ["--model", "run/model", "--dtype", dtype], ["--output", f"{dtype}.json"]
    output_of("evaluate_model.py", *model, "--data", "data/test.parquet", *output)
    results = json.loads((chain.folder / f"{dtype}.json").read_text())
    assert (exact["dtype"], results["dtype"]) == ("float32", dtype)
    assert results["revision"] == exact["revision"]  # of the stored weights
    assert results["macro"]["cer"] == pytest.approx(exact["macro"]["cer"], abs=0.02)
    output_of("pseudo_label.py", *model, "--data", "data/unlabelled.parquet", "--output", dtype)
    labels = [
        pq.read_table(Path(folder, "labels.parquet")) for folder in (chain.folder / dtype, chain.folder / "labels")
    ]
    assert labels[0]["source"].equals(labels[1]["source"]) and labels[0]["text"].equals(labels[1]["text"])
    assert not labels[0]["mean_log_prob"].equals(labels[1]["mean_log_prob"])


def test_evaluate_on_sentences_that_training_lacks(chain, tone_corpus, output_of):
    scoring = ["--data", "data/test.parquet", "--unseen-in", "data/train.parquet", "--output", "unseen.json"]
    output_of("evaluate_model.py", "--model", "run/model", *scoring, "--num-workers", "0")
    scored = json.loads((chain.folder / "unseen.json").read_text())["languages"]
    sentences = {"train": [], "test": []}
    for split, pairs in sentences.items():
        for table in (tone_corpus / "common-voice").glob(f"*/{split}.tsv"):
            clips = [line.split("\t") for line in table.read_text().splitlines()[1:]]
            clips = [clip for clip in clips if (table.parent / "clips" / clip[1]).is_file()]
            pairs += [(table.parent.name, sentence) for _, _, sentence, *_ in clips]
    seen = {sentence for _, sentence in sentences["train"]}
    unseen = Counter(language for language, sentence in sentences["test"] if sentence not in seen)
    assert 0 < unseen.total() < 16  # otherwise this would test nothing
    assert {language: scores["utterances"] for language, scores in scored.items()} == unseen


@pytest.fixture
def output_of(chain, monkeypatch, capfd):
    """Runs a script's command in this process and in the chain's folder; returns what it prints."""

    def output_of(script, *arguments) -> str:
        monkeypatch.chdir(chain.folder)
        capfd.readouterr()
        assert run_command(script, *arguments) == 0
        return capfd.readouterr().out

    return output_of


@pytest.fixture(scope="module")
def finetuned(chain):
    """Runs `language_finetune.py` on the tones and returns its command; de has no unlabelled speech."""
    settings = yaml.safe_load((chain.folder / "tones.yaml").read_text())
    settings |= {"output_dir": "finetuned/{language}", "model": "run/model", "tokens": None, "max_updates": 6}
    settings |= {"unlabelled": ["data/unlabelled.parquet"], "learning_rate": 1e-3, "eval_every": 6}
    settings["slimipl"] = {"start_update": 1, "cache_size": 2, "unsupervised_updates": 1}
    (chain.folder / "finetune.yaml").write_text(yaml.safe_dump(settings))
    command = ["language_finetune.py", "finetune.yaml", "--labels", "made", "--launch", str(chain.python)]
    with pytest.MonkeyPatch.context() as patch:  # the processes that it starts inherit the folder
        patch.chdir(chain.folder)
        assert run_command(*command) == 0
    return command


def test_language_finetune(chain, finetuned, output_of):
    listed = output_of(*finetuned, "--list", "output_dir=elsewhere/{language}", "--labels", "other").splitlines()
    assert len(listed) == 1 and "language=sv-SE && " in listed[0] and "--languages sv-SE" in listed[0]
    assert "--dtype" not in listed[0]
    options = ["--list", "output_dir=elsewhere/{language}", "--labels", "other", "bf16=true"]
    assert output_of(*finetuned, *options).endswith("--dtype bfloat16\n")
    assert (chain.folder / "finetuned" / "sv-SE" / "model" / "model.safetensors").is_file()
    labels = pq.read_table(chain.folder / "made" / "sv-SE" / "labels.parquet").to_pylist()
    assert len(labels) == 24 and {row["source"].split("@")[0] for row in labels} < {"sv-SE/model", "run/model"}
    again = output_of(*finetuned).splitlines()
    assert again[0] == "== sv-SE: complete" and again[-1].startswith("labels: made/*/labels.parquet; next: ")
    made = json.loads((chain.folder / "made" / "complete.json").read_text())["languages"]["sv-SE"]
    rates = {}
    for name, results in {"start": "start.json", "slimIPL": "results.json"}.items():
        results = json.loads((chain.folder / "finetuned" / "sv-SE" / results).read_text())
        rates[name] = results["languages"]["sv-SE"]["cer"]
    by = "start" if rates["start"] < rates["slimIPL"] else "slimIPL update 6"
    assert made["labels"] == 24 and made["teacher"]["dev_cer"] == rates and made["teacher"]["labels_by"] == by
    assert (
        again[-2].startswith("sv-SE: slimIPL made all of 6 updates") and f"; labels by {by} (CER on dev: " in again[-2]
    )
    utterances = read_utterances([chain.folder / "made" / "*" / "labels.parquet"])  # as final training names them
    assert sorted(utterances["id"]) == sorted(row["id"] for row in labels)


def test_a_model_that_has_learned_no_label_hears_as_its_teacher(chain, finetuned, output_of):
    run = chain.folder / "stopped" / "sv-SE"
    (run / "model").mkdir(parents=True)
    outcome = {"line": "slimIPL ended", "start": 1, "result": 1, "is_stopped": True}
    options = ["--list", "output_dir=stopped/{language}", "--labels", "other"]
    for result, chooses, is_said in ((1, "true", True), (1, "false", False), (2, "true", False)):
        (run / "run.json").write_text(json.dumps({"slimipl": outcome | {"result": result}}))
        listed = output_of(*finetuned, *options, f"slimipl.choose_hearing={chooses}")
        assert " pseudo-label --model stopped/sv-SE/model " in listed and " train " not in listed
        assert (" --labelled data/train.parquet --data " in listed) == is_said == ("--labelled" in listed)


def test_a_language_that_cannot_be_finetuned(chain, finetuned, error_of, output_of, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(chain.folder)
    rows = [row | {"language": "fi"} for row in pq.read_table("data/unlabelled.parquet").to_pylist()]
    write_utterances(rows, tmp_path / "fi.parquet")
    command = [*finetuned, f"unlabelled=[{tmp_path / 'fi.parquet'}]"]
    message = error_of(*command, "--languages", "sv-SE")
    assert message == "no unlabelled speech in sv-SE; there is some in fi"
    message = error_of(*command)
    assert message.endswith("no language to train, there is unlabelled speech in fi, labelled speech in de, sv-SE")
    assert capfd.readouterr().out.startswith("fi: skipped, slimIPL needs labelled speech of the language too")
    message = error_of(*finetuned, "output_dir=elsewhere/{language}", "learning_rate=1e38", "cache_gigabytes=0")
    assert message.startswith("sv-SE failed, see above; the same command tries again")
    message = capfd.readouterr().err
    assert "error: the gradient of micro-batches" in message
    assert re.search(
        r"^sv-SE: failed: .* -m hf_mlpl train finetune.yaml .*language=sv-SE ended with exit status 1$", message, re.M
    )
    assert error_of("train.py", "finetune.yaml").endswith(
        "needs a language; add language=CODE, for example language=sl"
    )
    message = error_of("train.py", "finetune.yaml", "language=no")  # which YAML takes for false
    assert message.endswith("language is False; it must be a string, in quotes where YAML takes it for something else")
    files = {}
    for split in ("train", "unlabelled"):
        rows = [row | {"language": "no"} for row in pq.read_table(f"data/{split}.parquet").to_pylist()]
        write_utterances(rows, files.setdefault(split, tmp_path / f"no-{split}.parquet"))
    settings = [f"{split}=[{path}]" for split, path in files.items()]
    train, label = output_of(*finetuned, "output_dir=elsewhere/{language}", *settings, "--list").split(" && ")
    assert train.endswith("'language=\"no\"'") and "--languages no " in label


def test_a_language_whose_labels_are_damaged(chain, finetuned, error_of, capfd, monkeypatch):
    monkeypatch.chdir(chain.folder)
    path = Path("made", "sv-SE", "complete.json")
    content = path.read_text()
    for damage in ("", "null", "3", "[]", '{"languages": null}'):
        path.write_text(damage)
        assert error_of(*finetuned).startswith("sv-SE failed, see above; the same command tries again")
        errors = capfd.readouterr().err
        assert f"sv-SE: failed: {path}: damaged (" in errors
        assert "); remove it, and the same command labels sv-SE again" in errors
    path.write_text(content)


def test_filter_labels(output_of, tmp_path):
    (tmp_path / "filters.yaml").write_text("filter:\n  - language agrees\n  - blank_ratio <= 0.99\n")
    kept = tmp_path / "kept.parquet"
    printed = output_of(
        "filter_labels.py", "labels/labels.parquet", "--filters", tmp_path / "filters.yaml", "--output", kept
    )
    table = [re.split(r"\s{2,}", line.strip()) for line in printed.splitlines()[:2]]
    assert table[0] == ["hours", "all", "characters > 0", "language agrees", "blank_ratio <= 0.99", "kept"]
    assert table[1][0] == "sv-SE" and len(table[1]) == 6
    assert 0 < len(read_utterances([kept])) <= 24


def test_compare(output_of, tmp_path):
    for name, cer in (("first", {"de": 0.4, "sv-SE": 0.2}), ("last", {"de": 0.3, "sv-SE": 0.05})):
        languages = {language: {"cer": rate, "wer": 2 * rate} for language, rate in cer.items()}
        (tmp_path / name).write_text(json.dumps({"languages": languages}))
    results = [f"{name}={tmp_path / name}" for name in ("first", "last")]
    printed = output_of("compare.py", *results, "--languages", "sv-SE")
    table = [re.split(r"\s{2,}", line.strip()) for line in printed.splitlines()]
    assert table == [
        ["language", "first, CER %", "last, CER %", "change"],
        ["de", "40.0", "30.0", "-25 %"],
        ["sv-SE", "20.0", "5.0", "-75 %"],
        ["mean of sv-SE", "20.0", "5.0", "-75 %"],
        ["mean of the others", "40.0", "30.0", "-25 %"],
        ["macro average", "30.0", "17.5", "-42 %"],
    ]


def test_an_error_is_one_line_and_exit_status_1(chain):
    process = chain.start("train.py", "tones.yaml", "learning_rat=1")
    out, err = process.communicate(timeout=500)
    assert (process.returncode, out) == (1, "")
    assert err.startswith("error: tones.yaml: no setting is called learning_rat; there are output_dir, model")
    assert err.count("\n") == 1


def test_errors_of_train(error_of, tone_data, tmp_path):
    assert "nowhere.yaml" in error_of("train.py", "nowhere.yaml")
    settings = [tone_data / "tones.yaml", f"output_dir={tmp_path / 'run'}"]
    assert error_of("train.py", *settings, "optimizer=sgd").endswith("optimizer is 'sgd'; accepted are adagrad, adamw")
    assert error_of("train.py", *settings, "train=[a.parquet]").startswith("a.parquet: no such utterance file")
    assert "model/that/is/nowhere" in error_of("train.py", *settings, "model=model/that/is/nowhere")
    diverging = ["learning_rate=1e38", "dev=[]", f"output_dir={tmp_path / 'diverging'}"]
    assert "is not finite, its loss is" in error_of("train.py", *settings, *diverging)


def test_errors_of_pseudo_label_and_evaluate(error_of, tone_data, tone_run, tmp_path):
    model, output = ["--model", tone_run / "model"], ["--output", tmp_path / "out", "--num-workers", 0]
    data, unlabelled = ["--data", tone_data / "dev.parquet"], ["--data", tone_data / "unlabelled.parquet"]
    for script in ("pseudo_label.py", "evaluate_model.py"):
        assert error_of(script, *model, "--data", "a.parquet", *output).startswith("a.parquet: no such utterance file")
        message = error_of(script, *model, *data, *output, "--languages", "fr")
        assert message == f"{tone_data / 'dev.parquet'}: no utterances of fr; there are de, sv-SE"
        assert "model/that/is/nowhere" in error_of(script, "--model", "model/that/is/nowhere", *data, *output)
        not_parquet = tone_data / "tokens-all.lst"
        assert str(not_parquet) in error_of(script, *model, "--data", not_parquet, *output)
    assert (
        error_of("evaluate_model.py", *model, *unlabelled, *output)
        == "24 of 24 utterances have no text to compare with"
    )
    assert not (tmp_path / "out").exists()


def test_errors_of_the_other_scripts(error_of, tone_data, tmp_path):
    message = error_of("prepare_data.py", "--common-voice", tmp_path, "--output", tmp_path / "data")
    assert message.startswith(f"{tmp_path}: no Common Voice release; expected folders such as")
    message = error_of("prepare_data.py", "--voxpopuli", tmp_path, "--output", tmp_path / "data")
    assert message.startswith(f"{tmp_path}: no VoxPopuli corpus; expected folders such as")
    tokens = ["--output", tmp_path / "tokens"]
    assert error_of("build_tokenizer.py", "a.parquet", *tokens).startswith("a.parquet: no such utterance file")
    without_text = tone_data / "unlabelled.parquet"
    assert error_of("build_tokenizer.py", without_text, *tokens) == f"{without_text}: no utterance has a text"
    assert "nowhere.json" in error_of("compare.py", "a=nowhere.json")
    zero = {"cer": 0, "wer": 0}
    for name, content in (("a", {"languages": {"de": zero}}), ("b", {"languages": {"sl": zero}})):
        (tmp_path / name).write_text(json.dumps(content))
    results = [f"{name}={tmp_path / name}" for name in "ab"]
    assert error_of("compare.py", *results) == (
        "only one of a and b has results of de, sl; `hf-mlpl evaluate --hypotheses FILE --languages ...` scores the "
        "others alone"
    )
    (tmp_path / "b").write_text("{}")
    assert str(tmp_path / "b") in error_of("compare.py", *results)
    (tmp_path / "b").write_text("no JSON")
    assert str(tmp_path / "b") in error_of("compare.py", *results)


SCRIPTS = {path.relative_to(RECIPES).as_posix(): path for path in sorted(RECIPES.rglob("*.sh"))}


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_valid_and_name_existing_files_and_options(name):
    script = SCRIPTS[name]
    assert os.access(script, os.X_OK)
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    files = set(re.findall(r"recipes/[\w/.-]+\.\w+", script.read_text()))
    assert files and not [file for file in files if not (ROOT / file).is_file()]
    for module in re.findall(r"python -m ([\w.]+)", script.read_text()):
        assert importlib.util.find_spec(module)
    commands = [words for words in read_commands(script.read_text()) if words[0] in PROGRAMS]
    assert commands
    for words in commands:
        check_command(words)
