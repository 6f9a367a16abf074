"""Opens each form of a data set: in memory, saved, tables, Parquet, Arrow, WebDataset and folders of recordings."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from datasets import Audio, Dataset, IterableDataset, concatenate_datasets, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError
from datasets.packaged_modules.arrow.arrow import Arrow
from datasets.packaged_modules.audiofolder.audiofolder import AudioFolder
from datasets.packaged_modules.webdataset.webdataset import WebDataset

from ...audio.containers import audio_column
from ...audio.dataset_rows import UndecodedRows
from ...audio.reading import is_recording
from ...audio.tar_index import ContainerError
from ..listing import parquet_files_below
from ..locales import to_locale
from ..metadata import METADATA, SUFFIXES, TableRow, columns_of, rows_of
from ..reading import ReadingReport
from ..recordings import walk
from ..sources import Source
from . import webdataset
from .dataset_files import (
    DEVELOPMENT,
    data_files,
    dataset_configs,
    default_config,
    found_split,
    has_configs,
    has_script,
)
from .parquet import parquet_features, parquet_rows, parquet_schema, with_class_names
from .published import (
    LIBRISPEECH_ON_HUB,
    PUBLISHED,
    SOURCES,
    Published,
    download_language,
    language_folders,
    language_rows,
    languages_on_hub,
    locale_of_config,
    published_columns,
    published_folder,
)

# The splits that `datasets` makes of folders with these names.
SPLIT_FOLDERS = dict.fromkeys(DEVELOPMENT, "validation") | {"train": "train", "test": "test", "eval": "test"}
ARROW = ".arrow"
ARCHIVES = (".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".rar", ".7z")
SEVERAL_LANGUAGES = ("all", "multilang")  # configurations of FLEURS and VoxPopuli, which repeat those of languages


@dataclass(frozen=True)
class OpenDataset:
    """Holds the columns of a data set and the function that reads its rows.

    Args:
        columns: names; with their types, if these are known.
        rows: columns -> rows; each has the folder to which its paths are relative, and `file:row` if it is in a file.
        audio: the columns that hold recordings, as far as their types show it.
        name: of the file, for messages.
        corpus: the published corpus of its files, if it is one.
        language: of all rows of that corpus.
    """

    columns: Collection[str]
    rows: Callable[[Sequence[str]], Iterator[tuple[str, TableRow]]]
    audio: Sequence[str] = ()
    name: str = ""
    corpus: Published | None = None
    language: str | None = None


def open_named(
    name: str | Path,
    split: str,
    config: str | None,
    report: ReadingReport,
    likely: Sequence[str],
    encoding: str | None = None,
) -> OpenDataset:
    """Opens one split of a data set in a folder or file, or on the Hub.

    Args:
        likely: names of columns, by which the delimiter of a csv file is found.
    """
    path = Path(name)
    if (path / "dataset_info.json").is_file():
        return open_dataset(load_from_disk(str(path)))
    if (path / "dataset_dict.json").is_file():
        return open_dataset(split_of(load_from_disk(str(path)), split, str(path)))
    if path.is_file():
        if path.name.endswith(SUFFIXES):
            return _open_tables([path], likely, encoding)
        if path.name.endswith(webdataset.SUFFIXES):
            return _open_webdataset([path], report)
        if path.suffix == ARROW:
            return _open_arrow([path])
    corpus = published_folder(path) if path.is_dir() else PUBLISHED.get(str(name).lower())
    if corpus and (opened := _open_published(corpus, name, split, config, report)):
        return opened
    for folder in (path / split, path / "data" / split, path, path / "data"):
        if tables := [folder / table for table in METADATA if (folder / table).is_file()]:
            opened = _open_tables(tables[:1], likely, encoding)
            return opened if folder.name == split and folder != path else _of_split(opened, split)
    try:
        kind, files, is_only_split = data_files(name, split, config, report)
    except ValueError as error:  # the library does not follow links to folders, and may find no file
        if not (isinstance(error.__cause__, FileNotFoundError) and _has_recordings(path)):
            raise
        folders = {name for place in (path, path / "data") for name in SPLIT_FOLDERS if (place / name).is_dir()}
        return _open_folder(path, split, (), not folders, report)
    if issubclass(kind, AudioFolder):
        if tables := [file for file in files if file.name in METADATA]:
            return _open_tables(tables, likely, encoding)
        return _open_folder(path, split, files, is_only_split, report)
    if issubclass(kind, WebDataset):
        return _open_webdataset(files, report)
    if issubclass(kind, Arrow):
        return _open_arrow(files)
    if files and all(file.name.endswith(SUFFIXES) for file in files):
        return _open_tables(files, likely, encoding)
    try:
        return open_dataset(load_dataset(str(name), config, split=split))
    except DatasetGenerationError as error:
        raise ValueError(f"{name}: `datasets` cannot load it: {error.__cause__ or error}") from error


def language_configs(
    name: str | Path, languages: Sequence[str] | None = None, all_languages: bool = False
) -> list[str | None]:
    """Returns the configurations of a data set that are read if none is named; [None] if it has only one without name.

    They are all that are named after one language, if no others are there.

    Args:
        languages: locales to choose from them; without any, the default that the data set's card names, or else all.
        all_languages: chooses all, whatever the card names, if they are named after languages.

    Raises:
        ValueError: for a data set with other configurations, one of which must be named, and for absent languages.
    """
    path, corpus, default = Path(name), PUBLISHED.get(str(name).lower()), None
    if path.is_dir() and (found := published_folder(path)):
        configs = list(language_folders(found, path))
    elif corpus and has_script(str(name)):
        configs = languages_on_hub(corpus, str(name)) or dataset_configs(str(name))
    elif path.exists() and not has_configs(path):
        return [None]
    else:
        configs, default = dataset_configs(str(name)), default_config(str(name))
    if "default" in configs:
        return [None]
    locales = {config: locale_of_config(config) for config in configs if config not in SEVERAL_LANGUAGES}
    if len(configs) == 1:
        return list(configs)
    if default and (not (languages or all_languages) or None in locales.values()):
        return [default]
    if None in locales.values():
        raise ValueError(f"{name}: has the configurations {', '.join(configs)}; name one")
    wanted = {*map(to_locale, languages or ())}
    if chosen := [config for config, locale in locales.items() if not wanted or locale in wanted]:
        return chosen
    raise ValueError(f"{name}: no configuration of {', '.join(wanted)}; there are {', '.join(configs)}")


def known_corpus(name: str | Path) -> tuple[str, Source] | None:
    """Returns the name on the Hub and the source of a published corpus, by that name, or by the files in a folder.

    Copies of its Parquet files are known by their columns, those of LibriSpeech by the name of the folder, too; None
    for another data set.
    """
    path = Path(name)
    if not path.is_dir():
        return next((known for known in SOURCES.items() if known[0] == str(name).lower()), None)
    corpus, known = published_folder(path), None
    if corpus is None and has_configs(path) and (files := parquet_files_below(path)):
        with suppress(ValueError):  # of a damaged file, which reading reports
            columns = parquet_schema(files[0]).names
            corpus = published_columns(columns)
            if path.absolute().name == Path(LIBRISPEECH_ON_HUB).name and "chapter_id" in columns:
                known = LIBRISPEECH_ON_HUB
    known = known or next((known for known, each in PUBLISHED.items() if each is corpus), None)
    return (known, SOURCES[known]) if known else None


def has_one_split(path: Path) -> bool:
    """Returns whether a file or folder is one split, so that every name of a split means all of it."""
    if path.is_file() or (path / "dataset_info.json").is_file():
        return True
    folders = [folder for folder in (path, path / "data") if any((folder / table).is_file() for table in METADATA)]
    return bool(folders) and not any((folders[0] / name).is_dir() for name in SPLIT_FOLDERS)


def split_of(splits: Mapping, split: str, name: str) -> Dataset | IterableDataset:
    """Returns a split of a data set in memory; raises ValueError if it is missing."""
    return splits[found_split(splits, split, name)]


def open_dataset(dataset: Dataset | IterableDataset) -> OpenDataset:
    """Opens a data set in memory, whatever its format; a stream without columns has those of its first row."""
    columns = dataset.features or dict.fromkeys(dataset.column_names or next(iter(dataset), ()))
    audio = [name for name, feature in columns.items() if isinstance(feature, Audio)]
    return OpenDataset(columns, partial(_rows_of_dataset, dataset), audio)


def _rows_of_dataset(dataset: Dataset | IterableDataset, columns: Sequence[str]) -> Iterator[tuple[str, TableRow]]:
    rows = UndecodedRows(dataset, columns)
    for row in rows:
        yield os.curdir, ("", with_class_names(row, rows.features), None)


def _open_arrow(files: Sequence[Path]) -> OpenDataset:
    return open_dataset(concatenate_datasets([Dataset.from_file(str(file)) for file in files]))


def _open_webdataset(files: Sequence[Path], report: ReadingReport) -> OpenDataset:
    columns = webdataset.webdataset_columns(files, report)

    def rows(columns: Sequence[str]) -> Iterator[tuple[str, TableRow]]:
        for row in webdataset.webdataset_rows(files, columns):
            yield os.curdir, row

    return OpenDataset(columns, rows, [webdataset.AUDIO], str(files[0]))


def _open_published(
    corpus: Published, name: str | Path, split: str, config: str | None, report: ReadingReport
) -> OpenDataset | None:
    """Opens a published corpus in its own files; returns None if `datasets` can load it."""
    split = "dev" if split in DEVELOPMENT else split
    is_on_disk = Path(name).is_dir()
    if not is_on_disk and not has_script(str(name)):
        return None
    folders = language_folders(corpus, Path(name)) if is_on_disk else {}
    configs = list(folders) if is_on_disk else languages_on_hub(corpus, str(name))
    if not configs:
        return None
    if config is None and len(configs) == 1:
        (config,) = configs
    if config not in configs:
        raise ValueError(f"{name}: no configuration {config}; there are {', '.join(configs)}")
    folder = folders.get(config) or download_language(corpus, str(name), config, split)
    columns, rows = language_rows(corpus, folder, split, report)
    return OpenDataset(columns, rows, ["audio"], str(folder), corpus, locale_of_config(config))


def _open_tables(files: Sequence[Path], likely: Sequence[str], encoding: str | None) -> OpenDataset:
    """Opens Parquet files that contain recordings, or tables of any kind that name recordings."""
    first, rows = files[0], partial(_rows_of_tables, files, encoding)
    columns = dict.fromkeys(name for file in files for name in columns_of(file, likely, None, encoding))
    audio = [name for name in columns if f"_{name}".endswith("_file_name")] if first.name in METADATA else []
    if first.suffix != ".parquet":
        return OpenDataset(columns, rows, audio, str(first))
    features = parquet_features(first)
    audio += [name for name, feature in features.items() if isinstance(feature, Audio)]
    with suppress(ContainerError):  # no recordings inside, or in several columns
        audio = [audio_column(features.arrow_schema, first)]
        rows = partial(_rows_of_containers, files, audio[0])
    return OpenDataset(features, rows, audio, str(first))


def _rows_of_containers(files: Sequence[Path], audio: str, columns: Sequence[str]) -> Iterator[tuple[str, TableRow]]:
    for where, row, place in parquet_rows(files, [column for column in columns if column != audio]):
        yield os.curdir, (where, row | {audio: place}, None)


def _rows_of_tables(
    files: Sequence[Path], encoding: str | None, columns: Sequence[str]
) -> Iterator[tuple[str, TableRow]]:
    for file in files:
        for row in rows_of(file, columns, None, encoding):
            yield os.path.dirname(os.path.abspath(file)), row


def _of_split(table: OpenDataset, split: str) -> OpenDataset:
    """Leaves out rows of other splits, if the folder of a table has a folder for each split."""
    folder = Path(table.name).parent
    splits = {name: kind for name, kind in SPLIT_FOLDERS.items() if (folder / name).is_dir()}
    if not splits:
        return table
    wanted = SPLIT_FOLDERS.get(split, split)
    if wanted not in splits.values():
        raise ValueError(f"{folder}: no split {split}; there are {', '.join(splits)}")

    def rows(columns: Sequence[str]) -> Iterator[tuple[str, TableRow]]:
        names = [name for name in table.audio if name in columns]
        for place, (where, row, problem) in table.rows(columns):
            paths = [row[name] for name in names if isinstance(row.get(name), str)]
            if not paths or any(splits.get(Path(os.path.normpath(path)).parts[0]) == wanted for path in paths):
                yield place, (where, row, problem)

    return replace(table, rows=rows)


def _has_recordings(root: Path) -> bool:
    places = walk(root, ReadingReport(), notes_links=False) if root.is_dir() else ()
    return any(is_recording(os.path.join(folder, name)) for folder, _, names in places for name in names)


def _open_folder(
    root: Path, split: str, files: Sequence[Path], is_only_split: bool, report: ReadingReport
) -> OpenDataset:
    """Opens recordings without a table, as the library's `audiofolder` does: the folder of each is its label.

    `files` are those that the library finds, which does not follow links to folders.
    """
    folders = [folder for folder in (root / split, root / "data" / split) if folder.is_dir()]
    if folder := next(iter(folders), root if is_only_split and root.is_dir() else None):
        found = sorted(walk(folder, report), key=lambda each: Path(each[0]).parts)  # links in the order of their names
        files = [Path(place, name) for place, _, names in found for name in names]
    if archive := next((file for file in files if file.name.endswith(ARCHIVES)), None):
        raise ValueError(f"{archive}: recordings are not read from such an archive; unpack it, and give its folder")
    recordings = [str(file) for file in files if is_recording(str(file))]
    if others := len(files) - len(recordings):
        report.note(f"{root}: {others} files of {split} are no recordings")
    beside = {each.name: None for place in (root, *folders) if place.is_dir() for each in sorted(place.iterdir())}
    if tables := [name for name in beside if name.lower().endswith(SUFFIXES)]:
        report.note(
            f"{root}: these tables are not read, and its recordings have no texts: {', '.join(tables)}; give a table "
            f"by its own name, or call it {METADATA[0]}"
        )

    def rows(columns: Sequence[str]) -> Iterator[tuple[str, TableRow]]:
        for path in recordings:
            yield os.curdir, (path, {"audio": path, "label": os.path.basename(os.path.dirname(path))}, None)

    return OpenDataset(dict.fromkeys(("audio", "label")), rows, ["audio"])
