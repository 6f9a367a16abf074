"""Downloads published speech, unless it has been downloaded before, and returns paths for the readers."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, HTTPError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import get_session

from ...error_line import error_line
from ...folder_lock import claimed_file
from ...installation import install_command
from ..locales import to_locale
from .librispeech import librispeech_splits
from .voxpopuli import CODES, SUBSETS

# Others have copies, such as https://openslr.elda.org/resources/12
LIBRISPEECH_URL = os.environ.get("LIBRISPEECH_URL", "https://www.openslr.org/resources/12").rstrip("/")
VOXPOPULI_URL = os.environ.get("VOXPOPULI_URL", "https://dl.fbaipublicfiles.com/voxpopuli").rstrip("/")
LIBRISPEECH_MD5 = {  # www.openslr.org/resources/12/md5sum.txt
    "dev-clean": "42e2234ba48799c1f50f24a7926300a1",
    "dev-other": "c8d0bcc9cca99d4f8b62fcc847357931",
    "test-clean": "32fa31d27d2e1cad72775fee3f4849a9",
    "test-other": "fb5a50374b501bb3bac4815ee91d3135",
    "train-clean-100": "2a93770f6d5c6c964bc36631d331a522",
    "train-clean-360": "c0e676e450a7ff2f54aeade5171606fa",
    "train-other-500": "d1a0fd59409feb2c614ce4d30c387708",
}
VOXPOPULI_ASR = (*CODES[:16], "en_accented")  # the languages with transcripts
YEARS = tuple(map(str, range(2009, 2021)))
HEADERS = {"Accept-Encoding": "identity"}  # so that a size is that of the file
RETRIES = 5  # while no byte comes
ANSWER_SECONDS = 60  # until the first answer about a file; the client's default of 10 is too short on a slow line


def download_mirror(repo_id: str, revision: str | None = None, locales: Sequence[str] | None = None) -> Path:
    """Downloads the Parquet files of a data set on the Hub into its cache, for `read_common_voice`.

    Args:
        revision: branch, tag or commit; `refs/convert/parquet` has Parquet files of many data sets that have none.
        locales: selects files with such a name, or in a folder of such a name; all files if there are none.

    Raises:
        ValueError: for a data set or revision that does not exist, has no Parquet files, or needs access rights.
    """
    api, place = HfApi(), repo_id + (f" at {revision}" if revision else "")
    try:
        commit = api.dataset_info(repo_id, revision=revision).sha
        names = api.list_repo_files(repo_id, repo_type="dataset", revision=commit)
        files = [name for name in names if name.endswith(".parquet")]
        if not files:
            raise ValueError(f"{place}: no Parquet files; try the revision refs/convert/parquet")
        wanted = {to_locale(locale) for locale in locales or ()}
        named = [name for name in files if wanted & {to_locale(part) for part in Path(name).with_suffix("").parts}]
        patterns = [glob.escape(name) for name in named or files]
        # The client's other timeouts are for each piece that arrives, and it continues with the rest of a file.
        folder = api.snapshot_download(
            repo_id, repo_type="dataset", revision=commit, etag_timeout=ANSWER_SECONDS, allow_patterns=patterns
        )
    except (OSError, HTTPError, HFValidationError) as error:
        raise ValueError(f"{place}: cannot be downloaded from the Hub: {_reason(error)}") from error
    return Path(folder)


def download_release(dataset_id: str, folder: str | os.PathLike) -> Path:
    """Downloads a release of Common Voice from Mozilla Data Collective into `folder`, for `read_common_voice`.

    Needs the extra `datacollective` and the key of an account in the environment variable MDC_API_KEY; the account
    must have agreed to the data set's terms on its page. An interrupted download is continued.

    Args:
        dataset_id: the end of the address of the data set's page.

    Raises:
        ValueError: if one of these is missing, or there is no such data set.
    """
    page = f"https://mozilladatacollective.com/datasets/{dataset_id}"
    try:
        import datacollective
    except ImportError as error:
        raise ValueError(
            f"{page}: downloading it needs datacollective, which comes with {install_command('datacollective')}; or "
            "download the archive in a browser, and give its path"
        ) from error
    if not os.environ.get("MDC_API_KEY"):
        raise ValueError(f"{page}: set MDC_API_KEY to the key of your account, from its profile page")
    Path(folder).mkdir(parents=True, exist_ok=True)
    try:
        return Path(datacollective.download_dataset(dataset_id, download_directory=os.fspath(folder)))
    except Exception as error:  # a dozen kinds, of the package and of its dependencies
        raise ValueError(f"{page}: cannot be downloaded: {_reason(error)}") from error


@dataclass(frozen=True)
class PublishedFile:
    """Describes a file of a published corpus.

    Args:
        place: its path in the folder of the corpus.
        md5: None if nobody has published one.
    """

    place: str
    url: str
    md5: str | None = None


def published_files(name: str) -> list[PublishedFile]:
    """Returns the files of a part of LibriSpeech or VoxPopuli.

    Args:
        name: `librispeech/dev-clean`; `voxpopuli/sl` for a subset of unlabelled speech, as in `read_voxpopuli`, with
            its table; `voxpopuli/asr/sl` for transcripts, and the original recordings of all languages. `/2019` behind
            a name of VoxPopuli is the speech of one year.

    Raises:
        ValueError: for other names; it tells which there are.
    """
    corpus, *parts = name.split("/")
    if corpus == "librispeech":
        return [_librispeech_file(_one_of(name, parts, LIBRISPEECH_MD5, "part of LibriSpeech"))]
    if corpus != "voxpopuli":
        raise ValueError(f"{name}: no corpus {corpus!r}; there are librispeech/dev-clean and others, and voxpopuli/sl")
    is_asr = parts[:1] == ["asr"]
    parts = parts[is_asr:]
    subset = _one_of(name, parts[:1], VOXPOPULI_ASR if is_asr else SUBSETS, "language" if is_asr else "subset")
    years = YEARS[-2:] if subset.startswith("10k") else YEARS
    if len(parts) > 1:
        years = (_one_of(name, parts[1:], years, "year"),)
    code = subset.removesuffix("_v2")
    speech = ("original",) if is_asr else (code,) if code in CODES else CODES
    # Those with _2 are of other events than plenary sessions.
    ends = ("", "_2") if subset == "400k" or subset.endswith("_v2") else ("",)
    table = f"asr/asr_{subset}" if is_asr else "unlabelled_sd" if subset == "10k_sd" else "unlabelled_v2"
    archives = [f"{language}_{year}{end}.tar" for language in speech for year in years for end in ends]
    return [
        PublishedFile(f"annotations/{table}.tsv.gz", f"{VOXPOPULI_URL}/annotations/{table}.tsv.gz"),
        *(PublishedFile(f"raw_audios/{archive}", f"{VOXPOPULI_URL}/audios/{archive}") for archive in archives),
    ]


def download_published(name: str, folder: str | os.PathLike) -> list[Path]:
    """Downloads a part of LibriSpeech or VoxPopuli for its reader, and returns the paths of its files.

    What is complete in the folder is not downloaded again; an interrupted download, `FILE.part`, is continued. Sizes
    are compared with those that the server tells, and archives of LibriSpeech with their MD5. The environment
    variables LIBRISPEECH_URL and VOXPOPULI_URL name other servers.

    Args:
        name: as in `published_files`.
        folder: the corpus' folder, as its reader takes it.

    Raises:
        ValueError: for a name that does not exist, for files that the server does not have or that arrive damaged, if
            the server cannot be reached, and if the folder has no room.
        InUseError: if another job downloads the same file.
    """
    folder = Path(folder)
    files = published_files(name)
    corpus, _, split = name.partition("/")
    if corpus == "librispeech" and split in librispeech_splits(folder):  # perhaps extracted
        return [folder]
    missing = [file for file in files if not (folder / file.place).exists()]
    sizes = {file: _size_of(file.url) for file in missing}
    folder.mkdir(parents=True, exist_ok=True)
    begun = [part.stat().st_size for file in missing if (part := _part(folder / file.place)).exists()]
    needed, room = sum(size or 0 for size in sizes.values()) - sum(begun), shutil.disk_usage(folder).free
    if needed > room:
        raise ValueError(f"{folder}: has room for {room / 1e9:.1f} GB, and {name} needs {needed / 1e9:.1f} GB")
    for file, size in sizes.items():
        _download(file, folder / file.place, size)
    return [folder / file.place for file in files]


def _one_of(name: str, parts: Sequence[str], known: Sequence[str] | dict[str, str], kind: str) -> str:
    if len(parts) == 1 and parts[0] in known:
        return parts[0]
    raise ValueError(f"{name}: no {kind} {'/'.join(parts)!r}; there are {', '.join(known)}")


def _librispeech_file(split: str) -> PublishedFile:
    return PublishedFile(f"{split}.tar.gz", f"{LIBRISPEECH_URL}/{split}.tar.gz", LIBRISPEECH_MD5[split])


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _size_of(url: str) -> int | None:
    """Returns the bytes of a file on a server; None if the server does not tell."""
    try:
        answer = get_session().head(url, headers=HEADERS, follow_redirects=True, timeout=ANSWER_SECONDS)
    except (OSError, HTTPError) as error:
        raise ValueError(f"{url}: cannot be downloaded: {_reason(error)}") from error
    if answer.status_code in (404, 410):
        raise ValueError(f"{url}: the server has no such file ({answer.status_code})")
    size = answer.headers.get("Content-Length")
    return int(size) if size and answer.status_code == 200 else None


def _download(file: PublishedFile, path: Path, size: int | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with claimed_file(path):
        part = _part(path)
        with open(part, "ab") as output:
            if size is not None and output.tell() > size:
                _empty(output)  # it is of another file
            if size is None or output.tell() < size:
                _fetch(file.url, output, path.name)
        if size is not None and part.stat().st_size != size:
            found = part.stat().st_size
            part.unlink()
            raise ValueError(f"{file.url}: {found} bytes came, and not {size}; give the same command again")
        if file.md5 and (found := _md5(part)) != file.md5:
            part.unlink()
            raise ValueError(
                f"{file.url}: came damaged, with the MD5 {found}, and not {file.md5}; give the same command again"
            )
        part.replace(path)


def _fetch(url: str, output: BinaryIO, name: str) -> None:
    """Appends the rest of a file on a server; goes on where a connection breaks."""
    failures = 0
    while True:
        before = output.tell()
        try:
            return http_get(url, output, resume_size=before, headers=HEADERS, displayed_filename=name)
        except (OSError, HTTPError) as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            failures = 1 if output.tell() > before else failures + 1
            if status == 416:  # what was there is of another file
                _empty(output)
            elif failures > RETRIES or getattr(error, "errno", None) or status is not None and status < 500:
                raise ValueError(f"{url}: cannot be downloaded: {_reason(error)}") from error
        time.sleep(failures)


def _empty(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _reason(error: Exception) -> str:
    """Returns one line, without the queries of addresses, which may contain keys and signatures."""
    return re.sub(r"(\w+://[^\s?'\"]*)\?[^\s'\"]*", r"\1", error_line(error))
