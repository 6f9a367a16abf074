"""From corpora to utterance files: parts that are read by several processes, kept when finished, and merged.

A part is what can be read on its own, as one split of one language. A call that was killed goes on with the parts that
it has not finished. See `recipes/prepare_data.py`.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from tqdm import tqdm

from ..atomic import write_json, written_whole
from ..audio import END_TOLERANCE, AudioError, load_audio
from ..text import Normalizer
from .preparation_report import PreparationReport, SplitStatistics
from .sources import Source
from .tables import read_table
from .utterances import BLOCK, FEATURES, ReadingReport, write_utterances

RATE = 16_000
TICK = 100  # utterances between two steps of the progress bar
AUDIO_REASONS = {"unreadable audio", "no samples", "in quarantine"}  # drops for these say `audio: why` as detail
QUARANTINE_COLUMNS = ("audio", "reason")
DROPPED, QUARANTINE = "dropped.txt", "quarantine.tsv"


@dataclass(frozen=True)
class Part:
    """One piece of a corpus.

    Args:
        name: of a folder; no other part has it.
        read: A `functools.partial` of a reader, because it goes to other processes. Called with `report=` it gives
            utterances, or a mapping of splits to utterances where `split` is None.
        split: where its utterances belong.
        source: of its utterances, for the report.
    """

    name: str
    read: partial
    split: str | None = None
    source: Source | None = None


@dataclass(frozen=True)
class Treatment:
    """What happens to every utterance that a reader gives.

    Args:
        quarantine: audio that is not used, by the names that `audio_name` gives; see `read_quarantine`.
        decode: whether all audio is decoded, which finds damage behind a good header.
        normalizers: of texts, by language; those of `*` are for all other languages.
    """

    quarantine: Mapping[str, str] = field(default_factory=dict)
    decode: bool = False
    normalizers: Mapping[str, Normalizer] = field(default_factory=dict)

    def of(self, utterance: dict, report: ReadingReport) -> dict | None:
        """The utterance as it is kept, or None, which the report then explains."""
        name = audio_name(utterance["audio"])
        if name in self.quarantine:
            return report.drop("in quarantine", utterance["id"], f"{name}: {self.quarantine[name]}")
        if self.decode:
            try:
                seconds = len(load_audio(utterance["audio"], RATE)) / RATE
            except AudioError as error:
                return report.drop("unreadable audio", utterance["id"], str(error))
            if abs(seconds - utterance["duration_seconds"]) > END_TOLERANCE:
                told = f"{seconds:.2f} s, not {utterance['duration_seconds']:.2f} s as its header says"
                report.lines.append(f"{utterance['id']}: kept with another duration: {name}: {told}")
                utterance = utterance | {"duration_seconds": seconds}
        normalizer = self.normalizers.get(utterance["language"]) or self.normalizers.get("*")
        if normalizer and utterance["text"]:
            text = normalizer(utterance["text"])
            if not text:
                return report.drop("sentence empty after normalisation", utterance["id"], repr(utterance["text"]))
            utterance = utterance | {"text": text}
        return utterance


def audio_name(audio: Mapping) -> str:
    """The name of a recording in reports and in a quarantine list: its file, and where it is in a container."""
    if audio.get("offset") is None:
        return audio["path"]
    return f"{audio['path']}, {'row' if audio.get('size') is None else 'byte'} {audio['offset']}"


def read_quarantine(path: Path) -> dict[str, str]:
    """Audio that cannot be used, and why; raises `ValueError` for what is not such a table."""
    return {row["audio"]: row["reason"] for _, row in read_table(path, QUARANTINE_COLUMNS)}


def read_normalizers(path: Path) -> dict[str, Normalizer]:
    """YAML of a mapping from languages, and `*`, to the arguments of `Normalizer`; raises `ValueError` for another."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return {language: Normalizer(**settings) for language, settings in content.items()}
    except (yaml.YAMLError, AttributeError, TypeError) as error:
        told = " ".join(str(error).split())
        raise ValueError(f"{path}: no normalisers by language, such as `sl: {{lowercase: true}}`: {told}") from error


def prepare(
    parts: Sequence[Part],
    output: Path,
    treatment: Treatment = Treatment(),  # noqa: B008 - it is frozen
    workers: int = 1,
    known_characters: Iterable[str] | None = None,
) -> PreparationReport:
    """Writes `{split}.parquet` of all parts into `output`, with `report.txt`, `report.json`, `quarantine.tsv`.

    Parts that an interrupted call with the same parts and treatment has finished are not read again.

    Args:
        workers: processes that read; with one everything happens in this one.
        known_characters: those that need no mention; by default all of the transcripts of train.

    Raises:
        ValueError: what the readers raise.
    """
    told = [(part.name, part.read.func.__qualname__, part.read.args, part.read.keywords) for part in parts]
    digest = hashlib.sha256(repr((told, [part.source for part in parts], treatment)).encode()).hexdigest()[:12]
    folders = [output / f".parts-{digest}" / part.name for part in parts]
    todo = [(part, folder) for part, folder in zip(parts, folders, strict=True) if not folder.exists()]
    with tqdm(desc="prepared", unit=" utterances") as progress:
        if len(todo) < len(parts):
            progress.write(f"going on: {len(parts) - len(todo)} of {len(parts)} parts were finished before")
        if workers == 1:
            for part, folder in todo:
                progress.set_postfix_str(part.name)
                _read_part(part, folder, treatment, progress.update)
        elif todo:
            _read_in_processes(todo, treatment, min(workers, len(todo)), progress)
    report = PreparationReport.of([folder / "part.json" for folder in folders])
    for split in report.splits:
        _merge([folder / f"{split}.parquet" for folder in folders], output / f"{split}.parquet")
    write_json(output / "report.json", report.as_json(known_characters))
    _join(report.lines(known_characters), [folder / DROPPED for folder in folders], output / "report.txt")
    _join(["\t".join(QUARANTINE_COLUMNS)], [folder / QUARANTINE for folder in folders], output / QUARANTINE)
    for folder in output.glob(".parts-*"):
        shutil.rmtree(folder)
    return report


def _join(head: Sequence[str], parts: Sequence[Path], path: Path) -> None:
    """A text of some lines and then those of other files."""
    with written_whole(path) as unfinished, open(unfinished, "w", encoding="utf-8", newline="") as file:
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


def _read_in_processes(todo, treatment: Treatment, workers: int, progress: tqdm) -> None:
    context = get_context("spawn")
    counter = context.Value("q", 0)
    with ProcessPoolExecutor(workers, context, _share, (counter,)) as pool:
        waiting = {pool.submit(_read_part, part, folder, treatment, _tick) for part, folder in todo}
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=0.5, return_when=FIRST_EXCEPTION)
                progress.update(counter.value - progress.n)
                for future in done:
                    future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


class _PartReport(ReadingReport):
    """Writes its lines and the quarantine list into a folder, because there may be millions."""

    def __init__(self, folder: Path, files: ExitStack):
        super().__init__()
        lines, quarantine = (
            files.enter_context(open(folder / name, "w", encoding="utf-8"))
            for name in ("dropped.txt", "quarantine.tsv")
        )
        self.lines = _Lines(lines)
        self.quarantine = _Lines(quarantine)
        self.quarantined: set[str] = set()

    def drop(self, reason: str, where: str, detail: str = "") -> None:
        super().drop(reason, where, detail)
        if reason in AUDIO_REASONS:
            name, _, why = detail.partition(": ")
            if name not in self.quarantined:
                self.quarantined.add(name)
                self.quarantine.append(f"{name}\t{' '.join((why or reason).split())}")


class _Lines:
    def __init__(self, file):
        self.file = file

    def append(self, line: str) -> None:
        self.file.write(line + "\n")


def _read_part(part: Part, folder: Path, treatment: Treatment, tick: Callable[[int], object]) -> None:
    with written_whole(folder) as unfinished, ExitStack() as files:
        unfinished.mkdir(exist_ok=True)
        report, statistics = _PartReport(unfinished, files), {}
        read = part.read(report=report)
        for split, rows in ({part.split: read} if part.split else read or {}).items():
            statistics[split] = SplitStatistics()
            kept = _treated(rows, treatment, report, statistics[split], tick)
            write_utterances(kept, unfinished / f"{split}.parquet")
        content = {"read": report.read, "dropped": report.dropped, "source": part.source and asdict(part.source)}
        splits = {split: of.as_json() for split, of in statistics.items()}
        write_json(unfinished / "part.json", content | {"splits": splits})


def _treated(rows: Iterable[dict], treatment, report, statistics: SplitStatistics, tick) -> Iterator[dict]:
    number = 0
    for number, row in enumerate(rows, start=1):
        if (utterance := treatment.of(row, report)) is not None:
            statistics.add(utterance)
            yield utterance
        if number % TICK == 0:
            tick(TICK)
    tick(number % TICK)


def _merge(parts: Sequence[Path], path: Path) -> None:
    """One file of the utterances of several, which may be missing, in row groups of one size."""
    waiting: list[pa.RecordBatch] = []
    with written_whole(path) as unfinished, pq.ParquetWriter(unfinished, FEATURES.arrow_schema) as writer:

        def write() -> None:
            if waiting:
                writer.write_table(pa.Table.from_batches(waiting, FEATURES.arrow_schema))
            waiting.clear()

        for part in parts:
            if not part.exists():
                continue
            with pq.ParquetFile(part) as file:
                for batch in file.iter_batches(BLOCK):
                    waiting.append(batch)
                    if sum(map(len, waiting)) >= BLOCK:
                        write()
        write()
