"""VoxPopuli: unlabelled segments read straight from the long recordings, without cutting them into files first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..audio import END_TOLERANCE, AudioError, audio_duration
from ..text import normalize_text
from .tables import read_table
from .utterances import ReadingReport

# VoxPopuli's code where it is not Common Voice's locale.
LOCALES = {"sv": "sv-SE"}
COLUMNS = ("event_id", "segment_no", "start", "end")


def read_voxpopuli(root: str | Path, report: ReadingReport, locales: Sequence[str] | None = None) -> Iterator[dict]:
    """Utterances without text from `raw_audios/{lang}/{year}/{event_id}.ogg` + `annotations/unlabelled_v2.tsv.gz`.

    Sentences of an `annotations/truth.tsv.gz`, which the demo corpus has, become the texts. Training on unlabelled
    speech compares pseudo-labels with them, and uses them for nothing else.

    Args:
        locales: Common Voice locale codes; by default every language whose recordings are there.

    Raises:
        ValueError: for a folder without recordings, or without those of a locale, and where the annotations are
            missing, damaged or lack a column.
    """
    root = Path(root)
    found = {LOCALES.get(folder.name, folder.name) for folder in (root / "raw_audios").glob("*")}
    if not found:
        raise ValueError(f"{root}: no VoxPopuli corpus; expected folders such as {root / 'raw_audios' / 'sl'}")
    if missing := sorted(set(locales or ()) - found):
        raise ValueError(
            f"{root / 'raw_audios'}: no recordings of {', '.join(missing)}; there are {', '.join(sorted(found))}"
        )
    truth = root / "annotations" / "truth.tsv.gz"
    sentences = read_table(truth, ("event_id", "segment_no", "sentence")) if truth.exists() else ()
    texts = {(row["event_id"], row["segment_no"]): normalize_text(row["sentence"]) for _, row in sentences}
    durations: dict[Path, float | AudioError] = {}  # of recordings, each with many segments
    for where, row in read_table(root / "annotations" / "unlabelled_v2.tsv.gz", COLUMNS):
        event = row["event_id"] or ""
        code = event.rpartition("_")[2]
        locale = LOCALES.get(code, code)
        if locale not in (locales or found):
            continue  # the table lists every language of the corpus
        report.read += 1
        if Path(event).name != event:
            report.drop("event id is not a file name", where, repr(event))
            continue
        try:
            start, end = float(row["start"]), float(row["end"])
        except (TypeError, ValueError):
            report.drop("start or end is not a number", where)
            continue
        recording = root / "raw_audios" / code / event[:4] / f"{event}.ogg"
        if recording not in durations:
            durations[recording] = _duration(recording)
        duration = durations[recording]
        if isinstance(duration, AudioError):
            report.drop("unreadable audio", where, str(duration))
        elif not (0 <= start < min(end, duration) and end <= duration + END_TOLERANCE):
            report.drop("segment outside its recording", where, f"{start}-{end} s of {duration:.2f} s")
        else:
            end = min(end, duration)
            text = texts.get((event, row["segment_no"]))
            yield {
                "id": f"{event}_{row['segment_no']}",
                "audio": {"path": str(recording.absolute()), "start": start, "end": end},
                "duration_seconds": end - start,
                "language": locale,
                "text": text,
                "speaker": None,
                "source": "reference" if text else None,
            }


def _duration(recording: Path) -> float | AudioError:
    try:
        return audio_duration(recording)
    except AudioError as error:
        return error
