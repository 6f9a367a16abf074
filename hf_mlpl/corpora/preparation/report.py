"""Reports on a preparation of corpora: counts, hours by language, unknown characters, a plot of durations."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...atomic import atomic_write
from ...audio.reading import END_TOLERANCE
from ...model.text import unknown_character_report
from ...text_table import aligned
from ..reading import drop_reasons, reading_summary

BIN_SECONDS = 0.5  # of the histogram of durations
MAX_PLOTTED_SECONDS = 60
ROW_SECONDS, PLOTTED_ROWS = 300, 12  # of the picture of a long recording


def audio_name(audio: Mapping) -> str:
    """Returns a recording's name for reports and quarantine lists: its file, and its position in a container."""
    if audio.get("offset") is None:
        return audio["path"]
    return f"{audio['path']}, {'row' if audio.get('size') is None else 'byte'} {audio['offset']}"


def other_duration(utterance: Mapping, seconds: float) -> str | None:
    """Returns a line where a decoded recording does not have the duration that its header gives."""
    header_seconds = utterance["duration_seconds"]
    if abs(seconds - header_seconds) <= END_TOLERANCE:
        return None
    difference = f"{seconds:.2f} s, not {header_seconds:.2f} s as its header says"
    return f"{utterance['id']}: kept with another duration: {audio_name(utterance['audio'])}: {difference}"


@dataclass
class SplitStatistics:
    """Counts the utterances of a split; its size depends on languages and characters, not on utterances."""

    utterances: Counter = field(default_factory=Counter)  # by language
    seconds: Counter = field(default_factory=Counter)  # by language
    characters: Counter = field(default_factory=Counter)
    durations: Counter = field(default_factory=Counter)  # by the number of the bin

    def add(self, utterance: dict) -> None:
        self.utterances[utterance["language"]] += 1
        self.seconds[utterance["language"]] += utterance["duration_seconds"]
        self.characters.update(utterance["text"] or "")
        self.durations[int(utterance["duration_seconds"] / BIN_SECONDS)] += 1

    def remove(self, utterance: dict) -> None:
        """Reverses `add`."""
        added = SplitStatistics()
        added.add(utterance)
        for name, counts in vars(added).items():
            counter = getattr(self, name)
            counter.subtract(counts)
            for key in counts:
                if name == "seconds" and not self.utterances[key] or not counter[key]:
                    del counter[key]

    def as_json(self) -> dict:
        return {name: dict(sorted(counts.items())) for name, counts in vars(self).items()}

    def add_json(self, content: dict) -> None:
        for name, counts in content.items():
            keys = map(int, counts) if name == "durations" else counts
            getattr(self, name).update(dict(zip(keys, counts.values(), strict=True)))


@dataclass(frozen=True)
class PlottedRecording:
    """Holds a long recording: the probabilities of speech in its frames (F,), and its utterances in seconds (U, 2)."""

    name: str
    probabilities: np.ndarray
    frame_seconds: float
    utterances: np.ndarray


@dataclass
class PreparationReport:
    """Sums up all parts; splits are in the order train, dev, test, others, and may have no utterance."""

    read: int = 0
    dropped: Counter = field(default_factory=Counter)
    splits: dict[str, SplitStatistics] = field(default_factory=dict)
    sources: dict[str, list[dict]] = field(default_factory=dict)  # of utterances, by split
    notes: list[str] = field(default_factory=list)  # problems that are not about a row, such as a missing table
    failed: list[str] = field(default_factory=list)  # errors of parts that another call may be able to read
    speech: list[dict] = field(default_factory=list)  # counts of the long recordings that were cut, by part
    plotted: PlottedRecording | None = None  # one of them

    @classmethod
    def of_parts(cls, records: Iterable[dict], failed: Sequence[str] = ()) -> PreparationReport:
        """Adds up the records of parts."""
        report = cls(failed=list(failed))
        for part in records:
            report.read += part["read"]
            report.dropped.update(part["dropped"])
            report.notes += [line for line in part["notes"] if line not in report.notes]
            report.speech += [part["speech"]] if "speech" in part else []
            for split, content in part["splits"].items():
                report.splits.setdefault(split, SplitStatistics()).add_json(content)
                sources = report.sources.setdefault(split, [])
                if content["utterances"] and part["source"] and part["source"] not in sources:
                    sources.append(part["source"])
        order = ["train", "dev", "test", *sorted(report.splits)]
        report.splits = {split: report.splits[split] for split in dict.fromkeys(order) if split in report.splits}
        return report

    @property
    def kept(self) -> int:
        return sum(counts.utterances.total() for counts in self.splits.values())

    def unknown_characters(self, known: Iterable[str] | None = None) -> dict[str, Counter]:
        """Counts by split the characters that are not in `known`; by default those that train's texts lack."""
        if known is None:
            known = self.splits["train"].characters if "train" in self.splits else ()
        known = {" ", *known}
        return {
            split: unknown
            for split, counts in self.splits.items()
            if (unknown := Counter({char: n for char, n in counts.characters.items() if char not in known}))
        }

    def as_json(self, known_characters: Iterable[str] | None = None) -> dict:
        return {
            "read": self.read,
            "kept": self.read - self.dropped.total(),
            "dropped": dict(self.dropped.most_common()),
            "notes": self.notes,
            "failed": self.failed,
            "speech": self.speech,
            "unknown_characters": self.unknown_characters(known_characters),
            "splits": {
                split: counts.as_json() | {"sources": self.sources[split]} for split, counts in self.splits.items()
            },
        }

    def lines(self, known_characters: Iterable[str] | None = None) -> list[str]:
        """Returns lines with counts of rows, hours by language and split, unknown characters, errors and notes."""
        seconds = [counts.seconds for counts in self.splits.values()]
        sums = [(language, *(each[language] for each in seconds)) for language in sorted(set().union(*seconds))]
        sums.append(("all", *(each.total() for each in seconds)))
        rows = [(name, *(f"{value / 3600:.2f}" for value in values)) for name, *values in sums]
        vocabulary = "the tokens file" if known_characters is not None else "train"
        return [
            reading_summary(self.read, self.dropped),
            *aligned([("hours", *self.splits), *rows]).splitlines(),
            *(
                f"characters of {split} that {vocabulary} lacks: {unknown_character_report(unknown)}"
                for split, unknown in self.unknown_characters(known_characters).items()
                if split != "unlabelled"  # no model learns its texts
            ),
            *map(_speech_line, self.speech),
            *self.failed,
            *self.notes,
        ]

    def why_nothing(self) -> str:
        """Explains in one line why a preparation has no utterance."""
        if self.dropped and not self.failed:  # then notes may be about rows that could be read
            return f"none of {self.read} rows can be used: {drop_reasons(self.dropped)}"
        if lines := [*self.failed, *self.notes]:
            others = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
            return f"{lines[0]}{others}"
        return "what was given has no rows"


def _speech_line(speech: Mapping) -> str:
    if not speech.get("recordings"):
        return f"{speech['part']}: none of its long recordings can be read"
    hours, speech_hours = speech["seconds"] / 3600, speech["speech_seconds"] / 3600
    return (
        f"{speech['part']}: long recordings: {speech['recordings']}, {hours:.2f} hours, are cut into "
        f"{speech['utterances']} utterances; {speech_hours:.2f} hours ({speech_hours / hours:.0%}) are speech"
    )


def plot_durations(report: PreparationReport, path: Path) -> None:
    """Draws a histogram of durations for each split."""
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    bins = int(MAX_PLOTTED_SECONDS / BIN_SECONDS)
    for split, counts in report.splits.items():
        heights = [counts.durations[number] for number in range(bins)]
        heights.append(sum(count for number, count in counts.durations.items() if number >= bins))
        axes.stairs(heights, np.arange(bins + 2) * BIN_SECONDS, label=split)
    axes.set(xlabel=f"seconds (the last bin: {MAX_PLOTTED_SECONDS} and more)", ylabel="utterances", yscale="symlog")
    axes.legend()
    with atomic_write(path) as partial:
        figure.savefig(partial)


def plot_recording(recording: PlottedRecording, path: Path) -> None:
    """Draws the first hour of a long recording, with the probability of speech and a bar for each utterance."""
    from matplotlib.figure import Figure  # slow to import

    shown = min(len(recording.probabilities) * recording.frame_seconds, PLOTTED_ROWS * ROW_SECONDS)
    rows = max(1, math.ceil(shown / ROW_SECONDS))
    figure = Figure(figsize=(12, 1 + 0.75 * rows), layout="constrained")
    frames = round(ROW_SECONDS / recording.frame_seconds)
    for row, axes in enumerate(figure.subplots(rows, squeeze=False)[:, 0]):
        first = row * frames
        heights = recording.probabilities[first : first + frames]
        times = (first + np.arange(len(heights) + 1)) * recording.frame_seconds / 60
        axes.stairs(heights, times, fill=True, color="lightgrey")
        starts, ends = recording.utterances.T
        in_row = recording.utterances[(ends > row * ROW_SECONDS) & (starts < (row + 1) * ROW_SECONDS)]
        for start, end in in_row / 60:
            axes.plot([start, end], [1.15, 1.15], "|-", markersize=8, linewidth=3, solid_capstyle="butt")
        axes.set(xlim=(row * ROW_SECONDS / 60, (row + 1) * ROW_SECONDS / 60), ylim=(0, 1.4), yticks=[])
    figure.suptitle(f"{recording.name}: utterances (bars) and the probability of speech (grey)", wrap=True)
    figure.supxlabel("minutes")
    with atomic_write(path) as partial:
        figure.savefig(partial)
