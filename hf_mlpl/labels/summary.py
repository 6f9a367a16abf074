"""Summarises the pseudo-labels of a language: counts, hours, histograms of scores, faults, and the teacher.

A summary lies beside the language's data in a data set of pseudo-labels, and the data set's card is made of all
summaries alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..atomic import check_fields, read_json, write_json
from .filters import LabelFilter
from .folder import OPTIONAL, check_sources
from .schema import SCORES

# The range of each score's histogram, in bins of equal width; the first and the last bin take what lies outside.
RANGES = {
    "mean_log_prob": (-2.0, 0.0),
    "lowest_word_confidence": (0.0, 1.0),
    "blank_ratio": (0.0, 1.0),
    "characters_per_second": (0.0, 40.0),
    "compression_ratio": (0.0, 4.0),
    "language_probability": (0.0, 1.0),
}
BINS = 40
REPETITIVE = 2.4  # compression ratio above which Whisper's decoding takes a text for a loop
KINDS = {"str": str, "int": int, "float": float, "float | None": OPTIONAL, "dict": dict, "list": list, "bool": bool}
DIGITS = 6  # of hours and means: the last bits of a sum are not the same on every machine


@dataclass(frozen=True)
class LabelSummary:
    """Summarises one language of a label set.

    Args:
        utterances, hours: of all labels; `kept` and `hours_kept` of those that all filters keep.
        hours_kept_by: by each filter alone; empty where there are none.
        empty, repetitive, another_language: labels without text, with a compression ratio over 2.4, and of another
            language by the teacher's language-ID head.
        unreadable: utterances without a label, because their audio could not be read.
        mean_log_prob: mean over labels.
        cer: character error rate of the labels against texts, where those are known.
        scores: by name, `edges` of a histogram, its `counts`, and how many labels have no such score, `null`.
        teacher, teacher_revision: who made the labels: a repository and its commit, or, of a model that is none, the
            end of its path and the beginning of a checksum of its weights.
        sources: where the speech is from: `name`, `license`, `url` of each.
        with_audio: whether the audio is in the data set, too.
    """

    language: str
    utterances: int
    hours: float
    kept: int
    hours_kept: float
    hours_kept_by: dict[str, float]
    empty: int
    repetitive: int
    another_language: int
    unreadable: int
    mean_log_prob: float
    cer: float | None
    scores: dict[str, dict]
    teacher: str
    teacher_revision: str
    sources: list[dict[str, str | None]]
    with_audio: bool

    @classmethod
    def read(cls, path: Path) -> LabelSummary:
        """Reads `summary.json`.

        Raises:
            ValueError: for a file that is no summary.
        """
        try:
            summary = cls(**read_json(path))
            if missing := SCORES.keys() - dict(summary.scores).keys():
                raise ValueError(f"no score {', '.join(sorted(missing))}")
            summary._check()
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: no summary of pseudo-labels ({error})") from error
        return summary

    def _check(self) -> None:
        """Raises a ValueError for a field of another type, of which no card could be made."""
        types = {field.name: KINDS[field.type.partition("[")[0]] for field in fields(self)}  # dict of dict[str, float]
        check_fields(asdict(self), types)
        for histogram in self.scores.values():
            check_fields({"scores": histogram}, {"scores": dict})
            check_fields(histogram, {"edges": list, "counts": list, "null": int})
            for name, length in {"edges": BINS + 1, "counts": BINS}.items():
                if [type(number) in (int, float) for number in histogram[name]] != [True] * length:
                    raise ValueError(f"{name} of a score are not {length} numbers")
        check_fields(self.hours_kept_by, dict.fromkeys(self.hours_kept_by, float))
        check_sources(self.sources)

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))


class LabelCounts:
    """Counts labels for a summary, block by block."""

    def __init__(self, filters: Sequence[LabelFilter]):
        self.filters = filters
        self.counts: Counter = Counter()
        self.hours: Counter = Counter()
        self.edges = {name: np.linspace(*RANGES[name], BINS + 1).round(DIGITS) for name in SCORES}
        self.histograms = {name: np.zeros(BINS, int) for name in SCORES}
        self.sum_log_prob = 0.0

    def add(self, labels: pa.RecordBatch) -> np.ndarray:
        """Counts labels, columns of `LABEL_FEATURES`; returns the (N,) mask of those that all filters keep."""
        hours = labels["duration_seconds"].to_numpy() / 3600
        masks = {each.condition: each.keeps(labels) for each in self.filters}
        kept = np.logical_and.reduce([np.ones(len(labels), bool), *masks.values()])
        for name, mask in {"all": slice(None), "kept": kept, **masks}.items():
            self.hours[name] += hours[mask].sum()
        self.counts["all"] += len(labels)
        self.counts["kept"] += int(kept.sum())
        self.counts["empty"] += _true(pc.equal(labels["text"], ""))
        self.counts["repetitive"] += _true(pc.greater(labels["compression_ratio"], REPETITIVE))
        self.counts["another_language"] += _true(pc.not_equal(labels["language"], labels["predicted_language"]))
        for name, histogram in self.histograms.items():
            values = labels[name].drop_null().to_numpy()
            histogram += np.histogram(np.clip(values, *RANGES[name]), self.edges[name])[0]
        self.sum_log_prob += labels["mean_log_prob"].drop_null().to_numpy().sum()
        return kept

    def summary(self, **facts) -> LabelSummary:
        """Returns the summary; `facts` are the fields that cannot be counted."""
        hours = {name: round(float(value), DIGITS) for name, value in self.hours.items()}
        scores = {
            name: {
                "edges": self.edges[name].tolist(),
                "counts": histogram.tolist(),
                "null": int(self.counts["all"] - histogram.sum()),
            }
            for name, histogram in self.histograms.items()
        }
        return LabelSummary(
            utterances=self.counts["all"],
            hours=hours["all"],
            kept=self.counts["kept"],
            hours_kept=hours["kept"],
            hours_kept_by={each.condition: hours[each.condition] for each in self.filters},
            empty=self.counts["empty"],
            repetitive=self.counts["repetitive"],
            another_language=self.counts["another_language"],
            mean_log_prob=round(float(self.sum_log_prob) / max(self.counts["all"], 1), DIGITS),
            scores=scores,
            **facts,
        )


def _true(mask: pa.Array) -> int:
    return pc.sum(mask).as_py() or 0
