"""Runs an application on an address until a signal ends it."""

from __future__ import annotations

import logging
import signal
import socket

from ..installation import install_command

try:
    import uvicorn
except ImportError as error:
    raise ImportError(f"the server needs {error.name}, which comes with {install_command('serve')}") from error

from ..error_line import reason


def bind(host: str, port: int) -> socket.socket:
    """Returns a socket with this address that does not listen yet; port 0 is any free port.

    Raises:
        ValueError: for an address that is in use, or not one of this machine.
    """
    server = None
    try:
        if not 0 <= port <= 65535:  # getaddrinfo would take the rest of a division
            raise OSError("it must be 0 to 65535")
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        server = socket.socket(family, kind, protocol)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(address)
    except OSError as error:
        if server is not None:
            server.close()
        why = error.strerror if isinstance(error, socket.gaierror) else reason(error)
        raise ValueError(f"cannot listen on {host}, port {port}: {why}; choose another --host or --port") from error
    return server


def url_of(server: socket.socket) -> str:
    """Returns the address of a bound socket as http://HOST:PORT."""
    host, port = server.getsockname()[:2]
    return f"http://[{host}]:{port}" if server.family == socket.AF_INET6 else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """Cuts requests off without an error in the log, where they have a time to end after the signal."""

    def handle_exit(self, sig, frame) -> None:
        logging.getLogger("uvicorn.error").disabled = self.config.timeout_graceful_shutdown is not None
        super().handle_exit(sig, frame)


def run_server(app, server: socket.socket, logs_requests: bool = True, grace_seconds: int | None = None) -> None:
    """Answers requests until SIGTERM or SIGINT; then takes no new ones, answers those in work, and returns.

    A second SIGINT ends the server at once.

    Args:
        logs_requests: prints a line for each request.
        grace_seconds: for requests in work after the signal, which are then cut off; by default as long as they take.
    """
    config = uvicorn.Config(app, log_level="warning", lifespan="on", timeout_graceful_shutdown=grace_seconds)
    if logs_requests:
        logging.getLogger("uvicorn.access").setLevel(logging.INFO)
    runner = _Server(config)
    # uvicorn raises the signal again at its end, for the handler that was there before; the default one would end the
    # process as if it had failed.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, runner.handle_exit)
    runner.run(sockets=[server])
