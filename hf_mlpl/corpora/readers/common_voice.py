"""Reads Common Voice: archives as they were downloaded, extracted releases, and mirrors in Parquet files.

It reads all releases since 5. It finds columns by name, because their order changed once, `accent` became `accents`,
and `variant`, `sentence_id` and `sentence_domain` came later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import combinations
from pathlib import Path

from ..locales import to_locale
from ..reading import ReadingReport, RowError, check_known, file_name_of, human_utterance, sentence_of, with_durations
from ..tables import check_row
from .parquet_mirrors import mirror_files, mirror_locales, mirror_speakers, read_mirror
from .releases import Release, clip_durations, find_releases, num_lines, release_rows

COLUMNS = ("client_id", "path", "sentence")
SPLITS = ("train", "dev", "test", "validated", "other")


def find_locales(root: str | Path, wanted: Sequence[str] | None = None) -> list[str]:
    """Returns the locales that `read_common_voice` reads, or those of them that are wanted; raises as it does."""
    return _find(root, wanted, ReadingReport())[1]


def read_common_voice(
    root: str | Path, split: str, report: ReadingReport, locales: Sequence[str] | None = None
) -> Iterator[dict]:
    """Yields the utterances of one split (`train`, `dev`, `test`, `validated`, `other`).

    Args:
        root: an archive (.tar.gz or .tar), which is read in place, or a folder of archives; an extracted release, or
            its folder of one locale; a Parquet file, or a folder of Parquet files.
        locales: Common Voice's codes; by default all locales of `root`.

    A table, archive or Parquet file that cannot be read, or lacks a column, gets a line in the report; rows before the
    damage and the other locales are read.

    Raises:
        ValueError: for a `root` without a release or with two of one locale, and for a locale that it lacks.
    """
    if split not in SPLITS:
        raise ValueError(f"Common Voice has no split {split!r}; choose from {', '.join(SPLITS)}")
    releases, locales = _find(root, locales, report)
    if not releases:
        yield from read_mirror(root, split, report, locales)
    for locale in locales if releases else ():
        with report.noting_errors():
            release = releases[locale]()
            report.note_all(release.problems)
            yield from with_durations(_rows(release, split, report), report)


def common_voice_inputs(root: str | Path, locale: str, splits: Sequence[str] = SPLITS) -> tuple[Path, ...]:
    """Returns the files and folders that `read_common_voice` reads for some splits of a locale."""
    release = find_releases(Path(root), []).get(to_locale(locale))
    return release().inputs([f"{split}.tsv" for split in splits]) if release else mirror_files(root, splits)


def report_speaker_leaks(root: str | Path, report: ReadingReport, locales: Sequence[str] | None = None) -> None:
    """Notes a line in the report for each two of train, dev and test that have speakers in common.

    A single release has no such speakers. If splits of several releases are mixed, or made anew, a model is tested on
    speakers of its training data. Raises ValueError as `read_common_voice` does.
    """
    releases, locales = _find(root, locales, ReadingReport())
    for locale in locales:
        release = releases[locale]() if releases else None
        speakers: dict[str, set[str | None]] = {"train": set(), "dev": set(), "test": set()}
        for split in speakers:
            with suppress(ValueError):  # reading the split reports it
                if release is None:
                    speakers[split] = mirror_speakers(root, split, locale)
                else:
                    speakers[split] = {
                        row["client_id"] for _, row in release_rows(release, f"{split}.tsv", ["client_id"])
                    }
        for one, other in combinations(speakers, 2):
            if common := sorted(speakers[one] & speakers[other] - {"", None}):
                report.note(
                    f"{root}: {one} and {other} of {locale} have {len(common)} speakers in common, such as "
                    f"{common[0][:16]}"
                )


def _find(
    root: str | Path, locales: Sequence[str] | None, report: ReadingReport
) -> tuple[dict[str, Callable[[], Release]], list[str]]:
    """Returns the releases by locale, none for Parquet files, and the wanted locales."""
    root = Path(root)
    problems: list[str] = []
    releases = find_releases(root, problems)
    found = list(releases) or mirror_locales(root, problems)
    report.note_all(problems)
    if not found:
        raise ValueError(
            f"{root}: no Common Voice release; expected folders such as {root / 'sl' / 'clips'}, archives such as "
            "cv-corpus-6.1-2020-12-11-sl.tar.gz, or Parquet files. Releases come from "
            "https://datacollective.mozillafoundation.org"
        )
    wanted = [to_locale(locale) for locale in locales or found]
    check_known(wanted, found, f"{root}: no clips of")
    return releases, wanted


def _rows(release: Release, split: str, report: ReadingReport) -> Iterator[tuple[str, dict]]:
    table, count, durations = f"{split}.tsv", 0, None
    for where, row in release_rows(release, table, COLUMNS):
        count += 1
        with report.row(where):
            check_row(row)
            clip, text = file_name_of(row["path"], "path"), sentence_of(row["sentence"])
            audio = release.audio(clip)
            if audio is None:
                raise RowError("unreadable audio", f"{release.name}/clips/{clip}: no such file")
            utterance = human_utterance(Path(clip).stem, audio, release.locale, text, row["client_id"])
            durations = durations or clip_durations(release, report.note)
            yield where, utterance | {"duration_seconds": durations(clip)}
    lines = num_lines(release, table) - 1
    if count != lines:
        report.note(
            f"{release.name}/{table}: {lines} lines but {count} rows; some lines are empty or hold a carriage return"
        )
