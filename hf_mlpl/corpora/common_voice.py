"""Common Voice: an extracted release folder, `{root}/{locale}/{clips/*.mp3, train.tsv, dev.tsv, test.tsv, ...}`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..text import normalize_text
from .tables import read_table
from .utterances import ReadingReport, with_durations

COLUMNS = ("client_id", "path", "sentence")


def find_locales(root: str | Path) -> list[str]:
    """The locales of a release folder: its sub-folders that hold clips."""
    locales = sorted(folder.parent.name for folder in Path(root).glob("*/clips") if folder.is_dir())
    if not locales:
        raise ValueError(
            f"{root}: no Common Voice release; expected folders such as {Path(root) / 'sl' / 'clips'}. Releases come "
            "from https://datacollective.mozillafoundation.org"
        )
    return locales


def read_common_voice(
    root: str | Path, split: str, report: ReadingReport, locales: Sequence[str] | None = None
) -> Iterator[dict]:
    """Utterances of one split (`train`, `dev`, `test`, `validated`, `other`).

    Raises:
        ValueError: for a folder that holds no release, a locale that it lacks, or a TSV file without a needed column.
    """
    found = find_locales(root)
    missing = sorted(set(locales or ()) - set(found))
    if missing:
        raise ValueError(f"{root}: no clips of {', '.join(missing)}; there are {', '.join(found)}")
    for locale in locales or found:
        yield from with_durations(_rows(Path(root) / locale, split, report), report)


def _rows(folder: Path, split: str, report: ReadingReport) -> Iterator[tuple[str, dict]]:
    clips = (folder / "clips").absolute()  # so that utterance files can be used from anywhere
    for where, row in read_table(folder / f"{split}.tsv", COLUMNS):
        report.read += 1
        clip, text = row["path"] or "", normalize_text(row["sentence"] or "")
        if None in row or None in row.values():
            report.drop("wrong number of columns", where)
        elif not clip or Path(clip).name != clip:
            report.drop("path is not a file name", where, repr(clip))
        elif not text:
            report.drop("empty sentence", where)
        else:
            utterance = {
                "id": Path(clip).stem,
                "audio": {"path": str(clips / clip), "start": None, "end": None},
                "language": folder.name,
                "text": text,
                "speaker": row["client_id"],
                "source": "human",
            }
            yield where, utterance
