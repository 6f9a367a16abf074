"""Downloads recordings from http and https addresses."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import BinaryIO

from huggingface_hub.errors import HTTPError

from ..error_line import error_line
from ..storage import shown
from .reading import AudioError

TIMEOUT_SECONDS = 30.0  # without a byte; a slow line may take any time
CHUNK_BYTES = 2**16

httpx = import_module(HTTPError.__module__)  # what huggingface_hub fetches with: httpx, and httpx2 from version 2 on


@contextmanager
def fetched(audio: dict) -> Iterator[dict]:
    """Yields what `load_audio` takes with a temporary file in place of its `path`, if that is an address.

    Messages call the file by the address without user, password, query and fragment, because these may be secrets.

    Raises:
        AudioError: where it cannot be fetched.
    """
    address = audio["path"]
    is_needed = audio["array"] is None and audio["bytes"] is None
    if not (is_needed and isinstance(address, str) and address.lower().startswith(("http://", "https://"))):
        yield audio
        return
    name = shown(address)
    with temporary_file(name) as file:
        try:
            with httpx.stream("GET", address, follow_redirects=True, timeout=TIMEOUT_SECONDS) as response:
                if not response.is_success:
                    status = f"{response.status_code} {response.reason_phrase}"
                    raise AudioError(f"{name}: cannot be fetched: {status}")
                for block in response.iter_bytes(CHUNK_BYTES):
                    file.write(block)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:  # OSError: the disk is full
            # The error itself is not shown: it may hold the query.
            raise AudioError(f"{name}: cannot be fetched: {_reason(error)}") from None
        file.seek(0)
        yield audio | {"path": file}


def temporary_file(name: str) -> BinaryIO:
    """Returns an unlinked temporary file, which messages call by `name`."""
    file = tempfile.TemporaryFile()
    file.raw.name = name  # type: ignore[attr-defined]  # it is a FileIO, whose name can be set
    return file


def _reason(error: Exception) -> str:
    if isinstance(error, httpx.TimeoutException):
        return f"no answer for {TIMEOUT_SECONDS:g} s"
    if isinstance(error, httpx.TooManyRedirects):
        return "too many redirects"
    return "it is not a valid address" if isinstance(error, httpx.InvalidURL) else error_line(error)
