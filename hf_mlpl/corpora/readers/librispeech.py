"""Reads LibriSpeech, extracted or as archives: `{split}/{speaker}/{chapter}/*.flac` and `.trans.txt` in each chapter.

The recordings may have been converted: other suffixes, in whatever case, are recordings, too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ...audio.containers import open_member
from ...audio.folder_walk import is_hidden, walk_folders
from ...audio.reading import AUDIO_SUFFIXES
from ...audio.tar_index import tar_index
from ...model.text import normalize_text
from ..reading import ReadingReport, human_utterance, printable, with_durations

SPLITS = tuple(f"train-{part}" for part in ("clean-100", "clean-360", "other-500")) + tuple(
    f"{split}-{part}" for split in ("dev", "test") for part in ("clean", "other")
)


def read_librispeech(root: str | Path, split: str, report: ReadingReport) -> Iterator[dict]:
    """Yields the utterances of one split, such as `test-clean`, in `en`; texts are upper case without punctuation.

    Args:
        root: the folder `LibriSpeech`, the one around it, or one with the archives, such as `test-clean.tar.gz`, which
            are not extracted.

    Raises:
        ValueError: where the split is not there.
    """
    root = Path(root).absolute()  # so that utterance files can be used from anywhere
    for folder in (root / split, root / "LibriSpeech" / split):
        if folder.is_dir():
            return with_durations(_rows(folder, dict(_files(folder, report)), report), report)
    for archive in (root / f"{split}.tar.gz", root / f"{split}.tar"):
        if archive.is_file():
            return with_durations(_rows(archive, _members(archive, split, report), report), report)
    found = ", ".join(librispeech_splits(root)) or "none"
    raise ValueError(f"{root}: no split {split} of LibriSpeech; there are {found}")


def librispeech_splits(root: str | Path) -> list[str]:
    """Returns the splits that `read_librispeech` finds."""
    places = "{}", "LibriSpeech/{}", "{}.tar.gz", "{}.tar"
    return [name for name in SPLITS if any(Path(root, place.format(name)).exists() for place in places)]


def _files(folder: Path, report: ReadingReport) -> Iterator[tuple[str, dict]]:
    def failed(error: OSError) -> None:
        report.note(f"{error.filename}: cannot be read: {error.strerror}")

    for path, _, names in walk_folders(folder, failed):
        relative = os.path.relpath(path, folder)
        yield from ((f"{relative}/{name}", {"path": os.path.join(path, name)}) for name in names)


def _members(archive: Path, split: str, report: ReadingReport) -> dict[str, dict]:
    index = tar_index(archive)
    for problem in index.problems:
        report.note(problem)
    places = zip(index.names(), index.offsets.tolist(), index.sizes.tolist(), strict=True)
    return {
        name.partition(f"{split}/")[2]: {"path": str(archive), "offset": offset, "size": size}
        for name, offset, size in places
        if not any(map(is_hidden, name.split("/")))
    }


def _lines(audio: dict) -> list[str]:
    """Returns the lines of a transcript; bytes that are not UTF-8 are surrogates."""
    with open(audio["path"], "rb") if audio.get("offset") is None else open_member(**audio) as file:
        text = file.read().decode("utf-8-sig", errors="surrogateescape")
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []


def _rows(place: Path, files: dict[str, dict], report: ReadingReport) -> Iterator[tuple[str, dict]]:
    """Yields the rows of `files`, audio as in the schema by a name such as `1089/134686/1089-134686-0000.flac`."""
    spoken: dict[str, str] = {}  # names of files by what they are without suffixes
    for name in sorted(files):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in AUDIO_SUFFIXES and spoken.setdefault(stem, name) != name:
            report.read += 1
            report.drop("a second recording of an utterance", str(place / name), spoken[stem])
    used = set()
    for transcript in [name for name in files if name.lower().endswith(".trans.txt")]:
        chapter = os.path.dirname(transcript)
        try:
            lines = _lines(files[transcript])
        except (OSError, ValueError) as error:  # ValueError: of an archive
            report.note(f"{place / transcript}: cannot be read: {error}")
            continue
        for number, line in enumerate(lines, start=1):
            where = f"{place / transcript}:{number}"
            report.read += 1
            name, _, text = line.partition(" ")
            stem = f"{chapter}/{name}"
            if not printable(line) == line or "\0" in line:
                report.drop("is not UTF-8 text", where)
            elif not (text := normalize_text(text)):
                report.drop("empty sentence", where)
            elif stem not in spoken:
                report.drop("no recording", where, f"{stem}.flac")
            elif stem in used:
                report.drop("a second line of an utterance", where, name)
            else:
                yield where, human_utterance(name, files[spoken[stem]], "en", text, name.partition("-")[0])
            used.add(stem)
    for stem in sorted(spoken.keys() - used):
        report.read += 1
        report.drop("not in a transcript", str(place / spoken[stem]))
