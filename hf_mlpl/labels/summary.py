"""Summarises the pseudo-labels of a language: counts, hours, histograms of scores, faults, and the teacher.

A summary lies beside the language's data in a data set of pseudo-labels. The data set's card is rendered from the
summaries alone.
"""

# Without `from __future__ import annotations`: `strict` checks the types of fields, and cannot where they are strings.

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError

from ..atomic import check_fields, read_json, write_json
from ..data.conventions import Conventions
from ..error_line import error_line
from ..remote_path import AnyPath
from .filters import KnownScores, LabelFilter, filter_masks
from .folder import check_convention, check_sources
from .relative import Bounds
from .schema import SCORES

# The range of each score's histogram, in bins of equal width, unless it is a share or a probability, from 0 to 1; the
# first and the last bin also hold values outside it.
RANGES = dict.fromkeys(SCORES, (0.0, 1.0)) | {
    "mean_log_prob": (-2.0, 0.0),
    "letter_log_prob": (-4.0, 0.0),
    "length_ratio": (0.0, 2.0),
    "characters_per_second": (0.0, 40.0),
    "compression_ratio": (0.0, 4.0),
}
BINS = 40
REPETITIVE = 2.4  # compression ratio above which Whisper's decoding takes a text for a loop
DIGITS = 6  # of hours and means: the last bits of a sum differ between machines


@strict
@dataclass
class LabelSummary:
    """Summarises one language of a label set.

    Args:
        utterances, hours: of all labels; `kept` and `hours_kept` of those that all filters keep.
        hours_kept_by: by each filter alone; empty without filters.
        empty, repetitive, another_language: labels without text, with a compression ratio over 2.4, and of another
            language by the teacher's language-ID head.
        unreadable: utterances without a label: their audio could not be read, or their text did not end.
        mean_log_prob: mean over the labels that have one; None if none has.
        cer: character error rate of the labels against the transcripts that are known; None without any.
        scores: by name, the `edges` of a histogram, its `counts`, and the number of labels whose score is `null`.
        teacher, teacher_revision: the model that made the labels: a repository and its commit, or, for a model that
            is not on the Hub, the end of its path and the beginning of a checksum of its weights.
        sources: `name`, `license` and `url` of each source of the speech.
        with_audio: whether the data set holds the audio, too.
        convention: how the texts are written, as `Conventions` counts it; None in summaries of older versions.
        teacher_license: by the teacher's card on the Hub; None if that is not known.
    """

    language: str
    utterances: int
    hours: float | int
    kept: int
    hours_kept: float | int
    hours_kept_by: dict[str, float | int]
    empty: int
    repetitive: int
    another_language: int
    unreadable: int
    mean_log_prob: float | int | None
    cer: float | int | None
    scores: dict[str, dict]
    teacher: str
    teacher_revision: str
    sources: list[dict]
    with_audio: bool
    convention: dict | None = None
    teacher_license: str | None = None

    @classmethod
    def read(cls, path: AnyPath) -> "LabelSummary":
        """Reads `summary.json`.

        Raises:
            ValueError: for a file that is no summary.
        """
        try:
            content = read_json(path)
            summary = cls(**content)
            if not summary.scores:
                raise ValueError("no scores")
            for name in SCORES.keys() - summary.scores.keys():  # which its version did not have
                summary.scores[name] = _histogram(name, np.zeros(BINS, int), summary.utterances)
            for histogram in summary.scores.values():
                check_fields(histogram, {"edges": list, "counts": list, "null": int})
                for name, length in {"edges": BINS + 1, "counts": BINS}.items():
                    if [type(number) in (int, float) for number in histogram[name]] != [True] * length:
                        raise ValueError(f"{name} of a score are not {length} numbers")
            check_sources(summary.sources)
            check_convention(summary.convention)
        except (TypeError, ValueError, StrictDataclassError) as error:
            raise ValueError(f"{path}: no summary of pseudo-labels ({error_line(error)})") from error
        return summary

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))


def _edges(score: str) -> np.ndarray:
    return np.linspace(*RANGES[score], BINS + 1).round(DIGITS)


def _histogram(score: str, counts: np.ndarray, num_labels: int) -> dict:
    return {"edges": _edges(score).tolist(), "counts": counts.tolist(), "null": int(num_labels - counts.sum())}


class LabelCounts:
    """Counts labels for a summary, block by block.

    Args:
        bounds: of filters that keep a share of the labels, from `relative_bounds`.
    """

    def __init__(self, filters: Sequence[LabelFilter], bounds: Bounds | None = None):
        self.filters, self.bounds = filters, bounds
        self.counts: Counter[str] = Counter()
        self.hours: defaultdict[str, float] = defaultdict(float)
        self.known, self.conventions = KnownScores(), Conventions()
        self.histograms = {name: np.zeros(BINS, int) for name in SCORES}
        self.sum_log_prob = 0.0

    def add(self, labels: pa.RecordBatch) -> np.ndarray:
        """Counts labels, columns of `LABEL_FEATURES`; returns the (N,) mask of those that all filters keep."""
        hours, masks = labels["duration_seconds"].to_numpy() / 3600, filter_masks(labels, self.filters, self.bounds)
        for name, mask in masks.items():
            self.hours[name] += hours[mask].sum()
        self.counts["all"] += len(labels)
        self.counts["kept"] += int(masks["kept"].sum())
        for name, faulty in {
            "empty": pc.equal(labels["text"], ""),
            "repetitive": pc.greater(labels["compression_ratio"], REPETITIVE),
            "another_language": pc.not_equal(labels["language"], labels["predicted_language"]),
        }.items():
            self.counts[name] += pc.sum(faulty).as_py() or 0  # None where all are null
        for name, histogram in self.histograms.items():
            values = labels[name].drop_null().to_numpy()
            histogram += np.histogram(np.clip(values, *RANGES[name]), _edges(name))[0]
        self.known.add(labels)
        self.conventions.add("", pa.chunked_array([labels["text"]]))
        self.sum_log_prob += labels["mean_log_prob"].drop_null().to_numpy().sum()
        return masks["kept"]

    def summary(self, **facts) -> LabelSummary:
        """Returns the summary; `facts` are the fields that cannot be counted.

        Raises:
            ValueError: as `KnownScores.check` does.
        """
        self.known.check(self.filters)
        hours = {name: round(float(value), DIGITS) for name, value in self.hours.items()}
        scores = {name: _histogram(name, histogram, self.counts["all"]) for name, histogram in self.histograms.items()}
        num_scored = int(self.histograms["mean_log_prob"].sum())
        mean_log_prob = round(float(self.sum_log_prob) / num_scored, DIGITS) if num_scored else None
        return LabelSummary(
            utterances=self.counts["all"],
            hours=hours["all"],
            hours_kept=hours["kept"],
            hours_kept_by={each.condition: hours[each.condition] for each in self.filters},
            mean_log_prob=mean_log_prob,
            convention=self.conventions.report(""),
            scores=scores,
            **facts | {name: self.counts[name] for name in ("kept", "empty", "repetitive", "another_language")},
        )
