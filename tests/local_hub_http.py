"""HTTP for `local_hub.py`: requests as they are recorded, answers, and failures that a test orders."""

from __future__ import annotations

import json
import re
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


@dataclass
class Request:
    """What was asked, and by whom; of a token it only says that there was one."""

    method: str
    path: str  # quoted, as it was sent
    query: dict[str, list[str]]
    headers: dict[str, str] = field(repr=False)  # names in lower case
    user: str | None
    body: bytes = field(default=b"", repr=False)
    status: int | None = None  # of the answer; stays None if the connection is closed instead

    def json(self) -> dict:
        return json.loads(self.body)


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, content: dict | list, status: int = 200, **headers: str) -> Answer:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return cls(status, json.dumps(content).encode(), {"Content-Type": "application/json", **names})


class HubError(Exception):
    """What the Hub refuses, and its reason; the code says what is not there, for clients to raise the right error."""

    def __init__(self, status: int, message: str, code: str | None = None, **content):
        super().__init__(message)
        self.answer = Answer.json({"error": message, **content}, status, X_Error_Message=message)
        if code is not None:
            self.answer.headers["X-Error-Code"] = code


@dataclass
class Fault:
    """How the next requests that match fail: with a status, or with a connection that is closed."""

    method: str
    path: re.Pattern
    times: int
    status: int | None
    after: int  # bytes of the answer's body; at 0 the connection is closed before the request is read

    def strikes(self, request: Request) -> bool:
        return self.times > 0 and self.method == request.method and self.path.search(request.path) is not None


class Server(ThreadingHTTPServer):
    """`user_of` knows whose a token is, `receive` says how a request fails, and `answer` does what it asks for."""

    def __init__(
        self,
        user_of: Callable[[str], str | None],
        receive: Callable[[Request], Fault | None],
        answer: Callable[[Request], Answer],
    ):
        super().__init__(("127.0.0.1", 0), Handler)
        self.user_of, self.receive, self.answer = user_of, receive, answer

    def handle_error(self, request, client_address) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client may leave before it has read everything
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each body waits 40 ms, until the client's system has confirmed the headers

    def do(self) -> None:
        url = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        user = None
        if "authorization" in headers:
            user = self.server.user_of(headers["authorization"].removeprefix("Bearer "))
            headers["authorization"] = "Bearer [token]"
        request = Request(self.command, url.path, parse_qs(url.query), headers, user)
        fault = self.server.receive(request)
        if fault is not None and fault.status is None and fault.after == 0:
            return self.hang_up()
        request.body = self.read_body()
        if fault is not None and fault.status is not None:
            answer = HubError(fault.status, "a test wants this to fail").answer
        else:
            answer = self.server.answer(request)
        request.status = answer.status
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        cut = fault is not None and fault.status is None
        if self.command != "HEAD":
            self.wfile.write(answer.body[: fault.after] if cut else answer.body)
        if cut:
            self.hang_up()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_) -> None:
        pass
