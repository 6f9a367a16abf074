"""Reads Common Voice: archives as they were downloaded, extracted releases, and mirrors in Parquet files.

It reads all releases of scripted speech since 5. It finds columns by name, because their order changed once, `accent`
became `accents`, and `variant`, `sentence_id` and `sentence_domain` came later. It reads spontaneous speech, too, as
github.com/common-voice/cv-dataset describes it in datasets/spontaneous-speech/README.md.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain, combinations
from pathlib import Path

from ...audio.tar_index import NameMap
from ...model.text import normalize_text
from ..locales import to_locale
from ..reading import ReadingReport, RowError, check_known, file_name_of, human_utterance, sentence_of, with_durations
from ..tables import Row, check_row, row_problem
from .parquet_mirrors import LABELLED, Skip, mirror_files, mirror_locales, mirror_rows, read_mirror
from .releases import SPONTANEOUS, FoundRelease, Release, clip_durations, find_releases, num_lines, release_rows

COLUMNS = ("client_id", "path", "sentence")
SPONTANEOUS_COLUMNS = ("client_id", "audio_file", "transcription")  # and `split` and `votes`
SPLITS = (*LABELLED, "validated", "other", "unlabelled")
# What is heard and has no letters: [laugh], [noise], [disfluency], [unclear], and others such as [um].
TAG = re.compile(r"\[\w+\]")


def find_locales(root: str | Path, wanted: Sequence[str] | None = None) -> list[str]:
    """Returns the locales that `read_common_voice` reads, or those of them that are wanted; raises as it does."""
    return _find(root, wanted, ReadingReport())[1]


def has_spontaneous_speech(root: str | Path, locale: str) -> bool:
    """Returns whether a locale has a release of spontaneous speech, part of which nobody has transcribed."""
    releases = find_releases(Path(root), []).get(to_locale(locale), [])
    return any(release.kind == SPONTANEOUS for release in releases)


def read_common_voice(
    root: str | Path,
    split: str,
    report: ReadingReport,
    locales: Sequence[str] | None = None,
    beyond_splits: bool = False,
) -> Iterator[dict]:
    """Yields the utterances of one split (`train`, `dev`, `test`, `validated`, `other`, `unlabelled`).

    Spontaneous speech has the rows without a transcript in `unlabelled`. Of the transcribed ones that are in none of
    train, dev and test, it has those for which somebody has voted in `validated`, and the others in `other`. Tags such
    as `[noise]` are removed from transcripts, and a line in the report counts them. Audios that listeners have
    reported are left out.

    Args:
        root: an archive (.tar.gz or .tar), which is read in place, or a folder of archives; an extracted release, or
            its folder of one locale; a Parquet file, or a folder of Parquet files.
        locales: Common Voice's codes; by default all locales of `root`.
        beyond_splits: for `validated` and `other`, which contain clips of the other splits: leaves out the clips of
            train, dev and test. Of `validated`, also leaves out and counts clips with a speaker or a sentence of dev
            or test, so that it can be trained on. The clips of `other` have no text then: nobody has confirmed it.

    A table, archive or Parquet file that cannot be read, or lacks a column, gets a line in the report; rows before the
    damage and the other locales are read.

    Raises:
        ValueError: for a `root` without a release or with two of one locale, and for a locale that it lacks.
    """
    if split not in SPLITS:
        raise ValueError(f"Common Voice has no split {split!r}; choose from {', '.join(SPLITS)}")
    releases, locales = _find(root, locales, report)
    if not releases and not beyond_splits:
        yield from read_mirror(root, split, report, locales)
        return
    for locale in locales:
        skip = _SplitsOf(root, releases.get(locale, []), locale, split) if beyond_splits else None
        if not releases:
            yield from _without_texts(read_mirror(root, split, report, [locale], skip), skip)
        known = releases.get(locale, [])
        for release in known:
            with report.noting_errors():
                opened = release.open()
                report.note_all(opened.problems)
                if release in _with_split(known, split) and (not release.is_delta or _has(opened, split)):
                    read = _spontaneous_rows if release.kind == SPONTANEOUS else _scripted_rows
                    yield from _without_texts(with_durations(read(opened, split, report, skip), report), skip)
                elif release.is_delta and split in LABELLED:
                    report.note(
                        f"{opened.name}: is a delta release, without train, dev and test; --common-voice-also "
                        "validated other reads its clips"
                    )


def common_voice_inputs(root: str | Path, locale: str, splits: Sequence[str] = SPLITS) -> tuple[Path, ...]:
    """Returns the files and folders that `read_common_voice` reads for some splits of a locale."""
    releases = find_releases(Path(root), []).get(to_locale(locale), [])
    if not releases:
        return mirror_files(root, splits)
    inputs = (release.inputs(_tables(release, splits)) for release in (found.open() for found in releases))
    return tuple(dict.fromkeys(chain.from_iterable(inputs)))


def report_speaker_leaks(root: str | Path, report: ReadingReport, locales: Sequence[str] | None = None) -> None:
    """Notes a line in the report for each two of train, dev and test that have speakers in common.

    A single release has no such speakers. If splits of several releases are mixed, or made anew, a model is tested on
    speakers of its training data. Raises ValueError as `read_common_voice` does.
    """
    releases, locales = _find(root, locales, ReadingReport())
    for locale in locales:
        rows = {split: _light_rows(root, releases.get(locale, []), locale, split) for split in LABELLED}
        speakers = {split: {speaker for _, speaker, _ in rows[split]} - {"", None} for split in LABELLED}
        for one, other in combinations(LABELLED, 2):
            if common := sorted(speakers[one] & speakers[other]):
                report.note(
                    f"{root}: {one} and {other} of {locale} have {len(common)} speakers in common, such as "
                    f"{common[0][:16]}"
                )


def _find(
    root: str | Path, locales: Sequence[str] | None, report: ReadingReport
) -> tuple[dict[str, list[FoundRelease]], list[str]]:
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


def _with_split(releases: Sequence[FoundRelease], split: str) -> list[FoundRelease]:
    """Returns the releases of one locale that have a split: the splits of a delta do not fit a full release."""
    if split == "unlabelled":
        return [release for release in releases if release.kind == SPONTANEOUS]
    full = {release.kind for release in releases if not release.is_delta}
    return [release for release in releases if not (release.is_delta and release.kind in full and split in LABELLED)]


def _has(release: Release, split: str) -> bool:
    return release.kind == SPONTANEOUS or split not in LABELLED or release.has(f"{split}.tsv")


def _tables(release: Release, splits: Sequence[str]) -> list[str]:
    if release.kind == SPONTANEOUS:
        return [_table_of(release), _reported_of(release)]
    return [f"{split}.tsv" for split in splits if split != "unlabelled"]


def _table_of(release: Release) -> str:
    return f"ss-corpus-{release.code}.tsv"


def _reported_of(release: Release) -> str:
    return f"ss-reported-audios-{release.code}.tsv"


def _scripted_rows(
    release: Release, split: str, report: ReadingReport, skip: Skip | None
) -> Iterator[tuple[str, dict]]:
    table, count, durations = f"{split}.tsv", 0, None
    for where, row in release_rows(release, table, COLUMNS):
        count += 1
        if skip and not row_problem(row) and skip.has(Path(row["path"]).stem):
            continue
        with report.row(where):
            check_row(row)
            clip, text = file_name_of(row["path"], "path"), sentence_of(row["sentence"])
            if skip:
                skip.check(row["client_id"], text)
            audio = _audio(release, clip)
            utterance = human_utterance(Path(clip).stem, audio, release.locale, text, row["client_id"])
            durations = durations or clip_durations(release, report.note)
            yield where, utterance | {"duration_seconds": durations(clip)}
    lines = num_lines(release, table) - 1
    if count != lines:
        report.note(
            f"{release.name}/{table}: {lines} lines but {count} rows; some lines are empty or hold a carriage return"
        )


def _spontaneous_rows(
    release: Release, split: str, report: ReadingReport, skip: Skip | None
) -> Iterator[tuple[str, dict]]:
    table, reported = _table_of(release), _reported(release, report)
    durations, tags, others = release.measured_durations(), Counter[str](), Counter[str]()
    for where, row in release_rows(release, table, SPONTANEOUS_COLUMNS):
        part = "train" if row_problem(row) else _split_of(row)  # so that one of the splits counts a bad row
        others[part] += part in ("validated", "other")
        if part != split:
            continue
        with report.row(where):
            check_row(row)
            clip = file_name_of(row["audio_file"], "audio_file")
            if clip in reported:
                raise RowError("reported by a listener", reported[clip])
            tags.update(TAG.findall(row["transcription"]))
            text = None if split == "unlabelled" else sentence_of(_without_tags(row["transcription"]))
            if skip:
                skip.check(row["client_id"], text)
            utterance = human_utterance(Path(clip).stem, _audio(release, clip), release.locale, text, row["client_id"])
            yield where, utterance | {"duration_seconds": durations(clip)}
    if tags:
        counts = ", ".join(f"{count} {tag}" for tag, count in tags.most_common())
        report.note(f"{release.name}/{table}: tags are removed from transcripts of {split}: {counts}")
    if split == "train" and others.total():
        report.note(
            f"{release.name}/{table}: {others.total()} transcribed rows are in none of train, dev and test: "
            f"{others['validated']} with votes, which are called validated, and {others['other']} without, which are "
            "called other"
        )


def _split_of(row: Row) -> str:
    """Returns the split of a row of spontaneous speech, as `read_common_voice` has it."""
    if not normalize_text(row["transcription"]):
        return "unlabelled"
    if row.get("split") in LABELLED:
        return row["split"]
    with suppress(ValueError, TypeError):
        if float(row.get("votes")) > 0:
            return "validated"
    return "other"


def _without_tags(text: str) -> str:
    return TAG.sub(" ", re.sub(rf"\s*{TAG.pattern}(?!\w)", "", text))


def _reported(release: Release, report: ReadingReport) -> dict[str, str]:
    """Returns the reasons of audios that listeners have reported; releases since 3.0 do not list those elsewhere."""
    reasons: dict[str, str] = {}
    if release.has(_reported_of(release)):
        with report.noting_errors():
            for _, row in release_rows(release, _reported_of(release), ("audio_file",)):
                if row["audio_file"]:
                    reasons[row["audio_file"]] = row.get("reason") or ""
    return reasons


def _audio(release: Release, clip: str) -> dict:
    if audio := release.audio(clip):
        return audio
    raise RowError("unreadable audio", f"{release.name}/{release.kind}/{clip}: no such file")


def _light_rows(
    root: str | Path, releases: Sequence[FoundRelease], locale: str, split: str
) -> Iterator[tuple[str, str | None, str]]:
    """Yields the name, the speaker and the text of each clip of a split; reading the split reports its problems."""
    with suppress(ValueError):
        if not releases:
            yield from mirror_rows(root, split, locale)
    for release in _with_split(releases, split):
        with suppress(ValueError):
            opened = release.open()
            if release.kind == SPONTANEOUS:
                for _, row in release_rows(opened, _table_of(opened), SPONTANEOUS_COLUMNS):
                    if not row_problem(row) and _split_of(row) == split:
                        yield Path(row["audio_file"]).stem, row["client_id"], _without_tags(row["transcription"])
            else:
                for _, row in release_rows(opened, f"{split}.tsv", COLUMNS):
                    yield Path(row["path"] or "").stem, row["client_id"], row["sentence"] or ""


class _SplitsOf:
    """Holds the clips of train, dev and test of a locale, and the speakers and sentences of dev and test."""

    def __init__(self, root: str | Path, releases: Sequence[FoundRelease], locale: str, split: str):
        self.is_trained_on = split == "validated"
        self.speakers: set[str] = set()
        self.sentences: set[str] = set()
        self.clips = NameMap(self._names(root, releases, locale))

    def _names(self, root: str | Path, releases: Sequence[FoundRelease], locale: str) -> Iterator[str]:
        for split in LABELLED:
            for name, speaker, text in _light_rows(root, releases, locale, split):
                if split != "train":
                    self.speakers.add(speaker or "")
                    self.sentences.add(normalize_text(text))
                yield name

    def has(self, clip: str) -> bool:
        return self.clips.find(clip) is not None

    def check(self, speaker: str | None, text: str | None) -> None:
        """Raises `RowError` for a clip that may not be trained on."""
        if self.is_trained_on and speaker and speaker in self.speakers:
            raise RowError("speaker of dev or test", speaker)
        if self.is_trained_on and text in self.sentences:
            raise RowError("sentence of dev or test", repr(text))


def _without_texts(utterances: Iterator[dict], skip: _SplitsOf | None) -> Iterator[dict]:
    """Yields utterances, without their texts if those may not be trained on."""
    for utterance in utterances:
        yield utterance if skip is None or skip.is_trained_on else utterance | {"text": None, "source": None}
