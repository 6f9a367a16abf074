"""What `hf-mlpl app` refuses before it shows anything, and what it says."""

import os
import socket
import sys
from types import ModuleType

import pytest

from ..commands import run_command
from ..random_model import LANGUAGES, save_folder


def test_what_cannot_be_shown_is_refused_first(error_of, tmp_path, capfd, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port}: Address already in use" in error_of("app", "--model", "missing", "--port", port)
    with pytest.raises(SystemExit):
        run_command("app", "--model", "missing", "--folder", tmp_path / "no")
    assert f"--folder is {tmp_path / 'no'}; it must be a folder that exists" in capfd.readouterr().err
    monkeypatch.delitem(sys.modules, "hf_mlpl.app.page", raising=False)
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert error_of("app", "--model", "x").startswith("the app needs gradio, which comes with pip install")


@pytest.mark.parametrize(
    ("options", "has_folder", "warns"),
    [
        (["--host", "127.0.0.1"], True, False),
        (["--host", "0.0.0.0"], False, True),
        (["--host", "0.0.0.0", "--folder", "."], True, True),
    ],
)
def test_strangers_get_a_folder_only_if_it_is_named(options, has_folder, warns, tmp_path, monkeypatch, capsys):
    """gradio takes seconds to import, so it is left out: `build_app` and `serve_app` are tested in a browser."""
    calls = []
    for name, function in (
        ("page", {"build_app": lambda model, folder: calls.append((model, folder))}),
        ("server", {"serve_app": lambda page, server: calls.append(os.environ["GRADIO_TEMP_DIR"])}),
    ):
        module = ModuleType(f"hf_mlpl.app.{name}")
        module.__dict__.update(function)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    folder = save_folder(tmp_path / "model", LANGUAGES)
    assert run_command("app", "--model", folder, "--port", 0, *options) == 0
    (model, root), uploads = calls
    assert list(model.languages) == LANGUAGES and (root is not None) == has_folder
    assert not os.path.exists(uploads)
    line, *warnings = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{folder} is shown on http://{options[1]}:")
    assert warnings == ["warning: everybody who reaches this address can use it"] * warns
