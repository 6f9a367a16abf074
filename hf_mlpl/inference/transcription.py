"""Transcribes recordings in files and folders, many at a time, for `hf-mlpl transcribe`."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from ..audio.addresses import temporary_file
from ..audio.folder_walk import walk_folders
from ..audio.reading import AUDIO_SUFFIXES, AudioError, audio_duration, is_recording, stream_audio
from ..error_line import error_line
from ..remote_path import AnyPath, RemotePath, matching_paths
from ..storage import is_remote, parse_location
from .pieces import cut, prefetch
from .subtitles import to_srt, to_vtt
from .tiers import ctm_field, segments_of, to_ctm, to_textgrid, word_intervals

OUTPUT_SUFFIXES = {
    "text": ".txt",
    "json": ".json",
    "srt": ".srt",
    "vtt": ".vtt",
    "ctm": ".ctm",
    "textgrid": ".TextGrid",
    "html": ".html",
    "tsv": ".tsv",
}

WINDOW_SECONDS = 300.0  # audio that is read, sorted by length and transcribed before its results are given


@dataclass
class Recording:
    """Holds a file and its transcript."""

    path: AnyPath  # as the user named it, or found in a folder that the user named
    output: Path  # of its transcript, relative to the folder of all outputs and without suffix
    source: BinaryIO | None = None  # the copy or stream to read in place of `path`
    result: dict | None = None  # of the pipeline; None if there is a `problem`
    problem: str | None = None  # one line that names the file, where it cannot be transcribed
    text: Path | None = None  # file of its text, where it is known and only aligned; `-` is standard input
    seconds: float = 0.0  # of a long recording: what its header states, or the time of its last word if that is later
    samples: np.ndarray | None = field(default=None, repr=False)  # (N,) of a short recording that waits for the model

    @property
    def name(self) -> str:
        """Returns the path in a form that fits into a printed line."""
        return printable(self.path)

    def file_to_read(self) -> Path | str | BinaryIO:
        """Returns the path, URL or open file of its sound, at its beginning."""
        if self.source is None:
            return self.path.url if isinstance(self.path, RemotePath) else self.path
        self.source.seek(0)
        return self.source

    def output_path(self, folder: Path, output_format: str) -> Path:
        """Returns the path of its transcript below `folder`, the folder of all outputs."""
        return folder / self.output.with_name(self.output.name + OUTPUT_SUFFIXES[output_format])


def printable(path: str | os.PathLike | RemotePath) -> str:
    """Returns a path in which control characters and bytes that are not UTF-8 are escaped."""
    name = f"{path}" if isinstance(path, RemotePath) else os.fspath(path)
    # In Python's paths, a byte that is not UTF-8 is a surrogate that ends with its value.
    return re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]", lambda match: f"\\x{ord(match[0]) & 0xFF:02x}", name)


def find_recordings(paths: Sequence[str | os.PathLike]) -> tuple[list[Recording], list[Path]]:
    """
    Returns the files among `paths` in their order, with the audio files below each folder, sorted; and the files below
    folders that are not audio.

    Folders are searched at any depth, without hidden files and folders, and through symbolic links, unless a link
    leads to a folder that is searched anyway. No file is in the list twice. The output of a named file has its name,
    and the output of a file below a folder its path from there, which never leads out of the folder of all outputs.
    A folder without audio, or one that cannot be searched, has a `problem`. `-` is standard input. A URL of object
    storage is a file, or, with `*`, all files that match it.
    """
    recordings: list[Recording] = []
    others: list[Path] = []
    seen: set[str] = set()
    for name in [os.fspath(path) for path in paths]:
        if name == "-":
            if name not in seen:
                recordings.append(Recording(Path(name), Path("stdin"), source=sys.stdin.buffer))
            seen.add(name)
            continue
        files: list[tuple[AnyPath, Path]]
        if is_remote(name):
            files = [(file, Path(file.name)) for file in matching_paths(name)]
        else:
            path = spelled_as_on_disk(Path(parse_location(name)))
            files = [(path, Path(path.name))]
        if not is_remote(name) and path.is_dir():
            errors: list[OSError] = []
            below = sorted(
                Path(place, file) for place, _, names in walk_folders(path, errors.append) for file in names
            )
            audio = [file for file in below if is_recording(file)]
            others += sorted(set(below) - set(audio))
            files = [(file, file.relative_to(path)) for file in audio]
            problems = [(Path(error.filename), f"cannot be searched: {error.strerror}") for error in errors]
            if not audio and not problems:
                problems = [(path, "no audio in this folder")]
            for folder, problem in problems:
                recordings.append(Recording(folder, Path(folder.name), problem=f"{printable(folder)}: {problem}"))
        for file, output in files:
            if (real_path := str(file) if isinstance(file, RemotePath) else os.path.realpath(file)) not in seen:
                seen.add(real_path)
                has_audio_suffix = output.suffix.lower() in AUDIO_SUFFIXES
                recordings.append(Recording(file, output.with_suffix("") if has_audio_suffix else output))
    return recordings, others


def spelled_as_on_disk(path: Path) -> Path:
    """Returns the path as it is spelled on disk, where accents may have another Unicode form."""
    spellings = [path, *(Path(unicodedata.normalize(form, str(path))) for form in ("NFC", "NFD"))]
    return next(filter(os.path.exists, spellings), path)


def pending_recordings(recordings: Sequence[Recording], folder: Path, output_format: str) -> list[Recording]:
    """Returns those without a transcript in `folder`; of two with the same output, the second gets a `problem`."""
    refuse_same_names(recordings, attrgetter("output"))
    return [r for r in recordings if r.problem is not None or not r.output_path(folder, output_format).exists()]


def refuse_same_names(recordings: Sequence[Recording], name_of: Callable[[Recording], Hashable]) -> None:
    """Sets the `problem` of recordings whose transcripts would have the name of that of an earlier one."""
    recording_of: dict[Hashable, Recording] = {}
    for recording in recordings:
        first = recording_of.setdefault(name_of(recording), recording)
        if first is not recording and recording.problem is None:
            recording.problem = f"{recording.name}: its transcript would have the name of that of {first.name}"


def ctm_name(recording: Recording) -> str:
    """Returns the name of a recording in the lines of a CTM file."""
    return ctm_field(printable(recording.output))


def transcribe_recordings(
    recognize, recordings: Sequence[Recording], batch_size: int, progress: tqdm, **arguments
) -> Iterator[Recording]:
    """
    Yields the recordings in their order, each with its `result` or `problem`.

    They are read in windows of about five minutes, one window before the model needs it, and batched by length within
    a window. The pipeline reads long recordings itself, piece after piece. So memory holds two windows and one batch
    of pieces, however long recordings are.

    Args:
        recognize: a speech recognition pipeline of ours, or a `CtcRecognizer`.
        batch_size: recordings, or pieces of them, in one forward.
        arguments: further arguments of the pipeline's call.
    """
    for window in prefetch(_windows(recordings, recognize)):
        progress.update(sum(recording.problem is not None for recording in window))
        _recognize_window(recognize, window, progress, arguments | {"batch_size": batch_size})
        for recording in window:
            yield recording
            recording.source = None  # the copy of a stream, which a page needs as well


def _windows(recordings: Sequence[Recording], recognize) -> Iterator[list[Recording]]:
    """Yields recordings in groups of about `WINDOW_SECONDS`, each read or with a `problem`."""
    window, seconds = [], 0.0
    for recording in recordings:
        window.append(recording)
        if recording.problem is None:
            try:
                _read(recording, recognize)
                seconds += recording.seconds
            except Exception as error:  # decoders raise any type, and the other files still follow
                recording.problem = problem_of(recording, error)
        if seconds >= WINDOW_SECONDS:
            yield window
            window, seconds = [], 0.0
    if window:
        yield window


def _read(recording: Recording, recognize) -> None:
    """Sets `seconds`, and `samples` of a recording that is not cut."""
    path = recording.path
    if recording.source is not None or (isinstance(path, Path) and path.is_fifo()):  # it can be read only once
        copy = temporary_file(recording.name)
        with recording.source or open(str(path), "rb") as source:
            shutil.copyfileobj(source, copy)
        recording.source = copy
    rate = recognize.feature_extractor.sampling_rate
    ratio = getattr(recognize, "samples_per_frame", None) or recognize.model.config.inputs_to_logits_ratio
    pieces = cut(stream_audio(recording.file_to_read(), rate), rate, ratio)
    with closing(pieces):
        first = next(pieces)
    recording.samples = first.samples if first.is_last else None
    recording.seconds = first.seconds if first.is_last else audio_duration(recording.file_to_read())


def _recognize_window(recognize, window: list[Recording], progress: tqdm, arguments: dict) -> None:
    """Sets the `result` or `problem` of each recording, and frees its samples."""
    readable = [recording for recording in window if recording.problem is None]
    readable.sort(key=lambda recording: recording.seconds, reverse=True)
    try:
        results = recognize((_input(recording) for recording in readable), **arguments)
        for recording, result in zip(readable, results, strict=True):
            recording.result = result
            progress.update()
    except Exception:  # one recording makes its batch fail: now each is a batch of its own
        for recording in readable:
            if recording.result is None:
                try:
                    recording.result = recognize(_input(recording), **arguments | {"batch_size": 1})
                except Exception as error:
                    recording.problem = problem_of(recording, error)
                progress.update()
    for recording in readable:
        recording.samples = None
        if recording.result is not None and recording.result.get("chunks"):
            recording.seconds = max(recording.seconds, float(recording.result["chunks"][-1]["timestamp"][1]))


def _input(recording: Recording) -> np.ndarray | Path | str | BinaryIO:
    return recording.file_to_read() if recording.samples is None else recording.samples


def problem_of(recording: Recording, error: Exception) -> str:
    """Describes an error in one line, with the file's name."""
    is_explained = isinstance(error, (OSError, ValueError, MemoryError))  # the text of others needs their type
    line = printable(error_line(error, with_type=not is_explained))
    if isinstance(error, AudioError) and recording.samples is None:  # it names the file itself
        return line
    return f"{recording.name}: {line}"


def format_transcript(recording: Recording, output_format: str, with_words: bool, with_name: bool) -> str:
    """
    Formats a transcript as one of `OUTPUT_SUFFIXES`, with a line feed at its end.

    `text` is the transcript, or with `with_words` a line of start, end and word for each word, separated by tabs; with
    `with_name` each line begins with file and language. `json` is one line; its words have a `confidence` where they
    come from beam search. `ctm` is a line for each word; `textgrid` has the tiers `segments` and `words`. Times are
    seconds. The result needs timestamps of characters for `srt` and `vtt`, and of words for `ctm`, `textgrid` and
    `with_words`.
    """
    result = recording.result
    if output_format in ("srt", "vtt"):
        return {"srt": to_srt, "vtt": to_vtt}[output_format](result["chunks"], recording.seconds)
    if output_format == "ctm":
        return to_ctm(word_intervals(result["chunks"]), ctm_name(recording))
    if output_format == "textgrid":
        intervals = word_intervals(result["chunks"])
        return to_textgrid({"segments": segments_of(intervals), "words": intervals}, recording.seconds)
    words = []
    for chunk in result["chunks"] if with_words else []:
        start, end = (round(float(second), 3) for second in chunk["timestamp"])
        confidence = {"confidence": round(chunk["confidence"], 4)} if "confidence" in chunk else {}
        words.append({"word": chunk["text"], "start": start, "end": end} | confidence)
    if output_format == "json":
        content = {"file": recording.name, "text": result["text"]}
        if "language" in result:
            content["language"] = result["language"]
            content["language_probability"] = round(result["language_probability"], 4)
        return json.dumps(content | ({"words": words} if with_words else {}), ensure_ascii=False) + "\n"
    lines = [result["text"]]
    if with_words:
        lines = [f"{word['start']:.2f}\t{word['end']:.2f}\t{word['word']}" for word in words]
    name = f"{recording.name}\t{result.get('language', '-')}\t" if with_name else ""
    return "".join(f"{name}{line}\n" for line in lines)
