"""Writes utterances as manifests of NeMo and lhotse, which `corpora/readers/manifests.py` reads."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TextIO, cast

from datasets import Dataset
from tqdm import tqdm

from ..atomic import atomic_write
from ..audio.reading import SAMPLING_RATE, AudioError, audio_duration, audio_format, encode_flac, load_audio
from ..corpora.readers.manifests import DECIMALS
from ..corpora.reading import THREADS, drop_reasons
from ..data.rows import BLOCK, blocks
from ..data.utterances import FEATURES, read_utterances
from ..storage import absolute

TARGETS = ("nemo", "lhotse")
KINDS = ("recordings", "supervisions", "cuts")  # of lhotse's manifests
IN_CONTAINER = "in archives or Parquet files"


@dataclass
class ExportReport:
    """Counts the utterances of a manifest and their seconds, and the utterances that are left out, by reason."""

    utterances: int = 0
    seconds: float = 0.0
    left_out: Counter[str] = field(default_factory=Counter)
    problems: dict[str, None] = field(default_factory=dict)  # a line for each recording that cannot be read

    def refuse(self, error: AudioError) -> None:
        self.left_out["unreadable audio"] += 1
        self.problems[str(error)] = None


def export_manifest(
    paths: Sequence[str | Path], output: str | Path, target: str, copies: str | Path | None = None
) -> ExportReport:
    """
    Writes the utterances of files as a manifest of NeMo, or as recordings, supervisions and cuts of lhotse.

    Recordings stay where they are; manifests have their absolute paths. A recording in an archive or a Parquet file
    has no path of its own, so its utterances are left out, unless `copies` is given.

    Args:
        paths: utterance files, as for `read_utterances`.
        output: a file for NeMo, which is gzipped if its name ends in `.gz`; a new folder for lhotse.
        target: `nemo` or `lhotse`.
        copies: a folder, into which utterances in archives and Parquet files are written as FLAC, 16 kHz, mono.

    Raises:
        ValueError: for another `target`, an `output` that cannot be replaced, utterance files that cannot be read, and
            if all utterances are left out.
    """
    output = Path(output)
    if target not in TARGETS:
        raise ValueError(f"target is {target!r}; {' and '.join(TARGETS)} are accepted")
    if output.is_dir() or (target == "lhotse" and output.exists()):
        raise ValueError(f"{output} exists already; name a new {'file' if target == 'nemo' else 'folder'}")
    dataset, report = read_utterances(paths), ExportReport()
    with atomic_write(output) as partial, tqdm(total=len(dataset), unit="utterance", disable=None) as progress:
        utterances = _with_paths(_rows(dataset, progress), Path(copies).absolute() if copies else None, report)
        write = _write_nemo if target == "nemo" else _write_lhotse
        for utterance in write(utterances, partial, report):
            report.utterances += 1
            report.seconds += utterance["duration_seconds"]
        if not report.utterances:
            raise ValueError(
                f"{output}: no utterance can be written; {drop_reasons(report.left_out) or 'there is none'}"
            )
    return report


def _rows(dataset: Dataset, progress: tqdm) -> Iterator[dict]:
    for block in blocks(dataset, list(FEATURES)):
        for row in block.to_pylist():
            yield row
            progress.update()


def _with_paths(rows: Iterable[dict], copies: Path | None, report: ExportReport) -> Iterator[dict]:
    """Yields the utterances whose audio is in a file, with absolute paths; writes other audio to `copies`."""
    for row in rows:
        audio, seconds = row["audio"], row["duration_seconds"]
        if audio["offset"] is None:
            path = absolute(audio["path"])
        elif copies is None:
            report.left_out[IN_CONTAINER] += 1
            continue
        else:
            path = str(copies / f"{hashlib.sha256(os.fsencode(repr(audio))).hexdigest()[:32]}.flac")
            try:
                samples = load_audio(audio)
            except AudioError as error:
                report.refuse(error)
                continue
            with atomic_write(path) as partial:
                partial.write_bytes(encode_flac(samples, SAMPLING_RATE))
            audio, seconds = {"start": None}, len(samples) / SAMPLING_RATE
        yield row | {"audio": audio | {"path": path}, "duration_seconds": seconds}


def _write_nemo(utterances: Iterable[dict], path: Path, report: ExportReport) -> Iterator[dict]:
    """Writes utterances to a file, and yields them."""
    with _opened(path) as file:
        for utterance in utterances:
            row = {
                "audio_filepath": utterance["audio"]["path"],
                "offset": utterance["audio"]["start"],
                "duration": round(utterance["duration_seconds"], DECIMALS),
                "text": utterance["text"],
                "lang": utterance["language"],
                "speaker": utterance["speaker"],
                "id": utterance["id"],
                "text_source": utterance["source"],
            }
            _write_line(file, row)
            yield utterance


def _write_lhotse(utterances: Iterator[dict], folder: Path, report: ExportReport) -> Iterator[dict]:
    """Writes utterances to the three files of lhotse in a new folder, and yields them."""
    folder.mkdir()
    headers: dict[str, tuple[int, int, int] | AudioError] = {}  # rate, channels and samples of each path
    written: set[str] = set()
    with ExitStack() as stack, ThreadPoolExecutor(THREADS) as threads:
        files = {kind: stack.enter_context(_opened(folder / f"{kind}.jsonl.gz")) for kind in KINDS}
        while block := list(islice(utterances, BLOCK)):
            new = [path for path in dict.fromkeys(row["audio"]["path"] for row in block) if path not in headers]
            headers |= zip(new, threads.map(_header, new), strict=True)
            for utterance in block:
                path = utterance["audio"]["path"]
                header = headers[path]
                if isinstance(header, AudioError):
                    report.refuse(header)
                    continue
                rows = _lhotse_rows(utterance, *header)
                if path in written:
                    del rows["recordings"]
                written.add(path)
                for kind, row in rows.items():
                    _write_line(files[kind], row)
                yield utterance


def _header(path: str) -> tuple[int, int, int] | AudioError:
    try:
        rate, channels = audio_format(path)
        return rate, channels, round(audio_duration(path) * rate)
    except AudioError as error:
        return error


def _lhotse_rows(utterance: dict, rate: int, num_channels: int, num_samples: int) -> dict[str, dict]:
    """Returns the rows of an utterance in the manifests of lhotse; a cut of several channels has all of them."""
    path, start, seconds = utterance["audio"]["path"], utterance["audio"]["start"] or 0.0, num_samples / rate
    channels = list(range(num_channels))
    channel = channels if num_channels > 1 else 0
    duration = round(min(utterance["duration_seconds"], seconds - start), DECIMALS)
    recording = {
        "id": path,
        "sources": [{"type": "file", "channels": channels, "source": path}],
        "sampling_rate": rate,
        "num_samples": num_samples,
        "duration": seconds,
        "channel_ids": channels,
    }
    part = {"id": utterance["id"], "start": start, "duration": duration, "channel": channel}
    supervision = part | {
        "recording_id": path,
        "text": utterance["text"],
        "language": utterance["language"],
        "speaker": utterance["speaker"],
        "custom": {"text_source": utterance["source"]} if utterance["source"] else None,
    }
    supervision = _without_null(supervision)
    cut = part | {"supervisions": [supervision | {"start": 0.0}], "recording": recording}
    kind = "MonoCut" if num_channels == 1 else "MultiCut"
    return {"recordings": recording, "supervisions": supervision, "cuts": cut | {"type": kind}}


def _without_null(row: dict) -> dict:
    return {name: value for name, value in row.items() if value is not None}


def _opened(path: Path) -> TextIO:
    if path.name.endswith(".gz"):
        return cast(TextIO, gzip.open(path, "wt", encoding="utf-8"))
    return open(path, "w", encoding="utf-8")


def _write_line(file: TextIO, row: dict) -> None:
    file.write(json.dumps(_without_null(row), ensure_ascii=False) + "\n")
