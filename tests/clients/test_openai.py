"""OpenAI's client asks `hf-mlpl serve`, a process of its own, on this machine."""

import io
import json
import os
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import openai
import pytest
import soundfile

from ..commands import run_command
from ..random_model import RATE, save_folder_with_characters, sweep

pytestmark = pytest.mark.slow

NAME, KEY = "me/tiny", "s3cret"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_folder_with_characters(tmp_path_factory.mktemp("models") / "tiny")


class Server:
    """A process of `hf-mlpl serve`."""

    def __init__(self, python, model, log, *options):
        command = [python, "-m", "hf_mlpl", "serve", "--model", model, "--name", NAME, "--port", "0"]
        environment = os.environ | {"HF_MLPL_KEY": KEY, "OMP_NUM_THREADS": "1"}
        command += ["--api-key-env", "HF_MLPL_KEY", *options]
        self.log = log
        self.process = subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=log.open("w"), text=True, env=environment
        )
        first = self.process.stdout.readline()
        assert first.startswith(f"{NAME} is served on "), log.read_text()
        self.url = first.removeprefix(f"{NAME} is served on ").removesuffix("; try\n")
        self.printed = [first]
        threading.Thread(target=lambda: self.printed.extend(self.process.stdout), daemon=True).start()
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=0)

    def create(self, content: bytes, name: str = "a.wav", model: str = NAME, **arguments):
        return self.client.audio.transcriptions.create(file=(name, content), model=model, **arguments)

    def health(self) -> dict:
        with urlopen(f"{self.url}/health", timeout=60) as answer:
            return json.load(answer)

    def wait_until(self, holds) -> dict:
        """Returns the server's health when the condition on it holds."""
        while not holds(health := self.health()):
            assert self.process.poll() is None
            time.sleep(0.01)
        return health


@contextmanager
def running(*arguments):
    server = Server(*arguments)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


@pytest.fixture(scope="module")
def server(quick_python, model, tmp_path_factory):
    with running(
        quick_python, model, tmp_path_factory.mktemp("logs") / "stderr.txt", "--max-upload-mb", "25"
    ) as server:
        yield server


def wav(seconds: float, start: float = 0.0) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, sweep(start + seconds)[round(start * RATE) :], RATE, format="WAV")
    return file.getvalue()


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Writes a recording of one piece, and one of several, in formats that clients send."""
    folder = tmp_path_factory.mktemp("recordings")
    for name, seconds in {"short.wav": 3.3, "long.flac": 61.0, "compressed.mp3": 4.0, "vorbis.ogg": 2.0}.items():
        soundfile.write(folder / name, sweep(seconds), RATE)
    return folder


def transcripts(model, folder, output, *options) -> dict[str, str]:
    """Returns what `hf-mlpl transcribe` writes for each recording of a folder."""
    assert run_command("transcribe", "--model", model, folder, "--output", output, *options) == 0
    return {path.stem: path.read_text(encoding="utf-8") for path in output.iterdir()}


def test_every_format_is_that_of_the_command(server, model, recordings, tmp_path):
    written = {
        name: transcripts(model, recordings, tmp_path / name, "--format", name) for name in ("text", "srt", "vtt")
    }
    words = transcripts(model, recordings, tmp_path / "json", "--format", "json", "--timestamps", "word")
    german = transcripts(model, recordings, tmp_path / "de", "--language", "de")
    for path in sorted(recordings.iterdir()):
        content, line = path.read_bytes(), json.loads(words[path.stem])
        for response_format, of_command in written.items():
            answer = server.create(content, path.name, response_format=response_format)
            assert answer == of_command[path.stem], (path.name, response_format)
        assert server.create(content, path.name).text == line["text"] and len(line["text"]) > 20
        assert server.create(content, path.name, language="de").text + "\n" == german[path.stem]
        answer = server.create(
            content, path.name, response_format="verbose_json", timestamp_granularities=["word", "segment"]
        )
        assert isinstance(answer, openai.types.audio.TranscriptionVerbose)
        assert (answer.text, answer.language) == (line["text"], line["language"])
        assert answer.duration == pytest.approx(soundfile.info(path).duration, abs=0.1)  # mp3 has a delay
        assert [word.to_dict() for word in answer.words] == line["words"]
        assert "".join(segment.text for segment in answer.segments).replace(" ", "") == line["text"].replace(" ", "")
        assert answer.segments[0].avg_logprob is None and answer.segments[0].id == 0


def test_what_the_client_can_send_is_accepted_or_refused(server):
    text = server.create(wav(2)).text
    assert server.create(wav(2), prompt="Names", temperature=0.3, stream=False, chunking_strategy="auto").text == text
    for refused in ({"stream": True}, {"include": ["logprobs"]}, {"response_format": "diarized_json"}):
        with pytest.raises(openai.BadRequestError) as caught:
            server.create(wav(2), **refused)
        assert caught.value.param.removesuffix("[]") in refused and caught.value.type == "invalid_request_error"


def test_errors_are_those_of_the_client(server):
    assert [model.id for model in server.client.models.list()] == [NAME]
    assert server.client.models.retrieve(NAME).id == NAME
    with pytest.raises(openai.NotFoundError, match="no model 'whisper-1'") as caught:
        server.create(wav(1), model="whisper-1")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="notes.txt: is not audio"):
        server.create(b"no sound at all" * 99, "notes.txt")
    with pytest.raises(openai.APIStatusError, match="larger than 25 MB") as caught:
        server.create(bytes(40_000_000))
    assert caught.value.status_code == 413
    stranger = openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError, match="the API key is missing or wrong"):
        stranger.models.list()


def test_an_aborted_upload_leaves_nothing_behind(server):
    host, port = server.url.removeprefix("http://").split(":")
    head = f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {KEY}\r\n"
    head += "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 20000000\r\n\r\n"
    part = '--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall((head + part).encode() + bytes(5_000_000))
        server.wait_until(lambda health: health["requests_in_work"] == 1)
    server.wait_until(lambda health: health["requests_in_work"] == 0)
    assert server.create(wav(1)).text
    assert "Traceback" not in server.log.read_text()


def test_32_clients_at_once_get_the_texts_of_serial_ones(server):
    lengths = np.random.default_rng(0).uniform(1, 12, size=32)
    contents = [wav(seconds, start=number) for number, seconds in enumerate(lengths)]
    contents[7] = wav(70)  # in pieces
    serial = [server.create(content).text for content in contents]
    assert len(set(serial)) > 30
    before, barrier = server.health(), threading.Barrier(32)

    def ask(content: bytes) -> str:
        barrier.wait()
        return server.create(content).text

    with ThreadPoolExecutor(32) as clients:
        assert list(clients.map(ask, contents)) == serial
    after = server.health()
    num_pieces = after["pieces_recognized"] - before["pieces_recognized"]
    assert num_pieces > 32 and after["batches"] - before["batches"] < num_pieces


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_in_work_be_answered(quick_python, model, tmp_path, number):
    with running(quick_python, model, tmp_path / "stderr.txt") as server, ThreadPoolExecutor(2) as clients:
        contents = [wav(200), wav(150)]
        expected = [server.create(content).text for content in contents]
        before = server.health()["pieces_recognized"]
        answers = [clients.submit(server.create, content) for content in contents]
        server.wait_until(lambda health: health["requests_in_work"] == 2 and health["pieces_recognized"] > before)
        server.process.send_signal(number)
        with pytest.raises((URLError, ConnectionError)):
            while True:
                server.health()
        assert [answer.result().text for answer in answers] == expected
        assert server.process.wait(60) == 0
        written = server.log.read_text() + "".join(server.printed)
        assert "Traceback" not in written and KEY not in written
