"""Pages of very long recordings, whose sound must fit into a page, and of files with odd names."""

import base64
import io
import os
import re
from pathlib import Path

import pytest
import soundfile

from hf_mlpl.inference.transcript_page import recording_view, transcript_page
from hf_mlpl.inference.transcription import Recording

from ..random_model import RATE, sweep

RESULT = {"text": "a b", "chunks": [{"text": c, "timestamp": (i * 0.1, i * 0.1 + 0.03)} for i, c in enumerate("a b")]}


def sound_of(recording: Recording, folder: Path, seconds: float = 0.5) -> str:
    """Returns the address of the sound in a view that is as long as the sound, whatever its header states."""
    view = recording_view(recording, folder)
    assert f'data-seconds="{seconds:.3f}"' in view
    return re.search(r'<audio [^>]*src="([^"]*)"', view)[1]


@pytest.mark.parametrize(("hours", "kilobits"), [(2.0, 24), (3.0, 16), (6.0, 8)])
def test_the_sound_of_long_recordings(hours, kilobits, tmp_path):
    """The sound is of two seconds, whatever the recording's header states, so the rate can be seen."""
    soundfile.write(tmp_path / "a.wav", sweep(2.0), RATE)
    recording = Recording(tmp_path / "a.wav", Path("a"), result=RESULT, seconds=3600 * hours)
    kind, _, content = sound_of(recording, tmp_path, 2.0).partition(";base64,")
    rate = (len(base64.b64decode(content)) - 288) * 8 / 2.0 / 1000  # without the frame of numbers
    assert kind == "data:audio/mpeg" and kilobits <= rate < 1.1 * kilobits
    assert hours * 3600 * kilobits * 1000 / 8 * 4 / 3 < 32e6  # bytes of the address, with room for what Firefox takes


def test_beyond_six_hours_the_file_itself_plays(tmp_path):
    (tmp_path / "pages").mkdir()
    path = tmp_path / "a b%&.wav"
    soundfile.write(path, sweep(0.5), RATE)
    recording = Recording(path, Path("a b"), result=RESULT, seconds=3600 * 8)
    assert sound_of(recording, tmp_path / "pages") == "../a%20b%25%26.wav"
    stream = Recording(Path("-"), Path("stdin"), io.BytesIO(path.read_bytes()), result=RESULT, seconds=3600 * 8)
    assert sound_of(stream, tmp_path).startswith("data:audio/mpeg;base64,")  # nothing else is left of it


def test_a_name_that_is_not_utf_8(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    soundfile.write(os.fspath(tmp_path / "a.wav"), sweep(0.5), RATE)
    os.rename(tmp_path / "a.wav", path)
    page = transcript_page(Recording(path, Path(path.stem), result=RESULT, seconds=0.5), tmp_path)
    assert "<title>caf\\xe9.wav</title>" in page and 'download="caf\\xe9.srt"' in page
    assert page.encode("utf-8")
