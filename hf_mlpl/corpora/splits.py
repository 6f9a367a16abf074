"""Sorts the utterances of one's own speech into train, dev, test and unlabelled speech, by speakers or shares."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..model.text import normalize_text
from ..storage import is_remote
from .locales import to_locale
from .reading import ReadingReport, check_known

SPLIT_WORDS = {  # in names of splits and files; the words are those of the library datasets
    "train": ("train", "training"),
    "dev": ("dev", "val", "valid", "validation"),
    "test": ("test", "testing", "eval", "evaluation"),
}
MOST = 1.5  # times the share, beyond which a split is reported
NEARLY_ALL = 0.9  # of the speech of a language

Group = tuple[str, str]  # ("speaker", name) or ("recording", path), whose utterances are all in one split


def split_of_name(name: str) -> str:
    """Returns the split that a word in a name means, such as dev for `sl-dev.lst`, or train if there is none."""
    split_of = {word: split for split, words in SPLIT_WORDS.items() for word in words}
    return next((split_of[word] for word in re.split("[^a-z]+", name.lower()) if word in split_of), "train")


def of_languages(utterances: Iterable[dict], locales: Sequence[str] | None, report: ReadingReport) -> Iterator[dict]:
    """Yields the utterances of some languages, by default of all; rows of others do not count as read."""
    accepted = {*map(to_locale, locales or ())}
    for utterance in utterances:
        if accepted and utterance["language"] not in accepted:
            report.read -= 1
        else:
            yield utterance


@dataclass(frozen=True)
class Corpus:
    """Describes what is sorted together with others, such as one of several tables.

    Args:
        root: folder to which the names of recordings are relative, so that moving it changes no share.
        split: of all its utterances, unless that is train.
    """

    utterances: Iterable[dict]
    root: Path
    split: str = "train"


@dataclass(frozen=True)
class Splits:
    """Says which utterances of train are for dev and test, or unlabelled.

    A share of each language is chosen by hashes of the names of its speakers, or of its recordings where they have no
    speaker: the same ones every time, also when others are added, unless few speakers make the share too large or
    empty. All utterances of a speaker, and all parts of a recording, are in one split. Only where one speaker has all
    of a language, the recordings are divided.

    Args:
        train_speakers: if they are given, the texts of all speakers who are in no split become references of
            unlabelled speech.
        dev_share, test_share: from 0 to 1, of the seconds with a text.
    """

    train_speakers: Sequence[str] | None = None
    dev_speakers: Sequence[str] = ()
    test_speakers: Sequence[str] = ()
    dev_share: float = 0.0
    test_share: float = 0.0

    def sort(self, corpora: Iterable[Corpus], report: ReadingReport, name: object | None) -> dict[str, list[dict]]:
        """Returns the utterances by split, without empty splits; those without a text are unlabelled speech.

        Drops utterances without a text from a corpus that is dev or test.

        Args:
            name: of the corpora, for messages; None for what was read in part, whose speakers are noted if
                they are missing.

        Raises:
            ValueError: for a speaker who is in two splits, or in none of the corpora.
        """
        given = {"train": self.train_speakers or (), "dev": self.dev_speakers, "test": self.test_speakers}
        named = [(normalize_text(speaker), split) for split, speakers in given.items() for speaker in speakers]
        by_speaker = dict(named)
        if twice := [speaker for speaker, count in Counter(speaker for speaker, _ in named).items() if count > 1]:
            raise ValueError(f"speakers in more than one split: {', '.join(sorted(twice))}")
        found: set[str] = set()
        utterances: dict[str, list[dict]] = {"train": [], "dev": [], "test": [], "unlabelled": []}
        roots: list[Path] = []  # of the utterances of train
        for corpus in corpora:
            for utterance in corpus.utterances:
                speaker, split = normalize_text(utterance["speaker"] or ""), corpus.split
                found.add(speaker)
                if split == "train":
                    split = by_speaker.get(speaker, "train" if self.train_speakers is None else "unlabelled")
                if utterance["source"] == "reference":
                    split = "unlabelled"
                elif not utterance["text"]:
                    if corpus.split != "train":
                        report.drop("empty sentence", utterance["id"])
                        continue
                    split = "unlabelled"
                elif split == "unlabelled":
                    utterance = utterance | {"source": "reference"}
                if split == "train":
                    roots.append(corpus.root)
                utterances[split].append(utterance)
        if name is None:
            report.note_all(f"no clips of the speaker {speaker}" for speaker in by_speaker.keys() - found)
        else:
            check_known(by_speaker, sorted(found - {""}), f"{name}: no clips of the speakers")
        if self.dev_share or self.test_share:
            if not utterances["train"]:
                report.note("no speech has a text, so that dev and test have no share of it")
            rows, utterances["train"] = utterances["train"], []
            for row, split in zip(rows, self._shares(rows, roots, report), strict=True):
                utterances[split].append(row)
        return {split: rows for split, rows in utterances.items() if rows}

    def _shares(self, rows: Sequence[dict], roots: Sequence[Path], report: ReadingReport) -> list[str]:
        """Returns the split of each utterance of train."""
        voices: defaultdict[str, set[str]] = defaultdict(set)  # speakers by language, "" if one is not known
        for row in rows:
            voices[row["language"]].add(normalize_text(row["speaker"] or ""))
        groups: list[Group] = []
        seconds: defaultdict[str, Counter[Group]] = defaultdict(Counter)
        for row, root in zip(rows, roots, strict=True):
            speaker, place = normalize_text(row["speaker"] or ""), row["audio"].get("offset")
            if speaker and len(voices[row["language"]]) > 1:
                groups.append(("speaker", speaker))
            else:
                groups.append(("recording", _name_below(row["audio"]["path"], root) if place is None else row["id"]))
            seconds[row["language"]][groups[-1]] += row["duration_seconds"]
        alone = {language: speaker for language, (speaker, *others) in voices.items() if speaker and not others}
        for language, speaker in alone.items():
            report.note(f"{language}: all texts are of the speaker {speaker}, whose recordings are divided")
        split_of = {("speaker", speaker): "train" for speaker in alone.values()}
        for split, share in (("dev", self.dev_share), ("test", self.test_share)):
            kept: set[Group] = set()  # in train
            # Languages with few speakers choose first, so that no other language takes all of theirs.
            for language in sorted(seconds, key=lambda language: (len(seconds[language]), language)) if share else ():
                _take(split, share, language, seconds[language], split_of, kept, report)
        return [split_of.get(group, "train") for group in groups]


def _take(
    split: str,
    share: float,
    language: str,
    seconds: Counter[Group],
    split_of: dict[Group, str],
    kept: set[Group],
    report: ReadingReport,
) -> None:
    """Adds the split of groups of a language to `split_of`, and those that stay in train to `kept`."""
    total = seconds.total()
    limit = MOST * share * total  # of what speakers may have together, because one of them may have most of the speech
    order = sorted(seconds, key=lambda group: _draw(split, group))
    taken = [group for group in order if split_of.get(group) == split]
    free = [group for group in order if group not in split_of and group not in kept]
    others = sum(split_of.get(group, "train") == "train" for group in order) - len(free)  # which stay in train
    for group in [group for group in free if _draw(split, group) < share]:
        fits = group[0] == "recording" or sum(seconds[each] for each in (*taken, group)) <= limit
        if fits and len(free) + others > 1:
            taken.append(group)
            free.remove(group)
    if not taken and free and len(free) + others > 1:
        fitting = [group for group in free if seconds[group] <= limit]
        taken = [fitting[0] if fitting else min(free, key=seconds.__getitem__)]
    split_of |= dict.fromkeys(taken, split)
    kept |= {*free} - {*taken}
    kind = "speakers" if any(kind == "speaker" for kind, _ in order) else "recordings"
    (most, longest), part = seconds.most_common(1)[0], sum(seconds[group] for group in taken) / total
    if not taken:
        report.note(f"{language}: has nothing for {split}, because no {kind} would be left for train")
    elif part > MOST * share:
        report.note(f"{language}: {split} has {part:.0%} of the speech, because {kind} are not divided")
    if most[0] == "speaker" and longest > NEARLY_ALL * total:
        report.note(f"{language}: the speaker {most[1]} has {longest / total:.0%} of the speech")


def _name_below(path: str, root: Path) -> str:
    """Returns a path relative to `root`; of one elsewhere, as in a cache, only the ends, which stay when it moves."""
    if is_remote(path):
        return path
    name = Path(os.path.relpath(path, root))
    return str(name) if os.pardir not in name.parts else os.path.join(*name.parts[-2:])


def _draw(split: str, group: Group) -> float:
    """Returns a number from 0 to 1 that depends on the names alone."""
    digest = hashlib.sha256(os.fsencode("\0".join((split, *group)))).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
