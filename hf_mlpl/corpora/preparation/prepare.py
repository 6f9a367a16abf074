"""Prepares utterance files from corpora: several processes read parts, which are kept when finished, and merged.

A part can be read on its own, such as one split of one language. After a call was killed, the next one reads the parts
that were not finished, and those whose corpus has changed. A part that cannot be read is reported, and does not affect
the others. The command is `hf-mlpl prepare-data`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import pyarrow as pa
import yaml
from tqdm import tqdm

from ...atomic import atomic_write, write_json
from ...audio.reading import SAMPLING_RATE, stream_audio
from ...data.utterances import write_utterances
from ...error_line import error_line
from ...folder_lock import claimed
from ..listing import recording_state
from ..locales import to_locale
from ..reading import ReadingReport, audio_problem
from ..tables import read_table, row_problem
from .jobs import JobFailed, Tick, run_jobs
from .long_recordings import Segmentation, cut_recordings, name_long_recordings
from .merge import merge, resolve_duplicates
from .normalizer import Normalizer
from .parts import (
    DROPPED,
    PART,
    PARTS,
    QUARANTINE,
    Part,
    PartReport,
    fingerprints,
    is_finished,
    read_record,
    remove_parts,
)
from .report import PreparationReport, SplitStatistics, audio_name, other_duration

TICK = 100  # utterances between two steps of the progress bar
QUARANTINE_COLUMNS = ("audio", "reason")
REPORT = "report.txt"
SPLITS = ("train", "dev", "test", "unlabelled")  # of all readers
MAX_UNUSABLE = 100_000  # unusable recordings of a part that are checked for changes before the part is used again


@dataclass(frozen=True)
class Preprocessing:
    """Checks and normalises the utterances of all readers.

    Args:
        quarantine: maps `audio_name` of recordings that are left out to reasons; see `read_quarantine`.
        decode: decodes all audio, which finds damage behind a good header.
        normalizers: of texts, by language; `*` is for all other languages.
        labelled: leaves out utterances without a text.
    """

    quarantine: Mapping[str, str] = field(default_factory=dict)
    decode: bool = False
    normalizers: Mapping[str, Normalizer] = field(default_factory=dict)
    labelled: bool = False

    def apply(self, utterance: dict, report: ReadingReport) -> dict | None:
        """Returns the checked utterance, or None and an explanation in the report."""
        name = audio_name(utterance["audio"])
        if self.labelled and not utterance["text"]:
            report.drop("no text", utterance["id"])
            return None
        if name in self.quarantine:
            report.drop("in quarantine", utterance["id"], f"{name}: {self.quarantine[name]}")
            return None
        if self.decode:
            try:
                seconds = sum(map(len, stream_audio(utterance["audio"]))) / SAMPLING_RATE
            except Exception as error:  # decoders raise errors of any type
                report.drop("unreadable audio", utterance["id"], audio_problem(error, utterance["audio"]))
                return None
            if line := other_duration(utterance, seconds):
                report.lines.append(line)
                utterance = utterance | {"duration_seconds": seconds}
        normalizer = self.normalizers.get(utterance["language"]) or self.normalizers.get("*")
        if normalizer and utterance["text"]:
            text = normalizer(utterance["text"])
            if not text:
                report.drop("sentence empty after normalisation", utterance["id"], repr(utterance["text"]))
                return None
            utterance = utterance | {"text": text}
        return utterance


def read_quarantine(path: Path) -> dict[str, str]:
    """Returns reasons by recording from a table of audio that is left out; raises `ValueError` for other tables."""
    reasons = {}
    for where, row in read_table(path, QUARANTINE_COLUMNS):
        if problem := row_problem(row):
            raise ValueError(f"{where}: {problem}; {len(QUARANTINE_COLUMNS)} columns, in UTF-8, are accepted")
        reasons[row["audio"]] = row["reason"]
    return reasons


def read_normalizers(path: Path) -> dict[str, Normalizer]:
    """Reads a YAML file that maps languages, and `*`, to arguments of `Normalizer`; raises `ValueError` for others."""
    try:
        content = yaml.safe_load(path.read_bytes())
        return {to_locale(language): Normalizer(**settings) for language, settings in content.items()}
    except (yaml.YAMLError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{path}: no normalisers by language, such as `sl: {{lowercase: true}}`: {error_line(error)}"
        ) from error


def prepare(
    parts: Sequence[Part],
    output: Path,
    preprocessing: Preprocessing = Preprocessing(),  # noqa: B008 - it is frozen
    workers: int = 1,
    known_characters: Iterable[str] | None = None,
    segmentation: Segmentation | None = None,
) -> PreparationReport:
    """Writes `{split}.parquet` of all parts into `output`, with `report.txt`, `report.json`, `quarantine.tsv`.

    Parts that an interrupted call has finished are not read again, unless their inputs or the preprocessing have
    changed in between. A part that ends in an error other than ValueError, or kills its process, is one of `failed`
    in the report; then finished parts are kept, and the same call tries the failed ones again.

    If no utterance is left, no `{split}.parquet` is written; if no row was read either, no report.

    Args:
        workers: processes that read; 1 reads in this one.
        known_characters: those that the report does not list; by default all of the transcripts of train.
        segmentation: how long recordings without a text are cut into utterances; by default they stay whole. One whose
            detection fails for a reason that is not its own is left out, and one of `failed` in the report.

    Raises:
        InUseError: if another job works in `output`.
        OSError: if there is no room for the output.
    """
    with claimed(output):
        inputs = fingerprints(parts, output, preprocessing)
        folders = {part.name: output / PARTS / part.name for part in parts}
        with tqdm(desc="prepared", unit=" utterances") as progress:
            todo = [part for part in parts if not is_finished(folders[part.name], inputs[part.name], progress)]
            if len(todo) < len(parts):
                progress.write(f"going on: {len(parts) - len(todo)} of {len(parts)} parts were finished before")
            jobs = {}
            for part in todo:
                folder = folders[part.name]
                jobs[part.name] = partial(_read_part, part, folder, inputs[part.name], preprocessing), folder / PART
            failed = run_jobs(jobs, workers, progress)
        finished = [folders[part.name] for part in parts if part.name not in failed]
        errors = [failed[part.name] for part in parts if part.name in failed]
        plotted = None
        if segmentation is not None:
            finished, undetected, plotted = cut_recordings(finished, output, segmentation, workers)
            errors += undetected
        report = PreparationReport.of_parts(map(read_record, finished), errors)
        report.plotted = plotted
        if report.read or not (report.notes or errors):
            _write_all(finished, report, output, known_characters, segmentation)
        if not errors:
            remove_parts(output)
    return report


def _write_all(
    parts: Sequence[Path],
    report: PreparationReport,
    output: Path,
    known_characters: Iterable[str] | None,
    segmentation: Segmentation | None,
) -> None:
    lines, written = [], set()
    files = {
        split: [path for folder in parts if (path := folder / f"{split}.parquet").exists()] for split in report.splits
    }
    # What is in test or dev as well stays there, so that no model has trained on it.
    order = sorted(files, key=lambda split: ("test", "dev").index(split) if split in ("test", "dev") else 2)
    changes = resolve_duplicates({path: split for split in order for path in files[split]}, report, lines)
    for split in files if report.kept or not report.read else ():
        merge(files[split], changes, output / f"{split}.parquet")
        written.add(split)
    notes, long_lines = name_long_recordings([path for split in files for path in files[split]], segmentation)
    report.notes += notes
    lines += long_lines
    report.notes += [  # the file is not removed, because it may still be wanted
        f"{path}: is of an earlier preparation; this one has no {split}; remove the file if it is not wanted"
        for split in SPLITS
        if split not in written and (path := output / f"{split}.parquet").exists()
    ]
    write_json(output / "report.json", report.as_json(known_characters))
    _join([*report.lines(known_characters), *lines], [folder / DROPPED for folder in parts], output / REPORT)
    _join(["\t".join(QUARANTINE_COLUMNS)], [folder / QUARANTINE for folder in parts], output / QUARANTINE)


def _join(head: Sequence[str], parts: Sequence[Path], path: Path) -> None:
    """Writes lines, and then the content of text files, into one file."""
    with atomic_write(path) as unfinished, open(unfinished, "w", encoding="utf-8", newline="") as file:
        file.writelines(line + "\n" for line in head)
        for part in parts:
            with open(part, encoding="utf-8", newline="") as lines:
                shutil.copyfileobj(lines, file)


def _read_part(part: Part, folder: Path, inputs: dict[str, str], preprocessing: Preprocessing, tick: Tick) -> None:
    """Reads a part into `folder`; raises as `_reading_errors` does, and OSError if there is no room for the output."""
    with atomic_write(folder) as unfinished, ExitStack() as files:
        unfinished.mkdir(exist_ok=True)
        report, statistics = PartReport(unfinished, files), {}
        splits = {part.split: ()} if part.split else {}
        with _reading_errors(part, report):
            rows = part.read(report=report)
            splits = {part.split: rows} if part.split else rows or {}
        for split, rows in splits.items():
            statistics[split] = SplitStatistics()
            utterances = _preprocessed(part, rows, preprocessing, report, statistics[split], tick)
            write_utterances(utterances, unfinished / f"{split}.parquet")
        if splits and not report.read and not report.notes:
            report.note(f"{part.name}: there are no rows")
        record = {
            "made_of": inputs,
            "unusable": {name: recording_state(name) for name in islice(report.quarantined, MAX_UNUSABLE)},
            "read": report.read,
            "dropped": report.dropped,
            "notes": report.notes,
            "source": part.source and asdict(part.source),
            "splits": {split: counts.as_json() for split, counts in statistics.items()},
        }
        write_json(unfinished / PART, record)


@contextmanager
def _reading_errors(part: Part, report: ReadingReport) -> Iterator[None]:
    """Notes errors of a corpus, after which the rest of the part is not read; other errors become `JobFailed`."""
    try:
        yield
    except (ValueError, pa.ArrowException) as error:
        report.note_first(error_line(error))
    except Exception as error:  # such as those of a disk, of memory, of a decoder
        raise JobFailed(f"{part.name}: {error_line(error, with_type=True)}") from error


def _preprocessed(
    part: Part,
    rows: Iterable[dict],
    preprocessing: Preprocessing,
    report: ReadingReport,
    statistics: SplitStatistics,
    tick: Tick,
) -> Iterator[dict]:
    number = 0
    with _reading_errors(part, report):
        for number, row in enumerate(rows, start=1):
            if (utterance := preprocessing.apply(row, report)) is not None:
                statistics.add(utterance)
                yield utterance
            if number % TICK == 0:
                tick(TICK)
    tick(number % TICK)
