"""Reads VoxPopuli's transcribed speech: cut into files with tables, or original recordings with annotations."""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

from ...audio.folder_walk import is_hidden
from ...model.text import normalize_text
from ..listing import parquet_files_below
from ..reading import ReadingReport, RowError, check_known, file_name_of, human_utterance, with_durations
from ..tables import Row, check_row, read_table, row_problem
from .parquet import distinct_values, parquet_rows
from .voxpopuli import CODES, Archive, Recordings, locale_of, segment

FOLDERS = (*CODES, "en_accented")
SPLITS = ("train", "dev", "test")
# Columns of the tables that VoxPopuli's script writes, and their names in the published annotations.
ANNOTATED = {"raw_text": "original_text", "normalized_text": "normed_text"}


def read_voxpopuli_asr(
    root: str | Path,
    split: str,
    report: ReadingReport,
    locales: Sequence[str] | None = None,
    text: str = "raw_text",
) -> Iterator[dict]:
    """Yields the utterances of one split (`train`, `dev`, `test`), from the first of these layouts of a language:

    - already cut: `transcribed_data/{lang}/asr_{split}.tsv` with `transcribed_data/{lang}/{year}/{id}.ogg`;
    - `data/{lang}/asr_{split}.tsv` with archives `data/{lang}/{split}/*.tar.gz`, not extracted, as on the Hub;
    - the annotations `asr_{lang}.tsv.gz`, in `transcribed_data/{lang}` or `annotations/asr`, with the recordings
      `raw_audios/original/{year}/{event}_original.ogg`, or with `original_{year}.tar`, not extracted. If the
      annotations have several pieces of an utterance, it goes from the first to the last piece, with the pauses
      between them, which VoxPopuli's script cuts out.
    - Parquet files of `facebook/voxpopuli` anywhere below the folder, if it has none of the above.

    `en_accented` is a folder like those of languages, and its speech is `en`.

    Args:
        locales: Common Voice locale codes, or `en_accented`; by default all of the folder.
        text: `raw_text`, cased and punctuated, which some utterances lack; or `normalized_text`.

    A table, archive or Parquet file that cannot be read, or lacks a column, gets a line in the report; rows before the
    damage and the other files are read.

    Raises:
        ValueError: for a folder without transcribed speech, or without that of a locale.
    """
    if text not in ANNOTATED:
        raise ValueError(f"VoxPopuli has no {text!r} of an utterance, but {' and '.join(ANNOTATED)}")
    root = Path(root)
    recordings, tables = Recordings(root), dict(_tables(root, split))
    if not tables and (files := _parquet_files(root, split)):
        check_known(locales or (), sorted(_locales_of_files(files)), f"{root}: no transcribed {split} speech of")
        for file in files:
            with report.noting_errors():
                yield from with_durations(_rows_of_file(file, locales, text, report), report)
        return
    if not tables:
        expected = root / "transcribed_data" / "sl" / f"asr_{split}.tsv"
        raise ValueError(f"{root}: no transcribed VoxPopuli; expected files such as {expected}")
    check_known(locales or (), sorted(tables), f"{root}: no transcribed {split} speech of")
    for name in locales or tables:
        table = tables[name]
        with report.noting_errors():
            if table.suffix == ".gz":
                yield from _annotated(table, locale_of(name), split, recordings, text, report)
            else:
                yield from with_durations(_cut(table, locale_of(name), split, text, report), report)


def voxpopuli_asr_locales(root: str | Path, split: str) -> list[str]:
    """Returns the locales that `read_voxpopuli_asr` finds in a folder for a split, sorted."""
    root = Path(root)
    tables = dict(_tables(root, split))
    return sorted(tables) if tables else sorted(_locales_of_files(_parquet_files(root, split)))


def voxpopuli_asr_folders(root: str | Path) -> list[str]:
    """Returns the locales of all folders for transcribed speech, including those without tables."""
    places = [Path(root, place, code) for place in ("transcribed_data", "data") for code in FOLDERS]
    return sorted({_folder_name(folder.name) for folder in places if folder.is_dir()})


def _locales_of_files(files: list[Path]) -> set[str]:
    languages: set[str] = set()
    failure = None
    for file in files:
        try:
            languages |= distinct_values(file, "language")
        except ValueError as error:  # reading reports it
            failure = failure or error
    if failure and not languages:
        raise failure
    return {_folder_name(language) for language in languages}


def _tables(root: Path, split: str) -> Iterator[tuple[str, Path]]:
    """Yields the locale and the table of each folder that has a table of the split; `en_accented` stays as it is."""
    for code in FOLDERS:
        name = _folder_name(code)
        folder, annotations = root / "transcribed_data" / code, f"asr_{code}.tsv.gz"
        hub = root / "data" / code / f"asr_{split}.tsv"
        places = [folder / f"asr_{split}.tsv", hub, folder / annotations, root / "annotations" / "asr" / annotations]
        yield from ((name, table) for table in [*filter(Path.is_file, places)][:1])


def _folder_name(code: str) -> str:
    return code if code == "en_accented" else locale_of(code)


def _cut(table: Path, locale: str, split: str, text: str, report: ReadingReport) -> Iterator[tuple[str, dict]]:
    folder = table.parent.absolute()
    archives = [Archive(path) for path in sorted((folder / split).glob("*.tar.gz")) if not is_hidden(path.name)]
    for archive in archives:
        report.note_all(archive.problems)
    for where, row in read_table(table, ("id", text, "speaker_id")):
        with report.row(where):
            check_row(row)
            name = file_name_of(row["id"], "id")
            transcript = _transcript(row, text)
            file = {"path": str(folder / name[:4] / f"{name}.ogg")}
            audio = next((audio for archive in archives if (audio := archive.find(name))), file)
            yield where, _utterance(name, audio, locale, transcript, row)


def _annotated(
    table: Path, locale: str, split: str, recordings: Recordings, text: str, report: ReadingReport
) -> Iterator[dict]:
    columns = ("session_id", "id_", ANNOTATED[text], "speaker_id", "split", "vad")
    for where, row in read_table(table, columns, delimiter="|"):
        if (_split_of_damaged(row) if row_problem(row) else row["split"]) != split:
            continue
        with report.row(where):
            check_row(row)
            event = file_name_of(row["session_id"], "session id")
            transcript = _transcript(row, ANNOTATED[text], f"no {text}")
            times = _times(row["vad"])
            audio, seconds = segment(recordings, f"{event}_original", min(times), max(times))
            utterance = _utterance(f"{event}-{row['id_']}", audio, locale, transcript, row)
            yield utterance | {"duration_seconds": seconds}


def _split_of_damaged(row: Row) -> str:
    """Returns the split of a row that cannot be used, so that it is counted once; `train` if it is unknown."""
    columns = [column for column in row if column is not None]
    fields = [row[column] for column in columns]
    if None in row and None not in fields:  # a delimiter inside a text has moved the fields behind it
        fields += row[None]
        split = fields[columns.index("split") - len(columns)]
    else:
        split = row["split"]
    return split if split in SPLITS else SPLITS[0]


def _transcript(row: Mapping, column: str, reason: str = "") -> str:
    """Returns the normalised transcript of a row; raises `RowError` for an empty one, which may be written `None`."""
    text = row[column]
    if transcript := "" if text in (None, "None") else normalize_text(str(text)):
        return transcript
    raise RowError(reason or f"no {column}")


def _parquet_files(root: Path, split: str) -> list[Path]:
    """Lists `sl/train-00000-of-00002.parquet` or, of the Hub's conversion, `sl/partial-train/0000.parquet`."""
    name = {"dev": "validation"}.get(split, split)
    return [
        path
        for path in parquet_files_below(root)
        if path.name.startswith(f"{name}-") or path.parent.name in (name, f"partial-{name}")
    ]


def _rows_of_file(
    file: Path, locales: Sequence[str] | None, text: str, report: ReadingReport
) -> Iterator[tuple[str, dict]]:
    for where, row, audio in parquet_rows([file], ["audio_id", "language", text, "speaker_id"]):
        language, name = row["language"], row["audio_id"]
        if locales and language and _folder_name(language) not in locales:
            continue
        with report.row(where):
            if not language or not name:
                raise RowError("no language" if name else "no audio_id")
            yield where, _utterance(str(name), audio, locale_of(language), _transcript(row, text), row)


def _times(vad: str) -> list[float]:
    """Returns the starts and ends of an utterance's pieces, in seconds; raises `RowError` if there are none."""
    with suppress(ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        if times := [float(time) for time in chain.from_iterable(literal_eval(vad))]:
            return times
    raise RowError("vad is not a list of times", repr(vad))


def _utterance(name: str, audio: dict, locale: str, transcript: str, row: Mapping) -> dict:
    speaker = row["speaker_id"]
    return human_utterance(name, audio, locale, transcript, None if speaker in (None, "", "None") else str(speaker))
