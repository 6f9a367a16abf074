"""The commands of a proof as people start them: wrong arguments, other languages, and a whole proof on the tones."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from safetensors.numpy import load_file

from hf_mlpl.data.utterances import write_utterances
from recipes.human_speech import __main__ as human_speech
from recipes.proof import __main__ as proof

from ..commands import ROOT

VARIANTS = """
same: {mixed: {learning_rate: 0.001}}
longer: {mixed: {max_updates: 6}}
kept: {labels: {teacher: supervised, filter: [characters > 1]}}
voted: {labels: {committee: 2, filter: [agreement >= 50%]}}
"""


@pytest.fixture
def in_root(monkeypatch, quick_python):
    """Lets jobs start quickly, in the project's folder, as the scripts do."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "executable", str(quick_python))
    names = "launch models updates later_updates batch_seconds curriculum committee average start settings lm_weight"
    for name in names.split():
        monkeypatch.delenv(name, raising=False)


def last_line(capsys, command, *arguments) -> tuple[int, str]:
    """Runs a command that prints one line of an error; returns the exit status and the line."""
    try:
        status = command([str(argument) for argument in arguments])
    except SystemExit as end:
        status = end.code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return status, lines[0]


@pytest.mark.parametrize("script", ["recipes/proof.sh", "recipes/human_speech/run.sh"])
def test_scripts_explain_themselves_from_any_folder(script, tmp_path):
    path = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([ROOT / script], cwd=tmp_path, env=path, capture_output=True, text=True)
    assert done.returncode == 2 and re.fullmatch(rf"error: .*{re.escape(script)} --help .*\n", done.stderr)
    done = subprocess.run([ROOT / script, "--help"], cwd=tmp_path, env=path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count(script) > 2 and len(done.stdout) > 2000


def test_wrong_arguments_of_a_proof_are_one_line(tone_data, tmp_path, in_root, capsys):
    def error(*arguments):
        return last_line(capsys, proof.main, *arguments)

    usual = (tone_data, tmp_path / "out", "sv-SE")
    status, line = error(tone_data)
    assert status == 2 and "required: OUTPUT, LANGUAGES, SEED" in line
    status, line = error(*usual, "x")
    assert status == 2 and "'x' is not accepted; it must be a whole number" in line
    status, line = error(*usual, "0", "--later-updates", "3")
    assert status == 2 and "5 or more" in line
    status, line = error(*usual, "0", "--models", "supervised best")
    assert status == 1 and "no model is called best; there are supervised, control" in line
    status, line = error(tmp_path, *usual[1:], "0")
    assert status == 1 and f"{tmp_path}: no train.parquet" in line
    status, line = error(*usual, "0")
    assert status == 1 and f"{tone_data}: no test.parquet" in line
    status, line = error(*usual[:2], "de", "0", "--evaluate", "dev")
    assert status == 1 and "unlabelled.parquet: holds no speech in de" in line
    only_train = tmp_path / "data"
    only_train.mkdir()
    for split in ("train", "unlabelled"):
        (only_train / f"{split}.parquet").symlink_to(tone_data / f"{split}.parquet")
    variants = tmp_path / "variants.yaml"
    variants.write_text(VARIANTS)
    status, line = error(only_train, *usual[1:], "0", "--variants", variants)
    assert (
        status == 1 and "no dev.parquet, so there are no speakers to choose on" in line and "--evaluate test" in line
    )
    status, line = error(*usual, "0", "--variants", variants)  # texts of the tones' long recordings are not known
    assert status == 1 and 'the oracle needs them; --models "supervised control final" leaves it out' in line


def test_environment_variables_set_defaults(tone_data, tmp_path, in_root, monkeypatch, capsys):
    for name, value in {
        "updates": "7",
        "batch_seconds": "2.5",
        "curriculum": "3",
        "models": "supervised",
        "settings": "log_every=9",
    }.items():
        monkeypatch.setenv(name, value)
    usual = (str(tone_data), str(tmp_path), "sv-SE", "0", "--plan", "--evaluate", "dev")
    assert proof.main([*usual]) == 0
    shown = capsys.readouterr().out
    assert "max_updates=7 'dev=[]' max_batch_seconds=2.5" in shown and "log_every=9" in shown
    assert " curriculum.updates=3 " in shown
    assert [line.split(":")[0] for line in shown.splitlines()] == ["tokens", "0/supervised", "0/supervised.dev"]
    assert proof.main([*usual, "--updates", "8"]) == 0 and "max_updates=8" in capsys.readouterr().out
    monkeypatch.setenv("committee", "2")
    for number in (["--committee", "1"], []):
        assert proof.main([*usual, "--models", "supervised final", *number]) == 0
        shown = capsys.readouterr().out
        assert ("\n0/committee-1/supervised: " in shown) == (" vote-labels " in shown) == (not number)
    assert "--committee: '0' is not accepted" in last_line(capsys, proof.main, *usual, "--committee", "0")[1]
    monkeypatch.setenv("updates", "many")
    status, line = last_line(capsys, proof.main, *usual)
    assert status == 2 and "--updates: 'many' is not accepted" in line


def write_recordings(folder: Path, seconds: float) -> Path:
    """Writes a table with two recordings of each of four speakers."""
    rows = ["path\tsentence\tspeaker"]
    for speaker in ("ana", "bor", "cene", "dana"):
        for number in range(2):
            name = f"{speaker}-{number}.wav"
            soundfile.write(folder / name, [0.1, -0.1] * int(8000 * seconds), 16_000)
            rows.append(f"{name}\tena dva\t{speaker}")
    (folder / "table.tsv").write_text("\n".join(rows) + "\n")
    return folder / "table.tsv"


@pytest.mark.parametrize(
    ("seconds", "updates", "batch_seconds", "curriculum", "lm_weight"),
    [(0.5, 3000, 5, 0, "0.8"), (3, 2500, 30, 300, "1.2")],
)
def test_people_of_any_language(
    seconds, updates, batch_seconds, curriculum, lm_weight, tmp_path, in_root, monkeypatch, capfd
):
    write_recordings(tmp_path, seconds)
    monkeypatch.chdir(tmp_path)  # paths are those of the caller
    arguments = "--list table.tsv --language sl --train-speakers ana --dev-speakers bor --output out --plan".split()
    assert human_speech.main([*arguments, "--test-speakers", "cene", "--seeds", "0", "1"]) == 0
    shown = capfd.readouterr().out
    splits = {"train": "ana", "dev": "bor", "test": "cene", "unlabelled": "dana"}
    for split, speaker in splits.items():
        table = pq.read_table(tmp_path / "out" / "data" / f"{split}.parquet").to_pylist()
        assert [(row["speaker"], row["language"]) for row in table] == [(speaker, "sl")] * 2
    assert "1/supervised.json" in shown
    assert f"max_updates={updates} 'dev=[]' max_batch_seconds={batch_seconds} " in shown
    assert ("curriculum" in shown) == (f" curriculum.updates={curriculum} " in shown) == (curriculum > 0)
    assert (f" --lm-weight {lm_weight} " in shown) == proof.CAN_SEARCH == ("--lm-weight" in shown)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("updates", "9")
    options = ["--lm-weight", "0", "--curriculum", "0"]
    assert human_speech.main([*arguments, "--seeds", "2", *options]) == 0  # without test speakers, shorter
    shown = capfd.readouterr().out
    assert "--lm-weight" not in shown and "curriculum" not in shown
    assert "2/supervised.dev.json" in shown and "\n0/" not in shown and "max_updates=9 " in shown


def test_known_corpora(tmp_path, in_root, capfd):
    folder = tmp_path / "en-fsdd"
    folder.mkdir()
    table = write_recordings(folder, 0.5)
    text = table.read_text()
    for ours, theirs in {"ana": "george", "bor": "nicolas", "cene": "theo"}.items():
        text = text.replace(f"\t{ours}", f"\t{theirs}")
    table.rename(folder / "manifest.tsv").write_text(text)
    assert human_speech.main([str(tmp_path), "en", "0", "--plan", "--output", str(tmp_path / "out")]) == 0
    shown = capfd.readouterr().out
    assert (
        "max_updates=3000 'dev=[]' max_batch_seconds=5 " in shown
        and f"{tmp_path}/out/proof/0/final_mean_3.json" in shown
    )
    assert "at_once" not in shown and "scratch" not in shown


def test_wrong_arguments_of_human_speech_are_one_line(tmp_path, in_root, capsys):
    def error(*arguments):
        return last_line(capsys, human_speech.main, *arguments)

    assert error() == error("folder") and error()[0] == 2
    status, line = error("folder", "sl", "0")
    assert status == 2 and "sl is none of en, ml; --list TABLE --language" in line
    assert "no seed is named" in error("folder", "en")[1]
    assert "--list needs --language" in error("--list", "a.tsv", "0")[1]
    assert "--list needs --train-speakers" in error("--list", "a.tsv", "--language", "sl", "0")[1]
    assert "belong to --list" in error("folder", "en", "0", "--language", "sl")[1]
    status, line = error(tmp_path, "en", "0")
    assert status == 1 and f"{tmp_path}/en-fsdd/manifest.tsv: no such file" in line


@pytest.mark.slow
def test_two_seeds_and_variants_on_tones(tone_data, tone_run, tmp_path, in_root, monkeypatch, capsys):
    """Runs all jobs with a few updates, from a model that has learned the tones, so that its labels have texts."""
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    train = pq.read_table(tone_data / "train.parquet").to_pylist()
    write_utterances(train[::2], data / "train.parquet")
    write_utterances(train[1::2], data / "unlabelled.parquet")  # with known texts
    (data / "dev.parquet").symlink_to(tone_data / "dev.parquet")
    variants = tmp_path / "variants.yaml"
    variants.write_text(VARIANTS)
    short = ["--updates", "3", "--later-updates", "5", "--batch-seconds", "5", "--jobs", "2"]
    short += ["--start", str(tone_run / "model"), "--settings", "num_workers=0"]
    command = [str(data), str(out), "de sv-SE", "0", "1", "--variants", str(variants), *short]
    assert proof.main(command) == 0, capsys.readouterr().err
    content = json.loads((out / "table.json").read_text())
    page = (out / "table.md").read_text()
    assert content["split"] == "dev" and content["failed"] == {} and not list(out.glob("*/final.json"))
    assert set(content["models"]) == {"supervised", "control", "final", "same", "longer", "kept", "voted", "oracle"}
    assert content["models"]["final"] == content["models"]["same"] and content["paired"]["same"]["cer"]["mean"] == 0
    trained = {path.parent.name for path in out.glob("0/*/model")}
    assert trained >= {"supervised", "de", "sv-SE", "final_mixed", "final", "control", "oracle_mixed", "oracle"}
    assert len([name for name in trained if name.startswith("supervised")]) == 1
    assert len([name for name in trained if name.startswith("final_mixed")]) == 4
    weights = {
        (out / "0" / folder / "supervised" / "model" / "model.safetensors").read_bytes()
        for folder in (".", "committee-1")
    }
    assert len(weights) == 2 and 0.5 <= content["labels"]["voted"]["kept_share"]["mean"] <= 1
    for seed in (0, 1):
        [voted] = (out / str(seed)).glob("voted-*.parquet")
        assert {*pq.read_table(voted)["id"].to_pylist()} == {row["id"] for row in train[1::2]}
    assert (
        set(content["labels"]) == {"supervised", "final", "same", "longer", "kept", "voted"}
        and "| final, same, longer |" in page
    )
    [counts] = out.glob("0/labels*/complete.json")
    assert json.loads(counts.read_text())["languages"].keys() == {"de", "sv-SE"}
    assert (out / "1" / "final.dev.hypotheses.parquet").exists()
    capsys.readouterr()

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.json") if path.name != "table.json"}
    (out / "1" / "control.dev.json").unlink()
    assert proof.main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert " jobs, " in lines[0] and lines[1].startswith("1/control.dev: ") and lines[2] == ""
    again = {path: path.stat().st_mtime_ns for path in before}
    assert [path.name for path in before if before[path] != again[path]] == ["control.dev.json"]
    assert (out / "table.md").read_text() == page

    one_seed = [*command[:4], "--evaluate", "dev", "--models", "supervised final", *short, "--average", "2"]
    assert proof.main(one_seed) == 0, capsys.readouterr().err
    folders = [out / "0" / name / "model" for name in ("final", "average-1/final", "final_mean_2")]
    first, second, mean = (load_file(folder / "model.safetensors") for folder in folders)
    assert any((first[name] != second[name]).any() for name in mean)
    for name, weights in mean.items():
        np.testing.assert_allclose(weights, (first[name] + second[name]) / 2, rtol=1e-5, atol=1e-7)
    results = json.loads((out / "0" / "final_mean_2.dev.json").read_text())
    cers = [results["languages"][language]["cer"] for language in ("de", "sv-SE")]
    assert json.loads((out / "table.json").read_text())["models"]["final"]["cer"]["mean"] == pytest.approx(
        100 * sum(cers) / 2
    )
