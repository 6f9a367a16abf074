"""VoxPopuli's transcribed speech: already cut with its tables, or the original recordings with the annotations."""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from ..text import normalize_text
from .parquet import parquet_rows
from .tables import read_table
from .utterances import ReadingReport, with_durations
from .voxpopuli import CODES, Archive, Recordings, locale_of, segment

# What the published annotations call the columns of the tables that VoxPopuli's script writes.
ANNOTATED = {"raw_text": "original_text", "normalized_text": "normed_text"}


def read_voxpopuli_asr(
    root: str | Path,
    split: str,
    report: ReadingReport,
    locales: Sequence[str] | None = None,
    text: str = "raw_text",
) -> Iterator[dict]:
    """Utterances of one split (`train`, `dev`, `test`), from what the folder has for a language, the first of these:

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

    Raises:
        ValueError: for a folder without transcribed speech, or without that of a locale, and where a table lacks a
            column or is damaged.
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
        if table.suffix == ".gz":
            yield from _annotated(table, locale_of(name), split, recordings, text, report)
        else:
            yield from with_durations(_cut(table, locale_of(name), split, text, report), report)


def voxpopuli_asr_locales(root: str | Path, split: str) -> list[str]:
    """What `read_voxpopuli_asr` takes as locales of a folder and split, sorted; none where nothing is transcribed."""
    root = Path(root)
    tables = dict(_tables(root, split))
    return sorted(tables) if tables else sorted(_locales_of_files(_parquet_files(root, split)))


def _locales_of_files(files: list[Path]) -> set[str]:
    return {_folder_name(row["language"]) for _, row, _ in parquet_rows(files, ["language"])}


def _check_locales(root: Path, split: str, locales: Sequence[str] | None, there: Iterable[str]) -> None:
    if missing := ", ".join(sorted(set(locales or ()) - set(there))):
        known = ", ".join(sorted(there))
        raise ValueError(f"{root}: no transcribed {split} speech of {missing}; there is that of {known}")


def _tables(root: Path, split: str) -> Iterator[tuple[str, Path]]:
    """Names of folders, with Common Voice's locales for VoxPopuli's codes, and the tables of a split."""
    for code in (*CODES, "en_accented"):
        name = _folder_name(code)
        folder, annotations = root / "transcribed_data" / code, f"asr_{code}.tsv.gz"
        hub = root / "data" / code / f"asr_{split}.tsv"
        places = [folder / f"asr_{split}.tsv", hub, folder / annotations, root / "annotations" / "asr" / annotations]
        yield from ((name, table) for table in [*filter(Path.is_file, places)][:1])


def _folder_name(code: str) -> str:
    return code if code == "en_accented" else locale_of(code)


def _cut(table: Path, locale: str, split: str, text: str, report: ReadingReport) -> Iterator[tuple[str, dict]]:
    folder = table.parent.absolute()
    archives = [Archive(path) for path in sorted((folder / split).glob("*.tar.gz"))]
    for problem in (problem for archive in archives for problem in archive.problems):
        report.note(problem)
    for where, row in read_table(table, ("id", text, "speaker_id")):
        report.read += 1
        name = row["id"] or ""
        if None in row or None in row.values():
            report.drop("wrong number of columns", where)
        elif Path(name).name != name:
            report.drop("id is not a file name", where, repr(name))
        elif not (said := normalize_text(row[text])):
            report.drop(f"no {text}", where)
        else:
            file = {"path": str(folder / name[:4] / f"{name}.ogg"), "start": None, "end": None}
            audio = next((audio for archive in archives if (audio := archive.find(name))), file)
            yield where, _utterance(name, audio, None, locale, said, row["speaker_id"])


def _annotated(
    table: Path, locale: str, split: str, recordings: Recordings, text: str, report: ReadingReport
) -> Iterator[dict]:
    columns = ("session_id", "id_", ANNOTATED[text], "speaker_id", "split", "vad")
    for where, row in read_table(table, columns, delimiter="|"):
        if row["split"] not in (None, split):  # None is a row with too few columns
            continue
        report.read += 1
        event = row["session_id"] or ""
        if None in row or None in row.values():
            report.drop("wrong number of columns", where)
        elif Path(event).name != event:
            report.drop("session id is not a file name", where, repr(event))
        elif not (said := normalize_text(row[ANNOTATED[text]])):
            report.drop(f"no {text}", where)
        elif not (times := _times(row["vad"])):
            report.drop("vad is not a list of times", where, repr(row["vad"]))
        elif part := segment(recordings, f"{event}_original", min(times), max(times), where, report):
            yield _utterance(f"{event}-{row['id_']}", *part, locale, said, row["speaker_id"])


def _parquet_files(root: Path, split: str) -> list[Path]:
    """Such as `sl/train-00000-of-00002.parquet`, or `sl/partial-train/0000.parquet` of the Hub's conversion."""
    name = {"dev": "validation"}.get(split, split)
    return [
        path
        for path in sorted(root.rglob("*.parquet"))
        if path.name.startswith(f"{name}-") or path.parent.name in (name, f"partial-{name}")
    ]


def _rows_of_files(
    root: Path, files: list[Path], split: str, locales: Sequence[str] | None, text: str, report: ReadingReport
) -> Iterator[tuple[str, dict]]:
    _check_locales(root, split, locales, _locales_of_files(files))
    for where, row, audio in parquet_rows(files, ["audio_id", "language", text, "speaker_id"]):
        if locales and _folder_name(row["language"]) not in locales:
            continue
        report.read += 1
        if said := normalize_text(row[text] or ""):
            locale, speaker = locale_of(row["language"]), row["speaker_id"]
            yield where, _utterance(row["audio_id"], audio, None, locale, said, speaker)
        else:
            report.drop(f"no {text}", where)


def _times(vad: str) -> list[float]:
    """The starts and ends of pieces, in seconds; none where the list cannot be read."""
    try:
        return [float(time) for time in chain.from_iterable(literal_eval(vad))]
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return []


def _utterance(name: str, audio: dict, seconds: float | None, locale: str, text: str, speaker: str | None) -> dict:
    return {
        "id": name,
        "audio": audio,
        "duration_seconds": seconds,
        "language": locale,
        "text": text,
        "speaker": None if speaker in (None, "", "None") else speaker,
        "source": "human",
    }
