"""Knows FLEURS, Multilingual LibriSpeech and transcribed VoxPopuli: their columns, languages, and files as published.

They are on the Hub, where `datasets` reads some, and in folders with a table for each language and split, whose
recordings are in archives or in files beside it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, snapshot_download

from ...audio.folder_walk import is_hidden
from ...audio.reading import AUDIO_SUFFIXES
from ..locales import WITH_REGION, WITHOUT_REGION, to_locale
from ..metadata import TableRow
from ..reading import ReadingReport
from ..sources import FLEURS, LIBRISPEECH, MLS, VOXPOPULI, Source
from ..tables import DAMAGED, decode_text, open_binary, read_table, row_problem, table_columns
from .voxpopuli import Archive

SPLITS = ("train", "dev", "test")
SUFFIXES = (".wav", ".flac", ".opus", ".ogg", ".mp3")
# Languages of FLEURS that `to_locale` does not know; it would keep their regions.
OF_FLEURS = (
    "ast bs ceb ckb ff fil gu jv kam kea km kn lb ln luo mi ms my nso ny oc om sd sn so tg umb wo xh yue zu".split()
)
OTHERWISE = {"cmn": "zh-CN", "nb": "nb-NO"}  # named by Common Voice
OF_MLS = {
    **{"dutch": "nl", "english": "en", "french": "fr", "german": "de", "italian": "it", "polish": "pl"},
    **{"portuguese": "pt", "spanish": "es"},
}
LIBRISPEECH_ON_HUB = "openslr/librispeech_asr"
# Arguments of `read_dataset` for LibriSpeech, whose configurations and columns do not say its language.
LIBRISPEECH_LANGUAGE, LIBRISPEECH_COLUMNS = "en", {"id": "id"}
LANGUAGES = {*WITHOUT_REGION, *WITH_REGION, "zh", "rm", "nan"}


@dataclass(frozen=True)
class Published:
    """Describes a published corpus.

    Args:
        source: its name and licence.
        columns: field of an utterance -> columns that hold it, the best first.
        folder: matches the name of a language's folder; its group `config` is the language's configuration.
        table: name of a split's table in that folder.
        header: columns of the tables; None if their first line has them.
        name: the column of the recordings' names.
        archives, files: places of recordings in that folder; `{stem}` is the name without suffix, `{parts}` the parts
            of it that name folders.
        on_hub: columns that only its data set on the Hub has.
        no_value: stands for a text or a speaker that is missing.
        limited: split -> lists of the names of recordings that are in it, in the folder of `train`.
        development: split of its data set on the Hub, which is `dev` in its files.
    """

    source: Source
    columns: Mapping[str, tuple[str, ...]]
    folder: re.Pattern
    table: str
    header: tuple[str, ...] | None
    name: str
    archives: tuple[str, ...]
    files: tuple[str, ...]
    on_hub: frozenset[str]
    no_value: str | None = None
    limited: Mapping[str, str] = field(default_factory=dict)
    development: str = "validation"


PUBLISHED = {
    "google/fleurs": Published(
        FLEURS,
        {
            "id": ("file_name", "path"),
            "text": ("raw_transcription", "transcription"),
            "language": ("lang_id",),
        },
        re.compile("(?P<config>[a-z]{2,3}(_[a-z]{4})?_([a-z]{2}|419))"),
        "{split}.tsv",
        ("id", "file_name", "raw_transcription", "transcription", "phonemes", "num_samples", "gender"),
        "file_name",
        ("audio/{split}.tar.gz", "audio/{split}.tar", "{split}.tar.gz"),
        ("audio/{split}/{stem}", "{split}/{stem}"),
        frozenset(("raw_transcription", "lang_id", "lang_group_id")),
    ),
    "facebook/multilingual_librispeech": Published(
        MLS,
        {"id": ("id",), "text": ("transcript", "text"), "speaker": ("speaker_id",)},
        re.compile("mls_(?P<config>[a-z]+?)(_opus)?"),
        "{split}/transcripts.txt",
        ("id", "transcript"),
        "id",
        ("{split}/audio/*.tar.gz",),
        ("{split}/audio/{parts}/{stem}",),
        frozenset(("transcript", "original_path", "chapter_id")),
        limited={  # six parts of ten minutes are an hour
            "9_hours": "limited_supervision/9hr/handles.txt",
            "1_hours": "limited_supervision/1hr/*/handles.txt",
        },
        development="dev",
    ),
    "facebook/voxpopuli": Published(
        VOXPOPULI,
        {
            "id": ("audio_id", "id"),
            "text": ("raw_text", "normalized_text"),
            "language": ("language",),
            "speaker": ("speaker_id",),
        },
        re.compile("(?P<config>[a-z]{2}|en_accented)"),
        "asr_{split}.tsv",
        None,
        "id",
        ("{split}/*.tar.gz",),
        ("{split}/{stem}",),
        frozenset(("audio_id", "raw_text", "is_gold_transcript")),
        no_value="None",
    ),
}
SOURCES = {name: corpus.source for name, corpus in PUBLISHED.items()} | {LIBRISPEECH_ON_HUB: LIBRISPEECH}


def locale_of_config(config: str) -> str | None:
    """Returns the locale of a configuration that is named after its language; None if it is not.

    >>> locale_of_config("sl_si"), locale_of_config("polish"), locale_of_config("en_accented"), locale_of_config("all")
    ('sl', 'pl', 'en', None)
    """
    language = re.split("[-_]", config)[0]
    if config in OF_MLS:
        return OF_MLS[config]
    if language in OTHERWISE:
        return OTHERWISE[language]
    if language in OF_FLEURS:
        return language
    return to_locale(config.removesuffix("_accented")) if language in LANGUAGES else None


def published_folder(root: Path) -> Published | None:
    """Returns the corpus whose files are in a folder; None for another folder."""
    return next((corpus for corpus in PUBLISHED.values() if language_folders(corpus, root)), None)


def published_columns(columns: Collection[str]) -> Published | None:
    """Returns the corpus whose columns on the Hub a data set has; None for another data set."""
    return next((corpus for corpus in PUBLISHED.values() if corpus.on_hub <= {*columns}), None)


def language_folders(corpus: Published, root: Path) -> dict[str, Path]:
    """Returns the folders of a corpus's languages by their configurations."""
    places = [root]
    for base in filter(Path.is_dir, (root, root / "data")):
        places += [base / name for name in sorted(filter(corpus.folder.fullmatch, os.listdir(base)))]
    found: dict[str, Path] = {}
    for place in places:
        match = corpus.folder.fullmatch(place.absolute().name)
        if match and any(_is_table(corpus, place / corpus.table.format(split=split)) for split in SPLITS):
            found.setdefault(match["config"], place)
    return found


def _is_table(corpus: Published, path: Path) -> bool:
    if not path.is_file():
        return False
    with open_binary(path) as file:
        fields = decode_text(file).readline().rstrip("\r\n").split("\t")
    return len(fields) == len(corpus.header) if corpus.header else {corpus.name, "raw_text"} <= {*fields}


def languages_on_hub(corpus: Published, name: str) -> list[str]:
    """Returns the configurations of the languages whose tables are on the Hub."""
    table = re.escape(corpus.table).replace(r"\{split\}", f"({'|'.join(SPLITS)})")
    place = re.compile(f"data/{corpus.folder.pattern}/{table}")
    files = HfApi().list_repo_files(name, repo_type="dataset")
    return sorted({match["config"] for file in files if (match := place.fullmatch(file))})


def download_language(corpus: Published, name: str, config: str, split: str) -> Path:
    """Downloads the table and the archives of a language and split from the Hub; returns the language's folder."""
    if split in corpus.limited:
        split = "train"
    files = [pattern.format(split=split) for pattern in (corpus.table, *corpus.archives)]
    patterns = [f"data/*{config}/{pattern}" for pattern in files]
    root = Path(snapshot_download(name, repo_type="dataset", allow_patterns=patterns))
    folders = language_folders(corpus, root)
    if config not in folders:
        raise ValueError(f"{name}: no split {split} of {config} among its files")
    return folders[config]


def language_rows(
    corpus: Published, folder: Path, split: str, report: ReadingReport
) -> tuple[list[str], Callable[[Sequence[str]], Iterator[tuple[str, TableRow]]]]:
    """Returns the columns of a language's split, and the function that reads its rows; recordings are in `audio`.

    Raises:
        ValueError: for a split without a table.
    """
    names = None
    if split in corpus.limited:
        lists = sorted((folder / "train").glob(corpus.limited[split]))
        names, split = {name for path in lists for name in path.read_text(encoding="utf-8").split()}, "train"
    table = folder / corpus.table.format(split=split)
    if not table.is_file():
        found = [name for name in SPLITS if (folder / corpus.table.format(split=name)).is_file()]
        raise ValueError(f"{folder}: no split {split}; there are {', '.join(found)}")
    columns = [*(corpus.header or table_columns(table, [corpus.name])), "audio"]
    if "{parts}" in corpus.files[0]:
        columns.append("speaker_id")  # the first part of the name

    def rows(wanted: Sequence[str]) -> Iterator[tuple[str, TableRow]]:
        find = _recordings(corpus, folder.absolute(), split, report)
        for where, row, problem in _table_rows(table, corpus.header):
            name = recording_name(row.get(corpus.name))
            if names is not None and name not in names:
                continue
            if not problem and row[corpus.name] not in (name, os.path.basename(row[corpus.name])):
                problem = f"{corpus.name} is not a file name"
            values = {"speaker_id": name.partition("_")[0], **row, "audio": None if problem else find(name)}
            yield os.curdir, (where, {column: values.get(column) for column in wanted}, problem)

    return columns, rows


def recording_name(value: str | None) -> str:
    """Returns the name of a recording without its folders and its suffix."""
    path = PurePosixPath(value or "")
    return path.stem if path.suffix.lower() in AUDIO_SUFFIXES else path.name


def _table_rows(table: Path, header: tuple[str, ...] | None) -> Iterator[TableRow]:
    if header is None:
        for where, row in read_table(table, ()):
            yield where, row, row_problem(row)
        return
    with open_binary(table) as file:
        for number, line in enumerate(decode_text(file), start=1):
            fields = line.rstrip("\r\n").split("\t")
            problem = "bytes that are not UTF-8" if DAMAGED in line else None
            if len(fields) != len(header):
                problem = "wrong number of columns"
            yield f"{table}:{number}", {} if problem else dict(zip(header, fields, strict=True)), problem


def _recordings(corpus: Published, folder: Path, split: str, report: ReadingReport) -> Callable[[str], dict]:
    """Returns a function from the name of a recording to its `audio` as in the schema."""
    patterns = [pattern.format(split=split) for pattern in corpus.archives]
    paths = [path for pattern in patterns for path in sorted(folder.glob(pattern)) if not is_hidden(path.name)]
    archives = [Archive(path) for path in paths]
    for archive in archives:
        report.note_all(archive.problems)
    suffixes = [*SUFFIXES]

    def find(stem: str) -> dict:
        for archive in archives:
            if audio := archive.find(stem):
                return audio
        parts = "/".join(stem.split("_")[:-1])  # `10214_10108_000000` of MLS is in the folder 10214/10108
        places = [str(folder / place.format(split=split, stem=stem, parts=parts)) for place in corpus.files]
        for suffix in suffixes:
            for place in places:
                if os.path.isfile(place + suffix):
                    suffixes.insert(0, suffixes.pop(suffixes.index(suffix)))  # that of the next one
                    return {"path": place + suffix}
        return {"path": f"{places[0]}{suffixes[0]}"}

    return find
