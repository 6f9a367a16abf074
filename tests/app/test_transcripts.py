"""Transcripts of the app are those of `hf-mlpl transcribe`, with progress on the way."""

import base64
import json
import re

import numpy as np
import pytest
import soundfile

from hf_mlpl.app.model import AppModel
from hf_mlpl.app.transcripts import Transcriber

from ..commands import run_command
from ..random_model import LANGUAGES, RATE, save_folder, sweep
from ..small_models import save_small_model


def downloads(html: str) -> dict[str, str]:
    """Returns the contents of the files that a transcript offers, by their suffixes."""
    links = re.findall(r'download="[^"]+\.(\w+)" href="data:[^"]+;base64,([^"]+)"', html)
    return {suffix: base64.b64decode(content).decode() for suffix, content in links}


@pytest.mark.parametrize(("architecture", "seconds"), [("mlpl", 36), ("wav2vec2-group", 2)])
def test_transcripts_are_those_of_the_command(architecture, seconds, tmp_path, capsys, monkeypatch):
    if architecture == "mlpl":
        folder = save_folder(tmp_path / "model", LANGUAGES)
    else:
        folder = save_small_model(tmp_path / "model", architecture, num_hidden_layers=1)
    path = tmp_path / "a talk.wav"
    soundfile.write(path, np.tile(sweep(2), seconds // 2), RATE)
    steps = []
    transcribe = Transcriber(AppModel.load(str(folder)))
    html = transcribe(path, lambda *numbers: steps.append(numbers))
    done, totals = zip(*steps, strict=True)
    assert set(totals) == {seconds} and list(done) == sorted(set(done)) and done[-1] == seconds
    assert len(done) == (2 if seconds > 35 else 1)  # pieces

    with monkeypatch.context() as patch:  # as for a recording of more than six hours
        patch.setattr("hf_mlpl.inference.transcript_page.MAX_SOUND_BYTES", 0)
        assert f'src="gradio_api/file={tmp_path}/a%20talk.wav"' in transcribe(path, lambda *numbers: None)

    assert run_command("transcribe", "--model", folder, path, "--format", "json", "--timestamps", "word") == 0
    expected = json.loads(capsys.readouterr().out)
    files = downloads(html)
    assert files.keys() == {"srt", "vtt", "json"}
    shown = json.loads(files["json"])
    assert shown["text"] == expected["text"] != "" and shown.get("language") == expected.get("language")
    assert [word["word"] for word in shown["words"]] == [word["word"] for word in expected["words"]]
    assert all(0 < word["confidence"] <= 1 for word in shown["words"])
    assert html.count('class="transcript-language"') == (len(LANGUAGES) if architecture == "mlpl" else 0)
