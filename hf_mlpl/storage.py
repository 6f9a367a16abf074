"""Opens and writes files of object storage (`s3://`, `gs://`, `hf://` and every other protocol that fsspec knows).

Keys and tokens come from where the protocol's package looks for them: its environment variables and files, and those
of fsspec (`FSSPEC_S3_ENDPOINT_URL`, `~/.config/fsspec`).
"""

from __future__ import annotations

import io
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from glob import glob
from pathlib import Path, PurePosixPath
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
# Their packages create a file by a request that the storage refuses where there is one, whoever writes at that moment.
# Other packages look first and write then, and two processes may do that at once.
EXCLUSIVE = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory"}
CONFLICT_SECONDS = (0.1, 0.5, 2.0)  # pauses before a creation is tried again
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


@dataclass(frozen=True, order=True)
class RemotePath:
    """Names a file, or a folder, by its URL, with the methods of `Path` that jobs need.

    Each method asks the storage, by one request, and none trusts a listing that was kept. It is no `os.PathLike`, so
    that nothing takes it for a local path. Methods raise a StorageError, which is an OSError of one line.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def __format__(self, _) -> str:  # in messages, which have no password
        return shown(self.url)

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self.url.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    def resolve(self) -> RemotePath:
        return self

    @property
    def parent(self) -> RemotePath:
        above = self.url.rpartition("/")[0]
        return self if above.endswith(":/") else RemotePath(above)

    def with_name(self, name: str) -> RemotePath:
        return self.parent / name

    def with_suffix(self, suffix: str) -> RemotePath:
        return self.with_name(PurePosixPath(self.name).with_suffix(suffix).name)

    def exists(self) -> bool:
        """Returns whether there is such a file; there are no folders, only names with slashes. A bucket is none."""
        if self.parent == self:
            return False
        try:
            self._read(1)
        except FileNotFoundError:
            return False
        return True

    is_file = exists

    def is_dir(self) -> bool:
        """Returns whether there are files below this name."""
        return bool(self.names())

    def read_bytes(self) -> bytes:
        return self._read()

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self.read_bytes().decode(encoding, errors)

    def _read(self, end: int | None = None) -> bytes:
        """Returns the bytes before `end`, or all if there are fewer, by one request."""
        fs, key = filesystem(self.url)
        with storage_errors(self.url):
            try:
                return fs.cat_file(key, start=0, end=end)  # without the 0, s3fs would first ask for the size
            except FileNotFoundError:
                raise
            except Exception:  # an empty file has no such bytes
                return fs.cat_file(key)

    def open(self) -> RemoteFile:
        """Opens the file for reading, as `open_remote` does."""
        return open_remote(self.url)

    def names(self) -> list[str]:
        """Returns the names of the files in a folder."""
        fs, key = filesystem(self.url)
        with storage_errors(self.url):
            fs.invalidate_cache()
            try:
                found = fs.ls(key, detail=False)
            except FileNotFoundError:
                return []
        return [path.rpartition("/")[2] for path in found]

    def stamp(self) -> str:
        """Returns what tells one writing of the file from another: its size, time, hash or number of the version."""
        fs, key = filesystem(self.url)
        with storage_errors(self.url):
            fs.invalidate_cache()
            return fs.ukey(key)

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Makes nothing, because object storage has no folders."""

    def unlink(self, missing_ok: bool = False) -> None:
        fs, key = filesystem(self.url)
        with storage_errors(self.url):
            try:
                fs.rm_file(key)
            except FileNotFoundError:
                if not missing_ok:
                    raise

    def write_bytes(self, content: bytes) -> None:
        """Writes the file, or replaces it as a whole."""
        fs, key = filesystem(self.url)
        with storage_errors(self.url):
            fs.pipe_file(key, content)

    def create(self, content: bytes) -> bool:
        """Writes the file unless there is one; returns whether it did: of several at once, one does.

        If an answer of the storage was lost on the way, and the request was repeated, the file may be there and False
        be returned.
        """
        fs, key = filesystem(self.url)
        for pause in (*CONFLICT_SECONDS, None):
            try:
                with storage_errors(self.url):
                    fs.pipe_file(key, content, mode="create")
                return True
            except FileExistsError:
                return False
            except OSError as error:
                # S3 answers 409 to all but one of those that create a file at once, and storage of its kind may say
                # in other words that there is one.
                if pause is None or isinstance(error, FileNotFoundError):
                    raise
                if self.exists():
                    return False
                time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def download(self, local: Path) -> None:
        fs, key = filesystem(self.url)
        with storage_errors(self.url):
            fs.get_file(key, str(local))

    def upload(self, local: Path) -> None:
        """Writes the file, or replaces it as a whole, with the content of a local one; in parts if it is large."""
        fs, key = filesystem(self.url)
        with storage_errors(self.url):
            fs.put_file(str(local), key)


AnyPath = Path | RemotePath


def parquet_source(path: AnyPath) -> Path | RemoteFile:
    """Returns what pyarrow reads a file from; raises as `open_remote` does."""
    return path.open() if isinstance(path, RemotePath) else path


def as_path(place: str | os.PathLike[str] | RemotePath) -> AnyPath:
    """Returns the path of a file on a disk or in object storage; raises as `parse_location` does."""
    if isinstance(place, RemotePath):
        return place
    location = parse_location(place)
    if isinstance(location, str):
        return RemotePath(location if location.endswith("://") else location.rstrip("/"))
    return location


def output_path(place: str | os.PathLike[str] | RemotePath) -> AnyPath:
    """Returns `as_path` of a file or folder to write.

    Raises:
        ValueError: for object storage that jobs cannot share, and a URL without a bucket.
        StorageError: if the package for its protocol is not installed.
    """
    path = as_path(place)
    if isinstance(path, RemotePath):
        protocol = path.url.partition("://")[0].lower()
        if protocol == "hf":
            raise ValueError(
                f"{path}: labels are not written to the Hub file by file; write them to a folder or to object storage "
                "such as s3://, and then `hf-mlpl publish-labels` pushes them"
            )
        if protocol not in EXCLUSIVE:
            raise ValueError(
                f"{path}: {protocol}:// cannot be written to, because its package does not create a file only where "
                f"there is none; {', '.join(sorted(EXCLUSIVE - {'memory'}))} and local folders are accepted"
            )
        if not filesystem(path.url)[1].strip("/"):
            raise ValueError(f"{path}: names no bucket; give {protocol}://BUCKET/FOLDER")
    return path


def matching_paths(pattern: str) -> list[AnyPath]:
    """Returns the files that match a pattern, sorted; the one of this name where it has no `*`, or none matches."""
    names = []
    if is_remote(pattern):
        fs, path = filesystem(pattern)
        with storage_errors(pattern):
            fs.invalidate_cache()  # of listings, which may be older than what another process has written
            names = list(map(fs.unstrip_protocol, fs.glob(path))) if "*" in pattern else []
    elif "*" in pattern:
        names = glob(str(parse_location(pattern)))
    return [as_path(name) for name in sorted(names) or [pattern]]
