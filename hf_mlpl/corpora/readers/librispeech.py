"""Reads LibriSpeech, extracted or as archives: `{split}/{speaker}/{chapter}/*.flac` and `.trans.txt` in each chapter.

Recordings that were converted, with other suffixes in any case, are read too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ...audio.containers import open_member
from ...audio.folder_walk import is_hidden
from ...audio.reading import AUDIO_SUFFIXES
from ...audio.tar_index import tar_index
from ..reading import ReadingReport, RowError, human_utterance, printable, sentence_of, with_durations
from ..recordings import member_audio, walk

SPLITS = tuple(f"train-{part}" for part in ("clean-100", "clean-360", "other-500")) + tuple(
    f"{split}-{part}" for split in ("dev", "test") for part in ("clean", "other")
)


def read_librispeech(root: str | Path, split: str, report: ReadingReport) -> Iterator[dict]:
    """Yields the utterances of one split, such as `test-clean`, in `en`; texts are upper case without punctuation.

    Args:
        root: the folder `LibriSpeech`, the folder around it, or one with archives such as `test-clean.tar.gz`, which
            are not extracted.

    Raises:
        ValueError: for a split that is missing.
    """
    root = Path(root).absolute()  # so that utterance files can be used from anywhere
    for folder in (root / split, root / "LibriSpeech" / split):
        if folder.is_dir():
            return with_durations(_rows(folder, _files(folder, report), report), report)
    for archive in (root / f"{split}.tar.gz", root / f"{split}.tar"):
        if archive.is_file():
            return with_durations(_rows(archive, _members(archive, split, report), report), report)
    found = ", ".join(librispeech_splits(root)) or "none"
    raise ValueError(f"{root}: no split {split} of LibriSpeech; there are {found}")


def librispeech_splits(root: str | Path) -> list[str]:
    """Returns the splits that `read_librispeech` finds."""
    places = "{}", "LibriSpeech/{}", "{}.tar.gz", "{}.tar"
    return [name for name in SPLITS if any(Path(root, place.format(name)).exists() for place in places)]


def _files(folder: Path, report: ReadingReport) -> dict[str, dict]:
    folders = walk(folder, report, notes_links=False)
    paths = [os.path.join(place, name) for place, _, names in folders for name in names]
    return {os.path.relpath(path, folder): {"path": path} for path in paths}


def _members(archive: Path, split: str, report: ReadingReport) -> dict[str, dict]:
    index = tar_index(archive)
    report.note_all(index.problems)
    places = zip(index.offsets.tolist(), index.sizes.tolist(), strict=True)
    return {
        name.partition(f"{split}/")[2]: member_audio(archive, place)
        for name, place in zip(index.names(), places, strict=True)
        if not any(map(is_hidden, name.split("/")))
    }


def _lines(audio: dict) -> list[str]:
    """Returns the lines of a transcript; bytes that are not UTF-8 are surrogates."""
    with open(audio["path"], "rb") if audio.get("offset") is None else open_member(**audio) as file:
        text = file.read().decode("utf-8-sig", errors="surrogateescape")
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []


def _rows(root: Path, files: dict[str, dict], report: ReadingReport) -> Iterator[tuple[str, dict]]:
    """Yields the rows of transcripts; `files` maps names such as `1089/134686/1089-134686-0000.flac` to places."""
    recordings: dict[str, str] = {}  # names of files by their names without suffixes
    for name in sorted(files):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in AUDIO_SUFFIXES and recordings.setdefault(stem, name) != name:
            report.read += 1
            report.drop("a second recording of an utterance", str(root / name), recordings[stem])
    used = set()
    for transcript in [name for name in files if name.lower().endswith(".trans.txt")]:
        chapter = os.path.dirname(transcript)
        try:
            lines = _lines(files[transcript])
        except (OSError, ValueError) as error:  # ValueError: of an archive
            report.note(f"{root / transcript}: cannot be read: {error}")
            continue
        for number, line in enumerate(lines, start=1):
            where = f"{root / transcript}:{number}"
            name, _, text = line.partition(" ")
            stem = f"{chapter}/{name}"
            with report.row(where):
                if printable(line) != line or "\0" in line:
                    raise RowError("is not UTF-8 text")
                text = sentence_of(text)
                if stem not in recordings:
                    raise RowError("no recording", f"{stem}.flac")
                if stem in used:
                    raise RowError("a second line of an utterance", name)
                yield where, human_utterance(name, files[recordings[stem]], "en", text, name.partition("-")[0])
            used.add(stem)
    for stem in sorted(recordings.keys() - used):
        report.read += 1
        report.drop("not in a transcript", str(root / recordings[stem]))
