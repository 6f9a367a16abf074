"""Finds the configurations of data sets in folders and on the Hub, and the files of their splits."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path

import yaml
from datasets import (
    get_dataset_config_names,
    get_dataset_default_config_name,
    get_dataset_split_names,
    load_dataset_builder,
)
from datasets.packaged_modules.arrow.arrow import Arrow
from datasets.packaged_modules.audiofolder.audiofolder import AudioFolder
from datasets.packaged_modules.csv.csv import Csv
from datasets.packaged_modules.json.json import Json
from datasets.packaged_modules.parquet.parquet import Parquet
from datasets.packaged_modules.webdataset.webdataset import WebDataset
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download, metadata_load
from huggingface_hub.errors import RevisionNotFoundError

from ..reading import ReadingReport
from ..sources import HUB_PAGE, Source

READ_IN_PLACE = (Parquet, Csv, Json, AudioFolder, WebDataset, Arrow)
CONVERTED = "refs/convert/parquet"  # the revision to which the Hub writes Parquet files of data sets in other forms
# `sl_si/test/0000.parquet`, `sl/partial-train/0000.parquet`; before 2023 `sl/voxpopuli-train-00000-of-00003.parquet`.
CONVERTED_FILE = re.compile(
    r"(?P<config>[^/]+)/((?P<partial>partial-)?(?P<split>[^/]+)/\d+|[^/]*?(?P<old>[a-z]+)(-\d+-of-\d+)?)\.parquet"
)
DEVELOPMENT = ("validation", "dev", "valid", "val")  # the names of one split in different data sets


def data_files(
    name: str | Path, split: str, config: str | None, report: ReadingReport
) -> tuple[type, list[Path], bool]:
    """Returns the builder class of a data set in a folder or on the Hub, the files of a split, and whether it is the
    only one; downloads files that are on the Hub.

    The list of files is empty for a data set that has a form which is not read in place. Of a data set with a loading
    script, which `datasets` no longer runs, the files are those of the Hub's conversion to Parquet.

    Raises:
        ValueError: for a split or configuration that the data set lacks, for one with a loading script that has not
            been converted, and for a Storage Bucket.
    """
    if (converted := _converted_files(str(name))) is not None:
        if config is None and len(converted) == 1:
            (config,) = converted
        if config not in converted:
            raise ValueError(f"{name}: no configuration {config}; there are {', '.join(sorted(converted))}")
        kind, splits = Parquet, converted[config]
    else:
        with _one_line(name):
            # Of `.` the library cannot make a name.
            builder = load_dataset_builder(os.path.abspath(name) if os.path.exists(name) else str(name), config)
        if not isinstance(builder, READ_IN_PLACE):
            return type(builder), [], False
        kind, splits = type(builder), builder.config.data_files
    found = found_split(splits, split, name)
    if converted and any("/partial-" in address for address in splits[found]):
        report.note(f"{name}: the Hub has converted only the first part of {split}; the rest is not read")
    return kind, [_on_disk(address) for address in splits[found]], len(splits) == 1


def found_split(splits: Iterable, split: str, name: object) -> str:
    """Returns the name of a split in a data set, which may call the development set otherwise; raises ValueError."""
    splits = list(map(str, splits))
    for other in (split, *(DEVELOPMENT if split in DEVELOPMENT else ())):
        if other in splits:
            return other
    raise ValueError(f"{name}: no split {split}; there are {', '.join(splits)}")


def name_of_split(name: str, config: str | None, split: str) -> str:
    """Returns how a data set on the Hub calls a split, as `validation` for `dev`; raises ValueError for others."""
    with _one_line(name):
        splits = get_dataset_split_names(name, config)
    return found_split(splits, split, name)


def has_configs(folder: Path) -> bool:
    """Returns whether the card in a folder names configurations."""
    card = folder / "README.md"
    try:
        return card.is_file() and "configs" in (metadata_load(card) or {})
    except (ValueError, yaml.YAMLError):
        return False  # a README.md of the user's that is no card


def dataset_configs(name: str) -> list[str]:
    """Returns the names of the configurations of a data set in a folder or on the Hub."""
    converted = _converted_files(name)
    if converted is not None:
        return sorted(converted)
    with _one_line(name):
        return get_dataset_config_names(name)


def source_on_hub(name: str) -> Source:
    """Returns the source of a data set on the Hub, with the licence of its card; `unknown` if that cannot be read."""
    try:
        card = HfApi().dataset_info(name).card_data
    except Exception:
        card = None  # loading tells why
    licenses = (card and card.get("license")) or "unknown"
    return Source(name, licenses if isinstance(licenses, str) else " and ".join(licenses), HUB_PAGE + name)


def default_config(name: str) -> str | None:
    """Returns the configuration that the card of a data set makes the default; None if there is none."""
    if has_script(name):
        return None
    with _one_line(name):
        return get_dataset_default_config_name(name)


@contextmanager
def _one_line(name):
    """Raises an error of `datasets`, which may have several lines, as a ValueError of one line."""
    try:
        yield
    except (ValueError, OSError, RuntimeError) as error:  # RuntimeError: for a loading script in a folder
        raise ValueError(f"{name}: {' '.join(str(error).split())}") from error


def has_script(name: str) -> bool:
    """Returns whether a data set on the Hub has a loading script."""
    if Path(name).exists() or name.count("/") > 1:
        return False
    try:
        return HfApi().file_exists(name, f"{name.rpartition('/')[2]}.py", repo_type="dataset")
    except Exception:
        return False  # loading tells why


def _converted_files(name: str) -> dict[str, dict[str, list[str]]] | None:
    """Returns addresses by configuration and split if a data set on the Hub has a loading script, or else None."""
    if not has_script(name):
        return None
    try:
        files = sorted(HfApi().list_repo_files(name, repo_type="dataset", revision=CONVERTED))
    except RevisionNotFoundError:
        files = []
    found: dict[str, dict[str, list[str]]] = {}
    for file in files:
        if match := CONVERTED_FILE.fullmatch(file):
            address = f"hf://datasets/{name}@{CONVERTED.replace('/', '%2F')}/{file}"
            found.setdefault(match["config"], {}).setdefault(match["split"] or match["old"], []).append(address)
    if not found:
        raise ValueError(
            f"{name}: has a loading script, which `datasets` no longer runs, and no Parquet files at the revision "
            f"{CONVERTED}; download its files, and give their folder or a table of them"
        )
    return found


def _on_disk(address: str) -> Path:
    if not address.startswith("hf://"):
        return Path(address)
    if address.startswith("hf://buckets/"):
        raise ValueError(
            f"{address}: is in a Storage Bucket, whose files the Hub's cache cannot keep; download it with "
            "`hf buckets sync`, and give its folder"
        )
    place = HfFileSystem().resolve_path(address)
    name, repo_type = place.path_in_repo, place.repo_type
    return Path(hf_hub_download(place.repo_id, name, repo_type=repo_type, revision=place.revision))
