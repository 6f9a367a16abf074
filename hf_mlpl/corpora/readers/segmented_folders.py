"""Finds the segmentation of each recording in a folder: by its name, by the links of an eaf, or in an RTTM file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...audio.reading import is_recording
from ...error_line import error_line
from ..reading import ReadingReport, RowError
from ..recordings import fold_name, walk
from .segmentations import SUFFIXES, Interval, media_of_eaf, read_rttm, read_segmentation, shortened

BEST_FIRST = (".wav", ".flac")  # of recordings of one name, such as the sound of a film beside the film


@dataclass(eq=False)
class _Segmentation:
    """Describes a file, or what an RTTM file has of one recording."""

    path: Path
    name: str  # of its recording, without or with suffix
    other_names: list[str] = field(default_factory=list)  # which count if there is no recording of its name
    links: list[str] = field(default_factory=list)  # of an eaf, relative to its folder
    turns: list[Interval] | None = None  # of RTTM
    folder: str = ""  # below which its recordings lie, or ""
    below: str = ""  # its folder relative to the one that was given
    is_linked: bool = False  # has not the name of its recording, but an eaf's link to it

    def __str__(self) -> str:
        return str(self.path) if self.turns is None else f"{self.path} ({self.name})"


class Segmentations:
    """Maps the recordings below a folder to their segmentations.

    Args:
        root: the folder of the recordings.
        given: files, and folders of files, with segmentations; by default those beside the recordings.
        tiers, encoding: see `read_segmentation`.

    Raises:
        ValueError: if one of `given` is missing or no segmentation.
    """

    def __init__(
        self,
        root: Path,
        report: ReadingReport,
        given: Sequence[str | Path] = (),
        tiers: Sequence[str] = (),
        encoding: str | None = None,
    ):
        self._tiers, self._encoding = tiers, encoding
        self._of: dict[str, list[_Segmentation]] = {}
        self._problems: dict[str, RowError] = {}
        self._chosen: dict[str, str] = {}  # the recordings that are read instead of others with the same segmentation
        found = [
            each
            for path, below in _files(root, given, report)
            for each in _segmentations(path, below, encoding, report)
        ]
        if not found:
            return
        for each in found if not given else ():
            each.folder = str(each.path.parent)
        recordings = _recordings(root, found, report)
        alone = [str(each) for each in found if not self._assign(each, recordings, root)]
        for path, several in self._of.items():
            several.sort(key=lambda each: each.is_linked)
            named = [each for each in several if not each.is_linked] or several
            if len(named) > 1:
                detail = f"{', '.join(map(str, named))}; name the one to read by --segmentations"
                self._problems[path] = RowError("several segmentations of one recording", detail)
            elif len(several) > 1:
                others = shortened([str(each) for each in several if each is not named[0]])
                report.note(f"{path}: is segmented by {named[0].path.name}, and not by what links it: {others}")
        for path in self._chosen.keys() - self._of.keys() - self._problems.keys():
            self._problems[path] = RowError("another recording of its segmentation is read", self._chosen[path])
        if alone:
            report.note(f"{root}: segmentations without a recording: {len(alone)}, namely {shortened(alone)}")

    def __bool__(self) -> bool:
        return bool(self._of)

    def __contains__(self, recording: Path) -> bool:
        return str(recording) in self._of or str(recording) in self._problems

    def intervals(self, recording: Path) -> Iterator[Interval]:
        """Yields the intervals of a recording that has a segmentation; a file that cannot be read is one of them.

        Raises:
            RowError: if it is not clear which is its segmentation, or another recording of its name is read instead.
        """
        if problem := self._problems.get(str(recording)):
            raise problem
        segmentation = self._of[str(recording)][0]
        if segmentation.turns is not None:
            yield from segmentation.turns
            return
        empty = True
        try:
            for interval in read_segmentation(segmentation.path, recording.name, self._tiers, self._encoding):
                empty = False
                yield interval
            if empty:
                raise ValueError("has no intervals with speech")
        except (OSError, ValueError) as error:
            yield str(recording), RowError("segmentation cannot be read", f"{segmentation.path}: {error_line(error)}")

    def _assign(self, segmentation: _Segmentation, recordings: dict[str, list[str]], root: Path) -> bool:
        """Assigns a segmentation to its recording; returns False if there is none."""
        places = [os.path.normpath(segmentation.path.parent / link) for link in segmentation.links]
        for names in ([segmentation.name], segmentation.other_names):
            paths = dict.fromkeys(path for name in names for path in recordings.get(fold_name(name), ()))
            near = [path for path in paths if _is_below(path, segmentation, places)]
            exact = [path for path in near if {os.path.basename(path), Path(path).stem} & {*names}]
            if candidates := sorted(exact or near, key=_worth):
                break
        else:
            return False
        segmentation.is_linked = bool(segmentation.links) and names is segmentation.other_names
        if _are_ambiguous(candidates):
            beside = [
                path for path in candidates if os.path.relpath(os.path.dirname(path), root) == segmentation.below
            ]
            candidates = beside or candidates
        if _are_ambiguous(candidates):
            detail = f"{segmentation.path}: {', '.join(candidates)}"
            self._problems |= dict.fromkeys(candidates, RowError("several recordings of one segmentation", detail))
        first, *others = candidates
        self._chosen |= dict.fromkeys(others, first)
        self._of.setdefault(first, []).append(segmentation)
        return True


def _files(root: Path, given: Sequence[str | Path], report: ReadingReport) -> Iterator[tuple[Path, str]]:
    """Yields files of segmentations, with their folders relative to the one that was given."""
    for place in given or (root,):
        place = Path(place).absolute()
        if place.is_file() and place.name.lower().endswith(SUFFIXES):
            yield place, ""
        elif place.is_dir() or not given:
            for folder, _, names in walk(place, report):
                for name in names:
                    if name.lower().endswith(SUFFIXES):
                        yield Path(folder, name), os.path.relpath(folder, place)
        else:
            raise ValueError(f"{place}: no segmentation; folders and files {', '.join(SUFFIXES)} are accepted")


def _segmentations(path: Path, below: str, encoding: str | None, report: ReadingReport) -> Iterable[_Segmentation]:
    suffix = path.suffix.lower()
    if suffix == ".eaf":
        links = media_of_eaf(path)
        return [_Segmentation(path, path.stem, [os.path.basename(link) for link in links], links, below=below)]
    if suffix != ".rttm":
        return [_Segmentation(path, path.stem, below=below)]
    turns: dict[str, list[Interval]] = {}
    with report.noting_errors():
        try:
            for where, recording, interval in read_rttm(path, encoding):
                if isinstance(interval, RowError):
                    report.read += 1
                    report.drop(interval.reason, where, interval.detail)
                else:
                    turns.setdefault(recording, []).append((where, interval))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: {error_line(error)}") from error
    own_name = [path.stem] * (len(turns) == 1)  # programs call the one recording `waveform` and the like
    return [_Segmentation(path, name, own_name, turns=rows, below=below) for name, rows in turns.items()]


def _recordings(root: Path, segmentations: Iterable[_Segmentation], report: ReadingReport) -> dict[str, list[str]]:
    """Returns the recordings below a folder that segmentations name, by their names with and without suffix."""
    wanted = {fold_name(name) for each in segmentations for name in (each.name, *each.other_names)}
    recordings: dict[str, list[str]] = {}
    for folder, _, names in walk(root, report):
        for name in names:
            keys = wanted & {fold_name(name), fold_name(Path(name).stem)}
            path = os.path.join(folder, name)
            if keys and not name.lower().endswith(SUFFIXES) and is_recording(path):
                for key in keys:
                    recordings.setdefault(key, []).append(path)
    return recordings


def _is_below(path: str, segmentation: _Segmentation, places: Sequence[str]) -> bool:
    folder = segmentation.folder
    if not folder or path in places or os.path.dirname(path) == folder:
        return True
    return segmentation.turns is not None and path.startswith(os.path.join(folder, ""))


def _are_ambiguous(paths: Sequence[str]) -> bool:
    """Returns whether recordings in several places have one name; those in several formats have one place."""
    return len({Path(path).with_suffix("") for path in paths}) > len({fold_name(Path(path).stem) for path in paths})


def _worth(path: str) -> int:
    suffix = os.path.splitext(path)[1].lower()
    return BEST_FIRST.index(suffix) if suffix in BEST_FIRST else len(BEST_FIRST)
