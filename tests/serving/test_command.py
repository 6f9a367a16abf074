"""What `hf-mlpl serve` refuses before it serves."""

import socket
import sys

import pytest

from hf_mlpl.installation import install_command

from ..commands import run_command
from ..random_model import LANGUAGES, save_folder


def test_an_address_that_cannot_be_had_is_an_error_before_the_model_is_loaded(error_of):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        expected = f"cannot listen on 127.0.0.1, port {port}: Address already in use; choose another --host or --port"
        assert error_of("serve", "--model", "missing", "--port", port) == expected
    assert "cannot listen on no.such.host.invalid" in error_of(
        "serve", "--model", "x", "--host", "no.such.host.invalid"
    )
    assert "port 70000" in error_of("serve", "--model", "x", "--port", "70000")


def test_a_model_of_another_kind_is_refused(error_of, tmp_path):
    from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    Wav2Vec2ForCTC(Wav2Vec2Config(vocab_size=3, num_conv_pos_embedding_groups=1, **small)).save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text('{"<pad>": 0, "<unk>": 1, "|": 2}')
    Wav2Vec2CTCTokenizer(tmp_path / "vocab.json").save_pretrained(tmp_path)
    assert error_of("serve", "--model", tmp_path, "--port", 0).endswith("is no model of hf_mlpl, but wav2vec2")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--api-key-env", "HF_MLPL_NO_SUCH_KEY"],
            "the environment variable HF_MLPL_NO_SUCH_KEY is not set, or empty",
        ),
        (["--max-requests", "0"], "--max-requests is 0; it must be more than 0"),
        (["--batch-seconds", "-1"], "--batch-seconds is -1.0; it must be more than 0"),
    ],
)
def test_options_that_cannot_be_are_refused(arguments, words, capsys):
    with pytest.raises(SystemExit):
        run_command("serve", "--model", "x", *arguments)
    assert words in capsys.readouterr().err


def test_a_missing_extra_is_named(error_of, monkeypatch):
    monkeypatch.delitem(sys.modules, "hf_mlpl.serving.server", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    line = f"the server needs uvicorn, which comes with {install_command('serve')}"
    assert error_of("serve", "--model", "x") == line


def test_it_says_where_it_listens_and_what_to_try(monkeypatch, tmp_path, capsys):
    folder = save_folder(tmp_path / "tiny", LANGUAGES)
    monkeypatch.setattr("hf_mlpl.serving.server.run_server", lambda app, server: None)
    monkeypatch.setenv("HF_MLPL_KEY", "s3cret")
    options = ("--host", "0.0.0.0", "--port", 0, "--name", "my model")
    assert run_command("serve", "--model", folder, *options) == 0
    served, curl, warning = capsys.readouterr().out.splitlines()
    url = served.removeprefix("my model is served on ").removesuffix("; try")
    assert url.startswith("http://0.0.0.0:")
    assert curl == f"curl {url}/v1/audio/transcriptions -F 'model=my model' -F file=@recording.wav"
    assert warning.startswith("warning: everybody") and "--api-key-env" in warning
    assert run_command("serve", "--model", folder, *options, "--api-key-env", "HF_MLPL_KEY") == 0
    output = capsys.readouterr()
    assert '-H "Authorization: Bearer $HF_MLPL_KEY"' in output.out and "warning" not in output.out
    assert "s3cret" not in output.out + output.err
