"""Reads Common Voice: archives as they were downloaded, extracted releases, and mirrors in Parquet files.

All releases since 5 are read: columns are found by name, because their order changed once, `accent` became `accents`,
and `variant`, `sentence_id` and `sentence_domain` came later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import combinations, groupby
from pathlib import Path

from ...model.text import normalize_text
from ..locales import to_locale
from ..reading import ReadingReport, human_utterance, with_durations
from ..tables import row_problem
from .parquet_mirrors import mirror_files, mirror_locales, mirror_speakers, read_mirror
from .releases import Release, find_releases

COLUMNS = ("client_id", "path", "sentence")
SPLITS = ("train", "dev", "test", "validated", "other")


def find_locales(root: str | Path, wanted: Sequence[str] | None = None) -> list[str]:
    """Returns the locales that `read_common_voice` reads, or those of them that are wanted; raises as it does."""
    return _find(root, wanted)[1]


def read_common_voice(
    root: str | Path, split: str, report: ReadingReport, locales: Sequence[str] | None = None
) -> Iterator[dict]:
    """Yields the utterances of one split (`train`, `dev`, `test`, `validated`, `other`).

    Args:
        root: An archive (.tar.gz or .tar), which is read in place, or a folder of archives; an extracted release, or
            its folder of one locale; a Parquet file, or a folder of them.
        locales: Common Voice's codes; by default all that are there.

    A locale whose table is missing, damaged or lacks a needed column gives nothing, or what comes before the damage,
    and a line in the report; so do an archive and a Parquet file that cannot be read, beside others.

    Raises:
        ValueError: for what holds no release, a locale that it lacks, and two releases of one locale.
    """
    if split not in SPLITS:
        raise ValueError(f"Common Voice has no split {split!r}; choose from {', '.join(SPLITS)}")
    releases, locales = _find(root, locales, report)
    if not releases:
        yield from read_mirror(root, split, report, locales)
    for locale in locales if releases else ():
        try:
            yield from _utterances(releases[locale](), split, report)
        except ValueError as error:
            report.note(str(error))


def _utterances(release: Release, split: str, report: ReadingReport) -> Iterator[dict]:
    for line in release.problems:
        report.note(line)
    rows = _rows(release, split, report)
    for known, group in groupby(rows, key=lambda row: "duration_seconds" in row[1]):  # noqa: B031 - one of two uses
        if known:
            yield from (utterance for _, utterance in group)
        else:
            yield from with_durations(group, report)


def common_voice_inputs(root: str | Path, locale: str, splits: Sequence[str] = SPLITS) -> tuple[Path, ...]:
    """Returns the files and folders from which `read_common_voice` reads some splits of a locale."""
    release = find_releases(Path(root)).get(to_locale(locale))
    return release().inputs([f"{split}.tsv" for split in splits]) if release else mirror_files(root, splits)


def report_speaker_leaks(root: str | Path, report: ReadingReport, locales: Sequence[str] | None = None) -> None:
    """Notes a line in the report for each two of train, dev and test that have speakers in common.

    There are none within a release. Where splits of several releases are mixed, or made anew, a model is tested on
    speakers that it has learned. Raises what `read_common_voice` does.
    """
    releases, locales = _find(root, locales)
    for locale in locales:
        release, speakers = releases[locale]() if releases else None, {}
        for split in ("train", "dev", "test"):
            speakers[split] = set()
            with suppress(ValueError):  # which reading the split reports
                if release is None:
                    speakers[split] = mirror_speakers(root, split, locale)
                else:
                    speakers[split] = {row["client_id"] for _, row in release.rows(f"{split}.tsv", ["client_id"])}
        for one, other in combinations(speakers, 2):
            if common := sorted(speakers[one] & speakers[other] - {"", None}):
                report.note(
                    f"{root}: {one} and {other} of {locale} have {len(common)} speakers in common, such as "
                    f"{common[0][:16]}"
                )


def _find(
    root: str | Path, locales: Sequence[str] | None, report: ReadingReport | None = None
) -> tuple[dict[str, Callable[[], Release]], list[str]]:
    """Returns the releases by locale, none for Parquet files, and the locales that are wanted."""
    root, problems = Path(root), []
    releases = find_releases(root, problems)
    found = list(releases) or mirror_locales(root, problems)
    for line in problems if report is not None else ():
        report.note(line)
    if not found:
        raise ValueError(
            f"{root}: no Common Voice release; expected folders such as {root / 'sl' / 'clips'}, archives such as "
            "cv-corpus-6.1-2020-12-11-sl.tar.gz, or Parquet files. Releases come from "
            "https://datacollective.mozillafoundation.org"
        )
    wanted = [to_locale(locale) for locale in locales or found]
    if missing := sorted(set(wanted) - set(found)):
        raise ValueError(f"{root}: no clips of {', '.join(missing)}; there are {', '.join(found)}")
    return releases, wanted


def _rows(release: Release, split: str, report: ReadingReport) -> Iterator[tuple[str, dict]]:
    table, count, durations = f"{split}.tsv", 0, None
    for where, row in release.rows(table, COLUMNS):
        report.read += 1
        count += 1
        clip, text = row["path"] or "", normalize_text(row["sentence"] or "")
        if problem := row_problem(row):
            report.drop(problem, where)
        elif not clip or Path(clip).name != clip:
            report.drop("path is not a file name", where, repr(clip))
        elif not text:
            report.drop("empty sentence", where)
        elif (audio := release.audio(clip)) is None:
            report.drop("unreadable audio", where, f"{release.name}/clips/{clip}: no such file")
        else:
            durations = durations or release.durations(report.note)
            seconds = durations(clip)
            utterance = human_utterance(Path(clip).stem, audio, release.locale, text, row["client_id"])
            yield where, utterance | ({} if seconds is None else {"duration_seconds": seconds})
    lines = release.num_lines(table) - 1
    if count != lines:
        report.note(
            f"{release.name}/{table}: {lines} lines but {count} rows; some lines are empty or hold a carriage return"
        )
