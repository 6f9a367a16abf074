"""Reads VoxPopuli's transcribed speech: already cut with its tables, or original recordings with the annotations."""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from ...audio.folder_walk import is_hidden
from ...model.text import normalize_text
from ..listing import parquet_files_below
from ..reading import ReadingReport, human_utterance, with_durations
from ..tables import read_table, row_problem
from .parquet import parquet_rows
from .voxpopuli import CODES, Archive, Recordings, locale_of, opened, segment

FOLDERS = (*CODES, "en_accented")
SPLITS = ("train", "dev", "test")
# What the published annotations call the columns of the tables that VoxPopuli's script writes.
ANNOTATED = {"raw_text": "original_text", "normalized_text": "normed_text"}


def read_voxpopuli_asr(
    root: str | Path,
    split: str,
    report: ReadingReport,
    locales: Sequence[str] | None = None,
    text: str = "raw_text",
) -> Iterator[dict]:
    """Yields the utterances of one split (`train`, `dev`, `test`), from the first of these that a language has:

    - already cut: `transcribed_data/{lang}/asr_{split}.tsv` with `transcribed_data/{lang}/{year}/{id}.ogg`;
    - `data/{lang}/asr_{split}.tsv` with unextracted archives `data/{lang}/{split}/*.tar.gz`, as on the Hub;
    - the annotations `asr_{lang}.tsv.gz`, in `transcribed_data/{lang}` or `annotations/asr`, with the recordings
      `raw_audios/original/{year}/{event}_original.ogg`, or unextracted in `original_{year}.tar`. Where the annotations
      have an utterance in several pieces, it goes from the first to the last one, with the pauses between them, which
      VoxPopuli's script cuts out.
    - Parquet files of `facebook/voxpopuli` anywhere below the folder, where it has none of the above.

    `en_accented` is a folder like those of languages, and its speech is `en`.

    Args:
        locales: Common Voice locale codes, or `en_accented`; by default all that is there.
        text: `raw_text`, cased and punctuated, which some utterances lack; or `normalized_text`.

    A table that lacks a column or is damaged, and an archive or Parquet file that cannot be read, get a line in the
    report, and cost what cannot be read of them.

    Raises:
        ValueError: for a folder without transcribed speech, or without that of a locale.
    """
    if text not in ANNOTATED:
        raise ValueError(f"VoxPopuli has no {text!r} of an utterance, but {' and '.join(ANNOTATED)}")
    root = Path(root)
    recordings, tables = Recordings(root), dict(_tables(root, split))
    if not tables and (files := _parquet_files(root, split)):
        yield from with_durations(_rows_of_files(root, files, split, locales, text, report), report)
        return
    if not tables:
        expected = root / "transcribed_data" / "sl" / f"asr_{split}.tsv"
        raise ValueError(f"{root}: no transcribed VoxPopuli; expected files such as {expected}")
    _check_locales(root, split, locales, tables)
    for name in locales or tables:
        table = tables[name]
        try:
            if table.suffix == ".gz":
                yield from _annotated(table, locale_of(name), split, recordings, text, report)
            else:
                yield from with_durations(_cut(table, locale_of(name), split, text, report), report)
        except ValueError as error:
            report.note(str(error))


def voxpopuli_asr_locales(root: str | Path, split: str) -> list[str]:
    """Returns the locales of a folder and split for `read_voxpopuli_asr`, sorted; none if nothing is transcribed."""
    root = Path(root)
    tables = dict(_tables(root, split))
    return sorted(tables) if tables else sorted(_locales_of_files(_parquet_files(root, split)))


def voxpopuli_asr_folders(root: str | Path) -> list[str]:
    """Returns the locales of all folders for transcribed speech, also of those without tables."""
    places = [Path(root, place, code) for place in ("transcribed_data", "data") for code in FOLDERS]
    return sorted({_folder_name(folder.name) for folder in places if folder.is_dir()})


def _locales_of_files(files: list[Path]) -> set[str]:
    found, problem = set(), None
    for file in files:
        try:
            found |= {row["language"] for _, row, _ in parquet_rows([file], ["language"]) if row["language"]}
        except ValueError as error:  # reading reports it; here it matters only where there is nothing else
            problem = problem or error
    if problem and not found:
        raise problem
    return {_folder_name(language) for language in found}


def _check_locales(root: Path, split: str, locales: Sequence[str] | None, found: Iterable[str]) -> None:
    if missing := ", ".join(sorted(set(locales or ()) - set(found))):
        known = ", ".join(sorted(found))
        raise ValueError(f"{root}: no transcribed {split} speech of {missing}; there is that of {known}")


def _tables(root: Path, split: str) -> Iterator[tuple[str, Path]]:
    """Yields names of folders, with Common Voice's locales for VoxPopuli's codes, and the tables of a split."""
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
    found = [opened(path) for path in sorted((folder / split).glob("*.tar.gz")) if not is_hidden(path.name)]
    archives = [archive for archive in found if isinstance(archive, Archive)]
    for archive in found:
        for problem in archive.problems if isinstance(archive, Archive) else [archive]:
            report.note(problem)
    for where, row in read_table(table, ("id", text, "speaker_id")):
        report.read += 1
        name = row["id"] or ""
        if problem := row_problem(row):
            report.drop(problem, where)
        elif Path(name).name != name:
            report.drop("id is not a file name", where, repr(name))
        elif not (transcript := _transcript(row[text])):
            report.drop(f"no {text}", where)
        else:
            file = {"path": str(folder / name[:4] / f"{name}.ogg"), "start": None, "end": None}
            audio = next((audio for archive in archives if (audio := archive.find(name))), file)
            yield where, _utterance(name, audio, None, locale, transcript, row["speaker_id"])


def _annotated(
    table: Path, locale: str, split: str, recordings: Recordings, text: str, report: ReadingReport
) -> Iterator[dict]:
    columns = ("session_id", "id_", ANNOTATED[text], "speaker_id", "split", "vad")
    for where, row in read_table(table, columns, delimiter="|"):
        problem = row_problem(row)
        if (_split_of_damaged(row) if problem else row["split"]) != split:
            continue
        report.read += 1
        event = row["session_id"] or ""
        if problem:
            report.drop(problem, where)
        elif Path(event).name != event:
            report.drop("session id is not a file name", where, repr(event))
        elif not (transcript := _transcript(row[ANNOTATED[text]])):
            report.drop(f"no {text}", where)
        elif not (times := _times(row["vad"])):
            report.drop("vad is not a list of times", where, repr(row["vad"]))
        elif part := segment(recordings, f"{event}_original", min(times), max(times), where, report):
            yield _utterance(f"{event}-{row['id_']}", *part, locale, transcript, row["speaker_id"])


def _split_of_damaged(row: dict) -> str:
    """Returns the split of a row that cannot be used, so that it is counted once; `train` where it is unknown."""
    columns = [column for column in row if column is not None]
    fields = [row[column] for column in columns]
    if None in row and None not in fields:  # a text with a delimiter in it has moved what follows
        fields += row[None]
        split = fields[columns.index("split") - len(columns)]
    else:
        split = row["split"]
    return split if split in SPLITS else SPLITS[0]


def _transcript(text: str | None) -> str:
    """Normalises a transcript; empty where there is none, for which the tables also have `None`."""
    return "" if text in (None, "None") else normalize_text(str(text))


def _parquet_files(root: Path, split: str) -> list[Path]:
    """Lists `sl/train-00000-of-00002.parquet` or, of the Hub's conversion, `sl/partial-train/0000.parquet`."""
    name = {"dev": "validation"}.get(split, split)
    return [
        path
        for path in parquet_files_below(root)
        if path.name.startswith(f"{name}-") or path.parent.name in (name, f"partial-{name}")
    ]


def _rows_of_files(
    root: Path, files: list[Path], split: str, locales: Sequence[str] | None, text: str, report: ReadingReport
) -> Iterator[tuple[str, dict]]:
    _check_locales(root, split, locales, _locales_of_files(files))
    for file in files:
        try:
            yield from _rows_of_file(file, locales, text, report)
        except ValueError as error:
            report.note(str(error))


def _rows_of_file(
    file: Path, locales: Sequence[str] | None, text: str, report: ReadingReport
) -> Iterator[tuple[str, dict]]:
    for where, row, audio in parquet_rows([file], ["audio_id", "language", text, "speaker_id"]):
        language, name = row["language"], row["audio_id"]
        if locales and language and _folder_name(language) not in locales:
            continue
        report.read += 1
        if not language or not name:
            report.drop("no language" if name else "no audio_id", where)
        elif transcript := _transcript(row[text]):
            yield where, _utterance(str(name), audio, None, locale_of(language), transcript, row["speaker_id"])
        else:
            report.drop(f"no {text}", where)


def _times(vad: str) -> list[float]:
    """Returns the starts and ends of pieces, in seconds; none where the list cannot be read."""
    try:
        return [float(time) for time in chain.from_iterable(literal_eval(vad))]
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return []


def _utterance(name: str, audio: dict, seconds: float | None, locale: str, text: str, speaker: str | None) -> dict:
    speaker = None if speaker in (None, "", "None") else str(speaker)
    return human_utterance(name, audio, locale, text, speaker) | {"duration_seconds": seconds}
