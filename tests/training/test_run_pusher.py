"""Tests runs that push to a Hub, with the real clients: the repository after each failure, and no lost snapshots."""

import json
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from huggingface_hub import HfApi, ModelCard
from safetensors.torch import load_file
from transformers import pipeline

from hf_mlpl.ctc_models import ctc_interface
from hf_mlpl.inference.loading import load_model
from hf_mlpl.training.loop import train
from hf_mlpl.training_config import load_config

from ..commands import run_command
from ..model.test_remote_code import WITHOUT_PACKAGE
from ..random_model import RATE, sweep
from ..small_models import save_small_encoder

pytestmark = pytest.mark.usefixtures("one_thread", "quick_retries")

ROOT = Path(__file__).resolve().parents[2]
REPO = "me/tones"
# Two saves, and the result.
SHORT = ["max_updates=6", "save_every=2", "dev=[]", f"push_to_hub={REPO}", "license=cc0-1.0"]
FIRST, SECOND, LAST = "tones: update 2", "tones: update 4", "tones: the result, update 6"


@pytest.fixture
def run(tone_data, tmp_path):
    """Trains with `tones.yaml` in a folder of `tmp_path`, and pushes; returns the run's folder."""

    def run(name="run", *overrides):
        return train(
            load_config(tone_data / "tones.yaml", [f"output_dir={tmp_path / name}", *SHORT, *overrides])
        ).parent

    return run


def commits(local_hub) -> list[str]:
    """Returns titles, the oldest first, without that of the repository's creation."""
    return [commit.title for commit in reversed(local_hub.commits(REPO))][1:]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_result(local_hub, folder: Path) -> None:
    """Checks that the Hub has the result of the run in `folder`, and that nothing is pending."""
    files = local_hub.files(REPO)
    assert files.items() >= contents(folder / "model").items()
    for name in ("config.yaml", "metrics.jsonl"):
        assert files[name] == (folder / name).read_bytes()
    assert {"handler.py", "requirements.txt"} <= files.keys()  # of an Inference Endpoint
    assert not [name for name in files if name.startswith("last-checkpoint/")]
    assert local_hub.repos["model", REPO].tags["tones"] is local_hub.commits(REPO)[0]
    assert not list((folder / "hub" / "pending").iterdir())


def uploads(local_hub) -> list[str]:
    """Returns the paths of completed uploads of large files."""
    return [request.path for request in local_hub.requests if request.method == "PUT" and request.status == 200]


def test_each_save_is_a_commit_with_a_model_and_a_state(local_hub, run, tone_data):
    folder = run()
    assert commits(local_hub) == [FIRST, SECOND, LAST]
    check_result(local_hub, folder)
    result, second, first, _ = local_hub.commits(REPO)
    for commit, update in ((first, 2), (second, 4)):
        files = {name: blob.content for name, blob in commit.files.items()}
        state = {name.removeprefix("last-checkpoint/") for name in files if name.startswith("last-checkpoint/")}
        copies = {"config.yaml", "metrics.jsonl", "run.json"}  # from which damaged files of the run come back
        own = {"data.json", "manifest.json", "optimizer.bin", "passes.json", "random_states_0.pkl", "unreported.json"}
        assert state == own | copies | {"update.json"}
        checkpoint = contents(folder / "checkpoints" / f"update-{update:08d}")
        assert files["model.safetensors"] == checkpoint["model.safetensors"]
        assert files["last-checkpoint/optimizer.bin"] == checkpoint["optimizer.bin"]
        assert files["metrics.jsonl"].count(b"\n") == update
        assert f"not finished: {update} of 6 updates." in files["README.md"].decode()
        assert files.keys() - {f"last-checkpoint/{name}" for name in state} == result.files.keys()
    assert len(uploads(local_hub)) == len(set(uploads(local_hub)))

    card = ModelCard.load(REPO)
    assert "not finished" not in card.text and (card.data.license, card.data.model_name) == ("cc0-1.0", None)

    # What it was half-way is as usable as the result.
    weights = [
        pipeline("automatic-speech-recognition", model=REPO, revision=revision).model.state_dict()
        for revision in (second.oid, "tones")
    ]
    saved = (folder / "checkpoints" / "update-00000004", folder / "model")
    for loaded, path in zip(weights, saved, strict=True):
        torch.testing.assert_close(loaded, load_file(path / "model.safetensors"), rtol=0, atol=0)

    requests = len(local_hub.requests)
    run()  # again
    assert len(local_hub.requests) == requests


@pytest.mark.slow
def test_the_pushed_model_needs_no_package(local_hub, run, plain_python, tmp_path):
    folder = run()
    np.save(tmp_path / "samples.npy", sweep(2.0))
    program = WITHOUT_PACKAGE + (
        "import numpy as np\nfrom transformers import pipeline\n"
        "recognize = pipeline('automatic-speech-recognition', model=sys.argv[1], trust_remote_code=True)\n"
        "print(repr(recognize(np.load(sys.argv[2]))['text']))"
    )
    command = [plain_python, "-c", program, REPO, str(tmp_path / "samples.npy")]
    done = subprocess.run(command, env=local_hub.env, cwd=tmp_path, capture_output=True, text=True)
    text = pipeline("automatic-speech-recognition", model=str(folder / "model"))(sweep(2.0))["text"]
    assert done.stdout.strip() == repr(text), done.stderr


@pytest.mark.parametrize(
    "faults",
    [
        [
            ("fail", "POST", "/commit/", {"status": 503, "times": 5}),
            ("fail", "POST", "/create$", {"after": 0}),
            ("fail", "POST", "/tag/", {"after": 0}),
        ],
        [
            ("fail", "POST", "/commit/", {"received": 10_000, "times": 3}),
            ("fail", "POST", "/preupload/", {"status": 503}),
            ("fail", "PUT", "", {"received": 10_000}),  # in the middle of an upload
        ],
        [
            ("fail", "POST", "/commit/", {"after": 10, "times": 2}),  # done, but the answer is lost
            ("fail", "POST", "/create$", {"status": 409}),
            ("fail", "GET", "", {"status": 429, "retry_after": 0, "times": 3}),
        ],
        [("delay", "POST", "/preupload/", {"seconds": 0.5, "times": 3})],
    ],
)
def test_failures_that_pass(faults, local_hub, run, caplog):
    for kind, method, path, how in faults:
        getattr(local_hub, kind)(method, path, **how)
    folder = run()
    assert commits(local_hub) == [FIRST, SECOND, LAST]
    check_result(local_hub, folder)
    assert len(uploads(local_hub)) == len(set(uploads(local_hub)))
    assert not [record for record in caplog.records if record.name == "hf_mlpl.training.run_pusher"]
    assert not [fault for fault in local_hub._faults if fault.times]  # each took place


def test_a_failure_that_lasts_until_the_next_save(local_hub, run, caplog):
    local_hub.fail("POST", "/commit/", status=500, times=7)
    check_result(local_hub, run())
    assert commits(local_hub) == [FIRST, SECOND, LAST]
    assert len(uploads(local_hub)) == len(set(uploads(local_hub)))  # what had arrived is not sent again
    (line,) = [record.getMessage() for record in caplog.records if record.name == "hf_mlpl.training.run_pusher"]
    message = r"me/tones: cannot push to it \(a test wants this to fail\); update 2(, update 4)? pending: "
    assert re.fullmatch(message + "(the next save, or the end, tries again|the same training command .*)", line)


def test_a_token_that_is_refused(local_hub, run, monkeypatch, caplog, capfd, tmp_path):
    """Of six snapshots three are kept: the first, which was being pushed, and the last two."""
    monkeypatch.setenv("HF_TOKEN", "hf_" + "wrong" * 7)
    folder = run("run", "save_every=1")
    lines = [record.getMessage() for record in caplog.records if record.name == "hf_mlpl.training.run_pusher"]
    refused = "me/tones: cannot push to it (Invalid credentials in Authorization header); update 1"
    login = "give HF_TOKEN or `hf auth login` a token that may write to it, then "
    assert lines[0].startswith(refused) and lines[0].endswith(f"{login}the next save, or the end, tries again")
    for update in (2, 3, 4):
        assert f"me/tones: newer ones are waiting, so it is not pushed any more: update {update}" in lines
    publish = f"hf-mlpl publish --run {folder} --repo me/tones"
    again = f"the same training command again pushes it, and so does `{publish}`"
    assert lines[-1] == f"{refused}, update 5, update 6 pending: {login}{again}"
    assert "waiting for me/tones; pending: update 1, update 5, update 6" in capfd.readouterr().out
    assert not local_hub.repos

    monkeypatch.setenv("HF_TOKEN", local_hub.token)
    run("run", "save_every=1")  # as the line says
    assert commits(local_hub) == ["tones: update 1", "tones: update 5", LAST]
    check_result(local_hub, folder)
    out, err = capfd.readouterr()
    written = b"".join(contents(tmp_path).values()) + "".join(lines + [out, err]).encode()
    assert local_hub.token.encode() not in written and b"wrongwrong" not in written


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_pushes(local_hub, run, tone_data, quick_python, tmp_path):
    local_hub.delay("PUT", "", 600, times=100)
    folder = tmp_path / "run"
    settings = [f"output_dir={folder}", *SHORT, "max_updates=150", "save_every=60"]
    command = [quick_python, ROOT / "recipes" / "train.py", tone_data / "tones.yaml", *settings]
    process = subprocess.Popen(command, env=local_hub.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 600
    metrics = folder / "metrics.jsonl"
    # It pushes, and does not wait for the Hub
    while not (("model", REPO) in local_hub.repos and metrics.read_bytes().count(b"\n") > 65):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not commits(local_hub)
    assert [path.name for path in (folder / "hub" / "pending").iterdir()] == ["update-00000060"]
    local_hub.recover()  # it may have been killed before its first upload

    (folder / "hub" / "pending" / ".partial-update-00000120").mkdir()  # as if it had been killed in writing one
    run("run", *settings[1:])
    assert commits(local_hub) == ["tones: update 60", "tones: update 120", "tones: the result, update 150"]
    check_result(local_hub, folder)


def test_a_finished_run_is_pushed_when_it_is_asked_for(local_hub, run):
    folder = run("run", "push_to_hub=null")
    assert not local_hub.requests
    run("run", "hub_private_repo=true")
    assert commits(local_hub) == [LAST]
    check_result(local_hub, folder)
    assert HfApi().model_info(REPO).private


def test_publish(local_hub, tone_run, tone_data, tmp_path, capfd, error_of):
    folder = tmp_path / "tones"
    shutil.copytree(tone_run, folder)
    with pytest.raises(SystemExit):
        run_command("publish.py", "--run", folder)
    assert "no model/; --run needs" in error_of("publish.py", "--run", tmp_path, "--repo", REPO)
    message = f"{folder / 'config.yaml'}: license is None; push_to_hub needs the licence of what is pushed, such as"
    assert message in error_of("publish.py", "--run", folder, "--repo", REPO)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "license": "cc0-1.0"}))

    results = tmp_path / "test set.json"
    data = tone_data / "dev.parquet"
    assert run_command("evaluate.py", "--model", folder / "model", "--data", data, "--output", results) == 0
    capfd.readouterr()
    command = ["--run", folder, "--results", results, "--repo", REPO, "--private"]
    assert run_command("publish.py", *command) == 0
    assert capfd.readouterr().out == f"pushed to {local_hub.endpoint}/{REPO}, tag tones\n"
    assert run_command("publish.py", *command) == 0  # again, which changes nothing
    assert commits(local_hub) == ["tones: the result, with test results"]
    files = local_hub.files(REPO)
    assert files.items() >= contents(folder / "model").items()
    assert files["results/test set.json"] == results.read_bytes()
    assert {"config.yaml", "metrics.jsonl", "run.json", "results.json", "curves.png"} < files.keys()
    card = ModelCard.load(REPO).data
    assert card.license == "cc0-1.0" and len(card.eval_results) == 8  # CER and WER of two languages, also normalised
    assert local_hub.repos["model", REPO].private
    assert local_hub.repos["model", REPO].tags["tones"] is local_hub.commits(REPO)[0]
    assert not list(folder.glob(".publish*"))

    local_hub.fail("GET", f"/api/models/{REPO}", status=403)
    message = f"{REPO}: cannot push to it (a test wants this to fail); {folder} is complete: give HF_TOKEN or"
    assert error_of("publish.py", *command).startswith(message)


@pytest.mark.slow
def test_the_result_of_another_architecture_needs_no_package(run, local_hub, tone_data, plain_python, tmp_path):
    """An encoder from the Hub gets a head; checkpoint and result, and the snippet of the card, work elsewhere."""
    soundfile.write(tmp_path / "recording.wav", sweep(2), RATE, subtype="FLOAT")
    source, repo = (HfApi().create_repo(name).repo_id for name in ("encoder", "result"))
    encoder = save_small_encoder(tmp_path / "encoder", "parakeet_ctc")
    commit = HfApi().upload_folder(repo_id=source, folder_path=encoder).oid
    settings = [f"model={source}", "model_fields={}", f"push_to_hub={repo}", "allow_collapsed=true"]
    folder = run("run", *settings, "learning_rate=1e-9")  # a random head says more than one that has hardly learned
    card = ModelCard(local_hub.files(repo)["README.md"].decode())
    assert card.data.base_model == source and card.data.language == ["de", "sv"]
    assert "a CTC model of type `parakeet_ctc` with" in card.content
    assert "language-ID" not in card.content and "import hf_mlpl" not in card.content
    record = json.loads(local_hub.files(repo)["run.json"])
    assert record["model"].items() >= {"type": "parakeet_ctc", "languages": []}.items()
    assert record["started_from"] == {"name": source, "revision": commit, "run": None}

    snippet = re.search("```python\n(.*?)```", card.content, re.DOTALL).group(1)
    saved = next(commit.oid for commit in local_hub.commits(repo) if commit.title == SECOND)
    snippets = [snippet, snippet.replace("model=", f'revision="{saved}", model=')]
    (tmp_path / "snippets.py").write_text("\n".join([WITHOUT_PACKAGE, *snippets]))
    program = [plain_python, tmp_path / "snippets.py"]
    done = subprocess.run(program, env=local_hub.env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    texts = [" ".join(line.replace("<unk>", "").split()) for line in done.stdout.splitlines()]
    model, processor = load_model(folder / "model")
    inputs = processor.feature_extractor(sweep(2), sampling_rate=RATE, return_tensors="pt")
    for text, file in zip(texts, ("model", "checkpoints/update-00000004"), strict=True):
        model.load_state_dict(load_file(folder / file / "model.safetensors"))
        path = model(**inputs).logits[0].argmax(dim=-1).tolist()
        assert text and text == ctc_interface(model.config, processor).decode(path).text

    results = tmp_path / "results.json"
    evaluate = ["--model", folder / "model", "--data", tone_data / "dev.parquet", "--output", results]
    assert run_command("evaluate.py", *evaluate) == 0
    scores = json.loads(results.read_text())["languages"]["de"]
    assert scores["language_accuracy"] is None and scores["cer"] > 0
    assert run_command("publish.py", "--run", folder, "--repo", repo, "--results", results) == 0
    card = local_hub.files(repo)["README.md"].decode()
    assert "| CER % | WER % | norm. CER % | norm. WER % |\n" in card and f"| {100 * scores['cer']:.1f} |" in card
