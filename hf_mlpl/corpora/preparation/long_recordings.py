"""Cuts long recordings without a text into utterances, and names those that stay too long."""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from ...atomic import atomic_write, write_json
from ...audio.reading import SAMPLING_RATE, stream_audio
from ...data.utterances import FEATURES
from ...error_line import error_line
from ..listing import state_of
from ..reading import audio_problem, one_line
from .jobs import JobFailed, Tick, run_jobs
from .merge import read_batches, write_batches
from .parts import DROPPED, PART, PARTS, QUARANTINE, PartReport, read_record
from .pauses import Cuts, cut_at_pauses
from .report import PlottedRecording, SplitStatistics, audio_name

# The original trains on batches of up to 35 s, and the released model's table of relative positions ends at 27.6 s.
LONGEST_SECONDS, UTTERANCE_SECONDS = 35.0, 25.0
SHORTEST_UTTERANCE_SECONDS = 2.0  # that can be asked for: less are words
NAMED = 3  # long recordings on the screen; the report has all
DETECTED, CUT = ".detected", ".cut"  # folders in that of the parts: probabilities by recording, parts with utterances


class Detector(Protocol):
    """Computes from successive blocks of samples (n,) the probabilities of speech (f,) in successive frames.

    Other processes unpickle it. Its `repr` changes when its results do.
    """

    @property
    def frame_seconds(self) -> float: ...

    def __call__(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]: ...


@dataclass(frozen=True)
class Segmentation:
    """Says how recordings without a text are cut into utterances.

    Args:
        detector: computes where there is speech.
        max_seconds: duration that no utterance exceeds; shorter recordings are left as they are.
        inputs: files of the detector; when they change, recordings are detected again.

    Raises:
        ValueError: if `max_seconds` is less than 2.
    """

    detector: Detector
    max_seconds: float = UTTERANCE_SECONDS
    inputs: tuple[Path, ...] = ()

    def __post_init__(self):
        if not SHORTEST_UTTERANCE_SECONDS <= self.max_seconds < np.inf:
            raise ValueError(
                f"utterances of {self.max_seconds:g} s: {SHORTEST_UTTERANCE_SECONDS:g} s or more is accepted; the "
                f"models of the paper take up to {LONGEST_SECONDS:g} s"
            )


@dataclass(frozen=True)
class Detected:
    """Holds the probabilities of speech in a recording (F,), from 0 to 255, or why it cannot be read."""

    probabilities: np.ndarray
    seconds: float
    problem: str

    def cuts(self, segmentation: Segmentation) -> Cuts:
        """Returns the utterances of the recording."""
        frame_seconds = segmentation.detector.frame_seconds
        return cut_at_pauses(self.probabilities / 255, frame_seconds, self.seconds, segmentation.max_seconds)


def cut_recordings(
    parts: Sequence[Path], output: Path, segmentation: Segmentation, workers: int
) -> tuple[list[Path], list[str], PlottedRecording | None]:
    """Finds the speech in the long recordings of finished parts, and makes parts that have its utterances instead.

    The probabilities of speech of a recording are kept until the preparation has finished, so that an interrupted one
    does not compute them again, unless the recording or the detector has changed. They are all that memory holds of a
    recording: a byte for each frame, a tenth of a megabyte for an hour.

    Args:
        parts: folders of finished parts.
        workers: processes that find speech in a recording each.

    Returns:
        The folders of the parts with utterances in place of long recordings; lines about recordings whose detection
        failed for a reason that is not theirs, and which are left out; the longest recording, to plot it.
    """
    store, jobs, seconds, done = output / PARTS / DETECTED, {}, {}, {}
    states = [state_of(path) for path in segmentation.inputs]
    files: dict[Path, dict[str, Path]] = {}  # of results, by part and name of a recording
    for part in parts:
        for row in _long_rows(part, segmentation.max_seconds):
            audio, name = row["audio"], _name(row["audio"])
            key = repr((audio, state_of(Path(audio["path"])), segmentation.detector, states))
            path = store / f"{hashlib.sha256(os.fsencode(key)).hexdigest()[:24]}.npz"
            files.setdefault(part, {})[name] = path
            seconds[name], detected = row["duration_seconds"], _read_detected(path)
            if detected is None:
                jobs[name] = partial(_detect, name, audio, segmentation.detector, path), path
            else:
                done[name] = path
    jobs = {name: jobs[name] for name in sorted(jobs, key=seconds.__getitem__, reverse=True)}  # none long at the end
    bar = {"desc": "segmented", "unit": " s of audio", "total": round(sum(seconds.values())), "disable": not files}
    with tqdm(**bar, initial=round(sum(seconds[name] for name in done))) as progress:
        if done:
            progress.write(f"going on: {len(done)} of {len(seconds)} long recordings were segmented before")
        failed = run_jobs(jobs, workers, progress)
    shutil.rmtree(output / PARTS / CUT, ignore_errors=True)
    folders = [
        _cut_part(part, output / PARTS / CUT / part.name, files[part], segmentation) if part in files else part
        for part in parts
    ]
    return folders, sorted(failed.values()), _longest(files, seconds, segmentation)


def _is_long(batch: pa.RecordBatch, max_seconds: float) -> pa.Array:
    has_text = pc.fill_null(pc.not_equal(batch["text"], ""), False)
    return pc.and_not(pc.greater(batch["duration_seconds"], max_seconds), has_text)


def _has_longer(file: Path, seconds: float) -> bool:
    """Returns whether a file has utterances longer than `seconds`: most have none, and are not read whole."""
    maxima = (pc.max(batch["duration_seconds"]).as_py() for batch in read_batches(file, ["duration_seconds"]))
    return any(maximum is not None and maximum > seconds for maximum in maxima)


def _long_rows(part: Path, max_seconds: float) -> Iterator[dict]:
    for file in (part / f"{split}.parquet" for split in read_record(part)["splits"]):
        columns = ["audio", "duration_seconds", "text"]
        for batch in read_batches(file, columns) if _has_longer(file, max_seconds) else ():
            yield from batch.filter(_is_long(batch, max_seconds)).to_pylist()


def _name(audio: dict) -> str:
    """Returns a name for a recording, or for a part of one."""
    start, end = audio["start"], audio["end"]
    return audio_name(audio) + ("" if start is None and end is None else f" from {start or 0:g} to {end} s")


class _Unreadable(Exception):
    """Carries a line about a recording that cannot be decoded."""


def _detect(name: str, audio: dict, detector: Detector, path: Path, tick: Tick) -> None:
    """Writes the probabilities of speech in a recording to `path`, or why it cannot be read; ticks for each second."""
    num_samples = 0

    def blocks() -> Iterator[np.ndarray]:
        nonlocal num_samples
        try:
            for block in stream_audio(audio):
                before, num_samples = num_samples, num_samples + len(block)
                tick(num_samples // SAMPLING_RATE - before // SAMPLING_RATE)
                yield block
        except Exception as error:  # decoders raise errors of any type
            raise _Unreadable(audio_problem(error, audio)) from error

    problem, probabilities = "", [np.empty(0, np.uint8)]
    try:
        probabilities += (np.rint(255 * frames).astype(np.uint8) for frames in detector(blocks()))
    except _Unreadable as error:
        problem = str(error)
    except Exception as error:  # such as those of memory
        raise JobFailed(f"{name}: {error_line(error, with_type=True)}") from error
    seconds = num_samples / SAMPLING_RATE
    with atomic_write(path) as partial_path, open(partial_path, "wb") as file:
        np.savez(file, probabilities=np.concatenate(probabilities), seconds=seconds, problem=problem)


def _read_detected(path: Path) -> Detected | None:
    """Returns what `_detect` has written, or None if it has not, or the file is damaged."""
    try:
        with np.load(path) as arrays:
            return Detected(arrays["probabilities"], float(arrays["seconds"]), str(arrays["problem"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _cut_part(part: Path, folder: Path, files: dict[str, Path], segmentation: Segmentation) -> Path:
    """Writes a copy of a part, with utterances in place of its long recordings; returns its folder."""
    record = read_record(part)
    with atomic_write(folder) as unfinished, ExitStack() as opened:
        unfinished.mkdir()
        for name in (DROPPED, QUARANTINE):
            shutil.copyfile(part / name, unfinished / name)
        report, speech = PartReport(unfinished, opened), {}
        for split, counts in record["splits"].items():
            statistics = SplitStatistics()
            statistics.add_json(counts)
            batches = (
                _with_utterances(batch, files, segmentation, statistics, speech, report)
                for batch in read_batches(part / f"{split}.parquet")
            )
            write_batches(batches, unfinished / f"{split}.parquet")
            record["splits"][split] = statistics.as_json()
        record["dropped"] = Counter(record["dropped"]) + report.dropped
        write_json(unfinished / PART, record | {"speech": {"part": part.name, **speech}})
    return folder


def _with_utterances(
    batch: pa.RecordBatch,
    files: dict[str, Path],
    segmentation: Segmentation,
    statistics: SplitStatistics,
    speech: dict[str, float],
    report: PartReport,
) -> pa.RecordBatch:
    """Returns a batch with utterances in place of its long recordings, and counts them."""
    is_long = _is_long(batch, segmentation.max_seconds).to_pylist()
    if not any(is_long):
        return batch
    rows = []
    for row, is_cut in zip(batch.to_pylist(), is_long, strict=True):
        if not is_cut:
            rows.append(row)
            continue
        statistics.remove(row)
        detected = _read_detected(files[_name(row["audio"])])
        if detected is None:  # its detection has failed, of which the report has a line
            continue
        if detected.problem:
            report.drop("unreadable audio", row["id"], detected.problem)
            continue
        cuts = detected.cuts(segmentation)
        utterances = list(_utterances(row, cuts))
        if not utterances:
            report.drop("no speech", row["id"], _name(row["audio"]))
        for utterance in utterances:
            statistics.add(utterance)
        rows += utterances
        counts = {"recordings": 1, "seconds": detected.seconds, "utterances": len(utterances)}
        for name, count in (counts | {"speech_seconds": cuts.speech_seconds}).items():
            speech[name] = speech.get(name, 0) + count
    return pa.RecordBatch.from_pylist(rows, FEATURES.arrow_schema)


def _utterances(recording: dict, cuts: Cuts) -> Iterator[dict]:
    audio, before = recording["audio"], recording["audio"]["start"] or 0.0
    for number, (start, end) in enumerate(cuts.utterances.tolist(), start=1):
        part = audio | {"start": before + start, "end": before + end}
        name, seconds = f"{recording['id']}-{number:04d}", round(end - start, 3)
        yield recording | {"id": name, "audio": part, "duration_seconds": seconds}


def _longest(
    files: dict[Path, dict[str, Path]], seconds: dict[str, float], segmentation: Segmentation
) -> PlottedRecording | None:
    for name in sorted(seconds, key=seconds.__getitem__, reverse=True):
        path = next(paths[name] for paths in files.values() if name in paths)
        detected = _read_detected(path)
        if detected is not None and not detected.problem:
            utterances = detected.cuts(segmentation).utterances
            return PlottedRecording(
                name, detected.probabilities / 255, segmentation.detector.frame_seconds, utterances
            )
    return None


def name_long_recordings(files: Sequence[Path], longest: float = LONGEST_SECONDS) -> tuple[list[str], list[str]]:
    """Returns notes with the number of utterances longer than `longest` seconds and a remedy, and a line for each."""
    lines: dict[bool, list[str]] = {False: [], True: []}  # without and with a text
    seconds = dict.fromkeys(lines, 0.0)
    for file in (file for file in files if _has_longer(file, longest)):
        for batch in read_batches(file, ["id", "audio", "duration_seconds", "text"]):
            for row in batch.filter(pc.greater(batch["duration_seconds"], longest)).to_pylist():
                has_text = bool(row["text"])
                seconds[has_text] += row["duration_seconds"]
                place = f"{row['duration_seconds']:.1f} s: {_name(row['audio'])}"
                lines[has_text].append(one_line(f"{row['id']}: longer than {longest:g} s: {place}"))
    remedies = {
        False: ("without a text", "`--segment vad` cuts them into utterances"),
        True: ("with a text", "`hf-mlpl align --model MODEL RECORDING TEXT` finds the utterances of the text in them"),
    }
    notes = []
    for has_text, (kind, remedy) in remedies.items():
        if found := lines[has_text]:
            names = ", ".join(line.partition(": longer than ")[0] for line in found[:NAMED])
            names += f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
            hours = f"{seconds[has_text] / 3600:.2f} hours"
            notes.append(f"recordings longer than {longest:g} s {kind}: {len(found)}, {hours} ({names}); {remedy}")
    return notes, [*lines[False], *lines[True]]
