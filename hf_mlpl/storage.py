"""Opens files of object storage (`s3://`, `gs://`, `hf://` and every other protocol that fsspec knows).

Keys and tokens come from where the protocol's package looks for them: its environment variables and files, and those
of fsspec (`FSSPEC_S3_ENDPOINT_URL`, `~/.config/fsspec`).
"""

from __future__ import annotations

import io
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from .error_line import error_line

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

BLOCK_BYTES = 2**20  # that one request gets at least
MOST_BLOCKS = 16  # that one request gets at most when a file is read in order, and that an open file keeps
# Two letters at least: `C:` is a drive of Windows. Chains, as in `simplecache::s3://bucket/key`, are fsspec's.
URL = re.compile(r"(?:[a-z][a-z0-9_]+::)*([a-z][a-z0-9+._-]+)://", re.IGNORECASE)
ONE_SLASH = re.compile(r"([a-z][a-z0-9+._-]+):/(?!/)", re.IGNORECASE)  # what is left of a URL that was made a Path
LOCAL = {"file", "local"}
VERSIONS = ("ETag", "etag", "blob_id", "xet_hash", "mtime")  # names of a file's version in the stores' packages
# The password of a user, the user of an address of the web, which may be a token, and its signature. Other users are
# names, as in abfs://container@account.
SECRETS = [
    (re.compile("//[^/:\\s'\"]*:[^/\\s'\"]*@"), "//"),
    (re.compile("(https?://)[^/\\s'\"]*@", re.IGNORECASE), "\\1"),
    (re.compile("(https?://[^?#\\s'\"]*)[?#][^\\s'\")]*", re.IGNORECASE), "\\1"),
]


class StorageError(OSError):
    """Refuses a URL that cannot be read or written; its one line names the URL without secrets, and the reason."""


class MissingError(StorageError, FileNotFoundError):
    """Says that there is no such file or bucket."""


def is_remote(path: Any) -> bool:
    """Returns whether `path` is a text with a URL that fsspec opens; `file://` URLs are local."""
    match = URL.match(path) if isinstance(path, str) else None
    return match is not None and match[1].lower() not in LOCAL


def parse_location(text: str | os.PathLike[str]) -> str | Path:
    """Returns a URL, with its protocol in lower case, and anything else as a Path; `file:///x` is the path /x.

    Raises:
        ValueError: for a URL with one slash, which is what `Path` leaves of it, and for a file of another machine.
    """
    if is_remote(text):
        return _lower_protocol(str(text))
    text = os.fspath(text)
    if match := URL.match(text):  # of a local file
        host, _, path = text[match.end() :].partition("/")
        if host not in ("", "localhost"):
            raise ValueError(f"{text}: the URL of a local file has three slashes, as in file:///{host}/{path}")
        return Path("/", unquote(path))
    match = ONE_SLASH.match(text)
    if match and match[1].lower() in _protocols() and not os.path.exists(text):
        raise ValueError(f"{text}: a URL has two slashes, as in {match[1]}://{text[match.end() :]}")
    return Path(text)


def _lower_protocol(url: str) -> str:
    return URL.sub(lambda match: match[0].lower(), url, count=1)


def shown(url: str) -> str:
    """Returns a URL or a message without passwords, and addresses of the web without what follows `?`: a signature."""
    for pattern, replacement in SECRETS:
        url = pattern.sub(replacement, url)
    return url


def absolute(path: str) -> str:
    """Returns the absolute path of a file of the disk, or a URL as it is."""
    return path if is_remote(path) else os.path.abspath(path)


@contextmanager
def storage_errors(url: str, *passed: type[Exception]) -> Iterator[None]:
    """Converts whatever a file system of fsspec raises to a StorageError of one line.

    `passed` errors stay as they are, and so does FileExistsError: it answers a write that must not replace a file.
    """
    passed = (StorageError, FileExistsError, *passed)
    try:
        yield
    except passed:
        raise
    except FileNotFoundError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno:  # that of https, where nobody answers
            raise _unreachable(url, error.__cause__) from error
        missing = "bucket" if "bucket does not exist" in str(error) else "file"
        raise _error(url, f"no such {missing}", MissingError) from error
    except PermissionError as error:
        text = f"access is denied ({error_line(error)}); look at the credentials of this machine"
        raise _error(url, text) from error
    except ImportError as error:
        missing = (error.__cause__ if isinstance(error.__cause__, ImportError) else error).name
        package = (missing or "").partition(".")[0]
        raise _error(url, f"needs a package: `pip install {package}`" if package else error_line(error)) from error
    except Exception as error:  # each package has errors of its own
        kind = f"{type(error).__module__}.{type(error).__name__}"
        if isinstance(error, (ConnectionError, TimeoutError)) or re.search("Connect|Timeout", kind):
            raise _unreachable(url, error) from error
        text = f"no credentials were found ({error_line(error)})" if "Credential" in kind else error_line(error, True)
        raise _error(url, text) from error


def _unreachable(url: str, error: Exception) -> StorageError:
    text = f"cannot be reached ({error_line(error, True)}); when it can be, give the same command again"
    return _error(url, text)


def _error(url: str, reason: str, kind: type[StorageError] = StorageError) -> StorageError:
    error = kind(f"{shown(url)}: {shown(reason)}")
    error.strerror = shown(reason)  # for lines that name the file already
    return error


def _protocols() -> set[str]:
    from fsspec import available_protocols

    return set(available_protocols())


def filesystem(url: str) -> tuple[AbstractFileSystem, str]:
    """Returns the file system of a URL, and the URL's path in it.

    fsspec keeps one for each process, and makes another one after a fork; do not keep it yourself.

    Raises:
        StorageError: for a protocol that is unknown, or whose package is not installed.
    """
    from fsspec.core import url_to_fs

    match = URL.match(url)
    with storage_errors(url):
        try:
            return url_to_fs(_lower_protocol(url))
        except ValueError as error:
            if match and match[1].lower() not in _protocols():
                known = f"{match[1]}:// is no protocol that fsspec knows; s3, gs, hf and https are some"
                raise _error(url, known) from error
            raise


def file_version(url: str) -> tuple[int, str | None]:
    """Returns the bytes of a file, and what its store calls its version; None where it tells no versions apart."""
    fs, path = filesystem(url)
    with storage_errors(url):
        fs.invalidate_cache()
        facts = fs.info(path)
    return facts["size"] or 0, next((str(facts[name]) for name in VERSIONS if facts.get(name)), None)


def open_remote(url: str) -> RemoteFile:
    """Opens the file at a URL for reading at any place, with few requests.

    Raises:
        StorageError: as `filesystem`, and for a file that is missing or must not be read; reading raises it, too.
    """
    fs, path = filesystem(url)
    with storage_errors(url):
        if not path.rstrip("/"):
            raise FileNotFoundError(path)
        file = fs.open(path, "rb", block_size=BLOCK_BYTES, cache_type="none")
        try:
            size = file.seek(0, os.SEEK_END)
        except ValueError:  # of a web server that knows neither sizes nor ranges
            with file:
                file = io.BytesIO(file.read())
            size = file.seek(0, os.SEEK_END)
        return RemoteFile(url, file, size)


class SeekableReader(io.RawIOBase):
    """Keeps the position in a file of `size` bytes; subclasses read from there (`readinto`)."""

    size: int
    position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence]
        self.position = max(base + offset, 0)
        return self.position


class RemoteFile(SeekableReader):
    """Reads a file of object storage in blocks, of which it keeps those that were read last.

    A request gets the missing blocks that lie side by side; where a file is read in order, each gets twice as many as
    the one before. A file of up to 4 blocks is got by one request. A forked process cannot use it.
    """

    def __init__(self, url: str, file: Any, size: int):
        self.name, self.file, self.size = shown(url), file, size
        self.ahead, self.last, self.lock = 1, -1, threading.Lock()
        self.blocks: OrderedDict[int, bytes] = OrderedDict()

    def readinto(self, buffer) -> int:
        count = min(len(buffer), max(self.size - self.position, 0))
        if count:
            memoryview(buffer)[:count] = self._bytes(self.position, self.position + count)
            self.position += count
        return count

    def _bytes(self, begin: int, end: int) -> bytes | memoryview:
        first, last = begin // BLOCK_BYTES, (end - 1) // BLOCK_BYTES
        if last - first >= MOST_BLOCKS:  # more than is kept, such as a row group
            return self.request(begin, end)
        while missing := [number for number in range(first, last + 1) if number not in self.blocks]:
            self._load(missing[0], missing[-1])
        for number in range(first, last + 1):
            self.blocks.move_to_end(number)
        blocks = [self.blocks[number] for number in range(first, last + 1)]
        content = memoryview(blocks[0] if first == last else b"".join(blocks))  # decoders read little at a time
        while len(self.blocks) > MOST_BLOCKS:
            self.blocks.popitem(last=False)
        return content[begin - first * BLOCK_BYTES : end - first * BLOCK_BYTES]

    def _load(self, first: int, last: int) -> None:
        self.ahead = min(2 * self.ahead, MOST_BLOCKS // 2) if first == self.last + 1 and self.blocks else 1
        last = max(last, first + self.ahead - 1)
        if self.size <= 4 * BLOCK_BYTES:
            first, last = 0, 3
        content = self.request(first * BLOCK_BYTES, min((last + 1) * BLOCK_BYTES, self.size))
        for start in range(0, len(content), BLOCK_BYTES):
            self.blocks[first + start // BLOCK_BYTES] = content[start : start + BLOCK_BYTES]
        self.last = last

    def request(self, begin: int, end: int) -> bytes:
        """Returns bytes by one request, without keeping them; several threads may call it."""
        if begin >= end:
            return b""
        with storage_errors(self.name), self.lock:
            self.file.seek(begin)
            content = self.file.read(end - begin)
            if len(content) < end - begin:
                raise _error(self.name, f"ends at byte {begin + len(content)}; was it replaced while it is read?")
            return content

    def close(self) -> None:
        if not self.closed:
            self.blocks.clear()
            self.file.close()
        super().close()
