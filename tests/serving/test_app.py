"""Answers of the server to requests, in this process; tests/clients/test_openai.py starts it as users do."""

import asyncio
import io
import json
import threading

import pytest
import soundfile
from starlette.testclient import TestClient
from transformers import pipeline

from hf_mlpl.serving.app import build_app

from ..commands import run_command
from ..random_model import RATE, save_folder_with_characters, sweep

URL = "/v1/audio/transcriptions"
NAME = "me/tiny"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_folder_with_characters(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def recognize(model):
    return pipeline("automatic-speech-recognition", model=model, device="cpu")


@pytest.fixture
def serve(recognize):
    """Starts the application with other limits; returns its client."""
    with_lifespan = []

    def serve(**limits) -> TestClient:
        app = build_app(recognize, NAME, **{"max_upload_mb": 5, "max_requests": 8} | limits)
        client = TestClient(app, raise_server_exceptions=False)
        client.__enter__()
        with_lifespan.append(client)
        return client

    yield serve
    for client in with_lifespan:
        client.__exit__(None, None, None)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Writes recordings of one piece and of several."""
    folder = tmp_path_factory.mktemp("recordings")
    for name, seconds in {"short.wav": 3.3, "long.flac": 52.0}.items():
        soundfile.write(folder / name, sweep(seconds), RATE)
    return folder


def wav(seconds: float) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, sweep(seconds), RATE, format="WAV")
    return file.getvalue()


def ask(client: TestClient, content: bytes, name: str = "a.wav", **fields):
    fields = {"model": NAME} | {
        key.replace("granularities", "timestamp_granularities[]"): fields[key] for key in fields
    }
    return client.post(URL, files={"file": (name, content)}, data=fields)


def transcribe(model, path, capsys, *options) -> str:
    """Returns what `hf-mlpl transcribe` prints, on one recording at a time."""
    capsys.readouterr()
    assert run_command("transcribe", "--model", model, path, *options) == 0
    return capsys.readouterr().out


def test_answers_are_those_of_the_command(serve, model, recordings, capsys):
    client = serve()
    for path in sorted(recordings.iterdir()):
        content = path.read_bytes()
        line = json.loads(transcribe(model, path, capsys, "--format", "json", "--timestamps", "word"))
        assert ask(client, content).json() == {"text": line["text"]} and len(line["text"]) > 20
        assert ask(client, content, response_format="text").text == line["text"] + "\n"
        for subtitles in ("srt", "vtt"):
            answer = ask(client, content, response_format=subtitles)
            assert answer.text == transcribe(model, path, capsys, "--format", subtitles), path.name
            assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        verbose = ask(client, content, response_format="verbose_json", granularities=["word", "segment"]).json()
        assert verbose["words"] == line["words"] and verbose["language"] == line["language"]
        assert verbose["language_probability"] == pytest.approx(line["language_probability"], abs=1e-4)
        assert verbose["duration"] == pytest.approx(soundfile.info(path).duration, abs=1e-3)
        segments = verbose["segments"]
        assert "".join("".join(segment["text"] for segment in segments).split()) == "".join(line["text"].split())
        assert all(segment["text"] in line["text"] for segment in segments)
        assert [segment["id"] for segment in segments] == list(range(len(segments)))
        assert all(0 <= segment["start"] < segment["end"] <= verbose["duration"] for segment in segments)
        german = ask(client, content, language="de").json()["text"]
        assert german == json.loads(transcribe(model, path, capsys, "--format", "json", "--language", "de"))["text"]
        assert german != line["text"]


def test_granularities_choose_what_verbose_json_has(serve):
    client = serve()
    for granularities, expected in {(): {"segments"}, ("segment",): {"segments"}, ("word",): {"words"}}.items():
        answer = ask(client, wav(2), response_format="verbose_json", granularities=list(granularities)).json()
        assert answer.keys() & {"words", "segments"} == expected


def test_a_language_may_lack_its_region(serve):
    client = serve()
    texts = {name: ask(client, wav(2), language=name).json()["text"] for name in ("sv", "sv-SE", "de")}
    assert texts["sv"] == texts["sv-SE"] != texts["de"]


def test_fields_without_effect_are_accepted(serve):
    client = serve()
    expected = ask(client, wav(2)).json()
    fields = {"prompt": "Names", "temperature": "0.8", "chunking_strategy": "auto", "stream": "false"}
    assert ask(client, wav(2), **fields).json() == expected


@pytest.mark.parametrize(
    ("fields", "status", "param", "words"),
    [
        ({"model": "whisper-1"}, 404, "model", "'whisper-1'; this server has 'me/tiny'"),
        ({"model": ""}, 400, "model", "model is missing"),
        ({"response_format": "diarized_json"}, 400, "response_format", "must be json, text, srt, verbose_json, vtt"),
        ({"granularities": "word"}, 400, "timestamp_granularities[]", "for response_format verbose_json, not json"),
        (
            {"granularities": "char", "response_format": "verbose_json"},
            400,
            "timestamp_granularities[]",
            "'char'; it must be segment, word",
        ),
        ({"stream": "true"}, 400, "stream", "not supported"),
        ({"language": "fr"}, 400, "language", "'fr'; the model has de, sv-SE"),
        ({"languages[]": "fr"}, 400, "languages[]", "no field 'languages[]'; the fields are file, model,"),
    ],
)
def test_a_field_that_is_not_accepted_is_named(serve, fields, status, param, words):
    answer = ask(serve(), wav(1), **fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["type"]) == (status, param, "invalid_request_error")
    assert words in error["message"] and error.keys() == {"message", "type", "param", "code"}


def test_what_is_no_audio_is_named_in_one_line(serve):
    client = serve()
    for content, words in ((b"no sound at all" * 99, "is not audio"), (b"", "is empty"), (wav(1)[:44], "no samples")):
        answer = ask(client, content, "../my\ntalk.wav")
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "unreadable_audio"
        message = answer.json()["error"]["message"]
        assert message.startswith("../my") and words in message and "\n" not in message


def test_requests_of_another_form_are_refused(serve):
    client = serve()
    assert client.post(URL, json={"model": NAME}).status_code == 415
    damaged = client.post(URL, content=b"nonsense", headers={"content-type": "multipart/form-data; boundary=x"})
    assert damaged.status_code == 400 and "multipart" in damaged.json()["error"]["message"]
    empty = client.post(URL, files={"model": (None, NAME)})
    assert empty.status_code == 400 and "file is missing" in empty.json()["error"]["message"]
    text = client.post(URL, data={"file": "talk.wav", "model": NAME}, files={"prompt": b"x"})
    assert text.status_code == 400 and "file must be a file" in text.json()["error"]["message"]
    two = client.post(URL, data={"model": NAME}, files=[("file", wav(1)), ("file", wav(1))])
    assert two.status_code == 400 and "Too many files" in two.json()["error"]["message"]
    for method, path, status in (("GET", URL, 405), ("POST", "/v1/chat/completions", 404)):
        answer = client.request(method, path)
        assert answer.status_code == status and f"no {method} {path}" in answer.json()["error"]["message"]


def test_an_upload_has_a_limit_whether_its_size_is_known_or_not(serve):
    client = serve(max_upload_mb=0.1)
    form = client.build_request("POST", URL, data={"model": NAME}, files={"file": wav(4)})
    parts = [form.read()[i : i + 4096] for i in range(0, len(form.read()), 4096)]
    with_length = client.send(form)
    content_type = {"content-type": form.headers["content-type"]}
    without_length = client.post(URL, content=iter(parts), headers=content_type)
    assert "content-length" not in without_length.request.headers
    for answer in (with_length, without_length):
        assert answer.status_code == 413 and "larger than 0.1 MB" in answer.json()["error"]["message"]
    assert ask(client, wav(1)).status_code == 200  # 32 kB
    assert client.get("/health").json()["requests_in_work"] == 0


def test_an_upload_of_which_nothing_comes_is_given_up(recognize, monkeypatch):
    monkeypatch.setattr("hf_mlpl.serving.app.STALL_SECONDS", 0.01)
    app = build_app(recognize, NAME, max_upload_mb=1, max_requests=1)
    headers = [(b"content-type", b"multipart/form-data; boundary=x")]
    scope = {"type": "http", "method": "POST", "path": URL, "headers": headers, "query_string": b"", "root_path": ""}
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, asyncio.Event().wait, send))
    assert sent[0]["status"] == 408 and b"no byte of the upload" in sent[1]["body"]


def test_models_and_health(serve):
    client = serve()
    (model,) = client.get("/v1/models").json()["data"]
    assert model["id"] == NAME and client.get(f"/v1/models/{NAME}").json() == model
    assert client.get("/v1/models/other").json()["error"]["code"] == "model_not_found"
    ask(client, wav(1))
    health = client.get("/health").json()
    assert health["status"] == "ok" and (health["requests_answered"], health["batches"]) == (1, 1)


def test_a_key_is_asked_for_everywhere_but_at_health(serve, caplog):
    client = serve(api_key="s3cret-ключ")
    for path in ("/v1/models", f"/v1/models/{NAME}", URL):
        method = "POST" if path == URL else "GET"
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic s3cret"}):
            answer = client.request(method, path, headers=headers)
            assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"
            assert "s3cret" not in answer.text
    assert client.get("/health").status_code == 200
    key = {b"Authorization": "Bearer s3cret-ключ".encode()}
    assert client.get("/v1/models", headers=key).status_code == 200
    assert "s3cret" not in caplog.text


def test_more_requests_than_the_limit_are_refused_with_a_time_to_come_back(serve, recognize, monkeypatch):
    client, forward = serve(max_requests=1), recognize.forward
    begun, go = threading.Event(), threading.Event()

    def wait(*args, **kwargs):
        begun.set()
        assert go.wait(60)
        return forward(*args, **kwargs)

    monkeypatch.setattr(recognize, "forward", wait)
    answers = []
    first = threading.Thread(target=lambda: answers.append(ask(client, wav(1))))
    first.start()
    assert begun.wait(60)
    refused = ask(client, wav(1))
    go.set()
    first.join()
    assert refused.status_code == 503 and refused.json()["error"]["code"] == "overloaded"
    assert int(refused.headers["retry-after"]) > 0
    assert answers[0].status_code == ask(client, wav(1)).status_code == 200


def test_a_fault_of_the_server_is_no_secret_and_no_end(serve, recognize, monkeypatch):
    client = serve()
    with monkeypatch.context() as patch:
        patch.setattr(recognize, "forward", lambda *args, **kwargs: 1 / 0)
        answer = ask(client, wav(1))
    assert answer.status_code == 500 and answer.json()["error"]["type"] == "server_error"
    assert "division" not in answer.text
    assert ask(client, wav(1)).status_code == 200
