"""Names files and folders of object storage, with the methods of `Path` that jobs need, and writes them."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from glob import glob
from pathlib import Path, PurePosixPath

from .storage import (
    RemoteFile,
    filesystem,
    is_remote,
    open_remote,
    parse_location,
    shown,
    storage_errors,
)

# Their packages create a file by a request that the storage refuses where there is one, whoever writes at that moment.
# Other packages look first and write then, and two processes may do that at once.
EXCLUSIVE = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory"}
CONFLICT_SECONDS = (0.1, 0.5, 2.0)  # pauses before a creation is tried again


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
