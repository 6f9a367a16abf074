"""Reads plain folders of recordings, with texts or segmentations in files of the same names if there are any."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...audio.folder_walk import is_hidden
from ...audio.reading import is_recording
from ...model.text import normalize_text
from ..locales import noted_locale, to_locale
from ..reading import ReadingReport, RowError, check_languages, human_utterance
from ..recordings import (
    DECIMALS,
    NO_PART,
    fold_name,
    nearest_name,
    part_of,
    walk,
    with_part_durations,
)
from ..tables import read_text
from .kaldi import is_kaldi
from .segmentations import SUFFIXES, Interval
from .segmented_folders import Segmentations

TEXT_SUFFIXES = (".txt", ".lab")
# Labels with times of HTK (in units of 100 ns) and Audacity (in seconds): `start end label`.
TIMED_LABEL = re.compile(r"\s*(\d+)\s+(\d+)\s+\S|\d+[.,]\d+\t\d+[.,]\d+(\t|$)")
MIN_HTK_END = 10_000  # a millisecond; `2 3 people` ends earlier


def read_folder(
    root: str | Path,
    report: ReadingReport,
    language: str | None = None,
    locales: Sequence[str] | None = None,
    segmentations: Sequence[str | Path] = (),
    tiers: Sequence[str] = (),
    encoding: str | None = None,
) -> Iterator[dict]:
    """Yields utterances of all recordings below a folder, in the order of their names; ids are paths below `root`.

    Files behind links to folders come last; each folder is read once, under its own name if that is below `root`.

    `a/b.wav` has the text of `a/b.txt` or `a/b.lab` if there is one, in UTF-8, or in UTF-16 with a byte order mark; an
    empty file is no text. Symbolic links are followed, and names that begin with a dot are left out.

    If there is `a/b.eaf`, `a/b.TextGrid`, `a/b.vtt`, `a/b.srt` or `a/b.rttm`, its intervals are the utterances, with
    the text and speaker that they have. An RTTM file segments all recordings that it names, in its folder and below.
    An eaf of another name segments the recording that it links.

    Args:
        language: of all recordings; by default the name of the sub-folder of `root` that contains a recording.
        locales: languages to keep; by default all.
        segmentations: files, and folders of files, to use instead of those beside the recordings.
        tiers: names of tiers of TextGrid and eaf files to read; see `read_segmentation`.
        encoding: of texts and segmentations without a byte order mark; by default UTF-8.

    Raises:
        ValueError: for a folder that is missing or has no recordings, or none of the locales, and for `segmentations`
            that are missing.
        ImportError: for subtitles, without the extra `annotations`.
    """
    root = Path(root).absolute()  # so that utterance files can be used from anywhere
    wanted = {*map(to_locale, locales or ())}
    if language is None:
        found = {to_locale(path.name) for path in root.glob("*") if path.is_dir() and not is_hidden(path.name)}
        check_languages(wanted, sorted(found), f"{root}: no folder of the language", report)
    before = report.read
    segmented = Segmentations(root, report, segmentations, tiers, encoding)
    rows = _rows(root, language, wanted, segmented, encoding, report)
    yield from with_part_durations(rows, report, check_ids=False, may_be_cut=False)
    if report.read == before:
        hint = "; --manifests reads data directories of Kaldi" * is_kaldi(root)
        raise ValueError(f"{root}: no recordings, such as {root / (language or 'sl') / 'a.wav'}{hint}")


def _rows(
    root: Path,
    language: str | None,
    wanted: set[str],
    segmented: Segmentations,
    encoding: str | None,
    report: ReadingReport,
) -> Iterator[tuple[str, dict]]:
    passed_over: Counter[str] = Counter()
    unread: set[Path] = set()  # texts without a recording
    left_out: list[Path] = []  # texts of recordings with a segmentation
    whole: list[Path] = []  # recordings without one
    for folder, folders, names in walk(root, report):
        if folder == str(root) and language is None and wanted:
            folders[:] = [name for name in folders if to_locale(name) in wanted]
        texts: dict[str, list[str]] = {}
        for name in names:
            if name.lower().endswith(TEXT_SUFFIXES):
                texts.setdefault(fold_name(name), []).append(name)
                unread.add(Path(folder, name))
        for path in (Path(folder, name) for name in names if not name.lower().endswith((*TEXT_SUFFIXES, *SUFFIXES))):
            if not is_recording(str(path)):
                passed_over[path.suffix.lower() or path.name] += 1
                continue
            below, ids = path.relative_to(root), Counter[str]()
            locale = noted_locale(language or (below.parts[0] if len(below.parts) > 1 else None), report)
            text_path = _text_file(path, texts)
            unread.discard(text_path)
            if path in segmented:
                left_out += filter(None, [text_path])
            elif segmented:
                whole.append(path)
            for where, interval in _intervals(path, locale, text_path, segmented, encoding):
                with report.row(where):
                    if isinstance(interval, RowError):
                        raise interval
                    start, end = (time and round(time, DECIMALS) for time in part_of(interval))
                    if start is not None and start == end:
                        raise RowError(NO_PART, f"it starts and ends at {start:g} s")
                    name = below.as_posix() + ("" if end is None else f"_{start}-{end}")
                    ids[name] += 1
                    name += f"-{ids[name]}" * (ids[name] > 1)  # of two people who speak at once
                    audio = {"path": str(path), "start": start, "end": end}
                    text = normalize_text(interval["text"])
                    yield where, human_utterance(name, audio, locale, text, interval.get("speaker"))
    if unread:
        report.note(f"{root}: {len(unread)} texts have no recording beside them, such as {min(unread)}")
    if left_out:
        kind = "texts that are not read, because their recordings have segmentations"
        report.note(f"{root}: {kind}: {len(left_out)}, such as {left_out[0]}")
    if whole:
        report.note(f"{root}: recordings without a segmentation, which are not cut: {len(whole)}, such as {whole[0]}")
    if passed_over:
        suffixes = ", ".join(f"{count} {suffix}" for suffix, count in passed_over.most_common(10))
        report.note(f"{root}: {passed_over.total()} files are neither recordings nor texts: {suffixes}")


def _intervals(
    path: Path, locale: str, text_path: Path | None, segmented: Segmentations, encoding: str | None
) -> Iterator[Interval]:
    """Yields the intervals of a recording, or one for all of it, or one error."""
    try:
        if not locale:
            raise RowError("in no folder of a language", "move it into one, or name its language")
        if path in segmented:
            yield from segmented.intervals(path)
        else:
            yield str(path), {"text": _text(text_path, encoding) if text_path else ""}
    except RowError as error:
        yield str(path), error
    except (OSError, ValueError, LookupError) as error:
        yield str(path), RowError("text cannot be read", f"{text_path}: {error}")


def _text_file(recording: Path, texts: dict[str, list[str]]) -> Path | None:
    """Returns the text file of a recording, of names by their folded forms; the first suffix goes before others."""
    for suffix in TEXT_SUFFIXES:
        by_stem = {os.path.splitext(name)[0]: name for name in texts.get(fold_name(recording.stem + suffix), ())}
        if nearest := nearest_name(recording.stem, by_stem):
            return recording.with_name(by_stem[nearest])
    return None


def _text(path: Path, encoding: str | None) -> str:
    """Returns the normalised text of a file; raises ValueError for another encoding, and for labels with times."""
    text = read_text(path, encoding)
    labels = [TIMED_LABEL.match(line) for line in text.splitlines() if line.strip()]
    if labels and all(labels) and (labels[-1][2] is None or int(labels[-1][2]) >= MIN_HTK_END):
        raise ValueError("it has labels with times; write the words alone into a .txt file of the same name")
    return normalize_text(text)
