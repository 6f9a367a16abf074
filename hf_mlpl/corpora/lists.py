"""A plain table of recordings, for speech of one's own: columns `path`, `sentence`, `language`, `speaker`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..text import normalize_text
from .tables import read_table
from .utterances import ReadingReport, with_durations

COLUMNS = ("path", "sentence", "language", "speaker")


def read_list(
    table: str | Path,
    report: ReadingReport,
    languages: Sequence[str] | None = None,
    train_speakers: Sequence[str] | None = None,
    dev_speakers: Sequence[str] = (),
    test_speakers: Sequence[str] = (),
) -> dict[str, list[dict]]:
    """Utterances of a tab-separated table without quoting, as `train`, `dev`, `test` (labelled) and `unlabelled`.

    Paths are relative to the table's folder and stay inside it. An empty sentence is no error: that utterance is
    unlabelled. Where `train_speakers` are named, all speakers who are in no split are unlabelled too; their sentences
    stay beside their speech, to compare pseudo-labels with.

    Raises:
        ValueError: where the table or a needed column is missing, for a speaker that the table does not have, and for
            one in two splits.
    """
    table = Path(table)
    splits = {"train": set(train_speakers or ()), "dev": set(dev_speakers), "test": set(test_speakers)}
    named = sorted(speaker for speakers in splits.values() for speaker in speakers)
    if twice := {speaker for speaker in named if named.count(speaker) > 1}:
        raise ValueError(f"speakers in more than one split: {', '.join(sorted(twice))}")
    utterances = {"train": [], "dev": [], "test": [], "unlabelled": []}
    found = set()
    for utterance in with_durations(_rows(table, report, languages), report):
        speaker = utterance["speaker"]
        found.add(speaker)
        rest = "train" if train_speakers is None else "unlabelled"
        split = next((name for name, speakers in splits.items() if speaker in speakers), rest)
        if utterance["text"] is None:
            split = "unlabelled"
        elif split == "unlabelled":
            utterance["source"] = "reference"
        utterances[split].append(utterance)
    if absent := sorted(set(named) - found):
        raise ValueError(
            f"{table}: no clips of the speakers {', '.join(absent)}; there are {', '.join(sorted(found))}"
        )
    return {name: rows for name, rows in utterances.items() if rows}


def _rows(table: Path, report: ReadingReport, languages: Sequence[str] | None) -> Iterator[tuple[str, dict]]:
    folder = table.parent.resolve()
    for where, row in read_table(table, COLUMNS):
        if languages and row["language"] not in (None, *languages):  # None is a row with too few columns
            continue
        report.read += 1
        path = (folder / (row["path"] or "")).resolve()
        if None in row or None in row.values():
            report.drop("wrong number of columns", where)
        elif folder not in path.parents:
            report.drop("path is not inside the table's folder", where, repr(row["path"]))
        else:
            text = normalize_text(row["sentence"])
            utterance = {
                "id": path.relative_to(folder).with_suffix("").as_posix(),
                "audio": {"path": str(path), "start": None, "end": None},
                "language": row["language"],
                "text": text or None,
                "speaker": row["speaker"],
                "source": "human" if text else None,
            }
            yield where, utterance
