"""Downloads published speech, unless it has been downloaded before, and returns paths for the readers."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, HTTPError

from ...error_line import error_line
from ..locales import to_locale

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
            f'{page}: downloading it needs a package: pip install "hf-mlpl[datacollective]"; or download the archive '
            "in a browser, and give its path"
        ) from error
    if not os.environ.get("MDC_API_KEY"):
        raise ValueError(f"{page}: set MDC_API_KEY to the key of your account, from its profile page")
    Path(folder).mkdir(parents=True, exist_ok=True)
    try:
        return Path(datacollective.download_dataset(dataset_id, download_directory=os.fspath(folder)))
    except Exception as error:  # a dozen kinds, of the package and of its dependencies
        raise ValueError(f"{page}: cannot be downloaded: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Returns one line, without the queries of addresses, which may contain keys and signatures."""
    return re.sub(r"(\w+://[^\s?'\"]*)\?[^\s'\"]*", r"\1", error_line(error))
