"""Tests the default of `--model`, and the line on a model that is downloaded."""

import re
import time
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from huggingface_hub import HfApi, close_session, constants
from huggingface_hub.utils import _http
from transformers import pipeline

from hf_mlpl.cli.main import command_parser
from hf_mlpl.data.utterances import read_utterances, write_utterances
from hf_mlpl.model.missing_model import RELEASED_ON_HUB, check_model

from ..commands import run_command
from ..port_folder import save_port
from ..random_model import RATE, save_folder, sweep
from ..small_teachers import make_whisper


@pytest.fixture
def recording(tmp_path):
    soundfile.write(tmp_path / "recording.wav", sweep(3) / np.abs(sweep(3)).max() / 2, RATE)
    return tmp_path / "recording.wav"


def test_the_released_model_is_the_default_and_a_line_says_what_it_downloads(
    local_hub, recording, tmp_path, capsys, monkeypatch
):
    folder = save_port(tmp_path / "port")
    api = HfApi(token=local_hub.add_user("speechbrain"))
    api.create_repo(RELEASED_ON_HUB)
    api.upload_folder(repo_id=RELEASED_ON_HUB, folder_path=folder)
    size = f"{(folder / 'pytorch_model.bin').stat().st_size / 1e6:.1f} MB"
    text = pipeline("automatic-speech-recognition", model=str(folder))(str(recording))["text"]
    (tmp_path / "recording.txt").write_text("ab cd")
    capsys.readouterr()

    assert text and size != "0.0 MB"
    for command, printed, message in (
        ("transcribe", f"{recording}\t-\t{text}\n", f"model: speechbrain/m-ctc-t-large, {size} to download, once\n"),
        ("align", "ab cd", "model: speechbrain/m-ctc-t-large\n"),
    ):
        assert run_command(command, recording) == 0
        out, err = capsys.readouterr()
        assert printed in out and err == message
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # a model in the cache needs no network
    assert run_command("transcribe", recording) == 0
    assert capsys.readouterr() == (f"{recording}\t-\t{text}\n", "model: speechbrain/m-ctc-t-large\n")
    assert command_parser("serve").parse_args([]).model == RELEASED_ON_HUB


def test_the_size_is_that_of_the_weights_that_are_loaded(local_hub, recording, tmp_path, capsys):
    folder = save_port(tmp_path / "port", form="safetensors")
    size = f"{(folder / 'model.safetensors').stat().st_size / 1e6:.1f} MB"
    (folder / "pytorch_model.bin").write_bytes(bytes(2_000_000))
    (folder / "model.fp32-00001-of-00002.safetensors").write_bytes(bytes(3_000_000))  # as Whisper has them
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.safetensors").write_bytes(bytes(1_000_000))
    HfApi().create_repo("me/both")
    HfApi().upload_folder(repo_id="me/both", folder_path=folder)
    capsys.readouterr()
    assert run_command("transcribe", "--model", "me/both", recording) == 0
    assert capsys.readouterr().err == f"model: me/both, {size} to download, once\n"
    assert run_command("align", "--model", folder, recording, recording.with_suffix(".txt")) == 1
    assert "model: " not in capsys.readouterr().err


def test_the_original_programs_command_says_what_it_downloads(local_hub, recording, tmp_path, capsys):
    folder = save_folder(tmp_path / "model", ["de"])
    size = f"{(folder / 'model.safetensors').stat().st_size / 1e6:.1f} MB"
    HfApi().create_repo("me/tiny")
    HfApi().upload_folder(repo_id="me/tiny", folder_path=folder)
    (tmp_path / "test.lst").write_text(f"a {recording} 3000 abc\n")
    capsys.readouterr()
    for line in (f"model: me/tiny, {size} to download, once", "model: me/tiny"):
        assert run_command("test", "--am", "me/tiny", "--test", tmp_path / "test.lst") == 0
        assert capsys.readouterr().err.splitlines()[0] == line


def test_jobs_say_what_they_download_and_do_not_wait_for_a_hub_that_is_away(
    local_hub, tone_data, tmp_path, capsys, monkeypatch
):
    """The Hub's client would wait 1 + 2 + 4 + 8 + 8 seconds for each file that its cache lacks."""
    make_whisper(tmp_path / "whisper", encoder_ffn_dim=8192)
    size = f"{(tmp_path / 'whisper' / 'model.safetensors').stat().st_size / 1e6:.1f} MB"
    HfApi().create_repo("me/whisper")
    HfApi().upload_folder(repo_id="me/whisper", folder_path=tmp_path / "whisper")
    data = tmp_path / "sv.parquet"
    write_utterances(read_utterances([tone_data / "dev.parquet"], ["sv-SE"]).to_list()[:2], data)
    capsys.readouterr()
    command = ("--model", "me/whisper", "--data", data, "--output")
    assert run_command("pseudo-label", *command, tmp_path / "labels") == 0
    assert size != "0.0 MB" and f"model: me/whisper, {size} to download, once\n" in capsys.readouterr().err

    for server in local_hub._servers:
        server.shutdown()
        server.server_close()
    close_session()  # whose connections the server would still answer
    waits = SimpleNamespace(**vars(time) | {"sleep": lambda seconds: pytest.fail(f"waits {seconds} s")})
    monkeypatch.setattr(_http, "time", waits)
    assert run_command("evaluate", *command, tmp_path / "results.json") == 0
    away = rf"{local_hub.endpoint} cannot be reached \([^\n]+\); only models of the cache can be used\n"
    printed = capsys.readouterr()
    assert re.search(f"{away}model: me/whisper\n", printed.err) and "\nspeed: RTFx not measured" in printed.out
    assert not constants.HF_HUB_OFFLINE  # a push may find the Hub again
    assert run_command("pseudo-label", *command, tmp_path / "labels", "--model", "me/other") == 1
    line = "error: me/other: no such folder, and no reachable model on the Hub; [^\n]+\n"
    assert re.search(f"{away}{line}$", capsys.readouterr().err)
    with pytest.raises(OSError, match="me/other: no such folder, and no reachable model on the Hub; "):
        check_model("me/other")
