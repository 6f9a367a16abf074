"""Reads any data set of the `datasets` library that has a column of audio, or of paths to audio files."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict, ReadInstruction, Translation, Value

from ...atomic import atomic_write
from ...audio.reading import AudioError, encode_flac, load_audio
from ...model.text import normalize_text
from ...storage import absolute
from ..locales import noted_locale, to_locale
from ..metadata import LIKELY, USUAL_COLUMNS, TableRow, find_columns
from ..reading import ReadingReport, RowError, human_utterance
from ..recordings import FileNames, check_part_columns, part_of, with_part_durations
from .dataset_forms import OpenDataset, open_dataset, open_named, split_of
from .published import Published, locale_of_config, published_columns, recording_name

MAX_SAMPLE = 2.0  # floats in [-1, 1] may be a little louder; converted integers are much louder


def read_dataset(
    dataset: str | Path | Dataset | IterableDataset | DatasetDict | IterableDatasetDict,
    report: ReadingReport,
    columns: Mapping[str, str] | None = None,
    language: str | None = None,
    split: str = "train",
    config: str | None = None,
    copies: str | Path | None = None,
    encoding: str | None = None,
) -> Iterator[dict]:
    """Yields utterances of a data set whose audio is encoded: paths, bytes, `{path, bytes}`, or an `Audio` column,
    decoded or not; torchcodec is not needed. Lists of samples with a sampling rate are accepted too: floats, or a
    column of int16.

    Files stay where they are; so do recordings in Parquet and tar files, those of the Hub in its cache. Other
    recordings inside a data set have no place that an utterance could name, so they are written to `copies`, named by
    content.

    Rows with `start` and `end`, or similar columns such as `begin_time` or `end_ms`, with `start` and `duration`, or
    with `offset` and `duration` are parts of their recordings; so is audio of the form `{path, start, end}`. If a part
    is as long as its recording and lies outside of it, the recording is that part. Values of csv and JSON files are
    read as texts.

    FLEURS, Multilingual LibriSpeech and VoxPopuli are known by their names on the Hub, by their columns and by their
    files (`published`): the ids of their utterances are the names of the recordings.

    Args:
        dataset: a data set, or its splits, a folder written by `save_to_disk`, a folder with a `metadata.csv`,
            `.jsonl` or `.parquet` that has a column `file_name`, a folder of recordings, whose sub-folders are their
            `label`, a table (csv, tsv, JSON, Parquet), tar files of WebDataset, Arrow files, or a name that
            `load_dataset` accepts. Paths in tables are relative to the table, or else to the working directory.
        columns: field of an utterance (`id`, `audio`, `text`, `language`, `speaker`, `start`, `end`, `start_ms`, ...)
            -> column; by default the first of `USUAL_COLUMNS` that the data set has. The default `id` is data set,
            split and number of the row. A text may be a mapping of languages to texts.
        language: of all rows; by default from a column, or else `config`, if that is named after a language.
        split, config: of a data set that is loaded; a split may have parts, as `train[:10%]+test`.
        copies: folder for recordings that are in no file.
        encoding: of csv and JSON files without a byte order mark; by default UTF-8.

    The report has a note if no column is known to be the text.

    Raises:
        ValueError: for a field, column, configuration or split that is missing, for a data set without rows, with
            several columns of audio or without one, or without a column of languages, for columns that seem to be
            starts and ends but are unknown, and for recordings inside the data set without `copies`.
    """
    is_open, likely = isinstance(dataset, (Dataset, IterableDataset)), [*LIKELY, *(columns or {}).values()]
    for base, part in [(split, None)] if is_open else map(_parsed_split, split.split("+")):
        opened = split_of(dataset, base, "the data set") if isinstance(dataset, Mapping) else dataset
        if isinstance(opened, (Dataset, IterableDataset)):
            source = open_dataset(opened)
            prefix = f"{opened.info.dataset_name or 'dataset'}/{opened.split or base}"
        else:
            source, prefix = (
                open_named(opened, base, config, report, likely, encoding),
                f"{Path(os.path.abspath(opened)).name}/{base}",
            )
        where = source.name or prefix
        corpus = source.corpus or published_columns(source.columns)
        try:
            names = _columns(source, columns or {}, corpus)
            of_config = source.language or locale_of_config(config or "")
            spoken = language or (of_config if corpus or "language" not in names else None)
            if spoken is None and "language" not in names:
                raise _no_column("language", source, " or --language")
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if config and (corpus or language is None and "language" not in names):
            prefix = f"{Path(prefix).parent}/{config}/{base}"  # a row of each language has this number
        if corpus is None:
            check_part_columns(where, source.columns, names.keys())
        others = [name for name in source.columns if name not in (*names.values(), "label")]
        if "text" not in names and others:
            report.note(
                f"{where}: no column is known to be the text, so all rows are without one; --text-column names it if "
                f"it is one of {', '.join(others)}"
            )
        before = report.read
        rows = _rows_in(source, sorted(set(names.values())), part and (base, part))
        utterances = _utterances(rows, names, prefix, spoken, corpus, report, _Recordings(source, names, copies))
        yield from with_part_durations(utterances, report, check_ids="id" in names)
        if report.read == before:
            raise ValueError(f"{where}: the data set has no rows; its columns are {', '.join(source.columns)}")


def _parsed_split(split: str) -> tuple[str, ReadInstruction | None]:
    """Returns the name of a split, and the part of it that `train[:10%]` means in `datasets`, or None for all."""
    name = split.partition("[")[0].strip()
    return name, ReadInstruction.from_spec(split.strip()) if "[" in split else None


def _rows_in(
    source: OpenDataset, columns: list[str], part: tuple[str, ReadInstruction] | None
) -> Iterator[tuple[int, tuple[str, TableRow]]]:
    """Yields numbers and rows of a part of a split, or of all of it."""
    first, last = 0, None
    if part:
        split, instruction = part
        (absolute,) = instruction.to_absolute({split: sum(1 for _ in source.rows(columns))})
        first, last = absolute.from_, absolute.to
    return islice(enumerate(source.rows(columns)), first, last)


def _columns(source: OpenDataset, given: Mapping[str, str], corpus: Published | None) -> dict[str, str]:
    """Returns the columns of the fields that have one."""
    usual = {**USUAL_COLUMNS, **(corpus.columns if corpus else {})}
    names = find_columns(source.columns, given, usual=usual, has_parts=corpus is None)
    if "text" not in names and _is_translation(source, "translation"):
        names["text"] = "translation"
    if "audio" not in given and ("audio" in source.audio or len(source.audio) == 1):
        names["audio"] = "audio" if "audio" in source.audio else source.audio[0]
    elif source.audio and "audio" not in given:
        raise ValueError(
            f"the data set has several columns of audio, {', '.join(source.audio)}; name one with --audio-column"
        )
    if "audio" not in names:
        raise _no_column("audio", source)
    return names


def _no_column(field: str, source: OpenDataset, other_option: str = "") -> ValueError:
    found, option = ", ".join(source.columns) or "none at all", f"--{field}-column{other_option}"
    return ValueError(f"no column of the data set is known to be {field}: give {option}; it has {found}")


def _is_translation(source: OpenDataset, name: str) -> bool:
    """Returns whether a column maps languages to texts."""
    return isinstance(source.columns, Mapping) and isinstance(source.columns.get(name), (Mapping, Translation))


def _utterances(
    rows: Iterator[tuple[int, tuple[str, TableRow]]],
    names: Mapping[str, str],
    prefix: str,
    language: str | None,
    corpus: Published | None,
    report: ReadingReport,
    recordings: _Recordings,
) -> Iterator[tuple[str, dict]]:
    for number, (folder, (where, row, problem)) in rows:
        where = where or f"{prefix}:{number}"
        with report.row(where):
            if problem:
                raise RowError(problem)
            fields = {field: row[name] for field, name in names.items()}
            if corpus:
                fields = _published_fields(fields, corpus)
            locale = noted_locale(language or _text(fields, "language"), report)
            if not locale:
                raise RowError("no language")
            if isinstance(texts := fields.get("text"), Mapping):
                fields["text"] = next((text for code, text in texts.items() if to_locale(code) == locale), None)
            text = normalize_text(_text(fields, "text") or "")
            name = _text(fields, "id") or f"{prefix}/{number}"
            audio, speaker = recordings.audio(fields, folder, where), _text(fields, "speaker") or None
            yield where, human_utterance(name, audio, locale, text, speaker)


def _published_fields(fields: Mapping, corpus: Published) -> dict:
    """Returns the fields of a row with the names that recordings and languages have in utterances."""
    fields = {field: None if value == corpus.no_value else value for field, value in fields.items()}
    code = _text(fields, "language") or ""
    return fields | {"id": recording_name(_text(fields, "id")), "language": locale_of_config(code) or code}


def _text(fields: Mapping, name: str) -> str | None:
    """Returns a field as a text: numbers as Python prints them, and None for NaN, which pandas has for no value."""
    value = fields.get(name)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and math.isnan(value):
        return None
    if not isinstance(value, (bool, int, float)):
        raise RowError(f"{name} is no text", f"a {type(value).__name__}")
    return str(value)


class _Recordings:
    """Finds the recordings of rows, and writes those that are in no file to `copies`."""

    def __init__(self, source: OpenDataset, names: Mapping[str, str], copies: str | Path | None):
        self._copies, self._files = Path(copies).absolute() if copies else None, FileNames()
        self._is_int16 = (
            isinstance(source.columns, Mapping) and _type_of_samples(source.columns.get(names["audio"])) == "int16"
        )

    def audio(self, fields: Mapping, folder: str, where: str) -> dict:
        """Returns the audio of a row as in the schema; raises `RowError` if there is none."""
        value = fields["audio"]
        if not isinstance(value, Mapping):
            kind = "bytes" if isinstance(value, bytes) else "path" if isinstance(value, str) else "array"
            value = {kind: value}
        is_container = value.get("offset") is not None and "duration" not in value
        start, end = part_of({**value, "offset": None} if is_container else value)
        if start is None and end is None:
            start, end = part_of(fields)
        place = _container(value) if is_container else self._place(value, fields, folder, where)
        return place | {"start": start, "end": end}

    def _place(self, value: Mapping, fields: Mapping, folder: str, where: str) -> dict:
        path, content, samples = (value.get(name) for name in ("path", "bytes", "array"))
        if path and not isinstance(path, str):
            raise RowError("path is no text", f"a {type(path).__name__}")
        is_outside = content is None and samples is None
        if path and (is_outside or os.path.isabs(path) and os.path.isfile(path)):
            return {"path": self._files.locate(path, (folder, os.curdir))}
        if content is None and samples is not None:
            content = _encoded(samples, value.get("sampling_rate") or fields.get("sampling_rate"), self._is_int16)
        if not isinstance(content, bytes):
            raise RowError("no path and no bytes of audio")
        if self._copies is None:
            raise ValueError(f"{where}: its recordings are inside of the data set; name a folder for copies of them")
        copy = self._copies / hashlib.sha256(content).hexdigest()[:32]
        if not copy.is_file():
            with atomic_write(copy) as unfinished:
                unfinished.write_bytes(content)
        return {"path": str(copy)}


def _container(value: Mapping) -> dict:
    try:
        offset, size = int(value["offset"]), None if value.get("size") is None else int(value["size"])
        return {"path": absolute(value["path"]), "offset": offset, "size": size}
    except (KeyError, TypeError, ValueError) as error:
        raise RowError("no place in a container", str(error)) from error


def _type_of_samples(feature: Any) -> str | None:
    """Returns the type of the samples in a column of lists, or of dicts with lists as `array`."""
    while not isinstance(feature, Value):
        feature = feature.get("array") if isinstance(feature, dict) else getattr(feature, "feature", None)
        if feature is None:
            return None
    return feature.dtype


def _encoded(samples: Sequence, rate: str | float | None, is_int16: bool) -> bytes:
    """Returns a FLAC file of samples, (N,), (channels, N) or (N, channels), which are floats if not `is_int16`."""
    try:
        rate = int(float(rate or 0))
        array = np.asarray(samples)
        if array.dtype.kind == "U":  # from JSON
            array = array.astype(float)
        if array.ndim == 2 and array.shape[1] <= 2 < array.shape[0]:  # as soundfile has them
            array = array.T
        mono = load_audio({"array": array / np.float32(2**15) if is_int16 else array, "sampling_rate": rate}, rate)
        if np.abs(mono).max() > MAX_SAMPLE:
            raise AudioError(f"array: has samples up to {np.abs(mono).max():g}; divide 16-bit samples by 32768")
        return encode_flac(mono, rate)
    except (AudioError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise RowError("samples that cannot be used", str(error)) from error
