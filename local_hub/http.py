"""Serves HTTP: records requests, sends answers, and injects the faults of tests."""

from __future__ import annotations

import json
import re
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


@dataclass
class Request:
    """Records a request and its user, without the token."""

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
    """Holds the status, body and headers of an answer."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, content: dict | list, status: int = 200, **headers: str) -> Answer:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return cls(status, json.dumps(content).encode(), {"Content-Type": "application/json", **names})


class HubError(Exception):
    """Refuses a request with a status and a message; by the code, clients choose the error to raise."""

    def __init__(self, status: int, message: str, code: str | None = None, **content):
        super().__init__(message)
        self.answer = Answer.json({"error": message, **content}, status, X_Error_Message=message)
        if code is not None:
            self.answer.headers["X-Error-Code"] = code


@dataclass
class Fault:
    """Describes a fault of the next matching requests: an error status, a closed connection, or a delay."""

    method: str
    path: re.Pattern
    times: int
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)  # of an answer with that status
    received: int | None = None  # bytes of the request's body after which the connection is closed
    sent: int | None = None  # bytes of the answer's body after which the connection is closed
    delay: float = 0  # seconds, before anything else happens

    def strikes(self, request: Request) -> bool:
        return self.times > 0 and self.method == request.method and self.path.search(request.path) is not None


class Server(ThreadingHTTPServer):
    """Serves requests: `user_of` maps tokens to users, `receive` returns its fault, `answer` executes it."""

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
    """Reads a request, and sends the server's answer or a fault."""

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
        if fault is None:
            fault = Fault(request.method, re.compile(""), 0)
        time.sleep(fault.delay)
        request.body = self.read_body(fault.received)
        if fault.received is not None:
            return self.hang_up()
        if fault.status is not None:
            answer = HubError(fault.status, "a test wants this to fail").answer
            answer.headers |= fault.headers
        else:
            answer = self.server.answer(request)
        request.status = answer.status
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: fault.sent])
        if fault.sent is not None:
            self.hang_up()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do

    def read_body(self, limit: int | None) -> bytes:
        """Reads the body, or its first `limit` bytes."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            size = int(self.headers.get("Content-Length", 0))
            return self.rfile.read(size if limit is None else min(size, limit))
        body = b""
        while (limit is None or len(body) < limit) and (size := int(self.rfile.readline(), 16)):
            body += self.rfile.read(size if limit is None else min(size, limit - len(body)))
            if limit is None or len(body) < limit:
                self.rfile.readline()
        if limit is None:
            self.rfile.readline()
        return body

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_) -> None:
        pass
