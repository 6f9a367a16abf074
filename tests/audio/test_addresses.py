"""Recordings are read from addresses of a server in this process."""

import http.server
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import soundfile

from hf_mlpl.audio import addresses
from hf_mlpl.audio.reading import AudioError

from ..random_model import RATE, sweep


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("recordings") / "a.flac"
    soundfile.write(path, sweep(2), RATE)
    return path


@pytest.fixture(scope="module")
def server(path) -> Iterator[str]:
    """Yields the address of a server, with `path` at /a.flac and faults at other paths."""
    content, test_is_over = path.read_bytes(), threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.partition("?")[0]
            if name == "/a.flac":
                self.answer(200, content)
            elif name == "/page.flac":
                self.answer(200, b"<!DOCTYPE html><html><body>Please log in</body></html>")
            elif name == "/empty.flac":
                self.answer(200, b"")
            elif name == "/moved.flac":
                self.answer(302, b"", location="/a.flac")
            elif name == "/round.flac":
                self.answer(302, b"", location="/round.flac?secret=yes")
            elif name == "/short.flac":
                self.answer(200, content[:1000], length=len(content))
            elif name == "/silent.flac":
                self.answer(200, b"", length=1)
                test_is_over.wait(60)
            elif name == "/slow.flac":
                self.answer(200, b"", length=len(content))
                for start in range(0, len(content), len(content) // 6 + 1):
                    self.wfile.write(content[start : start + len(content) // 6 + 1])
                    time.sleep(0.4)
            else:
                self.send_error(404)

        def answer(self, status, body, length=None, location=None):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            if location is not None:
                self.send_header("Location", location)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        test_is_over.set()
        server.shutdown()


def test_an_address_says_what_the_file_says(asr, path, server):
    expected = asr(path)
    for address in (f"http://{server}/a.flac", f"HTTP://me:pass@{server}/moved.flac?signature=1#part"):
        assert asr(address) == asr({"path": address}) == asr({"audio": {"path": address, "bytes": None}}) == expected
    part = {"path": f"http://{server}/a.flac", "start": 0.5, "end": 1.5}
    assert asr(part)["text"] == asr({"path": path, "start": 0.5, "end": 1.5})["text"] != expected["text"]
    given = {"path": f"http://{server}/missing.flac", "bytes": path.read_bytes()}  # the path only names their origin
    assert asr(given) == expected


def test_faults_are_one_line_with_the_address_alone(asr, server, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and nobody listens there
        closed = f"127.0.0.1:{unused.getsockname()[1]}"
        for host, name, reason in [
            (server, "missing.flac", "cannot be fetched: 404 Not Found"),
            (server, "page.flac", "is not audio that can be decoded"),
            (server, "empty.flac", "is empty"),
            (server, "round.flac", "cannot be fetched: too many redirects"),
            (server, "short.flac", "cannot be fetched: peer closed connection"),
            (closed, "a.flac", "cannot be fetched: "),
            ("127.0.0.1:99999", "a.flac", "cannot be fetched: "),
            ("[::1", "a.flac", "cannot be fetched: "),
            (server, "silent.flac", "cannot be fetched: no answer for 0.2 s"),
        ]:
            if name == "silent.flac":
                monkeypatch.setattr(addresses, "TIMEOUT_SECONDS", 0.2)
            with pytest.raises(AudioError) as caught:
                asr(f"http://me:pass@{host}/{name}?secret=yes")
            assert str(caught.value).startswith(f"http://{host}/{name}: {reason}")
            shown = repr((caught.value, caught.value.__cause__))
            assert not {"secret", "pass", "\n"} & {word for word in ("secret", "pass", "\n") if word in shown}


@pytest.mark.slow
def test_a_slow_line_is_waited_for(asr, path, server, monkeypatch):
    monkeypatch.setattr(addresses, "TIMEOUT_SECONDS", 1.5)  # less than the whole takes
    assert asr(f"http://{server}/slow.flac") == asr(path)
