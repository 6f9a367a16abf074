"""Cuts long recordings without a text into utterances, and names those that stay too long."""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from ...atomic import atomic_write, write_json
from ...audio.reading import stream_audio
from ...data.utterances import FEATURES
from ...error_line import error_line
from ..listing import recording_state, state_of
from ..reading import audio_problem, one_line
from .jobs import JobFailed, Tick, run_jobs
from .merge import REPEATED, read_batches, write_batches
from .parts import DROPPED, PART, PARTS, QUARANTINE, PartReport, read_record
from .pauses import Cuts, cut_at_pauses
from .report import PlottedRecording, SplitStatistics, audio_name, other_duration

# The original trains on batches of up to 35 s, and the released model's table of relative positions ends at 27.6 s.
LONGEST_SECONDS, UTTERANCE_SECONDS = 35.0, 25.0
SHORTEST_UTTERANCE_SECONDS = 2.0  # that can be asked for: less are words
NAMED = 3  # long recordings on the screen; the report has all
DETECTED, CUT = ".detected", ".cut"  # folders in that of the parts: probabilities by recording, parts with utterances


class Detector(Protocol):
    """Computes from successive blocks of samples (n,) the probabilities of speech (f,) in successive frames.

    Other processes unpickle it. Its `repr` changes when its results do. The samples have its `sampling_rate`.
    """

    @property
    def frame_seconds(self) -> float: ...

    @property
    def sampling_rate(self) -> int: ...

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
            key = repr((audio, recording_state(audio["path"]), segmentation.detector, states))
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
    known: set[tuple[str, str]] = set()
    folders = [
        _cut_part(part, output / PARTS / CUT / part.name, files[part], segmentation, known) if part in files else part
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
    """Returns a name for a recording, or for a part of one; different parts have different names."""
    start, end = audio["start"], audio["end"]
    if start is None and end is None:
        return audio_name(audio)
    return f"{audio_name(audio)} from {start or 0.0} {'s on' if end is None else f'to {end} s'}"


class _Unreadable(Exception):
    """Carries a line about a recording that cannot be decoded."""


def _detect(name: str, audio: dict, detector: Detector, path: Path, tick: Tick) -> None:
    """Writes the probabilities of speech in a recording to `path`, or why it cannot be read; ticks for each second."""
    num_samples, rate = 0, detector.sampling_rate

    def blocks() -> Iterator[np.ndarray]:
        nonlocal num_samples
        try:
            for block in stream_audio(audio, rate):
                before, num_samples = num_samples, num_samples + len(block)
                tick(num_samples // rate - before // rate)
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
    seconds = num_samples / rate
    with atomic_write(path) as partial_path, open(partial_path, "wb") as file:
        np.savez(file, probabilities=np.concatenate(probabilities), seconds=seconds, problem=problem)


def _read_detected(path: Path) -> Detected | None:
    """Returns what `_detect` has written, or None if it has not, or the file is damaged."""
    try:
        with np.load(path) as arrays:
            return Detected(arrays["probabilities"], float(arrays["seconds"]), str(arrays["problem"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _cut_part(
    part: Path, folder: Path, files: dict[str, Path], segmentation: Segmentation, known: set[tuple[str, str]]
) -> Path:
    """Writes a copy of a part, with utterances in place of its long recordings; returns its folder."""
    record = read_record(part)
    with atomic_write(folder) as unfinished, ExitStack() as opened:
        unfinished.mkdir()
        for name in (DROPPED, QUARANTINE):
            shutil.copyfile(part / name, unfinished / name)
        cutter = _Cutter(files, segmentation, known, PartReport(unfinished, opened))
        for split, counts in record["splits"].items():
            statistics = SplitStatistics()
            statistics.add_json(counts)
            batches = (cutter.cut(batch, statistics) for batch in read_batches(part / f"{split}.parquet"))
            write_batches(batches, unfinished / f"{split}.parquet")
            record["splits"][split] = statistics.as_json()
        record["dropped"] = Counter(record["dropped"]) + cutter.report.dropped
        write_json(unfinished / PART, record | {"speech": {"part": part.name, **cutter.speech}})
    return folder


@dataclass
class _Cutter:
    """Cuts the long recordings of a part into utterances, and counts them.

    Args:
        files: what was detected, by the names of recordings.
        known: ids and names of recordings that have been cut, also in other parts. The same recording again is left
            out as one row: the preparation would drop each of its utterances.
        report: of what is left out.
    """

    files: dict[str, Path]
    segmentation: Segmentation
    known: set[tuple[str, str]]
    report: PartReport
    speech: Counter = field(default_factory=Counter)

    def cut(self, batch: pa.RecordBatch, statistics: SplitStatistics) -> pa.RecordBatch:
        """Returns a batch with utterances in place of its long recordings."""
        is_long = _is_long(batch, self.segmentation.max_seconds).to_pylist()
        if not any(is_long):
            return batch
        rows = []
        for row, is_cut in zip(batch.to_pylist(), is_long, strict=True):
            utterances = [row]
            if is_cut:
                utterances = self._utterances(row)
                statistics.remove(row)
                for utterance in utterances:
                    statistics.add(utterance)
            rows += utterances
        return pa.RecordBatch.from_pylist(rows, FEATURES.arrow_schema)

    def _utterances(self, recording: dict) -> list[dict]:
        name = _name(recording["audio"])
        detected = _read_detected(self.files[name])
        if detected is None:  # its detection has failed, of which the report has a line
            return []
        if detected.problem:
            self.report.drop("unreadable audio", recording["id"], detected.problem)
            return []
        if (recording["id"], name) in self.known:
            self.report.drop(REPEATED, recording["id"], f"{name}, which is cut already")
            return []
        self.known.add((recording["id"], name))
        if line := other_duration(recording, detected.seconds):
            self.report.lines.append(line)
        cuts = detected.cuts(self.segmentation)
        utterances = list(_utterances(recording, cuts))
        if not utterances:
            self.report.drop("no speech", recording["id"], name)
        counts = {"recordings": 1, "seconds": detected.seconds, "utterances": len(utterances)}
        self.speech.update(counts | {"speech_seconds": cuts.speech_seconds})
        return utterances


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


def name_long_recordings(
    files: Sequence[Path], segmentation: Segmentation | None, longest: float = LONGEST_SECONDS
) -> tuple[list[str], list[str]]:
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
    option = "--segment vad" if segmentation is None else f"--segment-seconds {UTTERANCE_SECONDS:g}"
    remedies = {
        False: ("without a text", f"`{option}` cuts them into utterances"),
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
