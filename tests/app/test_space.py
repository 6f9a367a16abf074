"""The Space of a model: its files, its push to the local Hub, and its program, which answers the real client."""

import socket
import subprocess
from pathlib import Path

import pytest
import soundfile
from huggingface_hub import HfApi, RepoCard, snapshot_download
from packaging.requirements import Requirement
from transformers import pipeline

from hf_mlpl.app.space import write_space
from hf_mlpl.installation import required_libraries

from ..commands import ROOT, run_command
from ..random_model import LANGUAGES, RATE, save_folder, sweep

CARD = "---\nlicense: cc0-1.0\npipeline_tag: automatic-speech-recognition\n---\n# A model\n"


def names(lines: list[str]) -> set[str]:
    return {Requirement(line).name for line in lines}


def test_requirements():
    """Compares those that pip reads in pyproject.toml with those that setuptools writes."""
    libraries = required_libraries("app")
    assert {"torch", "transformers", "gradio", "av", "starlette", "jinja2"} <= names(libraries)
    assert not names(libraries) & {"hf-mlpl", "peft", "pytest", "mkdocs"}
    assert {"peft"} == names(required_libraries("peft")) - names(required_libraries("none"))


def test_files(tmp_path, monkeypatch):
    for name in ("own", "address"):
        (tmp_path / name).mkdir()
    write_space(tmp_path / "own", "me/a", "cc0-1.0")
    carried = {path.relative_to(tmp_path / "own") for path in (tmp_path / "own" / "hf_mlpl").rglob("*")}
    assert {Path("hf_mlpl/app/templates/header.html"), Path("hf_mlpl/py.typed")} < carried
    assert not [path for path in carried if path.suffix == ".pyc"]
    monkeypatch.setattr("hf_mlpl.app.space.published_requirement", lambda extra: f"hf-mlpl[{extra}] @ git+https://a/b")
    write_space(tmp_path / "address", "me/a", "cc0-1.0")
    assert (tmp_path / "address" / "requirements.txt").read_text() == "hf-mlpl[app] @ git+https://a/b\n"
    assert {path.name for path in (tmp_path / "address").iterdir()} == {"app.py", "README.md", "requirements.txt"}


@pytest.mark.slow
def test_the_space_of_a_pushed_model(local_hub, plain_python, tmp_path, capfd, error_of):
    message = error_of("publish.py", "--space", "--repo", "me/none")
    assert message.startswith("me/none: its Space needs the model on the Hub (") and "hf_" not in message
    model = save_folder(tmp_path / "model", LANGUAGES)
    (model / "README.md").write_text(CARD)
    repo = HfApi().create_repo("talker", private=True).repo_id
    HfApi().upload_folder(repo_id=repo, folder_path=model, ignore_patterns="README.md")
    assert "me/talker: its Space needs the model" in error_of("publish.py", "--space", "--repo", repo)
    HfApi().upload_file(repo_id=repo, path_or_fileobj=b"# A model\n", path_in_repo="README.md")
    assert "me/talker: its card names no licence" in error_of("publish.py", "--space", "--repo", repo)
    HfApi().upload_folder(repo_id=repo, folder_path=model)
    for _ in range(2):  # the second changes nothing
        assert run_command("publish.py", "--space", "--repo", repo, "--private") == 0
        out = capfd.readouterr().out
        assert out.startswith(f"pushed to {local_hub.endpoint}/spaces/{repo}\n") and "HF_TOKEN" in out
    assert len(local_hub.commits(repo, repo_type="space")) == 2 and local_hub.repos["space", repo].private
    card = RepoCard.load(repo, repo_type="space").data
    assert card.to_dict().items() >= {"sdk": "gradio", "app_file": "app.py", "models": [repo]}.items()
    assert card.license == "cc0-1.0"

    space = Path(snapshot_download(repo, repo_type="space", local_dir=tmp_path / "space"))
    header = space / "hf_mlpl" / "app" / "templates" / "header.html"
    header.write_text(header.read_text().replace("Speech to text", "A package of its own"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = local_hub.env | {
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "OMP_NUM_THREADS": "1",
    }
    env["no_proxy"] = "127.0.0.1"
    arguments = [plain_python, "-u", "app.py"]
    program = subprocess.Popen(
        arguments, cwd=space, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    log = []
    try:
        while not (log and f"127.0.0.1:{port}" in log[-1]):
            log.append(program.stdout.readline())
            assert log[-1], log
        from gradio_client import Client, handle_file

        soundfile.write(tmp_path / "a.wav", sweep(3), RATE, subtype="FLOAT")
        client = Client(f"http://127.0.0.1:{port}", verbose=False)
        assert "A package of its own" in str(client.config)
        page, _ = client.predict(handle_file(tmp_path / "a.wav"), api_name="/transcribe")
        words = pipeline("automatic-speech-recognition", model=model)(tmp_path / "a.wav")["text"].split()
        assert words and all(f">{word}</span>" in str(page) for word in words)
    finally:
        program.terminate()
        log += program.communicate()
    assert str(ROOT) not in str(log)
