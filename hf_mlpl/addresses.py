"""Recordings at http and https addresses."""

from __future__ import annotations

import tempfile
from typing import BinaryIO
from urllib.parse import urlsplit

from huggingface_hub.utils import httpx

from .audio import AudioError

TIMEOUT_SECONDS = 30.0  # without a byte; a slow line may take any time
BLOCK = 2**16


def is_address(path) -> bool:
    return isinstance(path, str) and path.lower().startswith(("http://", "https://"))


def open_address(address: str) -> BinaryIO:
    """
    Returns a recording as an open temporary file, whose name in messages is the address.

    The address loses its user, password, query and fragment in messages, because they may be secrets.

    Raises:
        AudioError: where it cannot be fetched.
    """
    name = public_part(address)
    file = tempfile.TemporaryFile()
    try:
        with httpx.stream("GET", address, follow_redirects=True, timeout=TIMEOUT_SECONDS) as response:
            if response.is_error:
                raise AudioError(f"{name}: cannot be fetched: {response.status_code} {response.reason_phrase}")
            for block in response.iter_bytes(BLOCK):
                file.write(block)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:  # OSError: no space left for it
        file.close()
        raise AudioError(f"{name}: cannot be fetched: {_reason(error)}") from None  # whose text may have the query
    except BaseException:
        file.close()
        raise
    file.seek(0)
    file.raw.name = name
    return file


def public_part(address: str) -> str:
    """Returns the address without user, password, query and fragment."""
    try:
        parts = urlsplit(address)
        host = parts.netloc.rpartition("@")[2]
        return f"{parts.scheme}://{host}{parts.path}"
    except ValueError:  # brackets that are no IPv6 address
        return address.partition("?")[0].rpartition("@")[2]


def _reason(error: Exception) -> str:
    if isinstance(error, httpx.TimeoutException):
        return f"no answer for {TIMEOUT_SECONDS:g} s"
    if isinstance(error, httpx.TooManyRedirects):
        return "too many redirects"
    if isinstance(error, httpx.InvalidURL):
        return "it is not a valid address"
    return " ".join(str(error).split()) or type(error).__name__
