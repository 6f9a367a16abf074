"""Reads data directories of Kaldi: `wav.scp`, and optionally `segments`, `text`, `utt2spk` and `utt2lang`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from ...model.text import normalize_text
from ..locales import noted_locale
from ..reading import ReadingReport, RowError, human_utterance
from ..recordings import FileNames, local_path, part_of, with_part_durations
from ..tables import DAMAGED, check_encoding, decode_text, open_binary

RECORDINGS, SEGMENTS, TEXTS, SPEAKERS, LANGUAGES = "wav.scp", "segments", "text", "utt2spk", "utt2lang"
NO_VALUE = "-1"  # as the end of a segment, which is that of its recording, and as its channel
IN_ARCHIVE = re.compile(r".*:\d+(\[.*\])?")  # `a.ark:17`


def is_kaldi(folder: Path) -> bool:
    """Returns whether a folder is a data directory of Kaldi."""
    return (folder / RECORDINGS).is_file()


def read_kaldi(
    folder: str | Path, report: ReadingReport, language: str | None = None, encoding: str | None = None
) -> Iterator[dict]:
    """Yields the utterances of a data directory of Kaldi: those of `segments`, or else whole recordings.

    Utterances without a line in `text` are unlabelled speech. Paths are relative to the folder, to the working
    directory, or to a folder above, such as that of the recipe. Commands in `wav.scp` are never run: their recordings,
    and those in archives of Kaldi, are left out and counted. So are segments of one channel, because we average the
    channels of a file.

    Args:
        language: of all utterances; by default from `utt2lang`.
        encoding: of the files; by default UTF-8.

    Raises:
        ValueError: for a folder without `wav.scp`, and for files that are in another encoding.
    """
    folder = Path(folder).absolute()
    if not is_kaldi(folder):
        raise ValueError(f"{folder}: no data directory of Kaldi, which has a {RECORDINGS}")
    for name in (RECORDINGS, TEXTS):
        if (folder / name).is_file():
            check_encoding(folder / name, encoding)
    before = report.read
    yield from with_part_durations(_rows(folder, report, language, encoding), report)
    if report.read == before:
        report.note(f"{folder}: no utterances")


def _rows(
    folder: Path, report: ReadingReport, language: str | None, encoding: str | None
) -> Iterator[tuple[str, dict]]:
    files, places = FileNames(), (folder, os.curdir, folder.parent, folder.parent.parent)
    texts, speakers, languages = (_table(folder / name, encoding) for name in (TEXTS, SPEAKERS, LANGUAGES))
    segmented = (folder / SEGMENTS).is_file()
    recordings = _table(folder / RECORDINGS, encoding) if segmented else {}
    unspoken = set(texts)
    for where, name, rest in _lines(folder / (SEGMENTS if segmented else RECORDINGS), encoding):
        with report.row(where):
            recording, start, end, channel, *_ = [*rest.split(), "", "", "", ""] if segmented else (name, "", "", "")
            source = recordings.get(recording) if segmented else rest
            unspoken.discard(name)
            if DAMAGED in f"{name} {rest} {source} {texts.get(name)}":
                raise RowError(f"bytes that are not {encoding or 'UTF-8'}", "--encoding names their encoding")
            if segmented and not (start and end):
                raise RowError("not a line of segments", f"{rest!r}; a recording, a start and an end are accepted")
            if channel not in ("", NO_VALUE):
                raise RowError("one channel of several", f"channel {channel}; make files of single channels")
            if not source:
                raise RowError("no recording", f"{recording!r} is not in {RECORDINGS}")
            if "|" in (source[0], source[-1]):
                raise RowError("its audio is made by a command", f"{source!r}: run it once, and name its file")
            locale = noted_locale(language or languages.get(name) or None, report)
            if not locale:
                raise RowError("no language")
            path = files.locate(local_path(source), places)
            if IN_ARCHIVE.fullmatch(source) and not os.path.exists(path):
                raise RowError("its audio is in an archive of Kaldi", f"{source!r}: copy it to files, and name them")
            start, end = part_of({"start": start, "end": "" if end == NO_VALUE else end})
            audio = {"path": path, "start": start, "end": end}
            text = normalize_text(texts.get(name, ""))
            yield where, human_utterance(name, audio, locale, text, speakers.get(name) or None)
    if unspoken:
        report.note(f"{folder / TEXTS}: texts without an utterance: {len(unspoken)}, such as {min(unspoken)}")


def _table(path: Path, encoding: str | None) -> dict[str, str]:
    return {name: rest for _, name, rest in _lines(path, encoding)} if path.is_file() else {}


def _lines(path: Path, encoding: str | None) -> Iterator[tuple[str, str, str]]:
    """Yields `file:line`, and the first column and the rest of each line."""
    with open_binary(path) as file:
        for number, line in enumerate(decode_text(file, encoding), start=1):
            name, *rest = line.split(maxsplit=1) or [""]
            if name:
                yield f"{path}:{number}", name, "".join(rest).strip()
