"""LibriSpeech: `{split}/{speaker}/{chapter}/*.flac` with a `.trans.txt` in each chapter, extracted or as archives."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..containers import open_member
from ..tars import tar_index
from ..text import normalize_text
from .utterances import ReadingReport, with_durations

SPLITS = tuple(f"train-{part}" for part in ("clean-100", "clean-360", "other-500")) + tuple(
    f"{split}-{part}" for split in ("dev", "test") for part in ("clean", "other")
)


def read_librispeech(root: str | Path, split: str, report: ReadingReport) -> Iterator[dict]:
    """Utterances of one split, such as `test-clean`, in `en`; their texts are upper case and without punctuation.

    Args:
        root: the folder `LibriSpeech`, the one around it, or one with the archives, such as `test-clean.tar.gz`, which
            are not extracted.

    Raises:
        ValueError: where the split is not there.
    """
    root = Path(root).absolute()  # so that utterance files can be used from anywhere
    for folder in (root / split, root / "LibriSpeech" / split):
        if folder.is_dir():
            return with_durations(_rows(folder, dict(_files(folder)), report), report)
    for archive in (root / f"{split}.tar.gz", root / f"{split}.tar"):
        if archive.is_file():
            return with_durations(_rows(archive, _members(archive, split, report), report), report)
    there = ", ".join(librispeech_splits(root))
    raise ValueError(f"{root}: no split {split} of LibriSpeech; there are {there or 'none'}")


def librispeech_splits(root: str | Path) -> list[str]:
    """The splits that `read_librispeech` finds."""
    places = "{}", "LibriSpeech/{}", "{}.tar.gz", "{}.tar"
    return [name for name in SPLITS if any(Path(root, place.format(name)).exists() for place in places)]


def _files(folder: Path) -> Iterator[tuple[str, dict]]:
    for path, folders, names in os.walk(folder):
        folders.sort()
        relative = os.path.relpath(path, folder)
        yield from ((f"{relative}/{name}", {"path": os.path.join(path, name)}) for name in sorted(names))


def _members(archive: Path, split: str, report: ReadingReport) -> dict[str, dict]:
    index = tar_index(archive)
    for problem in index.problems:
        report.note(problem)
    places = zip(index.names(), index.offsets.tolist(), index.sizes.tolist(), strict=True)
    return {
        name.partition(f"{split}/")[2]: {"path": str(archive), "offset": offset, "size": size}
        for name, offset, size in places
    }


def _content(audio: dict) -> bytes:
    with open(audio["path"], "rb") if audio.get("offset") is None else open_member(**audio) as file:
        return file.read()


def _rows(place: Path, files: dict[str, dict], report: ReadingReport) -> Iterator[tuple[str, dict]]:
    """Rows of what `files` has: the audio of the schema by a name such as `1089/134686/1089-134686-0000.flac`."""
    spoken = {name for name in files if name.endswith(".flac")}
    for transcript in [name for name in files if name.endswith(".trans.txt")]:
        chapter = os.path.dirname(transcript)
        for number, line in enumerate(_content(files[transcript]).decode(errors="replace").splitlines(), start=1):
            where = f"{place / transcript}:{number}"
            report.read += 1
            name, _, text = line.partition(" ")
            recording = f"{chapter}/{name}.flac"
            if not (text := normalize_text(text)):
                report.drop("empty sentence", where)
            elif recording not in files:
                report.drop("no recording", where, f"{recording}")
            else:
                yield (
                    where,
                    {
                        "id": name,
                        "audio": files[recording],
                        "language": "en",
                        "text": text,
                        "speaker": name.partition("-")[0],
                        "source": "human",
                    },
                )
            spoken.discard(recording)
    for recording in sorted(spoken):
        report.read += 1
        report.drop("not in a transcript", str(place / recording))
