"""Prepares utterance files from corpora: parts are read by several processes, kept when finished, and merged.

A part is what can be read on its own, as one split of one language. A call that was killed goes on with the parts that
it has not finished, and with those whose corpus has changed since. What cannot be read of a part is reported, and
costs the others nothing. `hf-mlpl prepare-data` is its command.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import yaml
from tqdm import tqdm

from ...atomic import atomic_write, write_json
from ...audio.reading import END_TOLERANCE, stream_audio
from ...data.utterances import write_utterances
from ...error_line import error_line
from ...folder_lock import claimed
from ..listing import state_of
from ..locales import to_locale
from ..reading import ReadingReport, audio_problem, printable
from ..tables import read_table, row_problem
from .merge import merge, repeated_rows
from .normalizer import Normalizer
from .parts import PART, PARTS, Part, content_of, is_finished, made_of_parts, remove_parts
from .report import PreparationReport, SplitStatistics, audio_name

RATE = 16_000
TICK = 100  # utterances between two steps of the progress bar
AUDIO_REASONS = {"unreadable audio", "no samples", "in quarantine"}  # drops for these say `audio: why` as detail
QUARANTINE_COLUMNS = ("audio", "reason")
DROPPED, QUARANTINE, REPORT = "dropped.txt", "quarantine.tsv", "report.txt"
SPLITS = ("train", "dev", "test", "unlabelled")  # that readers give
MAX_UNUSABLE = 100_000  # recordings that cannot be used, and are looked at again before a finished part is


@dataclass(frozen=True)
class Preprocessing:
    """Checks and normalises every utterance that a reader gives.

    Args:
        quarantine: audio that is not used, by the names that `audio_name` gives; see `read_quarantine`.
        decode: whether all audio is decoded, which finds damage behind a good header.
        normalizers: of texts, by language; those of `*` are for all other languages.
    """

    quarantine: Mapping[str, str] = field(default_factory=dict)
    decode: bool = False
    normalizers: Mapping[str, Normalizer] = field(default_factory=dict)

    def apply(self, utterance: dict, report: ReadingReport) -> dict | None:
        """Returns the utterance as it is kept, or None, which the report then explains."""
        name = audio_name(utterance["audio"])
        if name in self.quarantine:
            return report.drop("in quarantine", utterance["id"], f"{name}: {self.quarantine[name]}")
        if self.decode:
            try:
                seconds = sum(map(len, stream_audio(utterance["audio"], RATE))) / RATE
            except Exception as error:  # decoders raise whatever they like
                return report.drop("unreadable audio", utterance["id"], audio_problem(error, utterance["audio"]))
            if abs(seconds - utterance["duration_seconds"]) > END_TOLERANCE:
                other = f"{seconds:.2f} s, not {utterance['duration_seconds']:.2f} s as its header says"
                report.lines.append(f"{utterance['id']}: kept with another duration: {name}: {other}")
                utterance = utterance | {"duration_seconds": seconds}
        normalizer = self.normalizers.get(utterance["language"]) or self.normalizers.get("*")
        if normalizer and utterance["text"]:
            text = normalizer(utterance["text"])
            if not text:
                return report.drop("sentence empty after normalisation", utterance["id"], repr(utterance["text"]))
            utterance = utterance | {"text": text}
        return utterance


def read_quarantine(path: Path) -> dict[str, str]:
    """Returns audio that cannot be used, and why; raises `ValueError` for what is not such a table."""
    listed = {}
    for where, row in read_table(path, QUARANTINE_COLUMNS):
        if problem := row_problem(row):
            raise ValueError(f"{where}: {problem}; {len(QUARANTINE_COLUMNS)} columns, in UTF-8, are accepted")
        listed[row["audio"]] = row["reason"]
    return listed


def read_normalizers(path: Path) -> dict[str, Normalizer]:
    """Reads a YAML that maps languages, and `*`, to arguments of `Normalizer`; raises `ValueError` for another."""
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
) -> PreparationReport:
    """Writes `{split}.parquet` of all parts into `output`, with `report.txt`, `report.json`, `quarantine.tsv`.

    Parts that an interrupted call has finished are not read again, unless their inputs or the preprocessing have
    changed in between. A part that ends in an error other than ValueError, or kills its process, is one of `failed`
    in the report; then finished parts are kept, and the same call tries the others again.

    Where no utterance is left, no `{split}.parquet` is written, and no report if not even a row was read.

    Args:
        workers: processes that read; with one everything happens in this one.
        known_characters: those that need no mention; by default all of the transcripts of train.

    Raises:
        InUseError: where another job works in `output`.
        OSError: where there is no room for what is written.
    """
    with claimed(output):
        made_of = made_of_parts(parts, output, preprocessing)
        folders = {part.name: output / PARTS / part.name for part in parts}
        with tqdm(desc="prepared", unit=" utterances") as progress:
            todo = [part for part in parts if not is_finished(folders[part.name], made_of[part.name], progress)]
            if len(todo) < len(parts):
                progress.write(f"going on: {len(parts) - len(todo)} of {len(parts)} parts were finished before")
            jobs = {part.name: (part, folders[part.name], made_of[part.name], preprocessing) for part in todo}
            failed = (_read_here if workers == 1 else partial(_read_in_processes, workers))(jobs, progress)
        finished = [folders[part.name] for part in parts if part.name not in failed]
        report = PreparationReport.of_parts(
            [folder / PART for folder in finished], [failed[part.name] for part in parts if part.name in failed]
        )
        if report.read or not (report.notes or failed):
            _write_all(finished, report, output, known_characters)
        if not failed:
            remove_parts(output)
    return report


def _write_all(parts: Sequence[Path], report: PreparationReport, output: Path, known_characters) -> None:
    lines, written = [], set()
    for split, statistics in report.splits.items():
        files = [folder / f"{split}.parquet" for folder in parts if split in content_of(folder)["splits"]]
        repeated = repeated_rows(files, statistics, report, lines)
        if report.kept or not report.read:
            merge(files, repeated, output / f"{split}.parquet")
            written.add(split)
    report.notes += _left_over(output, written)
    write_json(output / "report.json", report.as_json(known_characters))
    head = [*report.lines(known_characters), *lines]
    _join(head, [folder / DROPPED for folder in parts], output / REPORT)
    _join(["\t".join(QUARANTINE_COLUMNS)], [folder / QUARANTINE for folder in parts], output / QUARANTINE)


def _left_over(output: Path, written: set[str]) -> list[str]:
    """Returns a line for each utterance file of an earlier preparation; it is left, because it may be wanted."""
    others = [(split, output / f"{split}.parquet") for split in SPLITS if split not in written]
    return [
        f"{path}: is of an earlier preparation; this one has no {split}; remove the file if it is not wanted"
        for split, path in others
        if path.exists()
    ]


def _join(head: Sequence[str], parts: Sequence[Path], path: Path) -> None:
    """Writes a text of some lines and then those of other files."""
    with atomic_write(path) as unfinished, open(unfinished, "w", encoding="utf-8", newline="") as file:
        file.writelines(line + "\n" for line in head)
        for part in parts:
            with open(part, encoding="utf-8", newline="") as lines:
                shutil.copyfileobj(lines, file)


_counter = None  # of utterances, shared by the processes of a pool


def _share(counter) -> None:
    global _counter
    _counter = counter


def _tick(count: int) -> None:
    with _counter.get_lock():
        _counter.value += count


class PartFailed(Exception):
    """Carries the line for users about what a reader raised that is no fault of its corpus."""


def _read_here(jobs: Mapping[str, tuple], progress: tqdm) -> dict[str, str]:
    """Reads parts one after another; returns a line for each that failed, by its name."""
    failed = {}
    for name, job in jobs.items():
        progress.set_postfix_str(name)
        try:
            _read_part(*job, progress.update)
        except PartFailed as error:
            failed[name] = str(error)
    return failed


def _read_in_processes(workers: int, jobs: Mapping[str, tuple], progress: tqdm) -> dict[str, str]:
    """Does what `_read_here` does with several processes.

    When one dies, nobody knows which of the parts that were being read has killed it: each is then read alone.
    """
    failed, waiting = {}, dict(jobs)
    while waiting:
        for name in _read_in_pool(workers, waiting, failed, progress):
            progress.write(f"{name}: is read again, because a process has died, perhaps of it")
            if _read_in_pool(1, {name: waiting.pop(name)}, failed, progress):
                failed[name] = f"{name}: its process was killed, perhaps because there is too little memory"
    return failed


def _read_in_pool(workers: int, waiting: dict[str, tuple], failed: dict[str, str], progress: tqdm) -> list[str]:
    """Reads parts, and takes each that is read or has failed out of `waiting`.

    Returns the parts that were being read when a process died, which ends the others too; else nothing.
    """
    context = get_context("spawn")
    counter, counted, reading = context.Value("q", 0), 0, {}
    names = iter(list(waiting))
    with ProcessPoolExecutor(min(workers, len(waiting)), context, _share, (counter,)) as pool:
        try:
            while True:
                for name in islice(names, workers - len(reading)):  # no more, so that few are suspected
                    reading[pool.submit(_read_part, *waiting[name], _tick)] = name
                if not reading:
                    return []
                done, _ = wait(reading, timeout=0.5, return_when=FIRST_COMPLETED)
                progress.update(counter.value - counted)
                counted = counter.value
                for future in done:
                    try:
                        future.result()
                    except PartFailed as error:
                        failed[reading[future]] = str(error)
                    del waiting[reading.pop(future)]
        except BrokenProcessPool:
            pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    for name in [name for name in reading.values() if (waiting[name][1] / PART).exists()]:
        del waiting[name]
    return [name for name in reading.values() if name in waiting]


class _PartReport(ReadingReport):
    """Writes the lines of drops and the quarantine list into a folder, because there may be millions."""

    def __init__(self, folder: Path, files: ExitStack):
        super().__init__()
        lines, quarantine = (
            files.enter_context(open(folder / name, "w", encoding="utf-8")) for name in (DROPPED, QUARANTINE)
        )
        self.lines = _Lines(lines)
        self.quarantine = _Lines(quarantine)
        self.quarantined: dict[str, None] = {}

    def drop(self, reason: str, where: str, detail: str = "") -> None:
        super().drop(reason, where, detail)
        if reason in AUDIO_REASONS:
            name, _, why = detail.partition(": ")
            if name not in self.quarantined:
                self.quarantined[name] = None
                self.quarantine.append(f"{name}\t{' '.join((why or reason).split())}")

    def note(self, line: str) -> None:
        if line not in self.notes:  # the report of all parts has it once
            self.notes.append(printable(line))


class _Lines:
    def __init__(self, file):
        self.file = file

    def append(self, line: str) -> None:
        self.file.write(line + "\n")


def _read_part(
    part: Part, folder: Path, made_of: dict[str, str], preprocessing: Preprocessing, tick: Callable
) -> None:
    """Reads a part into `folder`.

    Raises:
        PartFailed: for what its reader raises, but for ValueError, which goes into the report.
        OSError: where there is no room to write it.
    """
    with atomic_write(folder) as unfinished, ExitStack() as files:
        unfinished.mkdir(exist_ok=True)
        report, statistics = _PartReport(unfinished, files), {}
        splits = {part.split: ()} if part.split else {}
        with _errors_of(part, report):
            read = part.read(report=report)
            splits = {part.split: read} if part.split else read or {}
        for split, rows in splits.items():
            statistics[split] = SplitStatistics()
            kept = _preprocessed(rows, preprocessing, report, statistics[split], tick)
            write_utterances(_guarded(kept, part, report), unfinished / f"{split}.parquet")
        if splits and not report.read and not report.notes:
            report.note(f"{part.name}: there are no rows")
        content = {
            "made_of": made_of,
            "unusable": {name: state_of(Path(name)) for name in islice(report.quarantined, MAX_UNUSABLE)},
            "read": report.read,
            "dropped": report.dropped,
            "notes": report.notes,
            "source": part.source and asdict(part.source),
            "splits": {split: counts.as_json() for split, counts in statistics.items()},
        }
        write_json(unfinished / PART, content)


@contextmanager
def _errors_of(part: Part, report: ReadingReport) -> Iterator[None]:
    """Notes what is wrong with a corpus, which costs what cannot be read; other errors become `PartFailed`."""
    try:
        yield
    except (ValueError, pa.ArrowException) as error:
        report.note(error_line(error))
    except Exception as error:  # such as those of a disk, of memory, of a decoder
        raise PartFailed(f"{part.name}: {error_line(error, with_type=True)}") from error


def _guarded(rows: Iterable[dict], part: Part, report: ReadingReport) -> Iterator[dict]:
    with _errors_of(part, report):
        yield from rows


def _preprocessed(rows: Iterable[dict], preprocessing, report, statistics: SplitStatistics, tick) -> Iterator[dict]:
    number = 0
    for number, row in enumerate(rows, start=1):
        if (utterance := preprocessing.apply(row, report)) is not None:
            statistics.add(utterance)
            yield utterance
        if number % TICK == 0:
            tick(TICK)
    tick(number % TICK)
