"""A browser on the app: a file, a word, a download, a microphone, labels; and nothing that leaves the machine."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ..commands import run_command
from ..random_model import LANGUAGES, RATE, save_folder, sweep

pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Returns a folder with a model and recordings, one of them in a container that only PyAV reads."""
    av = pytest.importorskip("av", reason="PyAV is not installed (the extra av)")
    save_folder(tmp_path / "model", LANGUAGES)
    samples = sweep(6)
    with av.open(tmp_path / "<b>tones<&b>.webm", "w") as container:
        stream = container.add_stream("libopus", rate=48_000)
        frame = av.AudioFrame.from_ndarray((np.repeat(samples, 3)[None] * 32767).astype("int16"), layout="mono")
        frame.sample_rate = 48_000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    soundfile.write(tmp_path / "second.flac", samples[: 4 * RATE], RATE)
    (tmp_path / "notes.wav").write_text("no sound")
    (tmp_path / "speech" / "de").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "speech" / "de" / f"{number}.flac").symlink_to(tmp_path / "second.flac")
    return tmp_path


@pytest.fixture
def address(home: Path, quick_python: Path) -> Iterator[str]:
    """Starts `hf-mlpl app`; its uploads are gone, and its exit status is 0, after SIGTERM."""
    command = [quick_python, "-m", "hf_mlpl", "app", "--model", home / "model", "--port", "0"]
    temporary = home / "temporary"
    temporary.mkdir()
    environment = os.environ | {"GRADIO_TEMP_DIR": str(temporary)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=home, env=environment) as app:
        try:
            yield app.stdout.readline().rpartition(" ")[2].strip()
            assert list(temporary.rglob("*.flac"))
        finally:
            app.send_signal(signal.SIGTERM)
            assert app.wait(30) == 0
    assert list(temporary.rglob("*")) == []


def test_the_app_in_a_browser(address, home, browser, capsys):
    browser.open(address)
    upload(browser, home / "<b>tones<&b>.webm")
    heading = browser.wait(lambda: browser.find("#transcript h2").text)
    assert re.fullmatch(r".*tones.*\.webm", heading)
    browser.screenshot("app-transcript")
    words = browser.find_all("#transcript .transcript-text .word")
    assert len(words) >= 5 and browser.find_all("#transcript .transcript-strip img")
    assert len(browser.find_all("#transcript .transcript-language")) == len(LANGUAGES)
    words[3].click()
    start = float(words[3].get_attribute("data-start"))
    audio = "document.querySelector('#transcript audio')"
    assert start > 1 and start <= browser.run(f"return {audio}.currentTime") < start + 5
    browser.wait(lambda: browser.find("#transcript .transcript-text .word.now"))
    browser.wait(lambda: browser.run(f"return {audio}.currentTime") > start)  # it plays

    browser.find("#transcript a[download$='.srt']").click()
    [subtitles] = browser.wait(lambda: list(browser.downloads.glob("*.srt")))
    copy = home / "copy.webm"
    copy.symlink_to(home / "<b>tones<&b>.webm")
    assert run_command("transcribe", "--model", home / "model", copy, "--format", "srt") == 0
    assert subtitles.read_text() == capsys.readouterr().out != ""

    upload(browser, home / "notes.wav")
    problem = browser.wait(lambda: browser.find("#transcript .app-problem").text)
    assert problem.startswith("notes.wav: is not audio that can be decoded")
    upload(browser, home / "second.flac")
    browser.wait(lambda: browser.find("#transcript h2").text == "second.flac")
    browser.find("#transcript .transcript-text .word:last-of-type").click()
    assert len(browser.find_all("#transcript .transcript-text .word.now")) == 1
    assert not browser.is_wider_than_window()

    # Chromium's own microphone beeps once a second
    browser.wait(lambda: browser.find("button.record")).click()
    browser.run("return new Promise(resolve => setTimeout(resolve, 2500))")
    browser.find("button.stop-button").click()
    browser.wait(lambda: browser.find("#transcript h2").text == "audio.wav")
    assert 1 < browser.wait(lambda: browser.run(f"return {audio}.duration")) < 30

    label(browser, "speech")
    browser.screenshot("app-labels")
    browser.look(390, dark=True)
    browser.screenshot("app-labels-phone-dark")
    assert not browser.is_wider_than_window()
    assert browser.strangers() == [] and browser.errors() == []


def upload(browser, path: Path) -> None:
    browser.wait(lambda: browser.find("input[type=file]")).send_keys(str(path))


def label(browser, folder: str) -> None:
    """Labels a folder in the second tab, and listens to the first label of the table."""
    browser.find_all("button[role=tab]")[1].click()
    [recordings, *_] = browser.wait(lambda: browser.find_all("textarea, input[type=text]"))
    button = browser.find("#label")
    recordings.send_keys("../elsewhere")
    button.click()
    assert "is no folder below" in browser.wait(lambda: browser.find("#summary .app-problem").text)
    recordings.clear()
    recordings.send_keys(folder)
    button.click()
    row = browser.wait(lambda: browser.find("#summary tr:nth-child(2)").text)
    assert row.split()[:2] == ["de", "3"]
    browser.wait(lambda: browser.find("#labels [data-testid='cell-0-0']")).click()
    browser.wait(lambda: browser.find("#clip audio, #clip #waveform"))
